"""Simulate fleets of up to 1,000 processes on one shelf, and print what sharing costs them.

Keepers, pools and the shelf are the real ones, in virtual time and in one process. Mobula is a few
lines that take their time, requests are leases. `make fleet` prints the table of docs/scaling.md.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from proxy.config import TokenSettings
from proxy.errors import TokenUnavailable
from proxy.tokens.budget import MintBudget
from proxy.tokens.keeper import Keeper
from proxy.tokens.key import KeySource, StaticKey
from proxy.tokens.mobula import Batch, MobulaClient
from proxy.tokens.model import Inspection, Outcome, Secret, Standing, Token
from proxy.tokens.pool import TokenPool
from proxy.tokens.sharing import Sharing
from proxy.tokens.store.base import Granted, Report, Roll
from proxy.tokens.store.memory import MemoryStore
from proxy.tokens.store.seal import Seal
from proxy.tokens.store.shelf import Shelf
from virtual import VirtualLoop

TICK = 0.1
MINT_SECONDS = 0.2
STORE_SECONDS = 0.001
LIFETIME = 120.0
"""Seconds that a token lives, so that the end of many is seen; an hour strands far less."""
SECONDS = 300.0
WARM_UP = 20.0
"""Seconds without a request, so that the first ones meet a fleet that stands."""


@dataclass
class Mobula(MobulaClient):
    """Gives tokens, and counts what is sent with them."""

    clock: asyncio.AbstractEventLoop
    lifetime: float
    calls: list[float] = field(default_factory=list)
    given: dict[str, int] = field(default_factory=dict)
    expiry: dict[str, float] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)

    async def mint(
        self, key: Secret, *, count: int, expires_in: float, request_limit: int
    ) -> Batch:
        began = self.clock.time()
        await asyncio.sleep(MINT_SECONDS)
        self.calls.append(self.clock.time())
        assert expires_in == self.lifetime
        return Batch(tuple(self._token(key, began, request_limit) for _ in range(count)), ())

    def _token(self, key: Secret, began: float, limit: int) -> Token:
        name = f"t{len(self.given)}"
        self.given[name] = limit
        self.expiry[name] = began + self.lifetime
        return Token(name, Secret(name), key, began, began + self.lifetime, limit, limit)

    async def inspect(self, token: Token) -> Inspection:
        return Inspection(Standing.ALIVE, self.given[token.id] - self.used[token.id])

    async def revoke(self, token: Token) -> bool:
        return bool(token)

    @property
    def over_limit(self) -> int:
        return sum(max(0, used - self.given[name]) for name, used in self.used.items())

    @property
    def most_in_a_minute(self) -> int:
        return max(
            (sum(1 for each in self.calls if at - 60 < each <= at) for at in self.calls), default=0
        )


class CountingStore(MemoryStore):
    """Takes its time, and counts the calls."""

    calls = 0

    async def attend(self, report: Report) -> Roll:
        self.calls += 1
        await asyncio.sleep(STORE_SECONDS)
        return await super().attend(report)

    async def grant(self, token_id: str, count: int) -> Granted:
        self.calls += 1
        await asyncio.sleep(STORE_SECONDS)
        return await super().grant(token_id, count)


class Process:
    """One proxy of the fleet, and the requests that come to it."""

    def __init__(
        self, loop: VirtualLoop, shelf: Shelf, mobula: Mobula, limit: int, rate: float, seed: int
    ) -> None:
        self.waits: list[float] = []
        self.failed = 0
        self.sent = 0
        self._loop = loop
        self._mobula = mobula
        self._rate = rate
        self._unsent = 0
        self._waiting = False
        self._chance = random.Random(seed)  # noqa: S311 - decides when, and nothing secret
        self._next_at = WARM_UP + self._chance.expovariate(rate)
        key = StaticKey(Secret("fleet-static-key"), "fleet")
        self.store = CountingStore(shelf, loop.time)
        sharing = Sharing(
            make_store=lambda _: self.store,
            seal_with=lambda key: Seal(key.secret) if key else None,
            key=key,
            on_outage="local",
            tell=lambda _: None,
            clock=loop.time,
        )
        self.pool = TokenPool(
            limit=limit, standby=1, budget=MintBudget(), chance=self._chance.random, private=False
        )
        self.keeper = Keeper(
            pool=self.pool,
            sharing=sharing,
            mobula=mobula,
            source=KeySource(name="the fleet", value="fleet-static-key"),
            key=key,
            settings=TokenSettings(request_limit=limit, expires_in=mobula.lifetime, orphans="keep"),
            tell=lambda _: None,
            clock=loop.time,
            chance=self._chance.random,
        )

    def tick(self, tasks: asyncio.TaskGroup) -> None:
        """Send what has come since the last tick, of a Poisson stream."""
        count, self._unsent = self._unsent, 0
        while self._next_at <= self._loop.time():
            self._next_at += self._chance.expovariate(self._rate)
            count += 1
        left = self._send(count)
        if left and not self._waiting:
            self._waiting = True
            tasks.create_task(self._wait(left))
        elif left:
            self._unsent = left

    def _send(self, count: int) -> int:
        """Send as many as there are leases for; return how many there are none for."""
        size = count
        while count and size:
            lease = self.pool.lease(self._loop.time(), cost=min(size, count))
            if lease is None:
                size //= 2
                continue
            self.keeper.settle(lease, Outcome.USED)
            self._mobula.used[lease.token.id] += lease.cost
            self.sent += lease.cost
            count -= lease.cost
        return count

    async def _wait(self, count: int) -> None:
        began = self._loop.time()
        try:
            while count:
                await self.keeper.wait_for_token(10.0)
                left = self._send(count)
                self.waits += [self._loop.time() - began] * (count - left)
                count = left
        except TokenUnavailable:
            self.failed += count
        finally:
            self._waiting = False


@dataclass(frozen=True)
class Row:
    """What became of one fleet."""

    processes: int
    rate: float
    limit: int
    requests: int
    failed: int
    waited: int
    longest_wait: float
    mints: int
    most_in_a_minute: int
    tokens: int
    over_limit: int
    stranded: float
    """The part of the tokens which were granted whole that nobody had spent when they ended."""
    calls: float
    """Store calls a second of each process."""

    def cells(self) -> list[str]:
        waits = f"{self.waited}, up to {self.longest_wait * 1000:.0f} ms" if self.waited else "none"
        return [
            f"{self.processes}",
            f"{self.rate:,.0f}",
            f"{self.limit:,}",
            f"{self.requests:,}",
            waits if not self.failed else f"{waits}; {self.failed:,} failed",
            f"{self.mints} for {self.tokens} tokens, {self.most_in_a_minute} in a minute",
            f"{self.stranded:.2%}",
            f"{self.calls:.1f}",
        ]


class Watch:
    """Sees what of each token was granted when it ended."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._free: dict[str, tuple[int, float]] = {}

    def look(self, now: float) -> None:
        here = {each.id: (each.free, now + each.lives) for each in self._shelf.load()}
        for name, (_, expiry) in self._free.items():
            if name not in here and now < expiry:  # removed, since all of it was spent
                here[name] = 0, now
        self._free |= here

    def ended(self, now: float) -> list[str]:
        """Return the tokens that were granted whole, and have expired since or were spent."""
        return [name for name, (free, expiry) in self._free.items() if expiry <= now and not free]


async def simulate(processes: int, rate: float, limit: int, seconds: float) -> Row:
    """Run a fleet with `rate` requests a second in all, spread evenly, for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    mobula = Mobula(loop, LIFETIME)
    shelf = Shelf(loop.time, lasting=True)
    watch = Watch(shelf)
    fleet = [
        Process(loop, shelf, mobula, limit, rate / processes, seed) for seed in range(processes)
    ]
    async with AsyncExitStack() as stack:
        for each in fleet:
            await stack.enter_async_context(each.keeper)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        await asyncio.sleep(WARM_UP)
        calls, began = sum(each.store.calls for each in fleet), loop.time()
        for number in range(1, round(seconds / TICK) + 1):
            for each in fleet:
                each.tick(tasks)
            watch.look(loop.time())
            await asyncio.sleep(began + number * TICK - loop.time())
        calls = sum(each.store.calls for each in fleet) - calls
        return _row(fleet, mobula, watch, rate, limit, calls / processes / seconds)


def _row(
    fleet: Sequence[Process], mobula: Mobula, watch: Watch, rate: float, limit: int, calls: float
) -> Row:
    ended = watch.ended(asyncio.get_running_loop().time())
    granted = sum(mobula.given[name] for name in ended)
    spent = sum(mobula.used[name] for name in ended)
    waits = [wait for each in fleet for wait in each.waits]
    return Row(
        processes=len(fleet),
        rate=rate,
        limit=limit,
        requests=sum(each.sent for each in fleet),
        failed=sum(each.failed for each in fleet),
        waited=len(waits),
        longest_wait=max(waits, default=0.0),
        mints=len(mobula.calls),
        most_in_a_minute=mobula.most_in_a_minute,
        tokens=len(mobula.given),
        over_limit=mobula.over_limit,
        stranded=1.0 - spent / granted if granted else 0.0,
        calls=calls,
    )


def run(processes: int, rate: float, limit: int, seconds: float = SECONDS) -> Row:
    """Simulate one fleet; see `simulate`."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(silence=0.0)) as runner:
        return runner.run(simulate(processes, rate, limit, seconds))


COLUMNS = (
    "Processes",
    "Requests a second, in all",
    "`token.request_limit`",
    "Requests",
    "Waits",
    "Creation calls",
    "Stranded",
    "Store calls a second, each",
)
FLEETS = (
    (1, 1, 5000),
    (1, 100, 5000),
    (1, 1000, 5000),
    (1, 5000, 50_000),
    (8, 10, 5000),
    (8, 100, 5000),
    (8, 1000, 5000),
    (8, 10_000, 100_000),
    (100, 100, 5000),
    (100, 1000, 5000),
    (100, 10_000, 100_000),
    (1000, 1000, 100_000),
    (1000, 10_000, 100_000),
    (1000, 50_000, 1_000_000),
)


def main() -> None:
    """Print the table as Markdown."""
    for cells in (COLUMNS, ["---"] * len(COLUMNS)):
        print(f"| {' | '.join(cells)} |")
    for processes, rate, limit in FLEETS:
        row = run(processes, rate, limit)
        assert row.over_limit == 0
        print(f"| {' | '.join(row.cells())} |", flush=True)


if __name__ == "__main__":
    main()
