"""What a request held is let go of when it ends, and not when the garbage collector comes round.

The collector counts objects and not their bytes: what waits for it may be large.
"""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from frames import CLOSE, HANDSHAKE, TEXT, frame, from_client, receive, switching
from harness import SecretScan, until
from proxy.app import App
from proxy.sandbox import Sandbox
from proxy.traffic.answer import Answer
from proxy.traffic.attempt import Attempt
from proxy.traffic.body import RequestBody
from proxy.traffic.connection import Connection
from proxy.traffic.front import FrontConnection
from proxy.traffic.side import Side
from proxy.traffic.websocket import Relay
from wire import GET, Far, Wire, between, client

HELD = (FrontConnection, RequestBody, Attempt, Connection, Answer, Relay, Side)
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 5_000_000
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n" + b"x" * 500_000
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def app(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    """A proxy that keeps no idle connection."""
    quick = {"keepalive": "1ms", "idle_timeout": "100ms"}
    limits = {"client_idle_timeout": "100ms", "body_timeout": "100ms"}
    async with between(far, sandbox, scan, upstream=quick, limits=limits) as app:
        yield app


async def asked(near: Wire, far: Far, request: bytes = GET) -> Wire:
    """Send a request; return the upstream connection on which its head has come."""
    near.send(request)
    up = await far.wire()
    await up.head()
    return up


async def is_served(near: Wire, far: Far) -> None:
    up = await asked(near, far)
    up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await near.answer()


async def leaves_its_answer(near: Wire, far: Far) -> None:
    up = await asked(near, far)
    up.send(LARGE)
    await near.head()
    near.reset()


async def takes_nothing_of_its_answer(near: Wire, far: Far) -> None:
    up = await asked(near, far)
    up.send(LARGE)
    await up.ended()


async def leaves_its_upload(near: Wire, far: Far) -> None:
    up = await asked(near, far, UPLOAD)
    await up.exactly(500_000)
    near.reset()
    await up.ended()


async def sends_no_more_of_its_upload(near: Wire, far: Far) -> None:
    await (await asked(near, far, UPLOAD)).ended()


async def is_refused_in_its_upload(near: Wire, far: Far) -> None:
    up = await asked(near, far, UPLOAD)
    up.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    await near.answer()


async def sends_a_malformed_body(near: Wire, far: Far) -> None:
    up = await asked(near, far, CHUNKED)
    near.send(b"xyz\r\n")
    await up.ended()


async def sends_nonsense(near: Wire, _: Far) -> None:
    near.send(b"nonsense\r\n\r\n")
    await near.rest()


async def meets_a_reset(near: Wire, far: Far) -> None:
    up = await asked(near, far)
    up.send(LARGE)
    await near.head()
    up.reset()


async def meets_a_stall(near: Wire, far: Far) -> None:
    up = await asked(near, far)
    up.send(LARGE)
    await near.ended()


async def meets_an_invalid_answer(near: Wire, far: Far) -> None:
    up = await asked(near, far)
    up.send(b"garbage")
    await near.answer()


async def with_a_websocket(near: Wire, far: Far) -> Wire:
    near.send(HANDSHAKE)
    up = await far.wire()
    up.send(switching(await up.request()))
    await near.head()
    return up


async def leaves_its_websocket(near: Wire, far: Far) -> None:
    up = await with_a_websocket(near, far)
    near.send(from_client(TEXT, b"x" * 300_000, fin=False))
    near.reset()
    await is_told_to_close(up)


async def breaks_off_its_websocket(near: Wire, far: Far) -> None:
    up = await with_a_websocket(near, far)
    near.send(from_client(TEXT, b"x" * 300_000, fin=False) + frame(TEXT, b"without a mask"))
    await is_told_to_close(up)


async def meets_an_invalid_websocket(near: Wire, far: Far) -> None:
    up = await with_a_websocket(near, far)
    up.send(frame(TEXT, b"x" * 300_000, fin=False) + from_client(TEXT, b"with a mask"))
    await is_told_to_close(up)


async def is_told_to_close(up: Wire) -> None:
    assert (await receive(up)).first == 0x80 | CLOSE
    up.close()


@pytest.mark.parametrize(
    "client_that",
    [
        is_served,
        leaves_its_answer,
        takes_nothing_of_its_answer,
        leaves_its_upload,
        sends_no_more_of_its_upload,
        is_refused_in_its_upload,
        sends_a_malformed_body,
        sends_nonsense,
        meets_a_reset,
        meets_a_stall,
        meets_an_invalid_answer,
        leaves_its_websocket,
        breaks_off_its_websocket,
        meets_an_invalid_websocket,
    ],
    ids=lambda each: each.__name__,
)
async def test_nothing_is_left_of_a_client_that(
    client_that: Callable[[Wire, Far], Awaitable[None]], app: App, far: Far
) -> None:
    async with client(app) as near:
        await client_that(near, far)
    await until(lambda: not living(HELD))


def living(kinds: tuple[type, ...]) -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, kinds)]
