"""Whole processes of a fleet in front of a store and a Mobula that do as the test says.

Everything of a process is real, down to the shelf; the test decides when a question reaches the
store, whether its answer comes back, and what a creation call gives. Mobula keeps its own books.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal, TypeVar, cast

from faults.world import Keys
from proxy.config import TokenSettings
from proxy.tokens.budget import CALLS, WINDOW, MintBudget
from proxy.tokens.events import Event, Quarantined
from proxy.tokens.keeper import Keeper
from proxy.tokens.mobula import TIMEOUT_SECONDS, Batch, MintError, MobulaClient
from proxy.tokens.model import (
    Inspection,
    Lease,
    MintFault,
    Outcome,
    Secret,
    Standing,
    Token,
)
from proxy.tokens.pool import TokenPool
from proxy.tokens.sharing import Sharing
from proxy.tokens.store.base import (
    PERMIT_SECONDS,
    RIGHT_SECONDS,
    Order,
    Permit,
    Report,
    Roll,
    StoreError,
    Tally,
    Wait,
)
from proxy.tokens.store.member import Member
from proxy.tokens.store.seal import Seal
from proxy.tokens.store.shelf import Shelf
from proxy.tokens.store.tallies import Tallies
from tokens.kit import KEY, SILENT, token
from virtual import VirtualLoop

T = TypeVar("T")
Role = Literal["both", "minter", "member"]

LIMIT = 12
"""Requests of each token."""
STORE_SECONDS = 3.0
"""How long a process waits for an answer of the store, as the clients of servers do."""
CLIENT = "client"
DAY = 20_000
SEAL = Seal(KEY)
MOMENT = 1 / 64
"""Long enough for everything that is due to be done."""


class Way(Enum):
    """What becomes of a question to the store."""

    OPEN = "answered at once"
    HELD = "the test decides"
    CUT = "never arrives"
    MUTE = "arrives, but its answer does not"


@dataclass
class Question:
    """One that is under way; whoever asked may have given up on it, or be dead."""

    ask: Callable[[Shelf], Any]
    answer: "asyncio.Future[Any]"

    def arrive(self, shelf: Shelf, *, heard: bool) -> None:
        result = self.ask(shelf)
        if self.answer.done():
            return
        if heard:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(StoreError("the answer was lost"))

    def vanish(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(StoreError("the question was lost"))


@dataclass
class Epoch:
    """A shelf, which is all that the store knows."""

    shelf: Shelf
    began_at: float
    before: float = math.inf
    """How long the one before it lasted."""


@dataclass
class Leave:
    """What a creation call is made by: a permit, or a right of this epoch."""

    epoch: Epoch
    right: bool
    blind: bool = False
    """Whether the epoch was so young that this one call must do for its first minute."""
    until: float = math.inf


@dataclass
class CreationCall:
    """One that has begun; `answer` is why it failed, or None."""

    leave: Leave
    answer: "asyncio.Future[MintFault | None]"
    arrived_at: float | None = None
    excused: bool = False


@dataclass
class Account:
    """What Mobula knows of a token."""

    token: Token
    sent: int = 0
    elsewhere: int = 0
    """Requests that Mobula counted and no process of the fleet sent."""
    revoked: bool = False

    def good(self, now: float) -> bool:
        """Tell whether there is no reason to doubt it."""
        return not self.revoked and not self.elsewhere and now < self.token.expires_at - 60.0

    def inspect(self, now: float) -> Inspection:
        remaining = self.token.left - self.sent - self.elsewhere
        if self.revoked or now >= self.token.expires_at:
            return Inspection(Standing.GONE)
        if remaining <= 0:
            return Inspection(Standing.EXHAUSTED)
        return Inspection(Standing.ALIVE, remaining)


class World:
    """The store and Mobula."""

    def __init__(self, *, blind: bool, chance: Callable[[], float]) -> None:
        self.loop = VirtualLoop(silence=0)
        self.chance = chance
        self.blind = blind
        self.questions: list[Question] = []
        self.calls: list[CreationCall] = []
        self.accounts: dict[str, Account] = {}
        self.gives, self.lifetime = 2, 3600.0
        self.fault: MintFault | None = None
        """Why creation calls fail at once."""
        self.slow = False
        """Whether the test decides how creation calls end, unless they time out before."""
        self.early = False
        """Whether slow ones arrive at once, or when they end."""
        self.silent = False
        """Whether nothing is said of tokens."""
        self.epoch = Epoch(self._new_shelf(), self.now)
        self.tallies = Tallies(self.loop.time)

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def shelf(self) -> Shelf:
        return self.epoch.shelf

    @property
    def emptied(self) -> bool:
        """Whether the store has ever come back empty."""
        return self.epoch.before < math.inf

    def _new_shelf(self) -> Shelf:
        return Shelf(self.loop.time, lasting=True, blind=self.blind)

    def run(self, seconds: float = MOMENT) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def leap(self, seconds: float) -> None:
        """Let time pass in which every process stands still; what is on its way arrives."""
        for call in self.under_way():
            self.arrived(call)
        self.loop.leap(seconds)
        self.run()

    def come_back_empty(self) -> None:
        lasted = self.now - self.epoch.began_at
        self.epoch = Epoch(self._new_shelf(), self.now, before=lasted)
        self.tallies = Tallies(self.loop.time)

    # Creation calls

    def under_way(self) -> list[CreationCall]:
        return [each for each in self.calls if not each.answer.done()]

    def starts(self, call: CreationCall) -> None:
        assert self.now <= call.leave.until, "a right was used that is not valid any more"
        beside = [each for each in self.under_way() if each.leave.epoch is call.leave.epoch]
        assert call.leave.right or all(each.leave.right for each in beside), "two calls at a time"
        self.calls.append(call)

    def arrived(self, call: CreationCall) -> None:
        """Count a call, unless that is done; Mobula must never count more than it allows.

        The store does not promise that for calls by a right that it has forgotten, nor for the one
        call that must do for its first minute if it had forgotten everything just before, too.
        """
        if call.arrived_at is not None:
            return
        call.arrived_at = self.now
        call.excused = self._excuses(call.leave)
        arrivals = [each.arrived_at for each in self.calls if not each.excused]
        late = [at for at in arrivals if at is not None and at > self.now - WINDOW + 1e-6]
        assert len(late) <= CALLS, "the mint budget is exceeded"

    def _excuses(self, leave: Leave) -> bool:
        if leave.right:
            return leave.epoch is not self.epoch
        return leave.blind and leave.epoch.before < WINDOW + PERMIT_SECONDS

    def end(self, call: CreationCall, fault: MintFault | None) -> None:
        """End a slow call; one that has arrived was sent."""
        if fault is not None and not fault.sent and call.arrived_at is not None:
            fault = SILENT
        call.answer.set_result(fault)
        self.run()

    def heal(self, lines: Iterable["Line"]) -> None:
        """Let everything arrive that is under way, and nothing go wrong from now on."""
        for line in lines:
            line.way = Way.OPEN
        self.fault, self.slow, self.silent = None, False, False
        self.gives, self.lifetime = 4, 3600.0
        while self.questions:
            self.questions.pop().arrive(self.shelf, heard=True)
        for call in self.under_way():
            self.end(call, None)

    def make(self, count: int, key: Secret) -> list[Token]:
        made = []
        for _ in range(min(count, self.gives)):
            name = f"t{len(self.accounts)}"
            fresh = token(name, self.now, lives=self.lifetime, limit=LIMIT)
            made.append(replace(fresh, key=key))
            self.accounts[name] = Account(made[-1])
        return made


class Line(Member):
    """One process's line to the store."""

    place = "the test"
    private = False

    def __init__(self, world: World) -> None:
        super().__init__()
        self.way = Way.OPEN
        self._world = world
        self._permitted: Leave | None = None
        self._right: Leave | None = None

    async def open(self) -> int:
        if self.way in (Way.CUT, Way.MUTE):
            raise StoreError("nobody answers there")
        return 0

    async def close(self) -> None:
        pass

    async def attend(self, report: Report) -> Roll:
        until = self._world.now + RIGHT_SECONDS
        roll = await super().attend(report)
        epoch = self._world.epoch
        if roll.right and roll.epoch == epoch.shelf.book.epoch:
            self._right = Leave(epoch, right=True, until=until)
        return roll

    async def permit(self, order: Order) -> Permit | Wait:
        leave, permit = await self._ask(lambda shelf: (self._leave_now(), shelf.permit(order)))
        if isinstance(permit, Permit):
            self._permitted = leave
        return permit

    def _leave_now(self) -> Leave:
        epoch, now = self._world.epoch, self._world.now
        return Leave(epoch, right=False, blind=now < epoch.shelf.book.blind_until)

    def leave_to_mint(self) -> Leave:
        """Return by what the creation call is made that starts now."""
        by, self._permitted = self._permitted or self._right, None
        assert by is not None, "a creation call was made without leave"
        return by

    async def _ask(self, question: Callable[[Shelf], T], *, durable: bool = False) -> T:  # noqa: ARG002
        if self.way is Way.HELD:
            return await self._wait_for(question)
        if self.way is not Way.CUT:
            answer = question(self._world.shelf)
        if self.way is not Way.OPEN:
            raise StoreError("nobody answers there")
        return answer

    async def _count(self, question: Callable[[Tallies], T]) -> T:
        return await self._ask(lambda _: question(self._world.tallies))

    async def _wait_for(self, question: Callable[[Shelf], T]) -> T:
        asked = Question(question, self._world.loop.create_future())
        self._world.questions.append(asked)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return cast("T", await asked.answer)
        except TimeoutError:
            raise StoreError("it gave no answer in time") from None


class Phone(MobulaClient):
    """One process's line to Mobula."""

    def __init__(self, world: World, line: Line) -> None:
        super().__init__("https://mobula.test", clock=world.loop.time)
        self._world, self._line = world, line

    async def mint(
        self,
        key: Secret,
        *,
        count: int,
        expires_in: float,  # noqa: ARG002 - the test says how long they live
        request_limit: int,  # noqa: ARG002 - all are alike
    ) -> Batch:
        world = self._world
        call = CreationCall(self._line.leave_to_mint(), world.loop.create_future())
        world.starts(call)
        if not world.slow:
            call.answer.set_result(world.fault)
        elif world.early:
            world.arrived(call)
        fault = await self._end(call)
        if fault is None or fault.sent:
            world.arrived(call)
        if fault is not None:
            raise MintError(fault)
        return Batch(tuple(world.make(count, key)), ())

    async def _end(self, call: CreationCall) -> MintFault | None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await call.answer
        except TimeoutError:
            return SILENT
        except asyncio.CancelledError:
            self._world.arrived(call)
            raise

    async def inspect(self, token: Token) -> Inspection:
        if self._world.silent or token.key is None:
            return Inspection(Standing.UNKNOWN)
        return self._world.accounts[token.id].inspect(self._world.now)

    async def revoke(self, token: Token) -> bool:
        self._world.accounts[token.id].revoked |= not self._world.silent
        return not self._world.silent


class Process:
    """One process: it runs until it is killed."""

    def __init__(self, world: World, *, role: Role, on_outage: Literal["local", "stop"]) -> None:
        self.role = role
        self.line = Line(world)
        self.leases: list[Lease] = []
        self.quarantined: set[str] = set()
        self.leaving = False
        self.spent = 0
        """Requests of the client."""
        self.untold = 0
        """Those of which it does not know that the store was told."""
        self.known = 0
        """What it knows of the fleet's tally."""
        self._world = world
        keys = Keys()
        key = None if role == "member" else keys.read()
        settings = TokenSettings(request_limit=LIMIT, inspect_every=60.0, orphans="keep")
        self.sharing = Sharing(
            make_store=lambda _: self.line,
            seal_with=lambda _: SEAL,
            key=key,
            on_outage=on_outage,
            tell=self._hear,
            clock=world.loop.time,
        )
        self.pool = TokenPool(
            limit=LIMIT,
            standby=1,
            budget=MintBudget(),
            chance=world.chance,
            tell=self._hear,
            private=False,
            mints=role != "member",
            takes=role != "minter",
        )
        self.keeper = Keeper(
            pool=self.pool,
            sharing=self.sharing,
            mobula=Phone(world, self.line),
            source=keys if key else None,
            key=key,
            settings=settings,
            tell=self._hear,
            clock=world.loop.time,
            chance=world.chance,
        )
        self._ends: list[asyncio.Task[None]] = []
        self._life = world.loop.create_task(self._live())
        self._telling: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{self.role} {self.sharing!r} {self.pool!r}>"

    async def _live(self) -> None:
        async with self.keeper:
            await asyncio.Event().wait()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Quarantined):
            self.quarantined.add(event.token_id)

    def in_hand(self) -> set[str]:
        """Names of the tokens that it may send requests with."""
        return {each.id for each in self.keeper.snapshot().tokens if each.left}

    def lease(self, refused: frozenset[str] = frozenset()) -> Lease | None:
        lease = self.keeper.lease(refused)
        if lease is None:
            return None
        account = self._world.accounts[lease.token.id]
        assert lease.token.id not in self.quarantined, "a quarantined token was leased"
        assert self._world.now < account.token.expires_at, "an expired token was leased"
        account.sent += 1
        assert account.sent <= account.token.left, "a token was sent too often"
        self.leases.append(lease)
        return lease

    def spend(self, requests: int, outcome: Outcome = Outcome.USED) -> None:
        """Send requests one after the other, as long as there are tokens for them."""
        for _ in range(requests):
            lease = self.lease()
            if lease is None:
                return
            self.settle(lease, outcome)

    def settle(self, lease: Lease, outcome: Outcome) -> None:
        self.leases.remove(lease)
        if outcome is Outcome.NOT_SENT:
            self._world.accounts[lease.token.id].sent -= 1
        if outcome is Outcome.REJECTED:
            self.keeper.refuse(lease, 401)
        else:
            self.keeper.settle(lease, outcome)

    def serve_client(self, requests: int) -> None:
        self.spent += requests
        self.untold += requests
        if self._telling is None or self._telling.done():
            self._telling = self._world.loop.create_task(self._tell())

    async def _tell(self) -> None:
        told = Tally(self.untold, self.known)
        answered = await self.sharing.tally(DAY, {CLIENT: told})
        if CLIENT in answered:
            self.untold -= told.spent
            self.known = answered[CLIENT]

    def leave(self, *, revoke: bool) -> None:
        """End in order, which takes a while."""
        self.leaving = True
        self._ends.append(self._world.loop.create_task(self._leave(revoke)))

    async def _leave(self, revoke: bool) -> None:
        await self.keeper.retire(STORE_SECONDS, revoke=revoke)
        await asyncio.sleep(1.0)  # requests that were cut off may still look for a token
        self._life.cancel()

    def kill(self) -> None:
        """End at once, whatever is under way."""
        for task in self._tasks():
            task.cancel()
        self._world.run()

    def lives(self) -> bool:
        """Tell whether it runs; raise what one of its tasks has raised."""
        for task in self._tasks():
            if task.done() and not task.cancelled():
                task.result()
        return not self._life.done()

    def _tasks(self) -> list["asyncio.Task[None]"]:
        return [*self._ends, *([self._telling] if self._telling else []), self._life]
