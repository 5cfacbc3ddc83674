"""What a request held is let go of when it ends, and not when the garbage collector comes round.

The collector counts objects and not their bytes: what waits for it may be large.
"""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from harness import SecretScan, until
from proxy.app import App
from proxy.sandbox import Sandbox
from proxy.traffic.answer import Answer
from proxy.traffic.attempt import Attempt
from proxy.traffic.body import RequestBody
from proxy.traffic.connection import Connection
from proxy.traffic.front import FrontConnection
from wire import GET, Far, Wire, between, client

HELD = (FrontConnection, RequestBody, Attempt, Connection, Answer)
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


@pytest.mark.parametrize(
    "client_that",
    [
        is_served,
        leaves_its_answer,
        takes_nothing_of_its_answer,
        leaves_its_upload,
        sends_no_more_of_its_upload,
        sends_a_malformed_body,
        sends_nonsense,
        meets_a_reset,
        meets_a_stall,
        meets_an_invalid_answer,
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
