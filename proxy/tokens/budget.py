"""The mint budget: at most 5 creation calls a minute for each static key (Mobula's token page).

Pure: every method is handed `now`. A call is charged when it starts and its place in the window is
moved to when it ended, since Mobula counts it when it arrives, somewhere in between: so the window
holds whatever the network does to the timing.
"""

import math
from collections import deque

CALLS = 5
WINDOW = 60.0


class MintBudget:
    """Counts this process's creation calls in a sliding window; one call at a time."""

    def __init__(self, calls: int = CALLS) -> None:
        self._allowed = calls
        self._calls: deque[float] = deque()
        self._closed_until = -math.inf
        self._fleet_leaves = math.inf
        self._fleet_opens_at = -math.inf

    def __repr__(self) -> str:
        return f"<MintBudget {len(self._calls)} of {self._allowed} calls in the window>"

    def left(self, now: float) -> int:
        """Return how many calls may start now."""
        self._forget(now)
        left = min(self._allowed - len(self._calls), self._fleet_leaves)
        return 0 if now < self._opens_at else max(0, int(left))

    def next_at(self, now: float) -> float:
        """Return when the next call may start: `now` if one may start at once."""
        self._forget(now)
        if len(self._calls) < self._allowed:
            return max(now, self._opens_at)
        return max(self._calls[0] + WINDOW, self._opens_at)

    def heed(self, left: int, next_at: float) -> None:
        """Take the store's word on the calls of all sharers; it holds until the next word.

        Where none is left, none may start before `next_at`; then one may be asked for.
        """
        self._fleet_leaves = max(1, left)
        self._fleet_opens_at = -math.inf if left else next_at

    def refill_at(self, now: float) -> float:
        """Return when one more call than now will be allowed; `now` if none was made."""
        self._forget(now)
        return self._calls[0] + WINDOW if self._calls else now

    def start(self, now: float) -> None:
        """Charge a call that starts now; the caller has seen `left`."""
        self._calls.append(now)
        self._fleet_leaves = max(1, self._fleet_leaves - 1)

    def end(self, now: float) -> None:
        """Note that the call charged last has ended, be it so late that its start is forgotten."""
        if self._calls:
            self._calls.pop()
        self._calls.append(now)

    def refund(self) -> None:
        """Take back the call charged last: it never reached Mobula."""
        if self._calls:
            self._calls.pop()

    def close(self, until: float) -> None:
        """Allow no call before this time: Mobula said that the budget is used up."""
        self._closed_until = max(self._closed_until, until)

    @property
    def _opens_at(self) -> float:
        return max(self._closed_until, self._fleet_opens_at)

    def _forget(self, now: float) -> None:
        while self._calls and self._calls[0] + WINDOW <= now:
            self._calls.popleft()
