"""Keepers that share one shelf, in virtual time, in front of a sandbox on real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from faults.world import EPOCH, NEW_KEY, Keys, now
from harness import KEY
from proxy.config import TokenSettings
from proxy.errors import TokenUnavailable
from proxy.sandbox import Sandbox
from proxy.sandbox.ledger import Credential
from proxy.tokens.budget import MintBudget
from proxy.tokens.events import Event
from proxy.tokens.keeper import Keeper
from proxy.tokens.key import StaticKey
from proxy.tokens.mobula import MobulaClient
from proxy.tokens.model import Outcome, Secret, Token
from proxy.tokens.pool import TokenPool
from proxy.tokens.sharing import Sharing
from proxy.tokens.store.base import StoreError
from proxy.tokens.store.memory import MemoryStore
from proxy.tokens.store.seal import Seal
from proxy.tokens.store.shelf import Shelf
from proxy.tokens.store.tallies import Tallies

SECRET = Secret("a-store-secret-of-32-characters!")

Kind = TypeVar("Kind", bound=Event)
T = TypeVar("T")


class Place:
    """Where the shelves of a fleet are; it can be out of reach, and come back empty."""

    def __init__(self) -> None:
        self.down = False
        self.says = "nobody answers there"
        self.seconds = 0.0
        """How long answers take to arrive."""
        self._clock = asyncio.get_running_loop().time
        self._shelves: dict[str, Shelf] = {}
        self.tallies = Tallies(self._clock)

    def shelf(self, name: str) -> Shelf:
        if name not in self._shelves:
            self._shelves[name] = Shelf(self._clock, lasting=True)
        return self._shelves[name]

    def others(self, name: str) -> int:
        """Return how many other shelves have tokens."""
        return sum(1 for other, shelf in self._shelves.items() if other != name and shelf.load())

    def empty(self) -> None:
        self._shelves.clear()
        self.tallies = Tallies(self._clock)


class Line(MemoryStore):
    """One process's line to the place."""

    def __init__(self, place: Place, shelf: str) -> None:
        super().__init__(place.shelf(shelf))
        self._place, self._name = place, shelf

    async def open(self) -> int:
        return self._place.others(self._name)

    async def _ask(self, question: Callable[[Shelf], T], *, durable: bool = False) -> T:  # noqa: ARG002
        if self._place.down:
            raise StoreError(self._place.says)
        answer = question(self._place.shelf(self._name))
        if self._place.seconds:
            await asyncio.sleep(self._place.seconds)
        return answer

    async def _count(self, question: Callable[[Tallies], T]) -> T:
        return await self._ask(lambda _: question(self._place.tallies))


@dataclass
class Proxy:
    """One process of the fleet."""

    keeper: Keeper
    sharing: Sharing
    keys: Keys
    sandbox: Sandbox
    told: list[Event] = field(default_factory=list)

    async def serve(self, requests: int = 1) -> Token:
        """Send requests one after the other, each as soon as it may; return the last token."""
        tokens = [await self._send() for _ in range(requests)]
        return tokens[-1]

    async def _send(self) -> Token:
        lease = self.keeper.lease()
        while lease is None:
            await self.keeper.wait_for_token(10.0)
            lease = self.keeper.lease()
        credential = Credential(lease.token.secret.reveal(), bearer=True)
        refusal, _ = self.sandbox.ledger.charge(credential)
        assert refusal is None, "Mobula refused a token"
        self.keeper.settle(lease, Outcome.USED)
        return lease.token

    async def serve_until_dry(self) -> tuple[int, str]:
        """Serve as long as there are tokens; tell how many, and why there were no more."""
        for served in range(1_000_000):
            try:
                await self.serve()
            except TokenUnavailable as refusal:
                return served, refusal.detail
        raise AssertionError("it never ran dry")

    def events(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.told if isinstance(event, kind)]

    @property
    def left(self) -> int:
        """Requests in hand."""
        return sum(each.left for each in self.keeper.snapshot().tokens)


class Fleet:
    """The processes, their place and their Mobula."""

    def __init__(self, sandbox: Sandbox, stack: AsyncExitStack) -> None:
        self.sandbox = sandbox
        self.place = Place()
        self._stack = stack

    async def proxy(
        self,
        *,
        role: Literal["both", "minter", "member"] = "both",
        on_outage: Literal["local", "stop"] = "local",
        secret: Secret | None = None,
        private: bool = False,
        **settings: Any,
    ) -> Proxy:
        """Start a process; it runs until the test ends, is killed, or leaves."""
        return await self._stack.enter_async_context(
            self.running(role=role, on_outage=on_outage, secret=secret, private=private, **settings)
        )

    @contextlib.asynccontextmanager
    async def running(
        self,
        *,
        role: Literal["both", "minter", "member"] = "both",
        on_outage: Literal["local", "stop"] = "local",
        secret: Secret | None = None,
        private: bool = False,
        **settings: Any,
    ) -> AsyncIterator[Proxy]:
        """A process that is killed at the end, unless it has left."""
        told: list[Event] = []
        keys = Keys()
        key = None if role == "member" else keys.read()
        clock = asyncio.get_running_loop().time

        def store(shelf: str) -> MemoryStore:
            return MemoryStore(clock=clock) if private else Line(self.place, shelf)

        def seal(key: StaticKey | None) -> Seal:
            by = secret or (key.secret if key else None)
            assert by is not None
            return Seal(by)

        sharing = Sharing(
            make_store=store,
            seal_with=seal,
            key=key,
            on_outage=on_outage,
            tell=told.append,
            clock=clock,
        )
        options = TokenSettings(**settings)
        pool = TokenPool(
            limit=options.request_limit,
            standby=options.standby,
            budget=MintBudget(),
            chance=lambda: 0.5,
            tell=told.append,
            private=private,
            mints=role != "member",
            takes=role != "minter",
        )
        async with (
            MobulaClient(self.sandbox.url, clock=clock, wall=lambda: EPOCH + now()) as mobula,
            Keeper(
                pool=pool,
                sharing=sharing,
                mobula=mobula,
                source=keys if key else None,
                key=key,
                settings=options,
                tell=told.append,
                clock=clock,
                chance=lambda: 0.5,
            ) as keeper,
        ):
            yield Proxy(keeper, sharing, keys, self.sandbox, told)

    def report(self, what: str) -> int:
        count = self.sandbox.ledger.report()[what]
        assert isinstance(count, int)
        return count

    @property
    def mints(self) -> int:
        return self.report("mint_calls")

    def alive(self) -> set[str]:
        """Ids of the tokens that Mobula honours."""
        tokens = self.sandbox.ledger.report()["tokens"]
        return {each["id"] for each in tokens if not each["revoked"]}


@contextlib.asynccontextmanager
async def fleet_in_virtual_time() -> AsyncIterator[Fleet]:
    """A fleet; whatever happened to it, Mobula saw no promise broken."""
    clock = asyncio.get_running_loop().time
    keys = {KEY: "growth", NEW_KEY: "growth"}
    async with (
        Sandbox(keys=keys, clock=lambda: EPOCH + clock()) as sandbox,
        AsyncExitStack() as stack,
    ):
        yield Fleet(sandbox, stack)
        report = sandbox.ledger.report()
        assert report["leaks"] == []
        assert report["over_limit"] == report["after_expiry"] == 0
        assert report["max_mint_calls_per_minute"] <= 5


async def until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once `check` is true; TimeoutError if it is not in time."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - what it looks at has no event
            await asyncio.sleep(0.05)
