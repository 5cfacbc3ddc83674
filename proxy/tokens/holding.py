"""The ledger of one token, and how long several of them last. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.tokens.model import Token


@dataclass(slots=True)
class Holding:
    """What the pool knows of a token it holds."""

    token: Token
    remaining: int
    """Requests of our share that Mobula may still count, those under way included."""
    refresh_at: float
    """From when on its successor is minted."""
    usable_until: float
    """From when on it is not leased any more: a little before it expires."""
    generation: int
    shared: bool = False
    """Whether it is on the fleet's shelf, so that more of it may be granted."""
    whole: bool = False
    """Whether nobody else has ever had a share of it."""
    free: int = 0
    """Requests of it that are granted to nobody, when the store was last heard."""
    open: int = 0
    """Requests under way: charged and not yet settled."""
    born: int = 0
    """Serial of the last lease given before it came."""
    suspect_from: int | None = None
    """Serial of the last lease given before the token was refused; None when in good standing."""
    counts: bool = True
    """Whether the stock relies on it."""

    @property
    def left(self) -> int:
        """Requests that may still be leased."""
        return max(0, self.remaining - self.open)

    def can_serve(self, now: float, cost: int) -> bool:
        return self.left >= cost and now < self.usable_until

    @property
    def stock(self) -> int:
        """Requests that may still be leased, now or after they are granted."""
        return self.left + self.free

    def in_good_standing(self, now: float) -> bool:
        return self.counts and self.suspect_from is None and now < self.usable_until

    def fresh(self, now: float) -> bool:
        return self.counts and self.stock > 0 and now < min(self.refresh_at, self.usable_until)

    def ages(self, now: float) -> bool:
        """Tell whether it serves, but for its age should have a successor."""
        return self.counts and self.stock > 0 and self.refresh_at <= now < self.usable_until


def hold(token: Token, generation: int, chance: float) -> Holding:
    """Open the ledger of a token; `chance`, from 0 to 1, spreads the refreshes of many proxies.

    It is refreshed from 60 to 65 % of its lifetime on, so that an outage of the token endpoint as
    long as the last third goes unnoticed, and leased until 5 % (2 to 30 s) before it expires.
    """
    lifetime = token.expires_at - token.minted_at
    return Holding(
        token=token,
        remaining=min(token.left, token.limit),
        refresh_at=token.minted_at + lifetime * (0.60 + 0.05 * chance),
        usable_until=token.expires_at - min(30.0, max(2.0, 0.05 * lifetime)),
        generation=generation,
    )


def endurance(stock: Iterable[Holding], rate: float, now: float) -> float:
    """Return for how many seconds a stock, by expiry, lasts at `rate` requests a second."""
    at = now
    for each in stock:
        if each.counts and each.stock and each.usable_until > at:
            span = each.stock / rate if rate else math.inf
            at += min(span, each.usable_until - at)
    return at - now
