"""When creation calls may start: within the mint budget, and with pauses after failures. Pure."""

import math
from collections.abc import Callable

from proxy.tokens.budget import MintBudget
from proxy.tokens.model import MintFault
from proxy.tokens.store.base import PERMIT_SECONDS

LAST_TRY = 1.2
"""Seconds before the stock ends at which the last attempt to mint is made."""
SLOW_RETRY = 60.0
"""Seconds between attempts once Mobula refused the key or the plan."""


class Pace:
    """Paces the creation calls; `lasts` is always for how many seconds the stock will do."""

    def __init__(self, budget: MintBudget, chance: Callable[[], float]) -> None:
        self.fault: MintFault | None = None
        """Why the last call failed; None since one succeeded."""
        self._budget = budget
        self._charged = budget
        """The budget that the last call was charged to, which another may have replaced since."""
        self._chance = chance
        self._failures = 0
        self._retry_at = -math.inf
        self._started_at = -math.inf

    def use(self, budget: MintBudget) -> None:
        """Pace by another budget from now on."""
        self._budget = budget

    def permits(self, now: float) -> int:
        """Return how many calls the budget allows now."""
        return self._budget.left(now)

    def next_at(self, lasts: float, now: float) -> float:
        """Return when the next call may start: `now`, or later.

        The budget's last call is held back while the stock outlasts the wait for the next one.
        """
        at = max(now, self._retry_at, self._budget.next_at(now))
        refill_at = self._budget.refill_at(now)
        if self._budget.left(now) == 1 and lasts > refill_at - now + LAST_TRY:
            return max(at, refill_at)
        return at

    def start(self, now: float) -> None:
        """Charge a call that starts now."""
        self._started_at, self._charged = now, self._budget
        self._charged.start(now)

    def end(self, now: float, *, sent: bool = True) -> None:
        """Note that the call has ended; one that certainly was not sent is not charged."""
        self._charged.end(now)
        if not sent:
            self._charged.refund()

    def forgive(self) -> None:
        """Forget past failures: a call succeeded, or there is a new reason to try."""
        self.fault, self._failures, self._retry_at = None, 0, -math.inf

    def fail(self, fault: MintFault, lasts: float, now: float) -> None:
        """Note that the call that has just ended gave no token."""
        self.fault = fault
        self._failures += 1
        self._retry_at = now + self._retry_in(fault, lasts - LAST_TRY, now)

    def _retry_in(self, fault: MintFault, lasts: float, now: float) -> float:
        """Return the pause after a failure, in seconds.

        While tokens are in hand, there is a try just before they end, and none that would still be
        under way then if it took as long as this one. No try is made before Mobula allows it, but
        that it would does not mean that it will: such tries are spread like all others.
        """
        if fault.fatal:
            return SLOW_RETRY * (0.8 + 0.4 * self._chance())
        pause = self._pause(fault, lasts, now)
        # One that seems to have taken longer was made by a process that stood still meanwhile.
        took = min(now - self._started_at, PERMIT_SECONDS)
        if lasts > 0 and pause > lasts - took:
            pause = lasts
        if fault.retry_after is None:
            return pause
        self._budget.close(now + fault.retry_after)
        return max(pause, fault.retry_after)

    def _pause(self, fault: MintFault, lasts: float, now: float) -> float:
        """Return the pause after a passing failure, in seconds.

        Full jitter, but calls are also spread over the time that is left. While tokens are in hand,
        evenly. When none is, ever wider, so that an early recovery is noticed early; a call that
        never reached Mobula costs no budget, and so needs no spreading then.
        """
        backoff = min(5.0, 0.5 * 2.0 ** min(self._failures, 8)) * self._chance()
        calls = self._budget.left(now)
        if calls and lasts > 0:
            spread = 1.0 if calls == 1 else 0.8 + 0.2 * self._chance()
            return max(0.1, backoff, min(15.0, lasts / calls * spread))
        if not fault.sent or not calls:
            return max(0.1, backoff)
        wait: float = (self._budget.refill_at(now) - now) / 2.0 ** (calls + 1)
        return max(backoff, wait)
