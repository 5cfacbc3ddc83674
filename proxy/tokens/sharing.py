"""Sharing: this process as one of those that use a store. It seals, opens, and minds outages."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from proxy.tokens.contact import Contact
from proxy.tokens.events import Event, StrangeShelves, Unsealable
from proxy.tokens.key import StaticKey, fingerprint
from proxy.tokens.model import Reach, Stocked, Token
from proxy.tokens.store.base import (
    CLIENTS_A_CALL,
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
    Store,
    StoreError,
    StoreRefused,
    Tally,
    Wait,
)

if TYPE_CHECKING:
    from proxy.tokens.store.seal import Seal  # what it imports is for those who share

T = TypeVar("T")
U = TypeVar("U")

_UNANSWERED = object()
PULSE_SECONDS = 1.0
"""How often a process attends."""
PULSES_A_SECOND = 200
"""How often all of them together attend: the more there are, the less often each."""
PRIVATE_PULSE_SECONDS = SHARER_SECONDS / 2
"""How often a process does that shares with nobody: so that its own shelf does not forget it."""
RETRY_SECONDS = 1.0
"""After how long a store that cannot be reached is tried again."""


@dataclass(frozen=True, slots=True)
class SharingSnapshot:
    """The store as operators see it; `seconds` since when it is so."""

    place: str
    reach: str
    on_outage: str
    seconds: float
    sharers: int
    rate: float


@dataclass(frozen=True, slots=True)
class News:
    """What attending told: `shelf` is None where nothing on it has changed."""

    roll: Roll
    emptied: bool
    """Whether the store has forgotten what was on it."""
    rotated: bool
    """Whether somebody had every token replaced."""
    shelf: tuple[Stocked, ...] | None


@dataclass(frozen=True, slots=True)
class Move:
    """This process has gone to another shelf; `last` if nobody is left at the one before."""

    last: bool


class Sharing:
    """Speaks to the store; what fails there is told to `contact`, never raised, but by `open`."""

    def __init__(
        self,
        *,
        make_store: Callable[[str], Store],
        seal_with: Callable[[StaticKey | None], "Seal | None"],
        key: StaticKey | None,
        on_outage: Literal["local", "stop"],
        tell: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        """`make_store` opens the shelf of that name; `seal_with` is None for a private store."""
        self._make_store = make_store
        self._seal_with = seal_with
        self._key = key
        self._seal = seal_with(key)
        self._store = make_store(self._seal.shelf if self._seal else "")
        self.place = self._store.place
        self.private = self._store.private
        self.contact = Contact(
            self.place,
            private=self.private,
            mints_alone=on_outage == "local" and key is not None,
            tell=tell,
            now=clock(),
        )
        self._on_outage = on_outage
        self._tell = tell
        self._clock = clock
        self._opened = False
        self._strange = 0
        self._warns = True
        """Whether other shelves beside an empty one are a surprise: not after a change of key."""
        self._roll: Roll | None = None
        self._permitted_by = self._store
        """Where the last call was permitted, which is where it ends."""
        self._unsealable: set[str] = set()

    def __repr__(self) -> str:
        return f"<Sharing of {self.place}, {self.contact.reach.value}>"

    @property
    def has_key(self) -> bool:
        return self._key is not None

    def minted(self, token: Shelved) -> bool:
        """Tell whether the static key in use minted it: only that one may inspect and revoke it."""
        return self._key is not None and token.key == self._key.fingerprint

    @property
    def generation(self) -> int:
        """The generation of tokens minted now."""
        return self._roll.generation if self._roll else 0

    def pulse(self, chance: float) -> float:
        """Return after how many seconds to attend again; `chance`, 0 to 1, spreads it."""
        if self.private:
            return PRIVATE_PULSE_SECONDS
        sharers = self._roll.sharers if self._roll and self.contact.joined else 1
        return max(PULSE_SECONDS, sharers / PULSES_A_SECOND) * (0.9 + 0.2 * chance)

    def snapshot(self) -> SharingSnapshot:
        return SharingSnapshot(
            place=self.place,
            reach=self.contact.reach.value,
            on_outage=self._on_outage,
            seconds=round(self._clock() - self.contact.since, 3),
            sharers=self._roll.sharers if self._roll else 1,
            rate=self._roll.rate if self._roll else 0.0,
        )

    # The shelf

    async def open(self) -> None:
        """Connect, if it can be reached. Raises StoreRefused, which waiting does not heal."""
        try:
            await self._open()
        except StoreRefused:
            raise
        except StoreError as error:
            self._lost(error)

    async def _open(self) -> None:
        self._strange = await self._store.open()
        self._opened = True

    async def close(self) -> None:
        await self._store.close()

    async def rekey(self, key: StaticKey) -> Move | None:
        """Go on with another static key; None if that leads to no other shelf."""
        self._key = key
        seal = self._seal_with(key)
        if seal is None or self._seal is None:
            return None
        if seal.shelf == self._seal.shelf:
            await self._renew(key)
            return None
        last = await self.leave({})
        await self._store.close()
        self._seal, self._roll = seal, None
        self._store, self._opened = self._make_store(seal.shelf), False
        self._warns = False
        self.contact.begin_anew(self._clock())
        return Move(last)

    async def _renew(self, key: StaticKey) -> None:
        """Have tokens replaced that another key minted; once, however many change to this key."""
        shelf = await self._asked(self._store.load(), None)
        if shelf is None:
            return
        current = {each.key for each in shelf if _is_current(each, self.generation)}
        if key.fingerprint not in current:
            await self.rotate()

    async def attend(self, report: Report) -> News | None:
        """Tell how we are and learn how the fleet is; None while the store cannot be reached."""
        before, asked_at = self._roll, self._clock()
        try:
            if not self._opened:
                await self._open()
            roll = await self._store.attend(report)
            shelf = None
            if before is None or (before.epoch, before.version) != (roll.epoch, roll.version):
                shelf = await self._load(roll.generation)
        except StoreError as error:
            self._lost(error)
            return None
        if before is None and self._strange and self._warns and not roll.version:
            self._tell(StrangeShelves(self.place, self._strange))
        emptied = before is not None and before.epoch != roll.epoch
        self._roll = roll
        self.contact.made(roll, asked_at, self._clock(), emptied=emptied)
        rotated = before is not None and not emptied and before.generation != roll.generation
        return News(roll, emptied, rotated, shelf)

    async def _load(self, generation: int) -> tuple[Stocked, ...] | None:
        if self.private:
            return None
        asked_at = self._clock()
        shelf = await self._store.load()
        self._unsealable &= {each.id for each in shelf}
        opened = [(each, self.opened(each, asked_at)) for each in shelf]
        return tuple(
            Stocked(token, each.free, current=_is_current(each, generation))
            for each, token in opened
            if token is not None
        )

    async def shelved_ids(self) -> frozenset[str] | None:
        """Return the ids of all tokens on the shelf; None while the store cannot be reached."""
        shelf = await self._asked(self._store.load(), None)
        return None if shelf is None else frozenset(each.id for each in shelf)

    def opened(self, each: Shelved, at: float) -> Token | None:
        """Return a token of the shelf as it was `at`; None if its secret was not sealed by us."""
        secret = self._seal.open(each.id, each.sealed) if self._seal else None
        if secret is None:
            if each.id not in self._unsealable:
                self._unsealable.add(each.id)
                self._tell(Unsealable(each.id))
            return None
        return Token(
            id=each.id,
            secret=secret,
            key=self._key.secret if self._key and self.minted(each) else None,
            minted_at=at - each.age,
            expires_at=at + each.lives,
            limit=each.limit,
            left=each.limit,
            revocable=each.revocable,
        )

    async def put(self, tokens: Sequence[Token], free: Mapping[str, int]) -> None:
        """Put tokens that are ours on the shelf, with what of each is `free` for all from now on.

        Where it is not known to be done, what was free may be nobody's.
        """
        now = self._clock()
        shelved = [
            Shelved(
                id=each.id,
                sealed=self._seal.close(each.id, each.secret) if self._seal else b"",
                key=fingerprint(each.key) if each.key else "",
                age=now - each.minted_at,
                lives=each.expires_at - now,
                limit=each.limit,
                free=free[each.id],
                generation=self.generation,
                revocable=each.revocable,
            )
            for each in tokens
        ]
        await self._done(self._store.add(shelved))

    async def grant(self, token_id: str, count: int) -> Granted | None:
        return await self._asked(self._store.grant(token_id, count), None)

    async def give_back(self, token_id: str, count: int) -> None:
        await self._done(self._store.give_back(token_id, count))

    async def retire(self, token_id: str) -> None:
        await self._done(self._store.retire(token_id))

    async def remove(self, token_id: str) -> None:
        await self._done(self._store.remove(token_id))

    async def report(self, token_id: str) -> bool:
        """Ask those who have the static key to inspect a token; tell whether they were asked."""
        return await self._done(self._store.report(token_id))

    async def observe(self, token_id: str, remaining: int | None, mine: int) -> None:
        await self._done(self._store.observe(token_id, remaining, mine))

    async def chore(self, inspect_every: float) -> Chore | None:
        return await self._asked(self._store.chore(inspect_every), None)

    async def rotate(self) -> bool:
        """Have every token of the fleet replaced; False if the store cannot be told."""
        return await self._done(self._store.rotate())

    async def leave(self, shares: Mapping[str, int]) -> bool:
        """Give these shares back for good; tell whether this was the last process, for sure."""
        return await self._asked(self._store.leave(shares), otherwise=False)

    # Minting

    async def permit(self, order: Order, *, alone: bool) -> Permit | Wait | None:
        """Ask for leave to make a creation call; None means that our own right gives it.

        It does so only for a call that is made `alone`, which is counted as one of those.
        """
        if alone and self.contact.check(self._clock()) is Reach.LOCAL:
            return None
        self._permitted_by = self._store
        refused = Wait(RETRY_SECONDS, minting=False)
        return await self._asked(self._store.permit(order), refused)

    async def end(self, permit: Permit, ending: Ending) -> None:
        """Say how a call ended that was permitted; on another shelf by now, nobody is told."""
        if self._permitted_by is self._store:
            await self._done(self._store.end(permit, ending))

    async def abandoned(self) -> list[Abandoned]:
        return await self._asked(self._store.abandoned(), [])

    async def settle_abandoned(self, number: int) -> None:
        await self._done(self._store.settle_abandoned(number))

    # Clients

    async def tally(self, day: int, told: Mapping[str, Tally]) -> dict[str, int]:
        """Tell what clients have spent on a day; return the fleet's tallies, by client.

        Who is missing there is to be told of again: the store could not be reached, or nobody knows
        whether it was. While it cannot, it is not asked: one that hangs, and does what it is asked
        later, would count all of this again for each time that it was.
        """
        clients, tallies = list(told.items()), dict[str, int]()
        for first in range(0, len(clients), CLIENTS_A_CALL):
            if self.contact.joined:
                part = dict(clients[first : first + CLIENTS_A_CALL])
                tallies |= await self._asked(self._store.tally(day, part), {})
        return tallies

    # Outages

    def may_return(self, seconds: float) -> bool:
        """Tell whether an outage is so young that waiting for its end may pay."""
        waits = self._on_outage == "local" or self._roll is None
        young = self._clock() - self.contact.since < seconds
        return waits and young and not self.contact.joined

    async def _done(self, call: Awaitable[object]) -> bool:
        """Wait for a call; tell whether it was answered."""
        return await self._asked(call, _UNANSWERED) is not _UNANSWERED

    async def _asked(self, call: Awaitable[T], otherwise: U) -> T | U:
        """Wait for a call and return its answer, or `otherwise` if there was none."""
        try:
            return await call
        except StoreError as error:
            self._lost(error)
            return otherwise

    def _lost(self, error: StoreError) -> None:
        self.contact.lost(str(error), self._clock())


def _is_current(token: Shelved, generation: int) -> bool:
    return not token.retired and token.generation == generation
