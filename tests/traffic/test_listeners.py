"""Where clients connect: addresses, socket files, and the end."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import SecretScan, running, until
from proxy.app import App
from proxy.config import Address
from proxy.sandbox import Sandbox
from proxy.traffic.binding import BindError
from wire import GET, OK, Far, Wire, between, client, connect, served

# Addresses


def on_socket(path: Path) -> dict[str, str]:
    return {"bind": f"unix:{path}"}


async def test_unix_socket_serves_its_owner_and_group_and_is_removed_at_the_end(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    async with between(far, sandbox, scan, listener=on_socket(path)) as app:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with client(app) as near:
            near.send(GET)
            up = await far.wire()
            await up.head()
            up.send(OK)
            assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")
    assert not path.exists()


async def test_answer_cut_short_is_an_error_on_a_unix_socket_too(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    async with (
        between(far, sandbox, scan, listener=on_socket(tmp_path / "socket")) as app,
        client(app) as near,
    ):
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await near.until(b"abc\r\n")
        up.close()
        assert await near.rest() == b""


async def test_socket_file_that_a_crash_left_behind_is_replaced(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with between(far, sandbox, scan, listener=on_socket(path)) as app:
        assert app.addresses == [Address(path=str(path))]
        async with client(app) as near:
            near.send(GET)
            await (await far.wire()).head()


async def test_socket_file_on_which_somebody_listens_is_left_alone(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(BindError, match=f"cannot listen on unix:{path}: Address already in"):
            async with between(far, sandbox, scan, listener=on_socket(path)):
                pass
    assert path.exists()


async def test_socket_file_that_a_successor_has_put_there_is_left_to_it(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    async with contextlib.AsyncExitStack() as stack:
        async with between(far, sandbox, scan, listener=on_socket(path)) as old:
            await old.finish()
            new = await stack.enter_async_context(
                between(far, sandbox, scan, listener=on_socket(path))
            )
        async with client(new) as near:
            near.send(GET)
            await (await far.wire()).head()
    assert not path.exists()


async def test_file_that_is_no_socket_is_left_alone(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(BindError, match=f"cannot listen on unix:{path}: "):
        async with between(far, sandbox, scan, listener=on_socket(path)):
            pass
    assert path.read_text() == "precious"


async def test_path_that_cannot_hold_a_socket_is_named(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    bind = "unix:/nowhere/at/all/socket"
    with pytest.raises(BindError, match=f"cannot listen on {bind}: "):
        async with between(far, sandbox, scan, listener={"bind": bind}):
            pass


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64])
async def test_name_that_no_address_is_found_for_is_named(
    sandbox: Sandbox, scan: SecretScan, host: str
) -> None:
    listeners = [{"bind": f"{host}:0", "insecure": True}]
    with pytest.raises(BindError, match=f"{host}:0: the name could not be resolved"):
        async with running(sandbox.url, scan, listeners=listeners):
            pass


async def test_port_that_is_taken_is_named(sandbox: Sandbox, scan: SecretScan) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BindError, match=f"cannot listen on {bind}: [Aa]ddress already in use"):
            async with running(sandbox.url, scan, listeners=[{"bind": bind}]):
                pass


# Where requests go


@contextlib.asynccontextmanager
async def two_upstreams(
    sandbox: Sandbox, scan: SecretScan, one: Far, other: Far, mode: str, folder: Path
) -> AsyncIterator[App]:
    """Two listeners of a mode, each with an upstream of its own."""
    upstreams = {
        "mint.test": {"url": sandbox.url},
        "one.test": {"url": f"http://{one.authority}"},
        "other.test": {"url": f"http://{other.authority}/prefix"},
    }
    listeners = [
        {"bind": "127.0.0.1:0", "mode": mode, "upstream": name} for name in list(upstreams)[1:]
    ]
    async with running(
        sandbox.url, scan, upstreams=upstreams, listeners=listeners, ca={"dir": str(folder)}
    ) as app:
        yield app


ONE, OTHER = 0, 1


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize(
    ("listener", "target", "host", "goes_to"),
    [
        (ONE, b"/x", b"127.0.0.1:8080", ONE),
        (OTHER, b"/x", b"127.0.0.1:8080", OTHER),
        (ONE, b"/x", b"OTHER.test", OTHER),
        (OTHER, b"/x", b"one.test:8080", ONE),
        (ONE, b"http://other.test/x", b"one.test", OTHER),
        (OTHER, b"https://one.test:443/x", b"other.test", ONE),
    ],
)
async def test_request_goes_to_the_upstream_that_it_names_and_else_to_its_listeners_own(
    sandbox: Sandbox,
    scan: SecretScan,
    far: Far,
    tmp_path: Path,
    mode: str,
    listener: int,
    target: bytes,
    host: bytes,
    goes_to: int,
) -> None:
    """By an absolute target it is upgraded to the upstream's own URL."""
    async with (
        Far() as other,
        two_upstreams(sandbox, scan, far, other, mode, tmp_path) as app,
        client(app, listener) as near,
    ):
        near.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))
        meant = (far, other)[goes_to]
        up = await meant.wire()
        path = (b"/x", b"/prefix/x")[goes_to]
        assert await up.request() == (
            b"GET %b HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer *\r\n\r\n"
            % (path, meant.authority.encode())
        )
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
    assert far.accepted + other.accepted == 1


# The end


async def test_draining_closes_idle_connections_and_takes_no_new_ones(app: App, far: Far) -> None:
    async with client(app) as fresh, client(app) as used:
        used.send(GET)
        up = await far.wire()
        await up.head()
        up.send(OK)
        await used.answer()
        await app.finish()
        assert await fresh.rest() == b""
        assert await used.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(app.addresses[0])


@pytest.mark.parametrize("begun", [False, True])
async def test_request_in_flight_is_finished_while_draining_and_its_connection_closed(
    app: App, far: Far, *, begun: bool
) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        if begun:
            up.send(chunked)
            assert await near.head() == chunked
        finishing = asyncio.create_task(app.finish())
        await until(lambda: app.status().draining)
        assert not finishing.done()
        if begun:
            up.send(b"1\r\na\r\n0\r\n\r\n")
            assert await near.rest() == b"1\r\na\r\n0\r\n\r\n"
        else:
            up.send(OK)
            answer = await near.rest()
            assert answer.endswith(b"\r\nConnection: close\r\n\r\nok")
        await finishing
        assert app.active == 0


@pytest.mark.both_loops
@pytest.mark.parametrize("turns", range(5))
async def test_request_that_comes_as_draining_begins_is_answered_or_not_sent_upstream(
    app: App, far: Far, turns: int
) -> None:
    """Between its head and its handler there are turns of the loop in which it must not be lost."""
    sent = 0

    async def serve(wire: Wire) -> None:
        nonlocal sent
        while await wire.head():
            sent += 1
            wire.send(OK)

    async with served(far, serve), client(app) as near:
        near.send(GET)
        await near.answer()
        near.send(GET)
        for _ in range(turns):
            await asyncio.sleep(0)
        ending = asyncio.create_task(app.finish())
        answers, _ = await near.everything()
        assert answers.count(b"HTTP/1.1 200 OK") == sent - 1
        await ending


async def test_request_that_does_not_end_is_cut_off_when_draining_takes_too_long(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan, shutdown={"drain": 0.05}) as app, client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await near.until(b"abc")
        await app.finish()
        assert app.active == 1
        async with asyncio.timeout(2.0):
            await app.__aexit__(None, None, None)
        assert not await near.ended()
    assert '"requests_cut_off": 1' in scan.output.getvalue()
