"""Blind tunnels to other hosts: bytes both ways, ends, limits, and what is left of them."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import KEY, SecretScan, get, nothing_left, serving, until, until_ready
from proxy.app import App
from proxy.sandbox import Sandbox
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.tunnel import QUIET_SECONDS
from wire import (
    ELSEWHERE,
    ESTABLISHED,
    PATIENCE,
    Far,
    Start,
    Wire,
    client,
    connect,
    let_through,
    refused,
    trickle,
)

MIB = 1024 * 1024
BLOCK = bytes(MIB)
LARGE = 32 * MIB
MOST_UNDERWAY = 24 * MIB
"""What the kernel holds of a tunnel's two connections is less, and what the proxy does far less."""
UNREAD_BLOCKS = 2100
"""256 bytes each: more than a client that does not read takes over a Unix socket."""


@contextlib.asynccontextmanager
async def tunnel(app: App, way_out: Far) -> AsyncIterator[tuple[Wire, Wire]]:
    """A tunnel: the client's end and the far one."""
    async with client(app) as near:
        near.send(ELSEWHERE)
        up = await let_through(way_out)
        assert await near.head() == ESTABLISHED
        yield near, up
        up.close()


async def nothing_is_held(app: App) -> None:
    occupancy = app.occupancy
    await until(lambda: occupancy.connections == occupancy.tunnels == occupancy.requests == 0)


def ways(near: Wire, up: Wire, *, upwards: bool) -> tuple[Wire, Wire]:
    """Return the end that sends and the one that receives."""
    return (near, up) if upwards else (up, near)


BOTH_WAYS = pytest.mark.parametrize("upwards", [True, False], ids=["up", "down"])

# Bytes


@pytest.mark.both_loops
async def test_bytes_pass_both_ways_untouched_and_in_order(forward: App, way_out: Far) -> None:
    pieces = st.lists(st.binary(min_size=1, max_size=2000), max_size=20)

    async def pass_both_ways(ups: list[bytes], downs: list[bytes]) -> None:
        async with tunnel(forward, way_out) as (near, up):
            await asyncio.gather(near.send_in_pieces(ups), up.send_in_pieces(downs))
            near.end()
            up.end()
            assert await up.everything() == (b"".join(ups), True)
            assert await near.everything() == (b"".join(downs), True)

    @settings(max_examples=50)
    @given(ups=pieces, downs=pieces)
    def pass_pieces(ups: list[bytes], downs: list[bytes]) -> None:
        asyncio.run_coroutine_threadsafe(pass_both_ways(ups, downs), loop).result()

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(pass_pieces)
    await nothing_is_held(forward)


@pytest.mark.both_loops
async def test_far_end_may_speak_first(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(ELSEWHERE)
        await let_through(way_out, behind=b"220 ready")
        assert await near.head() == ESTABLISHED
        assert await near.exactly(9) == b"220 ready"


@pytest.mark.both_loops
async def test_far_end_may_say_all_at_once(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(ELSEWHERE)
        (await let_through(way_out, behind=b"all")).close()
        assert await near.everything() == (ESTABLISHED + b"all", True)
    await nothing_is_held(forward)


@BOTH_WAYS
async def test_what_looks_like_http_or_a_key_is_nobody_s_business(
    forward: App, way_out: Far, *, upwards: bool
) -> None:
    secret = f"GET / HTTP/1.1\r\nHost: far.test\r\nAuthorization: {KEY}\r\n\r\n".encode()
    async with tunnel(forward, way_out) as ends:
        sender, receiver = ways(*ends, upwards=upwards)
        sender.send(secret)
        assert await receiver.exactly(len(secret)) == secret


# Ends


@pytest.mark.both_loops
@BOTH_WAYS
async def test_end_that_has_said_all_goes_on_hearing(
    forward: App, way_out: Far, *, upwards: bool
) -> None:
    async with tunnel(forward, way_out) as ends:
        first, last = ways(*ends, upwards=upwards)
        first.send(b"that is all")
        first.end()
        assert await last.everything() == (b"that is all", True)
        for each in (b"but ", b"not ", b"for me"):
            last.send(each)
            assert await first.exactly(len(each)) == each
        last.end()
        assert await first.everything() == (b"", True)
    await nothing_is_held(forward)


@pytest.mark.both_loops
@BOTH_WAYS
async def test_end_that_closes_ends_the_other_in_order(
    forward: App, way_out: Far, *, upwards: bool
) -> None:
    async with tunnel(forward, way_out) as ends:
        first, last = ways(*ends, upwards=upwards)
        first.send(b"bye")
        first.close()
        assert await last.everything() == (b"bye", True)
        last.close()
        await nothing_is_held(forward)


@pytest.mark.both_loops
@BOTH_WAYS
async def test_end_that_is_reset_resets_the_other(
    forward: App, way_out: Far, *, upwards: bool
) -> None:
    """Else an answer that goes on until its connection ends would look whole."""
    async with tunnel(forward, way_out) as ends:
        first, last = ways(*ends, upwards=upwards)
        first.send(b"half an ans")
        assert await last.exactly(11) == b"half an ans"
        first.reset()
        assert await last.everything() == (b"", False)
        await nothing_is_held(forward)


@pytest.mark.both_loops
async def test_far_end_that_is_reset_behind_its_orderly_end_takes_nothing_from_a_slow_client(
    start: Start, way_out: Far, tmp_path: Path
) -> None:
    """So are servers that close while the client still says goodbye."""
    data = bytes(range(256)) * UNREAD_BLOCKS
    listener = {"bind": f"unix:{tmp_path / 'socket'}"}  # whose buffers do not grow by themselves
    async with start(listener=listener) as app, tunnel(app, way_out) as (near, up):
        up.send(data)
        up.end()
        await settled()
        assert up.unsent == 0
        up.reset()
        await settled()
        near.send(b"goodbye")
        await settled()
        assert await near.everything() == (data, True)
        near.close()
        await nothing_is_held(app)


async def settled() -> None:
    """Let all that is on its way in this process arrive."""
    for _ in range(100):
        await asyncio.sleep(0)


# A slow end


@pytest.mark.both_loops
@BOTH_WAYS
async def test_end_that_does_not_read_stops_the_other_and_then_misses_nothing(
    forward: App, way_out: Far, *, upwards: bool
) -> None:
    data = bytes(range(256)) * (LARGE // 256)
    async with tunnel(forward, way_out) as ends:
        sender, receiver = ways(*ends, upwards=upwards)
        sender.send(data)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await sender.drained()
        assert sender.unsent > LARGE - MOST_UNDERWAY
        receiver.send(b"still here")
        assert await sender.exactly(10) == b"still here"
        assert await receiver.exactly(LARGE) == data


@BOTH_WAYS
async def test_end_that_takes_nothing_for_too_long_does_not_get_an_orderly_end(
    start: Start, way_out: Far, *, upwards: bool
) -> None:
    async with (
        start(limits={"tunnel_timeout": "100ms"}) as app,
        tunnel(app, way_out) as ends,
    ):
        sender, receiver = ways(*ends, upwards=upwards)
        sender.send(bytes(LARGE))
        await nothing_is_held(app)
        received, orderly = await receiver.everything()
        assert 0 < len(received) < LARGE
        assert not orderly


# Time


@pytest.mark.virtual_time
async def test_tunnel_that_nothing_passes_is_ended_in_time(start: Start, way_out: Far) -> None:
    loop = asyncio.get_running_loop()
    async with (
        start(limits={"tunnel_timeout": "10s"}) as app,
        tunnel(app, way_out) as (near, up),
    ):
        for end, other in [(near, up), (up, near)]:
            await asyncio.sleep(9.0)
            end.send(b"x")
            assert await other.exactly(1) == b"x"
        last = loop.time()
        assert await near.some(patience=None) == b""
        assert loop.time() - last == pytest.approx(10.0, abs=0.1)
        assert await up.ended()


@pytest.mark.virtual_time
async def test_draining_ends_a_tunnel_once_it_is_quiet(forward: App, way_out: Far) -> None:
    loop = asyncio.get_running_loop()
    async with tunnel(forward, way_out) as (near, up):
        async with trickle(near, b"x", QUIET_SECONDS / 2):
            ending = asyncio.create_task(forward.finish())
            await asyncio.sleep(3 * QUIET_SECONDS)
            assert not ending.done()
            up.send(b"still here")
            assert await near.exactly(10) == b"still here"
        last = loop.time()
        assert await near.some(patience=None) == b""
        assert loop.time() - last <= QUIET_SECONDS + 0.1
        await ending
        assert forward.active == 0


@pytest.mark.virtual_time
async def test_tunnel_that_is_dialled_as_draining_begins_may_say_what_it_has_to(
    forward: App, way_out: Far
) -> None:
    async with client(forward) as near:
        near.send(ELSEWHERE + b"ping")
        wire = await way_out.wire()
        ending = asyncio.create_task(forward.finish())
        await until(lambda: forward.status().draining)
        assert forward.active == 1
        await wire.head()
        wire.send(b"HTTP/1.1 200 OK\r\n\r\npong")
        assert await wire.exactly(4) == b"ping"
        assert await near.head() == ESTABLISHED
        assert await near.exactly(4) == b"pong"
        assert await near.some(patience=None) == b""
        await ending
        assert forward.active == 0


async def test_tunnel_that_goes_on_for_too_long_is_cut_off(
    start: Start, way_out: Far, scan: SecretScan
) -> None:
    async with (
        start(shutdown={"drain": "50ms"}) as app,
        tunnel(app, way_out) as (near, up),
        trickle(up, b"x", 0.01),
    ):
        await app.finish()
        assert app.active == 1
        async with asyncio.timeout(2.0):
            await app.__aexit__(None, None, None)
        assert set((await near.everything())[0]) == set(b"x")
        await nothing_is_held(app)
    (stopped,) = scan.logged("stopped")
    assert stopped["requests_cut_off"] == 1


# What is told of it


async def test_tunnel_is_counted_while_it_lasts_and_told_of_once_it_is_over(
    start: Start, way_out: Far, scan: SecretScan
) -> None:
    async with start(log={"access": True}) as app:
        async with tunnel(app, way_out):
            assert await measured(app, "tunnels") == "1.0"
            assert await measured(app, "client_connections") == "1.0"
            assert app.active == 1
            assert scan.logged("request") == []
        await nothing_is_held(app)
        assert await measured(app, "tunnels") == "0.0"
        assert await measured(app, 'requests_total{status="200",upstream="(other)"}') == "1.0"
        timed = 'request_duration_seconds_count{upstream="(other)"}'
        assert await measured(app, timed) == "0.0"  # it lasted for as long as its client liked
    (record,) = scan.logged("request")
    assert record.pop("ms") > 0
    del record["timestamp"]
    assert record == {
        "event": "request",
        "level": "info",
        "upstream": "(other)",
        "client": None,
        "method": "CONNECT",
        "path": "other.test:443",
        "status": 200,
        "code": None,
        "attempts": 1,
        "complete": True,
    }


async def test_connect_that_leads_nowhere_is_counted_as_refused(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(ELSEWHERE)
        (await way_out.wire()).close()
        assert await refused(near) == (502, "upstream_unreachable")
        assert await measured(forward, "tunnels") == "0.0"
        assert await measured(forward, 'errors_total{code="upstream_unreachable"}') == "1.0"
        assert await measured(forward, 'requests_total{status="502",upstream="(other)"}') == "1.0"


async def measured(app: App, sample: str) -> str:
    _, _, metrics = await get(f"http://{app.admin_address}/metrics")
    (value,) = re.findall(rf"(?m)^mobula_proxy_{re.escape(sample)} (.*)$", metrics.decode())
    return str(value)


# What is left


async def leaves_within_its_head(near: Wire, _: Far) -> None:
    near.send(ELSEWHERE[:20])
    near.close()


async def is_refused(near: Wire, _: Far) -> None:
    near.send(b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n")
    assert await refused(near) == (403, "address_denied")


async def is_reset_while_it_is_dialled(near: Wire, way_out: Far) -> None:
    near.send(ELSEWHERE)
    wire = await way_out.wire()
    near.reset()
    wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await wire.everything()
    wire.close()


async def leaves_and_is_refused_by_the_upstream_proxy(near: Wire, way_out: Far) -> None:
    near.send(ELSEWHERE)
    wire = await way_out.wire()
    near.close()
    wire.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    await wire.everything()
    wire.close()


async def meets_a_reset_at_once(near: Wire, way_out: Far) -> None:
    near.send(ELSEWHERE + bytes(10_000))
    wire = await let_through(way_out)
    wire.reset()
    await near.everything()


async def is_reset_as_it_speaks(near: Wire, way_out: Far) -> None:
    near.send(ELSEWHERE)
    wire = await let_through(way_out, behind=bytes(1_000_000))
    await near.head()
    near.send(bytes(1_000_000))
    near.reset()
    await wire.everything()
    wire.close()


CLIENTS = pytest.mark.parametrize(
    "client_that",
    [
        leaves_within_its_head,
        is_refused,
        is_reset_while_it_is_dialled,
        leaves_and_is_refused_by_the_upstream_proxy,
        meets_a_reset_at_once,
        is_reset_as_it_speaks,
    ],
    ids=lambda each: each.__name__,
)


@pytest.mark.both_loops
@CLIENTS
async def test_nothing_is_left_of_a_client_that(
    client_that: Callable[[Wire, Far], Awaitable[None]],
    forward: App,
    way_out: Far,
    scan: SecretScan,
) -> None:
    await until_ready(forward)
    async with nothing_left():
        for _ in range(3):  # at first something of the mint may still have been open
            async with client(forward) as near:
                await client_that(near, way_out)
        await nothing_is_held(forward)
    assert '"level": "error"' not in scan.output.getvalue()


async def sends_half_a_head(near: Wire, _: Far) -> None:
    near.send(ELSEWHERE[:20])


async def sends_half_a_hello(near: Wire, _: Far) -> None:
    near.send(b"CONNECT far.test:443 HTTP/1.1\r\n\r\n\x16\x03\x01\x01\x00")
    assert await near.head() == ESTABLISHED


async def is_being_dialled(near: Wire, way_out: Far) -> None:
    near.send(ELSEWHERE)
    await (await way_out.wire()).head()


async def has_a_tunnel(near: Wire, way_out: Far) -> None:
    near.send(ELSEWHERE)
    await let_through(way_out)
    await near.head()


async def has_a_tunnel_that_is_stuck(near: Wire, way_out: Far) -> None:
    await has_a_tunnel(near, way_out)
    near.send(bytes(LARGE))
    await asyncio.sleep(0.05)


@pytest.mark.both_loops
@pytest.mark.parametrize(
    "client_that",
    [
        sends_half_a_head,
        sends_half_a_hello,
        is_being_dialled,
        has_a_tunnel,
        has_a_tunnel_that_is_stuck,
    ],
    ids=lambda each: each.__name__,
)
async def test_proxy_leaves_nothing_when_it_ends_on_a_client_that(
    client_that: Callable[[Wire, Far], Awaitable[None]],
    start: Start,
    way_out: Far,
    scan: SecretScan,
) -> None:
    async with nothing_left():
        async with start() as app:
            near = await connect(app.addresses[0])
            await client_that(near, way_out)
        assert app.occupancy == Occupancy(10_000, 4096)
        near.close()
        await way_out.leave()
    assert '"level": "error"' not in scan.output.getvalue()


# Size


@BOTH_WAYS
async def test_gibibyte_that_passes_takes_no_more_memory_than_less(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path, *, upwards: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as way_out:
        async with serving(
            sandbox.url,
            scan,
            'listeners=[{"bind": "127.0.0.1:0", "mode": "forward"}]',
            f"upstream_proxy=http://127.0.0.1:{way_out.getsockname()[1]}",
            f"ca.dir={tmp_path / 'ca'}",
        ) as sidecar:
            near = await asyncio.to_thread(entered, sidecar.url, way_out)
            sender, receiver = near if upwards else reversed(near)
            process = psutil.Process(sidecar.process.pid)
            await asyncio.to_thread(passed, sender, receiver, 16 * MIB)
            before = process.memory_info().rss
            passing = asyncio.create_task(asyncio.to_thread(passed, sender, receiver, 1024 * MIB))
            most = before
            while not passing.done():
                most = max(most, process.memory_info().rss)
                await asyncio.sleep(0.01)
            await passing
            for each in near:
                each.close()
    assert most - before < 4 * MIB


def entered(url: str, way_out: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Open a tunnel; return the client's end and the far one."""
    host, port = url.removeprefix("http://").split(":")
    near = socket.create_connection((host, int(port)), timeout=PATIENCE)
    near.sendall(ELSEWHERE)
    up, _ = way_out.accept()
    up.settimeout(PATIENCE)
    while not up.recv(1024).endswith(b"\r\n\r\n"):
        """It asks for the other host."""
    up.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    assert near.recv(1024) == ESTABLISHED
    return near, up


def passed(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Send so many bytes from one end to the other."""
    taken = bytearray(MIB)
    with ThreadPoolExecutor(1) as sending:
        for _ in range(size // MIB):
            sending.submit(sender.sendall, BLOCK)
        while size:
            size -= receiver.recv_into(taken, min(size, MIB))
