"""The store on a Redis server, for fleets: each call is one script that runs there, `shelf.lua`.

What a server forgets, it may forget in part: it comes back with an old snapshot, or a replica that
lagged takes over. So each script begins by asking whose data set it works on, and begins a new
epoch if that is not the one that it knows; see `history` in `shelf.lua`.

All keys of a shelf lie in one slot of a Cluster, and each expires by itself, KEEP_SECONDS after it
was last written: all of what is in it has had its time then.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from proxy.settings.redis_url import RedisUrl
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
    StoreRefused,
    Task,
    Wait,
)

if TYPE_CHECKING:
    from proxy.tokens.store.redis_client import RedisClient, Script

KEEP_SECONDS = 25 * 3600.0
"""Longer than anything on a shelf lives: a token lives 24 h at most."""
ENROL_SECONDS = 3600.0
"""How often a process that lives tells that its shelf is in use."""

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


def no_skew() -> float:
    return 0.0


class RedisStore:
    """One process's view of a shelf on a Redis server.

    `url` is a RedisUrl's text. `skew` is added to every clock, in seconds. Raises
    StoreRefused if redis-py is not installed.
    """

    private = False

    def __init__(self, url: str, shelf: str, *, skew: Callable[[], float] = no_skew) -> None:
        where = RedisUrl.parse(url)
        self.place = str(where)
        self._client, self._script, self._enrol_script = _prepared(where)
        self._shelf = shelf
        self._keys = [f"mobula-proxy:{{{shelf}}}:{name}" for name in _KEYS]
        self._skew = skew
        self._me = uuid.uuid4().hex
        self._enrol_at = 0.0

    def __repr__(self) -> str:
        return f"<RedisStore at {self.place}>"

    async def open(self) -> int:
        await self._call("enter")
        return await self._enrol()

    async def close(self) -> None:
        await self._client.close()

    async def attend(self, report: Report) -> Roll:
        if self._now() >= self._enrol_at:
            await self._enrol()
        answer = await self._call(
            "attend",
            round(report.rate * _MICROS),
            int(report.wants_right),
            _micros(report.inspect_every),
            *report.holds,
        )
        return _roll(answer, report)

    async def load(self) -> list[Shelved]:
        return [_shelved(row) for row in await self._call("load")]

    async def add(self, tokens: Sequence[Shelved]) -> None:
        await self._call("add", *(value for token in tokens for value in _written(token)))

    async def grant(self, token_id: str, count: int) -> Granted:
        return Granted(*await self._call("grant", token_id, count))

    async def give_back(self, token_id: str, count: int) -> None:
        await self._call("give_back", token_id, count)

    async def retire(self, token_id: str) -> None:
        await self._call("retire", token_id)

    async def remove(self, token_id: str) -> None:
        await self._call("remove", token_id)

    async def report(self, token_id: str) -> None:
        await self._call("report", token_id)

    async def observe(self, token_id: str, remaining: int | None, mine: int) -> None:
        left = "unknown" if remaining is None else remaining - mine
        await self._call("observe", token_id, left)

    async def chore(self, inspect_every: float) -> Chore | None:
        answer = await self._call("chore", _micros(inspect_every))
        if answer is None:
            return None
        is_revoke, token = answer
        return Chore(Task.REVOKE if is_revoke else Task.INSPECT, _shelved(token))

    async def permit(self, order: Order) -> Permit | Wait:
        number, *wait = await self._call(
            "permit", order.count, order.limit, _micros(order.lifetime)
        )
        return Wait(_seconds(wait[0]), minting=bool(wait[1])) if wait else Permit(number)

    async def end(self, permit: Permit, ending: Ending) -> None:
        await self._call(
            "end",
            permit.number,
            int(ending.sent),
            int(ending.unclear and ending.sent),
            _micros(ending.closed_for),
            ending.fault,
        )

    async def abandoned(self) -> list[Abandoned]:
        rows = await self._call("abandoned")
        calls = [
            Abandoned(number, Order(count, limit, _seconds(lifetime)), _seconds(ago))
            for number, count, limit, lifetime, ago in rows
        ]
        return sorted(calls, key=lambda call: call.ago, reverse=True)

    async def settle_abandoned(self, number: int) -> None:
        await self._call("settle_abandoned", number)

    async def rotate(self) -> int:
        generation: int = await self._call("rotate")
        return generation

    async def leave(self, shares: Mapping[str, int]) -> bool:
        return bool(await self._call("leave", *(part for pair in shares.items() for part in pair)))

    async def _enrol(self) -> int:
        others: int = await self._client.run(
            self._enrol_script, [_REGISTRY], [self._shelf, round(KEEP_SECONDS * 1000)]
        )
        self._enrol_at = self._now() + ENROL_SECONDS
        return others

    def _now(self) -> float:
        return steady() + self._skew()

    async def _call(self, operation: str, *arguments: object) -> Any:
        head = (operation, self._me, _micros(self._skew()), uuid.uuid4().hex)
        return await self._client.run(self._script, self._keys, [*head, *arguments])


def _prepared(url: RedisUrl) -> "tuple[RedisClient, Script, Script]":
    try:
        from proxy.tokens.store.redis_client import RedisClient, Script  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise StoreRefused(
            "a Redis store needs redis-py; install it with: pip install 'mobula-proxy[redis]'"
        ) from None
    return RedisClient(url), Script(_shelf_script()), Script(_ENROL)


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
    return head + resources.files(__package__).joinpath("shelf.lua").read_text()


def _written(token: Shelved) -> Iterable[object]:
    """Return a token as `add` of `shelf.lua` takes it."""
    yield from (token.id, token.sealed, token.key, _micros(token.age), _micros(token.lives))
    yield from (token.limit, token.free, token.generation, int(token.revocable))


def _shelved(row: Sequence[Any]) -> Shelved:
    """Return a token as `seen` of `shelf.lua` gives it."""
    token_id, sealed, key, age, lives, limit, free, generation, revocable, retired = row
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


def _roll(answer: Sequence[Any], report: Report) -> Roll:
    epoch, generation, version, sharers, rate, free, reported, *minting = answer
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
