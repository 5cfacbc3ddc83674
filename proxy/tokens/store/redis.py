"""The store on a Redis server, for fleets: each call is one script that runs there, `shelf.lua`.

What a server forgets, it may forget in part: it comes back with an old snapshot, or a replica that
lagged takes over. So each script begins by asking whose data set it works on, and begins a new
epoch if that is not the one that it knows; see `history` in `shelf.lua`.

All keys of a shelf lie in one slot of a Cluster, and each expires by itself, KEEP_SECONDS after it
was last written: all of what is in it has had its time then.

The tallies of a day are a key of their own, kept for DAY_SECONDS, and `tally.lua` works on that.
What a server forgets of them, the processes know.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from proxy.settings.redis_url import RedisUrl
from proxy.tokens.budget import CALLS, WINDOW
from proxy.tokens.clock import steady
from proxy.tokens.store.base import (
    BLIND_CALLS,
    CHORE_SECONDS,
    COMMON,
    DAY_SECONDS,
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
    StoreError,
    StoreRefused,
    Tally,
    Task,
    Wait,
)

if TYPE_CHECKING:
    from proxy.tokens.store.redis_client import RedisClient, Script

KEEP_SECONDS = 25 * 3600.0
"""Longer than anything on a shelf lives: a token lives 24 h at most."""
ENROL_SECONDS = 3600.0
"""How often a process that lives tells that its shelf is in use."""

T = TypeVar("T")

_MICROS = 1_000_000
_FOREVER_SECONDS = 10 * 365 * 86400.0
_REGISTRY = "mobula-proxy:shelves"
_KEYS = (
    "meta",
    "records",
    "free",
    "expiry",
    "checked",
    "taken",
    "retired",
    "reported",
    "seen",
    "sharers",
    "holders",
    "calls",
)
_ENROL = """
-- Notes that a shelf is in use, and returns how many others were since KEEP.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1]) - 1
"""

_Row = tuple[bytes, bytes, bytes, int, int, int, int, int, int, int]
_News = tuple[
    bytes, int, int, int, int, list[bytes], list[bytes], int, int, int, int, bytes, int, int
]
_UNREADABLE = (msgspec.ValidationError, ValueError, OverflowError)

_packed = msgspec.msgpack.Encoder().encode
_unpacked = msgspec.msgpack.Decoder(list[int]).decode


def no_skew() -> float:
    return 0.0


class RedisStore:
    """One process's view of a shelf and of tallies on a Redis server.

    `url` is a RedisUrl's text. `skew` is added to every clock, in seconds. Raises
    StoreRefused if redis-py is not installed.
    """

    private = False

    def __init__(
        self,
        url: str,
        shelf: str,
        *,
        tallies: str = COMMON,
        skew: Callable[[], float] = no_skew,
    ) -> None:
        where = RedisUrl.parse(url)
        self.place = str(where)
        self._client, self._script, self._enrol_script, self._tally_script = _prepared(where)
        self._shelf = shelf
        self._keys = [f"mobula-proxy:{{{shelf}}}:{name}" for name in _KEYS]
        self._tallies = f"mobula-proxy:{{{tallies}}}:tallies"
        self._skew = skew
        self._me = uuid.uuid4().hex
        self._enrol_at = 0.0

    def __repr__(self) -> str:
        return f"<RedisStore at {self.place}>"

    async def open(self) -> int:
        await self._call(_anything, "enter")
        return await self._enrol()

    async def close(self) -> None:
        await self._client.close()

    async def attend(self, report: Report) -> Roll:
        if self._now() >= self._enrol_at:
            await self._enrol()
        return await self._call(
            lambda answer: _roll(answer, report),
            "attend",
            round(report.rate * _MICROS),
            int(report.wants_right),
            _micros(report.inspect_every),
            *report.holds,
        )

    async def load(self) -> list[Shelved]:
        return await self._call(lambda rows: [_shelved(row) for row in _list(rows)], "load")

    async def add(self, tokens: Sequence[Shelved]) -> None:
        await self._call(
            _anything, "add", *(value for token in tokens for value in _written(token))
        )

    async def grant(self, token_id: str, count: int) -> Granted:
        return await self._call(_granted, "grant", token_id, count)

    async def give_back(self, token_id: str, count: int) -> None:
        await self._call(_anything, "give_back", token_id, count)

    async def retire(self, token_id: str) -> None:
        await self._call(_anything, "retire", token_id)

    async def remove(self, token_id: str) -> None:
        await self._call(_anything, "remove", token_id)

    async def report(self, token_id: str) -> None:
        await self._call(_anything, "report", token_id)

    async def observe(self, token_id: str, remaining: int | None, mine: int) -> None:
        left = "unknown" if remaining is None else remaining - mine
        await self._call(_anything, "observe", token_id, left)

    async def chore(self, inspect_every: float) -> Chore | None:
        return await self._call(_chore, "chore", _micros(inspect_every))

    async def permit(self, order: Order) -> Permit | Wait:
        return await self._call(
            _permit, "permit", order.count, order.limit, _micros(order.lifetime)
        )

    async def end(self, permit: Permit, ending: Ending) -> None:
        await self._call(
            _anything,
            "end",
            permit.number,
            int(ending.sent),
            int(ending.unclear and ending.sent),
            _micros(ending.closed_for),
            ending.fault,
        )

    async def abandoned(self) -> list[Abandoned]:
        calls = await self._call(_abandoned, "abandoned")
        return sorted(calls, key=lambda call: call.ago, reverse=True)

    async def settle_abandoned(self, number: int) -> None:
        await self._call(_anything, "settle_abandoned", number)

    async def rotate(self) -> int:
        return await self._call(_number, "rotate")

    async def leave(self, shares: Mapping[str, int]) -> bool:
        parts = (part for pair in shares.items() for part in pair)
        return bool(await self._call(_number, "leave", *parts))

    async def tally(self, day: int, told: Mapping[str, Tally]) -> dict[str, int]:
        spent = [each.spent for each in told.values()]
        known = [each.known for each in told.values()]
        return await self._run(
            lambda answer: dict(zip(told, _counts(answer), strict=True)),
            self._tally_script,
            [f"{self._tallies}:{day}"],
            [round(DAY_SECONDS * 1000), _packed([*told]), _packed(spent), _packed(known)],
        )

    async def _enrol(self) -> int:
        arguments = [self._shelf, round(KEEP_SECONDS * 1000)]
        others = await self._run(_number, self._enrol_script, [_REGISTRY], arguments)
        self._enrol_at = self._now() + ENROL_SECONDS
        return others

    def _now(self) -> float:
        return steady() + self._skew()

    async def _call(self, read: Callable[[Any], T], operation: str, *arguments: object) -> T:
        head = (operation, self._me, _micros(self._skew()), uuid.uuid4().hex)
        return await self._run(read, self._script, self._keys, [*head, *arguments])

    async def _run(
        self,
        read: Callable[[Any], T],
        script: "Script",
        keys: Sequence[str],
        args: Sequence[object],
    ) -> T:
        """Run a script and read its answer, which may come from anything at that address."""
        try:
            return read(await self._client.run(script, keys, args))
        except _UNREADABLE as error:
            raise StoreError("the store gave an answer that cannot be read") from error


def _prepared(url: RedisUrl) -> "tuple[RedisClient, Script, Script, Script]":
    try:
        from proxy.tokens.store.redis_client import RedisClient, Script  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise StoreRefused(
            "a Redis store needs redis-py; install it with: pip install 'mobula-proxy[redis]'"
        ) from None
    return RedisClient(url), Script(_shelf_script()), Script(_ENROL), Script(_text_of("tally.lua"))


def _shelf_script() -> str:
    """Return `shelf.lua` with the rules' figures in front of it."""
    spans = {
        "WINDOW": WINDOW,
        "PERMIT": PERMIT_SECONDS,
        "RIGHT_COUNTS": RIGHT_COUNTS,
        "SHARER": SHARER_SECONDS,
        "CHORE": CHORE_SECONDS,
    }
    figures = {name: _micros(seconds) for name, seconds in spans.items()} | {
        "BUDGET": CALLS,
        "BLIND": BLIND_CALLS,
        "RIGHTS": RIGHTS,
        "NUMBER_BITS": NUMBER_BITS,
        "KEEP": round(KEEP_SECONDS * 1000),  # as PEXPIRE takes it
    }
    head = "".join(f"local {name} = {figure}\n" for name, figure in figures.items())
    return head + _text_of("shelf.lua")


def _text_of(script: str) -> str:
    return resources.files(__package__).joinpath(script).read_text()


def _written(token: Shelved) -> Iterable[object]:
    """Return a token as `add` of `shelf.lua` takes it."""
    yield from (token.id, token.sealed, token.key, _micros(token.age), _micros(token.lives))
    yield from (token.limit, token.free, token.generation, int(token.revocable))


# Reading answers; each raises one of _UNREADABLE.


def _anything(_: Any) -> None:
    pass


def _number(answer: Any) -> int:
    return msgspec.convert(answer, int)


def _counts(answer: Any) -> list[int]:
    return _unpacked(msgspec.convert(answer, bytes))


def _list(answer: Any) -> list[Any]:
    return msgspec.convert(answer, list[Any])


def _granted(answer: Any) -> Granted:
    return Granted(*msgspec.convert(answer, tuple[int, int]))


def _chore(answer: Any) -> Chore | None:
    if answer is None:
        return None
    is_revoke, token = msgspec.convert(answer, tuple[int, list[Any]])
    return Chore(Task.REVOKE if is_revoke else Task.INSPECT, _shelved(token))


def _permit(answer: Any) -> Permit | Wait:
    if len(_list(answer)) == 1:
        return Permit(*msgspec.convert(answer, tuple[int]))
    _, micros, minting = msgspec.convert(answer, tuple[int, int, int])
    return Wait(_seconds(micros), minting=bool(minting))


def _abandoned(answer: Any) -> list[Abandoned]:
    rows = msgspec.convert(answer, list[tuple[int, int, int, int, int]])
    return [
        Abandoned(number, Order(count, limit, _seconds(lifetime)), _seconds(ago))
        for number, count, limit, lifetime, ago in rows
    ]


def _shelved(row: Any) -> Shelved:
    """Return a token as `seen` of `shelf.lua` gives it."""
    token_id, sealed, key, age, lives, limit, free, generation, revocable, retired = (
        msgspec.convert(row, _Row)
    )
    return Shelved(
        id=_text(token_id),
        sealed=sealed,
        key=_text(key),
        age=_seconds(age),
        lives=_seconds(lives),
        limit=limit,
        free=free,
        generation=generation,
        revocable=bool(revocable),
        retired=bool(retired),
    )


def _roll(answer: Any, report: Report) -> Roll:
    news = msgspec.convert(answer, _News)
    epoch, generation, version, sharers, rate, free, reported, *minting = news
    permits, wait, runs, blind, fault, right, chores = minting
    return Roll(
        epoch=_text(epoch),
        generation=generation,
        version=version,
        sharers=sharers,
        rate=max(report.rate, rate / _MICROS),
        free=dict(zip(map(_text, free[::2]), map(int, free[1::2]), strict=True)),
        reported=frozenset(map(_text, reported)),
        permits=permits,
        next_permit_in=_seconds(wait),
        minting=bool(runs),
        blind=bool(blind),
        fault=_text(fault),
        right=bool(right),
        chores=chores,
    )


def _micros(seconds: float) -> int:
    return round(min(seconds, _FOREVER_SECONDS) * _MICROS)


def _seconds(micros: int) -> float:
    return micros / _MICROS


def _text(value: bytes) -> str:
    return value.decode()
