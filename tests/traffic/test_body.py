"""Request bodies on their way up: framing, 100-continue, streaming, and what goes wrong."""

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from harness import SecretScan, until, until_ready
from proxy.app import App
from proxy.sandbox import Fault, Sandbox
from wire import GET, OK, Far, between, client, problem_of

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECTS = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DENIED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope"
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nbig!"


@pytest.fixture
async def impatient(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    """A proxy that waits 50 ms for a client's body, and keeps 16 bytes of it."""
    limits = {"body_timeout": 0.05, "replay_bytes": 16}
    async with between(far, sandbox, scan, limits=limits) as app:
        yield app


@pytest.fixture
async def no_complaints() -> AsyncIterator[None]:
    """Fail the test if a task fails and nobody asks it why."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    yield
    await asyncio.sleep(0)
    gc.collect()
    assert told == []


# Framing


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"POST", b"OPTIONS"])
async def test_body_with_a_length_goes_up_whole_and_is_framed_once(
    app: App, far: Far, method: bytes
) -> None:
    async with client(app) as near:
        near.send(method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        up = await far.wire()
        head = await up.head()
        assert head.count(b"Content-Length: 3\r\n") == 1
        assert b"Transfer-Encoding" not in head
        assert await up.exactly(3) == b"abc"
        up.send(OK)
        await near.answer()
        near.send(GET)
        assert (await up.head()).startswith(b"GET / ")


@pytest.mark.parametrize("length", [b"0", b"00"])
async def test_empty_body_stays_an_empty_body(app: App, far: Far, length: bytes) -> None:
    async with client(app) as near:
        near.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n" % length)
        up = await far.wire()
        assert b"\r\nContent-Length: %b\r\n" % length in await up.head()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_request_without_a_body_gets_no_framing(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
        up = await far.wire()
        head = await up.head()
        assert b"Content-Length" not in head
        assert b"Transfer-Encoding" not in head
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


@pytest.mark.parametrize(
    "body",
    [
        b"3;name=value\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"3\r\nabc\r\n0;last\r\n\r\n",
        b"0003\r\nabc\r\n000\r\n\r\n",
        b'3;a="b;c"\r\nabc\r\n0\r\n\r\n',
    ],
)
async def test_chunked_body_is_framed_anew_without_extensions_and_trailers(
    app: App, far: Far, body: bytes
) -> None:
    async with client(app) as near:
        near.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nTrailer: X-Trailer\r\n\r\n") + body)
        up = await far.wire()
        head = await up.head()
        assert head.count(b"Transfer-Encoding: chunked\r\n") == 1
        assert b"Trailer" not in head
        assert await up.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
        up.send(OK)
        await near.answer()
        near.send(GET)
        assert (await up.head()).startswith(b"GET / ")


async def test_empty_chunked_body_is_framed_with_its_last_chunk_only(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(CHUNKED + b"0\r\n\r\n")
        up = await far.wire()
        await up.head()
        assert await up.exactly(5) == b"0\r\n\r\n"
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


# Streaming


async def test_upload_goes_up_as_it_comes(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(CHUNKED)
        up = await far.wire()
        await up.head()
        for number in range(5):
            near.send(b"1\r\n%d\r\n" % number)
            assert await up.exactly(6) == b"1\r\n%d\r\n" % number
        near.send(b"0\r\n\r\n")
        assert await up.exactly(5) == b"0\r\n\r\n"
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
        near.send(GET)
        assert (await up.head()).startswith(b"GET / ")


async def test_answer_to_an_upload_has_to_begin_in_its_time(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    upstream = {"head_timeout": 0.05}
    async with between(far, sandbox, scan, upstream=upstream) as app, client(app) as near:
        near.send(CHUNKED)
        up = await far.wire()
        await up.head()
        near.send(b"0\r\n\r\n")
        assert problem_of(*await near.answer())["code"] == "upstream_timeout"


async def test_compressed_body_goes_up_as_it_is(app: App, far: Far) -> None:
    body = gzip.compress(b"x" * 1000)
    async with client(app) as near:
        near.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n")
        near.send(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        up = await far.wire()
        assert b"\r\nContent-Encoding: gzip\r\n" in await up.head()
        assert await up.exactly(len(body)) == body


async def test_upload_waits_for_a_slow_upstream_and_loses_nothing(app: App, far: Far) -> None:
    body = bytes(range(256)) * 4096 * 48
    async with client(app) as near:
        near.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        up = await far.wire()
        await up.head()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await near.drained()
        assert await up.exactly(len(body)) == body
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_early_refusal_in_mid_upload_reaches_the_client(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 4096)
        up = await far.wire()
        await up.head()
        await up.exactly(4096)
        up.send(TOO_LARGE)
        up.close()
        head, body = await near.answer()
        assert (head, body) == (
            TOO_LARGE.replace(b"\r\n\r\nbig!", b"\r\nConnection: close\r\n\r\n"),
            b"big!",
        )


async def test_early_refusal_reaches_a_client_that_sends_all_the_same(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
        near.send(b"x" * 9000000)
        up = await far.wire()
        await up.head()
        up.send(TOO_LARGE)
        up.reset()
        assert (await near.answer())[1] == b"big!"


async def test_answer_that_begins_before_the_upload_ends_is_relayed_beside_it(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        near.send(CHUNKED)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await near.head()
        for part in (b"1\r\na\r\n", b"1\r\nb\r\n"):
            near.send(part)
            up.send(await up.exactly(6))
            assert await near.exactly(6) == part
        near.send(b"0\r\n\r\n")
        up.send(await up.exactly(5))
        assert await near.exactly(5) == b"0\r\n\r\n"


# Expect: 100-continue


async def test_client_that_waits_for_100_gets_it_and_its_body_goes_up(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(EXPECTS)
        assert await near.head() == CONTINUE
        up = await far.wire()
        assert b"Expect" not in await up.head()
        near.send(b"body")
        assert await up.exactly(4) == b"body"
        up.send(OK)
        assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")


async def test_100_of_the_upstream_is_not_passed_on_as_well(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(EXPECTS)
        assert await near.head() == CONTINUE
        up = await far.wire()
        await up.head()
        up.send(CONTINUE)
        near.send(b"body")
        await up.exactly(4)
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_client_that_does_not_wait_for_100_gets_none(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(EXPECTS + b"body")
        up = await far.wire()
        await up.head()
        assert await up.exactly(4) == b"body"
        up.send(OK)
        assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (EXPECTS.replace(b"POST /", b"POST /api/2/auth/tokens"), "auth_path_denied"),
        (EXPECTS.replace(b"100-continue", b"102-wait"), "expectation_failed"),
    ],
)
async def test_denied_client_that_waits_for_100_gets_the_final_status_at_once(
    app: App, far: Far, request_: bytes, code: str
) -> None:
    async with client(app) as near:
        near.send(request_)
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == code
        assert b"\r\nConnection: close\r\n" in head
    assert far.accepted == 0


async def test_client_gets_no_100_when_no_token_can_be_had(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    sandbox.faults.add(Fault("/api/2/auth/tokens", status=403))
    async with between(far, sandbox, scan) as app, client(app) as near:
        near.send(EXPECTS)
        assert problem_of(*await near.answer())["code"] == "token_unavailable"


async def test_client_gets_one_100_when_its_request_goes_twice(app: App, far: Far) -> None:
    async with client(app) as near:
        await until_ready(app)
        near.send(EXPECTS)
        assert await near.head() == CONTINUE
        up = await far.wire()
        await up.head()
        near.send(b"bo")
        assert await up.exactly(2) == b"bo"
        up.send(DENIED)
        again = await far.wire()
        await again.head()
        near.send(b"dy")
        assert await again.exactly(4) == b"body"
        again.send(OK)
        assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")


# What goes wrong


async def test_body_that_stands_still_is_given_up_with_408(impatient: App, far: Far) -> None:
    async with client(impatient) as near:
        near.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nbo")
        up = await far.wire()
        await up.head()
        assert await up.exactly(2) == b"bo"
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "request_timeout"
        assert b"\r\nConnection: close\r\n" in head
        assert await up.rest() == b""
        assert await near.rest() == b""
    assert far.accepted == 1


@pytest.mark.parametrize(
    "bad", [b"0x3\r\nabc\r\n", b"3\nabc\r\n", b"3;\nabc\r\n", b"f" * 17 + b"\r\n", b"3\r\nabcd\r\n"]
)
async def test_malformed_chunk_in_mid_upload_is_refused_and_both_connections_closed(
    app: App, far: Far, bad: bytes
) -> None:
    async with client(app) as near:
        near.send(CHUNKED + b"1\r\na\r\n")
        up = await far.wire()
        await up.head()
        assert await up.exactly(6) == b"1\r\na\r\n"
        near.send(bad)
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "malformed_request"
        assert b"\r\nConnection: close\r\n" in head
        assert await near.rest() == b""
        assert b"0\r\n\r\n" not in await up.rest()
    assert far.accepted == 1


@pytest.mark.usefixtures("no_complaints")
async def test_client_that_leaves_in_mid_upload_ends_the_upstream_connection(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        near.send(CHUNKED + b"1\r\na\r\n")
        up = await far.wire()
        await up.head()
        assert await up.exactly(6) == b"1\r\na\r\n"
        near.reset()
        assert await up.rest() == b""
    await until(lambda: app.active == 0)


@pytest.mark.usefixtures("no_complaints")
async def test_client_that_leaves_beside_an_answer_ends_the_upstream_connection(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        near.send(CHUNKED + b"1\r\na\r\n")
        up = await far.wire()
        await up.head()
        await up.exactly(6)
        up.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await near.until(b"a\r\n")
        near.close()
        assert await up.rest() == b""
    await until(lambda: app.active == 0)


async def test_client_that_leaves_while_its_upload_is_held_back_ends_the_upstream_connection(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        near.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
        near.send(b"x" * 50_000_000)
        up = await far.wire()
        await up.head()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await near.drained()
        near.reset()
        await until(lambda: app.active == 0)
        await up.ended()


@pytest.mark.usefixtures("no_complaints")
async def test_upstream_that_goes_in_mid_upload_is_told_to_the_client(
    impatient: App, far: Far
) -> None:
    async with client(impatient) as near:
        near.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n" + b"x" * 100)
        up = await far.wire()
        await up.head()
        await up.exactly(100)
        up.close()
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "upstream_closed"
    assert far.accepted == 1
