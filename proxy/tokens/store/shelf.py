"""The shelf: the rules of `base`, pure and handed its clock.

`Book` is all that a shelf knows, in plain values, so that a store can write it down; it is the
format of what stores have written, too: who changes it gives it a new version.
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
class Entry:
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
class Call:
    """A permitted call; it counts until WINDOW after `ends_at`."""

    order: Order
    started_at: float
    ends_at: float
    unclear: bool = True

    def runs(self, now: float) -> bool:
        return now < self.ends_at

    def may_have_tokens(self, now: float) -> bool:
        return self.unclear and now < self.started_at + PERMIT_SECONDS + self.order.lifetime


@dataclass(slots=True)
class Sharer:
    seen_at: float
    rate: float = 0.0
    holds: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Book:
    """All that a shelf knows."""

    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = field(default_factory=lambda: randbits(NUMBER_BITS))
    """Of the newest permit."""
    read_at: float = -math.inf
    """When the clock was last read."""
    blind_until: float = -math.inf
    closed_until: float = -math.inf
    entries: dict[str, Entry] = field(default_factory=dict)
    sharers: dict[str, Sharer] = field(default_factory=dict)
    """Seen longest ago first."""
    rights: dict[str, float] = field(default_factory=dict)
    """By sharer, until when they count."""
    calls: dict[int, Call] = field(default_factory=dict)
    generation: int = 0
    version: int = 0
    fault: str = ""


class Shelf:
    """One shelf, as `base` rules it; `book` is what it has known so far.

    `lasting` is False for one that ends with its only process; it then needs no rights. A lasting
    one is `blind` if it may come back empty by itself.
    """

    def __init__(
        self,
        clock: Callable[[], float] = steady,
        *,
        lasting: bool = False,
        blind: bool = True,
        book: Book | None = None,
    ) -> None:
        self._clock = clock
        self._lasting = lasting
        self._held_back = BLIND_CALLS if lasting and blind else 0
        self.book = book or self._begin()

    def __repr__(self) -> str:
        return f"<Shelf {len(self.book.entries)} tokens, {len(self.book.sharers)} sharers>"

    def _begin(self) -> Book:
        now = self._clock()
        return Book(read_at=now, blind_until=now + WINDOW if self._held_back else -math.inf)

    # Epochs

    def begin_anew(self) -> None:
        """Begin an epoch: the clock is another one than the book was written by.

        So nobody knows how long ago that was. Tokens and sharers are let go of; the creation calls,
        and those that rights allowed, count as if no time had passed.
        """
        was, self.book = self.book, self._begin()
        shift = self.book.read_at - was.read_at
        self.book.closed_until = was.closed_until + shift
        self.book.rights = dict.fromkeys(was.rights, self.book.read_at + WINDOW)
        for number, call in was.calls.items():
            self.book.calls[number] = replace(
                call,
                started_at=call.started_at + shift,
                ends_at=min(call.ends_at + shift, self.book.read_at),
            )

    def close_for(self, seconds: float) -> None:
        """Permit no creation call for so long."""
        self.book.closed_until = max(self.book.closed_until, self._clock() + seconds)

    # Sharers

    def attend(self, me: str, report: Report) -> Roll:
        now = self._now()
        sharer = self._see(me, now)
        sharer.rate = report.rate
        for name in report.holds - sharer.holds:
            self._hold(sharer, name)
        for name in sharer.holds - report.holds:
            self._let_go(sharer, name)
        right = self._give_right(me, report, now)
        left, at = self._permits(now)
        return Roll(
            epoch=self.book.epoch,
            generation=self.book.generation,
            version=self.book.version,
            sharers=len(self.book.sharers),
            rate=sum(each.rate for each in self.book.sharers.values()),
            free={name: each.free for name, each in self.book.entries.items() if not each.retired},
            reported=frozenset(name for name, each in self.book.entries.items() if each.reported),
            permits=left,
            next_permit_in=at - now,
            minting=self._running(now) is not None,
            blind=now < self.book.blind_until,
            fault=self.book.fault,
            right=right,
            chores=sum(1 for _ in self._due(now, report.inspect_every)),
        )

    def leave(self, me: str, shares: Mapping[str, int]) -> bool:
        now = self._now()
        for name, count in shares.items():
            self._free(name, count)
        self._dismiss(me)
        if me in self.book.rights:
            self.book.rights[me] = now + WINDOW
        return not self.book.sharers

    def _see(self, me: str, now: float) -> Sharer:
        sharer = self.book.sharers.pop(me, None) or Sharer(now)
        sharer.seen_at = now
        self.book.sharers[me] = sharer
        return sharer

    def _dismiss(self, name: str) -> None:
        sharer = self.book.sharers.pop(name, None)
        if sharer is not None:
            for held in list(sharer.holds):
                self._let_go(sharer, held)

    def _hold(self, sharer: Sharer, name: str) -> None:
        if name in self.book.entries and name not in sharer.holds:
            sharer.holds.add(name)
            self.book.entries[name].holders += 1

    def _let_go(self, sharer: Sharer, name: str) -> None:
        sharer.holds.discard(name)
        entry = self.book.entries.get(name)
        if entry is not None:
            entry.holders -= 1
            if not entry.holders and not entry.free and not entry.retired:
                self._forget(name)

    def _give_right(self, me: str, report: Report, now: float) -> bool:
        wanted = self._lasting and report.wants_right
        if not wanted or now < self.book.blind_until:
            return False
        may = len(self.book.rights) < RIGHTS and self._spare_calls(now) > 0
        if me in self.book.rights or may:
            self.book.rights[me] = now + RIGHT_COUNTS
        return me in self.book.rights

    # Tokens

    def load(self) -> list[Shelved]:
        now = self._now()
        tokens = [each.seen(now) for each in self.book.entries.values()]
        return sorted(tokens, key=lambda each: (each.lives, each.id))

    def add(self, tokens: Sequence[Shelved]) -> None:
        now = self._now()
        for each in tokens:
            if each.id not in self.book.entries:
                self.book.entries[each.id] = Entry(each, now, each.free, now)
                self.book.version += 1

    def grant(self, me: str, name: str, count: int) -> Granted:
        now = self._now()
        entry = self.book.entries.get(name)
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
        entry = self.book.entries.get(name)
        if entry is not None and not entry.retired:
            entry.free = min(entry.token.limit, entry.free + count)

    def retire(self, name: str) -> None:
        self._now()
        entry = self.book.entries.get(name)
        if entry is not None and not entry.retired:
            entry.retired, entry.free = True, 0
            self.book.version += 1

    def remove(self, name: str) -> None:
        self._now()
        self._forget(name)

    def _forget(self, name: str) -> None:
        if self.book.entries.pop(name, None) is not None:
            for each in self.book.sharers.values():
                each.holds.discard(name)
            self.book.version += 1

    def rotate(self) -> int:
        self.book.generation += 1
        return self.book.generation

    # Chores

    def report(self, name: str) -> None:
        self._now()
        if name in self.book.entries:
            self.book.entries[name].reported = True

    def observe(self, name: str, remaining: int | None, mine: int) -> None:
        now = self._now()
        entry = self.book.entries.get(name)
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

    def _due(self, now: float, inspect_every: float) -> Iterator[tuple[int, Task, Entry]]:
        """Yield what ought to be done, with its rank: the lowest is the most urgent."""
        for each in self.book.entries.values():
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
        self.book.number += 1
        self.book.calls[self.book.number] = Call(order, now, now + PERMIT_SECONDS)
        return Permit(self.book.number)

    def end(self, permit: Permit, ending: Ending) -> None:
        now = self._now()
        unknown = Call(Order(0, 0, 0.0), now, now)
        call = self.book.calls.setdefault(permit.number, unknown)
        call.unclear = ending.unclear and ending.sent
        call.ends_at = now if ending.sent else -math.inf
        self.close_for(ending.closed_for)
        self.book.fault = ending.fault

    def abandoned(self) -> list[Abandoned]:
        now = self._now()
        return [
            Abandoned(number, each.order, now - each.started_at)
            for number, each in self.book.calls.items()
            if each.may_have_tokens(now) and not each.runs(now)
        ]

    def settle_abandoned(self, number: int) -> None:
        self._now()
        if number in self.book.calls:
            self.book.calls[number].unclear = False

    def _running(self, now: float) -> Call | None:
        return next((each for each in self.book.calls.values() if each.runs(now)), None)

    def _permits(self, now: float) -> tuple[int, float]:
        """Return how many calls may start now, and when one may."""
        if now < self.book.closed_until:
            return 0, self.book.closed_until
        left = self._spare_calls(now)
        if now < self.book.blind_until:
            left = min(left, BLIND_CALLS - len(self._counted(now)))
            return max(0, left), now if left > 0 else self.book.blind_until
        return max(0, left), now if left > 0 else self._counted(now)[-left]

    def _spare_calls(self, now: float) -> int:
        return CALLS - self._held_back - len(self.book.rights) - len(self._counted(now))

    def _counted(self, now: float) -> list[float]:
        """Return when each call that counts will count no more."""
        ends = sorted(each.ends_at + WINDOW for each in self.book.calls.values())
        return [each for each in ends if each > now]

    # Letting go

    def _now(self) -> float:
        """Read the clock, and forget what has had its time."""
        now = self.book.read_at = self._clock()
        for name in [name for name, each in self.book.entries.items() if each.expires_at <= now]:
            self._forget(name)
        for name in list(self.book.sharers):
            if self.book.sharers[name].seen_at + SHARER_SECONDS > now:
                break
            self._dismiss(name)
        for name in [name for name, until in self.book.rights.items() if until <= now]:
            del self.book.rights[name]
        for number, call in list(self.book.calls.items()):
            if call.ends_at + WINDOW <= now and not call.may_have_tokens(now):
                del self.book.calls[number]
        return now
