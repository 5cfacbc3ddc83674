"""Limits: what is refused for its size, number or slowness, and what a hostile client can hold."""

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from harness import SecretScan, get, running, until, until_ready
from proxy.app import App
from proxy.sandbox import Sandbox
from wire import GET, OK, Far, Wire, between, client, problem_of, refused, trickle, used_before

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"


def upload(length: int, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"POST / HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n" % (lines, length)


@pytest.fixture
def limited(far: Far, sandbox: Sandbox, scan: SecretScan) -> Any:
    """Start a proxy with these limits."""

    def start(upstream: dict[str, Any] | None = None, **limits: Any) -> Any:
        return between(far, sandbox, scan, limits=limits, upstream=upstream or {})

    return start


@contextlib.asynccontextmanager
async def sipping(wire: Wire) -> AsyncIterator[None]:
    """Take a little now and then while the block runs."""

    async def sip() -> None:
        with contextlib.suppress(ConnectionError):
            while await wire.exactly(10_000):  # noqa: ASYNC110 - slowness is what it is for
                await asyncio.sleep(0.01)

    taking = asyncio.create_task(sip())
    try:
        yield
    finally:
        taking.cancel()


# Sizes


@pytest.mark.parametrize("fields", [(), (b"Expect: 100-continue",)], ids=["plain", "expecting"])
async def test_body_whose_length_is_over_the_limit_is_refused_unread(
    limited: Any, far: Far, fields: tuple[bytes, ...]
) -> None:
    async with limited(body_bytes=1000, body_timeout=0.05) as app, client(app) as near:
        near.send(upload(1001, *fields))
        assert await refused(near) == (413, "body_too_large")
        assert await near.rest() == b""
    assert far.accepted == 0


async def test_streamed_body_is_refused_once_it_is_over_the_limit_and_never_looks_complete(
    limited: Any, far: Far
) -> None:
    async with limited(body_bytes=1000) as app, client(app) as near:
        near.send(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        up = await far.wire()
        await up.head()
        assert await up.until(b"x\r\n") == b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        near.send(b"1\r\nx\r\n0\r\n\r\n")
        assert await refused(near) == (413, "body_too_large")
        assert await up.rest() == b""
        assert await near.rest() == b""


async def test_body_at_the_limit_passes(limited: Any, far: Far) -> None:
    async with limited(body_bytes=1000) as app, client(app) as near:
        near.send(upload(1000) + b"x" * 1000)
        up = await far.wire()
        await up.head()
        assert await up.exactly(1000) == b"x" * 1000
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


# Numbers


async def test_client_that_is_one_too_many_is_told_so_and_there_is_room_when_another_leaves(
    limited: Any, far: Far
) -> None:
    async with limited(connections=2) as app, client(app) as first:
        async with client(app), client(app) as third:
            head, body = await third.answer()
            assert problem_of(head, body)["code"] == "too_many_connections"
            assert b"\r\nRetry-After: 1\r\n" in head
            assert await third.rest() == b""
            up = await used_before(first, far)
        await until(lambda: app.occupancy.connections == 1)
        async with client(app) as fourth:
            fourth.send(GET)
            await up.head()
            up.send(OK)
            assert (await fourth.answer())[1] == b"ok"


async def test_client_that_is_turned_away_can_read_why_although_it_has_sent_a_request(
    limited: Any,
) -> None:
    async with limited(connections=1) as app, client(app), client(app) as near:
        near.send(upload(50_000) + b"x" * 50_000)
        assert await refused(near) == (503, "too_many_connections")
        assert await near.rest() == b""


async def test_client_that_is_turned_away_and_stays_is_cut_off(limited: Any) -> None:
    async with limited(connections=1) as app, client(app), client(app):
        await until(lambda: app.occupancy.connections == 2)
        await until(lambda: app.occupancy.connections == 1)


async def test_crowd_that_is_turned_away_is_not_all_told_why(limited: Any) -> None:
    async with limited(connections=1) as app, contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(client(app)) for _ in range(300)]
        told = await asyncio.gather(*(near.rest() for near in crowd[1:]))
        assert any(told)
        assert not all(told)


async def test_request_that_is_one_too_many_is_refused_and_its_connection_kept(
    limited: Any, far: Far
) -> None:
    async with limited(requests=1) as app, client(app) as busy, client(app) as near:
        busy.send(GET)
        up = await far.wire()
        await up.head()
        near.send(GET)
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "too_many_requests"
        assert b"\r\nRetry-After: 1\r\n" in head
        up.send(OK)
        assert (await busy.answer())[1] == b"ok"
        near.send(GET)
        await up.head()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
    assert far.accepted == 1


async def test_limits_hold_over_all_listeners_together(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    listeners = [{"bind": "127.0.0.1:0"}, {"bind": f"unix:{tmp_path / 'socket'}"}]
    limits = {"connections": 1}
    async with (
        between(far, sandbox, scan, limits=limits, listeners=listeners) as app,
        client(app),
        client(app, listener=1) as second,
    ):
        assert await refused(second) == (503, "too_many_connections")


async def test_what_clients_hold_is_a_metric(app: App) -> None:
    async with client(app):
        await until(lambda: app.occupancy.connections == 1)
        _, _, metrics = await get(f"http://{app.admin_address}/metrics")
    assert b"\nmobula_proxy_client_connections 1.0\n" in metrics


# Slowness


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\n", GET[:-1]])
async def test_head_that_does_not_end_in_time_is_refused(
    limited: Any, far: Far, start: bytes
) -> None:
    async with limited(header_timeout=0.05) as app, client(app) as near:
        near.send(start)
        assert await refused(near) == (408, "request_timeout")
        assert await near.rest() == b""
    assert far.accepted == 0


async def test_head_that_comes_byte_by_byte_gets_no_more_time(limited: Any) -> None:
    async with limited(header_timeout=0.1) as app, client(app) as near:
        near.send(GET[:-2])
        async with trickle(near, b"X: y\r\n", 0.01):
            assert await refused(near) == (408, "request_timeout")


async def test_head_behind_another_request_has_its_time_too(limited: Any, far: Far) -> None:
    async with limited(header_timeout=0.05) as app, client(app) as near:
        await used_before(near, far)
        near.send(GET[:-1])
        assert await refused(near) == (408, "request_timeout")


async def test_empty_line_behind_a_request_begins_no_head(limited: Any, far: Far) -> None:
    async with limited(header_timeout=0.05) as app, client(app) as near:
        up = await used_before(near, far)
        near.send(b"\r\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await near.some()
        near.send(GET)
        await up.head()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_request_that_is_being_served_has_left_its_heads_time_behind(
    limited: Any, far: Far
) -> None:
    async with limited(header_timeout=0.05) as app, client(app) as near:
        near.send(GET[:-1])
        await until(lambda: app.occupancy.connections == 1)
        near.send(GET[-1:])
        up = await far.wire()
        await up.head()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await near.some()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


@pytest.mark.both_loops
@pytest.mark.parametrize("turns", range(5))
async def test_body_that_comes_behind_its_head_does_not_count_as_another_head(
    limited: Any, far: Far, turns: int
) -> None:
    """A head has left the parser some turns of the loop before it reaches its handler."""
    async with limited(header_timeout=0.05) as app, client(app) as near:
        up = await used_before(near, far)
        near.send(upload(3))
        for _ in range(turns):
            await asyncio.sleep(0)
        near.send(b"abc")
        await up.head()
        up.send(OK)
        await near.answer()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await near.some()


@pytest.mark.both_loops
async def test_client_that_is_told_to_leave_is_told_once(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    limits, log = {"header_timeout": 0.02}, {"access": True}
    async with between(far, sandbox, scan, limits=limits, log=log) as app, client(app) as near:
        near.send(b"garbage\r\n\r\n")
        async with trickle(near, b"x", 0.01):
            assert await refused(near) == (400, "malformed_request")
            await asyncio.sleep(0.1)  # five times the time that a head may take
    assert scan.output.getvalue().count('"event": "request"') == 1


@pytest.mark.parametrize("head", [upload(100_000), CHUNKED], ids=["length", "chunked"])
async def test_body_that_comes_at_a_trickle_is_refused(limited: Any, far: Far, head: bytes) -> None:
    async with limited(body_timeout=0.2, min_rate="100kB") as app, client(app) as near:
        near.send(head)
        up = await far.wire()
        async with trickle(near, b"1\r\nx\r\n", 0.01):
            assert await refused(near) == (408, "request_timeout")
        await up.rest()


async def test_client_that_takes_its_answer_at_a_trickle_is_let_go(limited: Any, far: Far) -> None:
    async with limited(client_idle_timeout=0.2, min_rate="100MB") as app, client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(LARGE + b"x" * 50_000_000)
        async with sipping(near):
            await up.ended()
        assert not await near.ended()


async def test_request_that_takes_too_long_before_its_answer_is_refused(
    limited: Any, far: Far
) -> None:
    async with limited(total_timeout=0.1) as app, client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        assert await refused(near) == (504, "total_timeout")
        await up.ended()
        await used_before(near, far)


async def test_answer_that_takes_too_long_is_broken_off(limited: Any, far: Far) -> None:
    async with limited(total_timeout=0.1) as app, client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        async with trickle(up, LARGE, 0.0001):
            assert not await near.ended()
        await until(lambda: app.active == 0)


async def test_websocket_is_not_ended_by_the_time_for_a_request(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        running(sandbox.url, scan, limits={"total_timeout": 0.2}) as app,
        connect(f"ws://{app.addresses[0]}/") as websocket,
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(websocket.recv(), 0.4)
        assert app.active == 1


# Nobody holds more than their own connection


def waiting_in(sock: socket.socket) -> int:
    """Return how many bytes wait to be read from a socket."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_clients_that_send_small_bodies_slowly_hold_no_upstream_connection(
    limited: Any, far: Far
) -> None:
    async with limited(upstream={"connections": 1}) as app, contextlib.AsyncExitStack() as stack:
        await until_ready(app)
        before = app.status().tokens.left
        for _ in range(3):
            slow = await stack.enter_async_context(client(app))
            slow.send(upload(65_536) + b"x" * 65_535)
        await until(lambda: app.active == 3)
        assert app.status().tokens.left == before
        async with client(app) as near:
            up = await used_before(near, far)
        slow.send(b"x")
        await up.head()
        assert await up.exactly(65_536) == b"x" * 65_536


async def test_client_that_reads_nothing_holds_no_upstream_connection_once_all_has_come(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    """On a Unix socket the kernel holds half of the answer at most, and does not grow."""
    loop, body = asyncio.get_running_loop(), b"x" * 400_000
    listener, upstream = {"bind": f"unix:{tmp_path / 'socket'}"}, {"connections": 1}
    async with between(far, sandbox, scan, listener=listener, upstream=upstream) as app:
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.setblocking(False)
            await loop.sock_connect(stuck, app.addresses[0].path)
            await loop.sock_sendall(stuck, GET)
            up = await far.wire()
            await up.head()
            up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + body[:300_000])
            await until(lambda: waiting_in(stuck) > 150_000)
            up.send(body[300_000:])
            async with client(app) as near:
                near.send(GET)
                await up.head()
                assert app.active == 2
                up.send(OK)
                assert (await near.answer())[1] == b"ok"
            taken = b""
            while not taken.endswith(body):
                taken += await loop.sock_recv(stuck, 65_536)


async def test_client_that_goes_on_being_refused_and_reads_nothing_is_let_go(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    """Else the refusals would pile up without end, since nobody waits until they are taken."""
    listener = {"bind": f"unix:{tmp_path / 'socket'}"}
    denied = GET.replace(b"/", b"/api/2/auth/", 1)
    async with between(far, sandbox, scan, listener=listener) as app, client(app) as near:
        near.send(denied * 10_000)
        await until(lambda: app.occupancy.connections == 1)
        await until(lambda: app.occupancy.connections == 0)


async def test_client_that_leaves_when_the_upstream_has_given_all_is_no_failure_of_ours(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    listener = {"bind": f"unix:{tmp_path / 'socket'}"}
    async with between(far, sandbox, scan, listener=listener) as app:
        async with client(app) as near:
            near.send(GET)
            up = await far.wire()
            await up.head()
            up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000)
            await until(lambda: app.status().upstreams[1].busy == 0)
            assert app.active == 1
        await until(lambda: app.active == 0)
    assert '"level": "error"' not in scan.output.getvalue()
