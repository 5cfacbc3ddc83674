"""Whose Kubernetes ServiceAccount token it is, as the API server says, and for how long.

The rules:

- An answer is good for `review_every`, and never after the token's own `exp`. There is no leeway:
  apps get a new token when a fifth of the old one's life is left, and a leeway would only lengthen
  how long a token is taken while the API server cannot be asked.
- While it cannot be asked, an old answer stands until that `exp`; who has none is told to wait.
  One review at a time then tries, at pauses, and nobody waits for it who has an old answer.
- A clear no counts at once, and is remembered for a few seconds.
- A token is asked about once, however many requests show it; what strangers show only if it says
  of itself that it might do, and only as far as there is room.
"""

import asyncio
import hashlib
import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from cachetools import LRUCache, TTLCache

from proxy.config import ServiceAccountSettings
from proxy.tokens.claims import claims_of
from proxy.traffic.token_review import (
    ReviewDenied,
    ReviewUnavailable,
    TokenReviewer,
    account_of,
)

__all__ = ["ReviewDenied", "ReviewUnavailable", "ServiceAccounts"]

TIMEOUT_SECONDS: Final = 3.0
"""How long a review may wait for its turn, and then take."""
AT_ONCE: Final = 8
"""Reviews that are put to the API server at once; all others wait for their turn."""
MOST_UNDERWAY: Final = 256
"""Reviews under way and waiting from which on none begins for a token that is not known."""
MOST_ANSWERS: Final = 16_384
MOST_DENIALS: Final = 1024
DENIED_SECONDS: Final = 5.0
"""How long a no is remembered."""
SPREAD: Final = 0.1
"""Part of `review_every` by which answers age sooner, lest all tokens are asked about at once."""
CROWDED: Final = "too many other tokens are being asked about"
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries while the API server cannot be asked; the first is one second long."""

_JWT: Final = re.compile(rb"(?=.{1,8192}$)[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Whose token it is; good until `good_until` by the clock, of use until the token's `exp`."""

    account: str
    good_until: float
    exp: float


class ServiceAccounts:
    """Knows ServiceAccounts by their tokens, of which it keeps no more than a hash.

    `clock` tells steady seconds, `wall` the time of day. `tell` is called when the API server
    cannot be asked any longer, with the reason, and with "" once it can again.
    """

    def __init__(
        self,
        settings: ServiceAccountSettings,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._audience = settings.audience
        self._review_every = settings.review_every
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._reviewer = TokenReviewer(settings, clock=clock)
        self._outage = _Outage(chance, tell)
        self._answers: LRUCache[bytes, _Answer] = LRUCache(MOST_ANSWERS)
        self._denied: TTLCache[bytes, str] = TTLCache(MOST_DENIALS, DENIED_SECONDS, timer=clock)
        self._underway: dict[bytes, asyncio.Task[str]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    def __repr__(self) -> str:
        return (
            f"<ServiceAccounts {len(self._answers)} known, {len(self._underway)} under way, "
            f"{self._outage!r}>"
        )

    async def __aenter__(self) -> Self:
        await self._reviewer.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        reviews = list(self._underway.values())
        for review in reviews:
            review.cancel()
        await asyncio.gather(*reviews, return_exceptions=True)
        await self._reviewer.__aexit__()

    def known(self, token: bytes) -> str | None:
        """Return whose it is, as `namespace/name`; None if that must be asked, by `review`."""
        answer = self._answers.get(_digest(token))
        if answer is None or self._clock() >= answer.good_until or self._wall() >= answer.exp:
            return None
        return answer.account

    def looks_like_one(self, token: bytes) -> bool:
        """Tell whether it says of itself that it is a ServiceAccount's, and for us, and still good.

        Anybody can write that, so it is worth a question, and no more.
        """
        return self._expiry(token) is not None

    async def review(self, token: bytes) -> str:
        """Ask whose it is; return it as `namespace/name`.

        Raises ReviewDenied if it is nobody's, or ReviewUnavailable if it cannot be found out.
        """
        digest = _digest(token)
        exp = self._expiry(token)
        if exp is None or digest in self._denied:
            return self._verdict(digest)
        try:
            review = self._underway.get(digest) or self._begin(token, digest, exp)
        except ReviewUnavailable as error:
            return self._verdict(digest, error)
        if self._outage.why and (old := self._old(digest)):
            return old
        why = await asyncio.shield(review)
        return self._verdict(digest, self._unavailable(why) if why else None)

    def _verdict(self, digest: bytes, unavailable: ReviewUnavailable | None = None) -> str:
        """Return or raise what is to be said of a token now; `unavailable` if it was not asked."""
        if why := self._denied.get(digest):
            raise ReviewDenied(why)
        if old := self._old(digest):
            return old
        raise unavailable or ReviewDenied(
            "the token is no ServiceAccount's, or not meant for audience "
            f"{self._audience}, or has expired"
        )

    def _old(self, digest: bytes) -> str | None:
        """Return what was once said of a token that has not expired."""
        answer = self._answers.get(digest)
        return answer.account if answer and self._wall() < answer.exp else None

    def _expiry(self, token: bytes) -> float | None:
        """Return the `exp` of a token that is worth a question, else None."""
        if not _JWT.fullmatch(token):
            return None
        claims = claims_of(token.decode("ascii"))
        audience, exp = claims.get("aud"), claims.get("exp")
        if account_of(claims.get("sub")) is None:
            return None
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            return None
        return exp if isinstance(exp, int | float) and self._wall() < exp < math.inf else None

    def _begin(self, token: bytes, digest: bytes, exp: float) -> asyncio.Task[str]:
        """Start a review. Raises ReviewUnavailable if that may not be now."""
        if digest not in self._answers and len(self._underway) >= MOST_UNDERWAY:
            raise ReviewUnavailable(CROWDED)
        tries = bool(self._outage.why)
        if not self._outage.permits(self._clock()):
            raise self._unavailable(self._outage.why)
        review = asyncio.create_task(self._learn(token.decode("ascii"), digest, exp, tries=tries))
        self._underway[digest] = review
        review.add_done_callback(lambda _: self._underway.pop(digest))
        return review

    async def _learn(self, token: str, digest: bytes, exp: float, *, tries: bool) -> str:
        """Have whose it is remembered; return why that could not be found out, else "".

        `tries` tells that this is the one to find out whether the API server is back.
        """
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            return CROWDED
        try:
            if self._outage.why and not tries:  # it began while this one waited for its turn
                return self._outage.why
            why = await self._ask(token, digest, exp)
        finally:
            self._turns.release()
        if not why:
            self._outage.end()
        elif tries or not self._outage.why:
            self._outage.note(why, self._clock())
        return why

    async def _ask(self, token: str, digest: bytes, exp: float) -> str:
        """Ask, and remember what is said; return why nothing was, else ""."""
        good_until = self._clock() + self._review_every * (1.0 - SPREAD * self._chance())
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                account = await self._reviewer.review(token)
        except ReviewDenied as denied:
            self._answers.pop(digest, None)
            self._denied[digest] = str(denied)
        except ReviewUnavailable as error:
            return error.why
        except TimeoutError:
            return f"no answer within {TIMEOUT_SECONDS:g} s"
        else:
            self._answers[digest] = _Answer(account, good_until, exp)
        return ""

    def _unavailable(self, why: str) -> ReviewUnavailable:
        pause = self._outage.retry_at - self._clock()
        return ReviewUnavailable(why, math.ceil(max(1.0, pause)))


class _Outage:
    """Whether the API server can be asked; if not, `why`, and from when on the next may try."""

    def __init__(self, chance: Callable[[], float], tell: Callable[[str], None]) -> None:
        self.why = ""
        self.retry_at = -math.inf
        self._failures = 0
        self._chance = chance
        self._tell = tell

    def __repr__(self) -> str:
        return f"API server away: {self.why}" if self.why else "API server there"

    def permits(self, now: float) -> bool:
        """Tell whether to ask now; in an outage, to one at a time, which then has to."""
        if not self.why:
            return True
        if now < self.retry_at:
            return False
        self.retry_at = now + TIMEOUT_SECONDS
        return True

    def note(self, why: str, now: float) -> None:
        """Note that it could not be asked."""
        pause = min(LONGEST_PAUSE, 2.0**self._failures) * (0.8 + 0.4 * self._chance())
        self.retry_at = now + pause
        self._failures += 1
        began, self.why = not self.why, why
        if began:
            self._tell(why)

    def end(self) -> None:
        """Note that it has answered."""
        if self.why:
            self.why, self._failures, self.retry_at = "", 0, -math.inf
            self._tell("")


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
