"""What the tests of the tokens room share: tokens to make, a pool to drive, virtual time."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from proxy.tokens.budget import MintBudget
from proxy.tokens.events import Event
from proxy.tokens.key import StaticKey
from proxy.tokens.model import (
    Action,
    GiveBack,
    Grant,
    Inspect,
    Inspection,
    Lease,
    Mint,
    MintFault,
    Outcome,
    Reach,
    Revoke,
    Secret,
    Standing,
    Stocked,
    Token,
    WakeAt,
)
from proxy.tokens.pool import TokenPool
from proxy.tokens.sharing import Sharing
from proxy.tokens.store.base import Roll
from proxy.tokens.store.memory import MemoryStore

KEY = Secret("static-key-of-the-tests")
LIFETIME = 3600.0
LIMIT = 5000

REFUSED = MintFault("connect", "no connection", sent=False)
FAILED = MintFault("503", "status 503")
SILENT = MintFault("timeout", "no answer within 5 s")
FATAL = MintFault("401", "Mobula refused the static key", fatal=True)

QUIET = Roll(
    epoch="e",
    generation=0,
    version=1,
    sharers=1,
    rate=0.0,
    free={},
    reported=frozenset(),
    permits=4,
    next_permit_in=0.0,
    minting=False,
    blind=False,
    fault="",
    right=False,
    chores=0,
)
"""How a fleet is of which there is nothing to say."""

Kind = TypeVar("Kind", Mint, Inspect, Revoke, Grant, GiveBack, WakeAt)


def token(
    name: str,
    at: float = 0.0,
    *,
    lives: float = LIFETIME,
    limit: int = LIMIT,
    left: int | None = None,
) -> Token:
    """A token minted `at`."""
    left = limit if left is None else left
    return Token(
        id=name,
        secret=Secret(f"value-of-{name}"),
        key=KEY,
        minted_at=at,
        expires_at=at + lives,
        limit=limit,
        left=left,
    )


def alone(key: StaticKey, tell: Callable[[Event], None], clock: Callable[[], float]) -> Sharing:
    """A process that shares its tokens with nobody."""
    return Sharing(
        make_store=lambda _: MemoryStore(clock=clock),
        seal_with=lambda _: None,
        key=key,
        on_outage="local",
        tell=tell,
        clock=clock,
    )


def only(actions: Iterable[Action], kind: type[Kind]) -> list[Kind]:
    """The actions of one kind."""
    return [action for action in actions if isinstance(action, kind)]


class Script:
    """A pool, and the lines that a transcript is written in; times are seconds from 0."""

    def __init__(
        self,
        *,
        standby: int = 1,
        limit: int = LIMIT,
        chance: Callable[[], float] = lambda: 0.5,
        private: bool = True,
        mints: bool = True,
    ) -> None:
        self.told: list[Event] = []
        self.pool = TokenPool(
            limit=limit,
            standby=standby,
            budget=MintBudget(),
            chance=chance,
            tell=self.told.append,
            private=private,
            mints=mints,
        )

    def __repr__(self) -> str:
        return repr(self.pool)

    def mint(self, now: float, *tokens: Token) -> Mint:
        """Have the pool ask for tokens, and give it these at once."""
        request = self.mint_asked(now)
        assert self.pool.minted(request, tokens, now) is None
        return request

    def mint_asked(self, now: float) -> Mint:
        """Return the creation call that the pool asks for now; it is then under way."""
        (request,) = only(self.pool.plan(now), Mint)
        return request

    def fail(self, now: float, fault: MintFault = FAILED) -> None:
        """Have the pool ask for tokens, and fail at once."""
        self.pool.mint_failed(self.mint_asked(now), fault, now)

    def mints(self, now: float) -> list[Mint]:
        return only(self.pool.plan(now), Mint)

    def inspects(self, now: float) -> list[str]:
        """Names of the tokens that the pool wants to be inspected now."""
        return [action.token.id for action in only(self.pool.plan(now), Inspect)]

    def revokes(self, now: float) -> list[str]:
        """Names of the tokens that the pool wants to be revoked now."""
        return [action.token.id for action in only(self.pool.plan(now), Revoke)]

    def lease(self, now: float, *, cost: int = 1, refused: Iterable[str] = ()) -> Lease:
        lease = self.pool.lease(now, cost, refused=set(refused))
        assert lease is not None
        return lease

    def name(self, now: float, *, refused: Iterable[str] = ()) -> str | None:
        """Name of the token that a request sent now would carry; it is sent, and served."""
        lease = self.pool.lease(now, refused=set(refused))
        if lease is None:
            return None
        self.pool.settle(lease, Outcome.UNKNOWN, now)
        return lease.token.id

    def use(self, now: float, requests: int) -> None:
        """Send this many requests."""
        lease = self.lease(now, cost=requests)
        self.pool.settle(lease, Outcome.UNKNOWN, now)

    def reject(self, now: float) -> str:
        """Send a request that is refused; return the name of its token."""
        lease = self.lease(now)
        self.pool.settle(lease, Outcome.REJECTED, now)
        return lease.token.id

    def exhaust(self, now: float) -> None:
        """Send a request upon which Mobula says that its token is used up."""
        self.pool.settle(self.lease(now), Outcome.EXHAUSTED, now)

    def inspected(
        self, now: float, name: str, standing: Standing, remaining: int | None = None
    ) -> None:
        """Answer the inspect of `name`, which the pool must want now."""
        assert self.inspects(now) == [name]
        self.pool.inspected(name, Inspection(standing, remaining), now)

    def next_wake(self, now: float) -> float:
        """When the pool wants to be asked again."""
        wakes = only(self.pool.plan(now), WakeAt)
        return min((wake.at for wake in wakes), default=math.inf)


class Member(Script):
    """The same for a pool that shares its tokens; it has joined, and knows an empty shelf."""

    def __init__(self, *, standby: int = 1, limit: int = LIMIT, mints: bool = True) -> None:
        super().__init__(standby=standby, limit=limit, private=False, mints=mints)
        self.pool.reached(Reach.JOINED)
        self.attend(0)

    def attend(self, now: float, *shelf: Stocked, emptied: bool = False, **roll: Any) -> None:
        """Have the pool hear of the fleet, and of all that is on the shelf."""
        if emptied:
            self.pool.lost(now, found=shelf)
        self.pool.stocked(shelf, now)
        free = {each.token.id: each.free for each in shelf if each.current}
        self.pool.attended(replace(QUIET, free=free, **roll), now)

    def grants(self, now: float) -> dict[str, int]:
        """What the pool asks for now, by token."""
        return {each.token.id: each.count for each in only(self.pool.plan(now), Grant)}

    def take(self, now: float, name: str, count: int, free: int = 0) -> None:
        """Have the pool granted a share, which it need not have asked for."""
        self.pool.granted(name, count, free, now)


class World:
    """A pool driven as the keeper does, in virtual time, by requests at a steady rate.

    The token endpoint gives tokens after `LATENCY`, save during an outage, in which a call that
    starts ends with `fault` after `lasts` seconds.
    """

    LATENCY = 0.1
    STEP = 0.1

    def __init__(
        self, *, rate: float, lifetime: float, limit: int, chance: Callable[[], float]
    ) -> None:
        self.script = Script(limit=limit, chance=chance)
        self.pool = self.script.pool
        self.now = 0.0
        self.calls: list[float] = []
        """When each creation call that arrived ended."""
        self.dry: list[float] = []
        """The moments at which a request found no token, after the first had come."""
        self._cost = round(rate * self.STEP)
        self._lifetime = lifetime
        self._limit = limit
        self._outage = (math.inf, math.inf)
        self._fault, self._lasts = FAILED, 0.0
        self._under_way: tuple[float, Mint, MintFault | None, float] | None = None
        self._wake = 0.0
        self._made = 0

    def __repr__(self) -> str:
        outage = f"outage at {self._outage[0]:.1f}"
        return f"<World {outage}, dry {len(self.dry)} times from {self.dry[:1]}>"

    def break_down(self, at: float, seconds: float, fault: MintFault, lasts: float) -> None:
        """Let the token endpoint fail from `at` on."""
        self._outage = (at, at + seconds)
        self._fault, self._lasts = fault, lasts

    def run(self, until: float) -> None:
        while self.now < until:
            self._answer()
            self._serve()
            self._plan()
            self.now = round(self.now + self.STEP, 6)

    def longest_gap(self) -> float:
        """The longest time for which a request found no token, in seconds."""
        longest = gap = 0.0
        before = -math.inf
        for at in self.dry:
            gap = gap + self.STEP if at - before < 1.5 * self.STEP else self.STEP
            longest, before = max(longest, gap), at
        return round(longest, 6)

    def _serve(self) -> None:
        lease = self.pool.lease(self.now, self._cost)
        if lease is None:
            if self._made:
                self.dry.append(self.now)
        else:
            self.pool.settle(lease, Outcome.USED, self.now)

    def _plan(self) -> None:
        while self.pool.wants_plan or self.now >= self._wake:
            actions = self.pool.plan(self.now)
            self._wake = min((each.at for each in only(actions, WakeAt)), default=math.inf)
            self._wake = max(self._wake, self.now + 0.005)
            for request in only(actions, Mint):
                self._call(request)

    def _call(self, request: Mint) -> None:
        start, end = self._outage
        if start <= self.now < end:
            self._under_way = (self.now + self._lasts, request, self._fault, self.now)
        else:
            self._under_way = (self.now + self.LATENCY, request, None, self.now)

    def _answer(self) -> None:
        if self._under_way is None or self.now < self._under_way[0]:
            return
        _, request, fault, started = self._under_way
        self._under_way = None
        if fault is None or fault.sent:
            self.calls.append(self.now)
        if fault is not None:
            self.pool.mint_failed(request, fault, self.now)
            return
        made = [self._token(started) for _ in range(request.count)]
        assert self.pool.minted(request, made, self.now) is None

    def _token(self, started: float) -> Token:
        self._made += 1
        return token(f"t{self._made}", started, lives=self._lifetime, limit=self._limit)


def most_in_a_minute(times: Iterable[float]) -> int:
    """The most of these times that lie within any 60 s, rounding errors aside."""
    window: deque[float] = deque()
    most = 0
    for at in times:
        window.append(at)
        while at - window[0] > 60.0 - 1e-6:
            window.popleft()
        most = max(most, len(window))
    return most
