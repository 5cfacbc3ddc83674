"""What goes wrong at random beside the load: with the tokens, their key, and an upstream.

There is one trouble with tokens at a time, and none while the mint budget is nearly used up: so it
can always cover the load, and no request may fail because of them (promise 3).
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from harness import KEY
from proxy.sandbox import Fault, Sandbox
from proxy.sandbox.mint import BUDGET, WINDOW
from soak.chance import deal, source
from soak.crowd import now
from wire import Far

OTHER_KEY = "other-static-key-fedcba9876543210"
MINT = "/api/2/auth/tokens"
INSPECT = "/api/2/auth/token"
OUTAGE = (2.0, 8.0)
"""Seconds that the token endpoint is down: less than the stock must last, which is 15."""
PEACE = (3.0, 10.0)
"""Seconds before each trouble with tokens, at the least."""
CALLS_LEFT = 2
"""Creation calls that Mobula must still allow then: one for the trouble and one for the load."""
AWAY = (0.5, 4.0)
AT_HOME = (3.0, 15.0)
"""Seconds for which an upstream is away, and back."""
NOTICED = 5.0
"""Seconds after which no request is sent any more with a token that was revoked."""

Trouble = Callable[["Chaos"], Awaitable[None]]


class Chaos:
    """Strikes while it runs; `struck` tells for which of its effects clients must be excused."""

    def __init__(
        self, sandbox: Sandbox, wayward: Far, key_file: Path, admin: str, seed: int
    ) -> None:
        self.troubles: Counter[str] = Counter()
        self._sandbox = sandbox
        self._wayward = wayward
        self._key_file = key_file
        self._admin = admin
        self._rng = source(seed, "tokens")
        self._wayward_rng = source(seed, "wayward")
        self._until: dict[str, float] = {}
        self._key = KEY

    def struck(self, effect: str, since: float) -> bool:
        """Tell whether an effect was felt at any moment since then."""
        return self._until.get(effect, -math.inf) >= since

    async def strike(self, seconds: float) -> None:
        """Let one trouble follow the other for so long; leave everything in order."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._trouble_tokens(now() + seconds))
            group.create_task(self._trouble_wayward(now() + seconds))

    async def _trouble_tokens(self, end: float) -> None:
        names = deal(self._rng, dict.fromkeys(TROUBLES, 1))
        while True:
            await asyncio.sleep(self._rng.uniform(*PEACE))
            if now() > end:
                return
            if self._calls_left() >= CALLS_LEFT:
                name = next(names)
                self.troubles[name] += 1
                await TROUBLES[name](self)

    def _calls_left(self) -> int:
        """Return how many creation calls Mobula allows now, if all were made with one key."""
        ledger = self._sandbox.ledger
        since = ledger.clock() - WINDOW
        return BUDGET - sum(1 for call in ledger.report()["mints"] if call["at"] > since)

    async def _trouble_wayward(self, end: float) -> None:
        while now() < end:
            await asyncio.sleep(self._wayward_rng.uniform(*AT_HOME))
            self.troubles["upstream goes away"] += 1
            self._until["away"] = math.inf
            self._wayward.refuse()
            self._wayward.close()
            await asyncio.sleep(self._wayward_rng.uniform(*AWAY))
            await self._wayward.listen()
            self._until["away"] = now()

    async def fail(self, path: str, **effect: Any) -> None:
        """Let an endpoint fail for a while."""
        seconds = self._rng.uniform(*OUTAGE)
        until = self._sandbox.ledger.clock() + seconds
        self._sandbox.faults.add(Fault(path, until=until, **effect))
        await asyncio.sleep(seconds)

    async def revoke_all(self) -> None:
        self._sandbox.ledger.revoke_all()
        self._until["revoked"] = now() + NOTICED

    async def revoke_one(self) -> None:
        """Revoke the token that is drawn from, which is the oldest one that still serves."""
        ledger = self._sandbox.ledger
        current = next(
            each["id"]
            for each in ledger.report()["tokens"]
            if not each["revoked"]
            and each["used"] < each["limit"]
            and each["expires"] > ledger.now()
        )
        ledger.revoke(current)
        self._until["revoked"] = now() + NOTICED

    async def rotate(self) -> None:
        async with aiohttp.ClientSession() as client, client.post(f"{self._admin}/rotate"):
            pass

    async def rewrite_key(self) -> None:
        self._key_file.write_text(self._key)

    async def change_key(self) -> None:
        self._key = OTHER_KEY if self._key == KEY else KEY
        await self.rewrite_key()

    async def spoil_key(self) -> None:
        self._key_file.write_text("not a key")
        await asyncio.sleep(self._rng.uniform(*OUTAGE))
        await self.rewrite_key()


def failing(path: str, **effect: Any) -> Trouble:
    return lambda chaos: chaos.fail(path, **effect)


TROUBLES: dict[str, Trouble] = {
    "creation calls get 500": failing(MINT, status=500),
    "creation calls get 503": failing(MINT, status=503),
    "creation calls get 429": failing(MINT, status=429, headers={"Retry-After": "2"}),
    "creation calls hang": failing(MINT, delay=60.0),
    "creation calls are dropped": failing(MINT, drop="head"),
    "creation calls are cut short": failing(MINT, drop="body"),
    "inspect calls get 500": failing(INSPECT, status=500),
    "all tokens are revoked": Chaos.revoke_all,
    "a token is revoked": Chaos.revoke_one,
    "an operator rotates": Chaos.rotate,
    "the key is written again": Chaos.rewrite_key,
    "the key changes": Chaos.change_key,
    "the key is unreadable": Chaos.spoil_key,
}
