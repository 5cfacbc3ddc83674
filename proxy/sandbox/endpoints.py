"""The data endpoints: from one call, already charged, to its answer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from proxy.sandbox import data
from proxy.sandbox.answer import (
    JSON,
    Answer,
    MalformedError,
    Stream,
    json_answer,
    method_refusal,
    parse_object,
    refusal,
)
from proxy.sandbox.leaks import KeyFinder, RawHeaders

MAX_LARGE = 2**30
MAX_EVENTS = 100_000
MAX_INTERVAL = 60.0
MAX_ASSETS = 500

_PATTERN = bytes(range(251)) * 256

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body as far as it is kept: its first 64 KiB, whole size in bytes, and digest."""

    head: bytes = b""
    size: int = 0
    sha256: str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    def whole(self) -> bytes:
        """Return all of it; MalformedError if more came than is kept."""
        if self.size > len(self.head):
            raise MalformedError(f"body must be {len(self.head)} bytes or less")
        return self.head


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the endpoints see it; `target` and `headers` are as they came."""

    method: str
    path: str
    target: str
    query: Mapping[str, str]
    headers: RawHeaders
    body: Body


Endpoint = Callable[[Call], Answer | Stream]


class DataEndpoints:
    """Answers data calls; `finder` keeps credentials out of echoes, `sleep` spaces out events."""

    def __init__(self, finder: KeyFinder, sleep: Sleep = asyncio.sleep) -> None:
        self._finder = finder
        self._sleep = sleep
        self._table: dict[str, dict[str, Endpoint]] = {
            "/api/1/market/data": _reads(_market_data),
            "/api/1/market/multi-data": {**_reads(_multi_data), "POST": _post_multi_data},
            "/api/1/wallet/portfolio": _reads(_portfolio),
            "/api/2/token/details": _reads(_token_details),
            "/api/1/sandbox/stream": {"GET": self._stream},
            "/api/1/sandbox/large": _reads(_large),
            "/api/1/sandbox/upload": {"POST": _upload, "PUT": _upload},
        }

    def answer(self, call: Call) -> Answer | Stream:
        """Return the answer; MalformedError (400) for parameters that make no sense."""
        if call.path == "/api/1/sandbox/echo":
            return self._echo(call)
        methods = self._table.get(call.path)
        if methods is None:
            return refusal(404)
        endpoint = methods.get(call.method)
        return endpoint(call) if endpoint else method_refusal(methods)

    def _echo(self, call: Call) -> Answer:
        return json_answer(
            {
                "method": call.method,
                "target": self._finder.redact(call.target),
                "headers": [self._finder.redact_header(*header) for header in call.headers],
                "body_length": call.body.size,
            }
        )

    def _stream(self, call: Call) -> Stream:
        events = int(_number(call.query, "events", 10, MAX_EVENTS))
        interval = _number(call.query, "interval", 0.1, MAX_INTERVAL)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        return Stream(self._events(events, interval), None, headers)

    async def _events(self, events: int, interval: float) -> AsyncGenerator[bytes, None]:
        for number in range(1, events + 1):
            yield b"id: %d\nevent: trade\ndata: %b\n\n" % (number, data.trade(number))
            if number < events:
                await self._sleep(interval)


def _reads(endpoint: Endpoint) -> dict[str, Endpoint]:
    return {"GET": endpoint, "HEAD": endpoint}


def _number(query: Mapping[str, str], name: str, default: float, most: float) -> float:
    try:
        value = float(query.get(name, default))
    except ValueError:
        raise MalformedError(f"{name} must be a number") from None
    if not 0 <= value <= most:
        raise MalformedError(f"{name} must be 0 to {most:.0f}")
    return value


def _market_data(call: Call) -> Answer:
    asset = call.query.get("asset") or call.query.get("symbol") or "Bitcoin"
    return Answer(200, data.market_data(asset), JSON)


def _multi_data(call: Call) -> Answer:
    return _assets(call.query.get("assets") or "Bitcoin,Ethereum")


def _post_multi_data(call: Call) -> Answer:
    fields = parse_object(call.body.whole())
    assets = fields.get("assets")
    if isinstance(assets, list) and all(isinstance(asset, str) for asset in assets):
        assets = ",".join(assets)
    if not isinstance(assets, str):
        raise MalformedError("assets must be a list of names, or names with commas between them")
    return _assets(assets)


def _assets(names: str) -> Answer:
    assets = tuple(name.strip() for name in names.split(",") if name.strip())
    if not 1 <= len(assets) <= MAX_ASSETS:
        raise MalformedError(f"assets must name 1 to {MAX_ASSETS} assets")
    return Answer(200, data.multi_data(assets), JSON)


def _portfolio(call: Call) -> Answer:
    wallet = call.query.get("wallet") or "0x77a89c51f106d6cd547542a3a83fe73cb4459135"
    return Answer(200, data.portfolio(wallet), JSON)


def _token_details(call: Call) -> Answer:
    blockchain = call.query.get("blockchain") or "Ethereum"
    address = call.query.get("address") or "0x5feccd17c393ba5001d0d9a6de7ef6bc0fbc0deb"
    return Answer(200, data.token_details(blockchain, address), JSON)


def _large(call: Call) -> Stream:
    length = int(_number(call.query, "bytes", 2**20, MAX_LARGE))
    return Stream(_pattern(length), length, {"Content-Type": "application/octet-stream"})


async def _pattern(length: int) -> AsyncGenerator[bytes, None]:
    """Yield `length` bytes; the byte at offset i is i modulo 251."""
    for offset in range(0, length, len(_PATTERN)):
        yield _PATTERN[: length - offset]


def _upload(call: Call) -> Answer:
    return json_answer({"bytes": call.body.size, "sha256": call.body.sha256})
