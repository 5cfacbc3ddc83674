"""The store in this process's memory: forgotten when it ends. It is also the other stores' model.

`Shelf` keeps the rules of `base`, pure and handed its clock; a `MemoryStore` is one process's view.
"""

import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import randbits

from proxy.tokens.budget import CALLS, WINDOW
from proxy.tokens.clock import steady
from proxy.tokens.store.base import (
    BLIND_CALLS,
    CHORE_SECONDS,
    NUMBER_BITS,
    PERMIT_SECONDS,
    RIGHT_COUNTS,
    RIGHTS,
    SHARER_SECONDS,
    Abandoned,
    Chore,
    Ending,
    Granted,
    Order,
    Permit,
    Report,
    Roll,
    Shelved,
    Task,
    Wait,
)


@dataclass(slots=True)
class _Entry:
    token: Shelved
    """As it was added."""
    added_at: float
    free: int
    checked_at: float
    """When it was last inspected, or added."""
    retired: bool = False
    reported: bool = False
    holders: int = 0
    taken_until: float = -math.inf
    """Until when its chore is somebody's."""

    @property
    def expires_at(self) -> float:
        return self.added_at + self.token.lives

    def seen(self, now: float) -> Shelved:
        passed = now - self.added_at
        return replace(
            self.token,
            age=self.token.age + passed,
            lives=self.token.lives - passed,
            free=self.free,
            retired=self.retired,
        )


@dataclass(slots=True)
class _Call:
    """A permitted call; it counts until WINDOW after `ends_at`."""

    order: Order
    started_at: float
    ends_at: float
    open: bool = True
    unclear: bool = True

    def runs(self, now: float) -> bool:
        return self.open and now < self.ends_at

    def may_have_tokens(self, now: float) -> bool:
        return self.unclear and now < self.started_at + PERMIT_SECONDS + self.order.lifetime


@dataclass(slots=True)
class _Sharer:
    seen_at: float
    rate: float = 0.0
    holds: set[str] = field(default_factory=set)


class Shelf:
    """One shelf, as `base` rules it.

    `lasting` is False for one that ends with its only process; it then needs no rights. A lasting
    one is `blind` if it may come back empty by itself.
    """

    def __init__(
        self, clock: Callable[[], float] = steady, *, lasting: bool = False, blind: bool = True
    ) -> None:
        self._epoch = uuid.uuid4().hex
        self._clock = clock
        self._lasting = lasting
        self._held_back = BLIND_CALLS if lasting and blind else 0
        self._blind_until = clock() + WINDOW if self._held_back else -math.inf
        self._closed_until = -math.inf
        self._entries: dict[str, _Entry] = {}
        self._sharers: dict[str, _Sharer] = {}  # seen longest ago first
        self._rate = 0.0
        self._rights: dict[str, float] = {}  # sharer: until when
        self._calls: dict[int, _Call] = {}
        self._number = randbits(NUMBER_BITS)
        self._generation = 0
        self._version = 0
        self._fault = ""

    def __repr__(self) -> str:
        return f"<Shelf {len(self._entries)} tokens, {len(self._sharers)} sharers>"

    # Sharers

    def attend(self, me: str, report: Report) -> Roll:
        now = self._now()
        sharer = self._see(me, now)
        self._rate += report.rate - sharer.rate
        sharer.rate = report.rate
        for name in report.holds - sharer.holds:
            self._hold(sharer, name)
        for name in sharer.holds - report.holds:
            self._let_go(sharer, name)
        right = self._give_right(me, report, now)
        left, at = self._permits(now)
        return Roll(
            epoch=self._epoch,
            generation=self._generation,
            version=self._version,
            sharers=len(self._sharers),
            rate=max(report.rate, self._rate),
            free={name: each.free for name, each in self._entries.items() if not each.retired},
            reported=frozenset(name for name, each in self._entries.items() if each.reported),
            permits=left,
            next_permit_in=at - now,
            minting=self._running(now) is not None,
            blind=now < self._blind_until,
            fault=self._fault,
            right=right,
            chores=sum(1 for _ in self._due(now, report.inspect_every)),
        )

    def leave(self, me: str, shares: Mapping[str, int]) -> bool:
        now = self._now()
        for name, count in shares.items():
            self._free(name, count)
        self._dismiss(me)
        if me in self._rights:
            self._rights[me] = now + WINDOW
        return not self._sharers

    def _see(self, me: str, now: float) -> _Sharer:
        sharer = self._sharers.pop(me, None) or _Sharer(now)
        sharer.seen_at = now
        self._sharers[me] = sharer
        return sharer

    def _dismiss(self, name: str) -> None:
        sharer = self._sharers.pop(name, None)
        if sharer is not None:
            self._rate -= sharer.rate
            for held in list(sharer.holds):
                self._let_go(sharer, held)

    def _hold(self, sharer: _Sharer, name: str) -> None:
        if name in self._entries and name not in sharer.holds:
            sharer.holds.add(name)
            self._entries[name].holders += 1

    def _let_go(self, sharer: _Sharer, name: str) -> None:
        sharer.holds.discard(name)
        entry = self._entries.get(name)
        if entry is not None:
            entry.holders -= 1
            if not entry.holders and not entry.free and not entry.retired:
                self._forget(name)

    def _give_right(self, me: str, report: Report, now: float) -> bool:
        wanted = self._lasting and report.wants_right
        if not wanted or now < self._blind_until:
            return False
        may = len(self._rights) < RIGHTS and self._spare_calls(now) > 0
        if me in self._rights or may:
            self._rights[me] = now + RIGHT_COUNTS
        return me in self._rights

    # Tokens

    def load(self) -> list[Shelved]:
        now = self._now()
        tokens = [each.seen(now) for each in self._entries.values()]
        return sorted(tokens, key=lambda each: (each.lives, each.id))

    def add(self, tokens: Sequence[Shelved]) -> None:
        now = self._now()
        for each in tokens:
            if each.id not in self._entries:
                self._entries[each.id] = _Entry(each, now, each.free, now)
                self._version += 1

    def grant(self, me: str, name: str, count: int) -> Granted:
        now = self._now()
        entry = self._entries.get(name)
        if entry is None or entry.retired:
            return Granted(0, 0)
        given = min(count, entry.free)
        entry.free -= given
        if given:
            self._hold(self._see(me, now), name)
        return Granted(given, entry.free)

    def give_back(self, name: str, count: int) -> None:
        self._now()
        self._free(name, count)

    def _free(self, name: str, count: int) -> None:
        entry = self._entries.get(name)
        if entry is not None and not entry.retired:
            entry.free = min(entry.token.limit, entry.free + count)

    def retire(self, name: str) -> None:
        self._now()
        entry = self._entries.get(name)
        if entry is not None and not entry.retired:
            entry.retired, entry.free = True, 0
            self._version += 1

    def remove(self, name: str) -> None:
        self._now()
        self._forget(name)

    def _forget(self, name: str) -> None:
        if self._entries.pop(name, None) is not None:
            for each in self._sharers.values():
                each.holds.discard(name)
            self._version += 1

    def rotate(self) -> int:
        self._generation += 1
        return self._generation

    # Chores

    def report(self, name: str) -> None:
        self._now()
        if name in self._entries:
            self._entries[name].reported = True

    def observe(self, name: str, remaining: int | None, mine: int) -> None:
        now = self._now()
        entry = self._entries.get(name)
        if entry is None:
            return
        entry.reported, entry.checked_at, entry.taken_until = False, now, -math.inf
        if remaining is not None:
            entry.free = min(entry.free, max(0, remaining - mine))

    def chore(self, inspect_every: float) -> Chore | None:
        now = self._now()
        due = min(
            self._due(now, inspect_every),
            key=lambda each: (each[0], each[2].expires_at, each[2].token.id),
            default=None,
        )
        if due is None:
            return None
        _, task, entry = due
        entry.taken_until = now + CHORE_SECONDS
        return Chore(task, entry.seen(now))

    def _due(self, now: float, inspect_every: float) -> Iterator[tuple[int, Task, _Entry]]:
        """Yield what ought to be done, with its rank: the lowest is the most urgent."""
        for each in self._entries.values():
            if each.taken_until > now:
                continue
            if each.retired:
                if not each.holders:
                    yield 1, Task.REVOKE, each
            elif each.reported:
                yield 0, Task.INSPECT, each
            elif now - each.checked_at >= inspect_every:
                yield 2, Task.INSPECT, each

    # Minting

    def permit(self, order: Order) -> Permit | Wait:
        now = self._now()
        running = self._running(now)
        if running is not None:
            return Wait(running.ends_at - now, minting=True)
        left, at = self._permits(now)
        if not left:
            return Wait(at - now, minting=False)
        self._number += 1
        self._calls[self._number] = _Call(order, now, now + PERMIT_SECONDS)
        return Permit(self._number)

    def end(self, permit: Permit, ending: Ending) -> None:
        now = self._now()
        unknown = _Call(Order(0, 0, 0.0), now, now)
        call = self._calls.setdefault(permit.number, unknown)
        call.open, call.unclear = False, ending.unclear and ending.sent
        call.ends_at = now if ending.sent else -math.inf
        if ending.closed_for > 0:
            self._closed_until = max(self._closed_until, now + ending.closed_for)
        self._fault = ending.fault

    def abandoned(self) -> list[Abandoned]:
        now = self._now()
        return [
            Abandoned(number, each.order, now - each.started_at)
            for number, each in self._calls.items()
            if each.may_have_tokens(now) and not each.runs(now)
        ]

    def settle_abandoned(self, number: int) -> None:
        self._now()
        if number in self._calls:
            self._calls[number].unclear = False

    def _running(self, now: float) -> _Call | None:
        return next((each for each in self._calls.values() if each.runs(now)), None)

    def _permits(self, now: float) -> tuple[int, float]:
        """Return how many calls may start now, and when one may."""
        if now < self._closed_until:
            return 0, self._closed_until
        left = self._spare_calls(now)
        if now < self._blind_until:
            left = min(left, BLIND_CALLS - len(self._counted(now)))
            return max(0, left), now if left > 0 else self._blind_until
        return max(0, left), now if left > 0 else self._counted(now)[-left]

    def _spare_calls(self, now: float) -> int:
        return CALLS - self._held_back - len(self._rights) - len(self._counted(now))

    def _counted(self, now: float) -> list[float]:
        """Return when each call that counts will count no more."""
        ends = sorted(each.ends_at + WINDOW for each in self._calls.values())
        return [each for each in ends if each > now]

    # Letting go

    def _now(self) -> float:
        """Read the clock, and forget what has had its time."""
        now = self._clock()
        for name in [name for name, each in self._entries.items() if each.expires_at <= now]:
            self._forget(name)
        for name in list(self._sharers):
            if self._sharers[name].seen_at + SHARER_SECONDS > now:
                break
            self._dismiss(name)
        for name in [name for name, until in self._rights.items() if until <= now]:
            del self._rights[name]
        for number, call in list(self._calls.items()):
            if call.ends_at + WINDOW <= now and not call.may_have_tokens(now):
                del self._calls[number]
        return now


class MemoryStore:
    """A shelf in memory, as one process uses it; without one given, it has one of its own."""

    place = "memory"

    def __init__(self, shelf: Shelf | None = None, clock: Callable[[], float] = steady) -> None:
        self.private = shelf is None
        self._shelf = shelf or Shelf(clock)
        self._me = uuid.uuid4().hex

    def __repr__(self) -> str:
        return f"<MemoryStore of {self._shelf!r}>"

    async def open(self) -> int:
        return 0

    async def close(self) -> None:
        pass

    async def attend(self, report: Report) -> Roll:
        return self._shelf.attend(self._me, report)

    async def load(self) -> list[Shelved]:
        return self._shelf.load()

    async def add(self, tokens: Sequence[Shelved]) -> None:
        self._shelf.add(tokens)

    async def grant(self, token_id: str, count: int) -> Granted:
        return self._shelf.grant(self._me, token_id, count)

    async def give_back(self, token_id: str, count: int) -> None:
        self._shelf.give_back(token_id, count)

    async def retire(self, token_id: str) -> None:
        self._shelf.retire(token_id)

    async def remove(self, token_id: str) -> None:
        self._shelf.remove(token_id)

    async def report(self, token_id: str) -> None:
        self._shelf.report(token_id)

    async def observe(self, token_id: str, remaining: int | None, mine: int) -> None:
        self._shelf.observe(token_id, remaining, mine)

    async def chore(self, inspect_every: float) -> Chore | None:
        return self._shelf.chore(inspect_every)

    async def permit(self, order: Order) -> Permit | Wait:
        return self._shelf.permit(order)

    async def end(self, permit: Permit, ending: Ending) -> None:
        self._shelf.end(permit, ending)

    async def abandoned(self) -> list[Abandoned]:
        return self._shelf.abandoned()

    async def settle_abandoned(self, number: int) -> None:
        self._shelf.settle_abandoned(number)

    async def rotate(self) -> int:
        return self._shelf.rotate()

    async def leave(self, shares: Mapping[str, int]) -> bool:
        return self._shelf.leave(self._me, shares)
