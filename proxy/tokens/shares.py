"""Shares: how much of which token a process takes from the store, and gives back. Pure.

A share is as large as what the process spends in HORIZON, so that an outage of the store of half
that time goes unnoticed, and calls are rare, but no more than it will spend before the token
expires. It is never more than its fair part of half of what is left, so that the end of a token is
spread over all who share it, and what a process has of all tokens is no more than twice its part.
But a share lasts for LEAST seconds as long as the token does, so that calls stay few.
"""

import math
from collections.abc import Iterator, Sequence

from proxy.tokens.holding import Holding
from proxy.tokens.model import GiveBack, Grant

HORIZON = 10.0
LEAST = 0.5
IDLE_PART = 10
"""A process that spends nothing takes this part of a token's limit at the most."""
PLENTY = 4.0
"""Give back what is over this many times the share that is wanted."""


class Shares:
    """Decides; one grant is asked for at a time."""

    def __init__(self, *, takes: bool) -> None:
        self.sharers = 1
        self._takes = takes
        self._most = math.inf
        self.asking = False
        """Whether a grant is under way."""

    def plan(self, held: Sequence[Holding], rate: float, now: float) -> Iterator[Grant | GiveBack]:
        """Yield what to ask for and what to return, of `held`, which is by expiry."""
        if not self._takes or self.asking:
            return
        good = _newest([each for each in held if each.in_good_standing(now) and each.stock])
        self._most = 2.0 * sum(each.stock for each in good) / self.sharers
        grant = self._next(good, rate, now)
        if grant is not None:
            self.asking = True
            yield grant
        elif self.sharers > 1:
            yield from self._surplus(good, rate, now)

    def _next(self, good: Sequence[Holding], rate: float, now: float) -> Grant | None:
        """Return what to take of the first token that has something to give, if more is wanted."""
        in_hand = 0
        for each in good:
            in_hand += each.left
            if each.free:
                if in_hand <= self._wanted(each, rate, now) / 2:
                    return Grant(each.token, self._share(each, rate, now))
                return self._spare(good, rate, now)
        return None

    def _spare(self, good: Sequence[Holding], rate: float, now: float) -> Grant | None:
        """Return what to take of a second token, in case the first is refused or expires."""
        lasting = [each for each in good if each.usable_until - now > HORIZON]
        if sum(1 for each in lasting if each.left) >= 2:
            return None
        for each in lasting:
            if not each.left and (count := min(each.free, self._idle(each))):
                return Grant(each.token, max(count, min(each.free, math.ceil(rate))))
        return None

    def _share(self, of: Holding, rate: float, now: float) -> int:
        fair = of.free // (2 * self.sharers)
        wanted = min(math.ceil(self._wanted(of, rate, now)), fair)
        return min(of.free, max(1, wanted, math.ceil(rate * LEAST)))

    def _wanted(self, of: Holding, rate: float, now: float) -> float:
        lasts = min(HORIZON, of.usable_until - now)
        return max(1.0, min(self._most, max(rate * lasts, self._idle(of))))

    def _idle(self, of: Holding) -> int:
        return min(of.token.limit // IDLE_PART, of.stock // (4 * self.sharers))

    def _surplus(self, good: Sequence[Holding], rate: float, now: float) -> Iterator[GiveBack]:
        """Yield what to return: of no token so much that it would be asked for again at once."""
        in_hand = sum(each.left for each in good)
        for each in reversed(good):
            wanted = self._wanted(each, rate, now)
            kept = math.floor(wanted / 2) + 1
            count = min(each.left - kept, math.floor(in_hand - PLENTY / 2 * wanted))
            if each.shared and in_hand > PLENTY * wanted and count > 0:
                each.remaining -= count
                in_hand -= count
                yield GiveBack(each.token, count)


def _newest(held: Sequence[Holding]) -> list[Holding]:
    newest = max((each.generation for each in held), default=0)
    return [each for each in held if each.generation == newest]
