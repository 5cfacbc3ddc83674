"""Where clients connect: what the parser refuses, sockets, idle connections, and the end."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import KEY, SecretScan, exchange, running, until
from proxy.app import App
from proxy.config import Address
from proxy.sandbox import Sandbox
from proxy.traffic.binding import BindError
from wire import GET, OK, Far, Wire, between, client, connect, problem_of

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


# What the parser refuses

MALFORMED = {
    "length and coding": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "one length twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "length with a plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "length with a minus": POST + b"Content-Length: -3\r\n\r\nabc",
    "length with an underscore": POST + b"Content-Length: 3_0\r\n\r\nabc",
    "length in hex": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "empty length": POST + b"Content-Length:\r\n\r\nabc",
    "length beyond all numbers": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked before another": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "coding behind a control byte": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded line": POST + b"X: a\r\n b\r\n\r\n",
    "line ends without CR": b"GET / HTTP/1.1\nHost: a\n\n",
    "one line end without CR": POST + b"X: a\nY: b\r\n\r\n",
    "last line end without CR": POST + b"X: a\r\n\n",
    "CR alone": POST + b"X: a\rY: b\r\n\r\n",
    "NUL": POST + b"X: a\0b\r\n\r\n",
    "control byte": POST + b"X: a\x01b\r\n\r\n",
    "DEL": POST + b"X: a\x7fb\r\n\r\n",
    "control byte in a name": POST + b"X\x01: a\r\n\r\n",
    "name outside ASCII": POST + b"X\xe9: a\r\n\r\n",
    "empty name": POST + b": a\r\n\r\n",
    "no colon": POST + b"X\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size without CR": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk extension without CR": CHUNKED + b"3;\nabc\r\n0\r\n\r\n",
    "chunk size of 17 digits": CHUNKED + b"1" * 17 + b"\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk end without CR": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "one Host twice": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "unknown method": b"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method in lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "target outside ASCII": b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target with a space": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "star of a GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "port beyond all ports": b"GET http://a:99999/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "open bracket": b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "version 1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "garbage behind a request": GET + b"\0\0\0\0",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_request_is_refused_and_its_connection_closed(
    app: App, far: Far, request_: bytes
) -> None:
    async with client(app) as near:
        near.send(request_)
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "malformed_request"
        assert b"\r\nConnection: close\r\n" in head
        assert await near.rest() == b""
    async with client(app) as near:
        near.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await (await far.wire()).head()).startswith(b"GET /first ")


async def test_malformed_request_is_counted_and_its_bytes_are_not_logged(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan, log={"access": True}) as app:
        await exchange(app, b"GET / HTTP/1.1\r\nAuthorization: " + KEY.encode() + b"\0\r\n\r\n")
    assert '"code": "malformed_request"' in scan.output.getvalue()


@pytest.mark.parametrize("more", [b"x", b"x" * 100_000], ids=["a byte", "a lot"])
async def test_client_that_goes_on_sending_can_read_why_its_request_was_refused(
    app: App, more: bytes
) -> None:
    """Were the connection closed at once, the client's kernel would throw the answer away."""
    async with client(app) as near:
        await near.send_in_pieces([GET.replace(b"Host", b"H ost"), more, more])
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "malformed_request"
        assert await near.rest() == b""


async def test_client_that_goes_on_sending_can_read_an_answer_that_ends_its_connection(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        near.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        up = await far.wire()
        await up.head()
        up.send(OK)
        await near.until(b"\r\n\r\n")
        await near.send_in_pieces([GET, GET])
        assert await near.rest() == b"ok"
    assert far.accepted == 1


async def test_client_that_is_told_to_leave_and_stays_is_cut_off(app: App) -> None:
    async with client(app) as near:
        near.send(b"garbage\r\n\r\n")
        await near.rest()
        await until(lambda: app.occupancy.connections == 0)


TRAILED = CHUNKED + b"3\r\nabc\r\n0\r\nX-A: 1\r\nX-Trailer: 2\r\n\r\n"


async def test_trailer_of_a_request_never_gets_into_the_head_of_the_next_one(
    app: App, far: Far
) -> None:
    """The parser remembers it until the next head; between proxies that is another client's."""
    up: Wire | None = None
    async with client(app) as near:
        for _ in range(3):
            near.send(TRAILED)
            up = up or await far.wire()
            await up.head()
            assert await up.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
            up.send(OK)
            await near.answer()
            near.send(GET)
            assert await up.request() == (
                b"GET / HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer *\r\n\r\n"
                % far.authority.encode()
            )
            up.send(OK)
            await near.answer()
    assert far.accepted == 1


@pytest.mark.parametrize("behind", [GET, GET[:9], TRAILED])
@pytest.mark.parametrize("pieces", [1, 2])
async def test_what_comes_with_the_end_of_a_chunked_body_is_not_served(
    app: App, far: Far, behind: bytes, pieces: int
) -> None:
    start = len(TRAILED) - 4 if pieces == 2 else 0
    async with client(app) as near:
        await near.send_in_pieces(filter(None, [TRAILED[:start], TRAILED[start:] + behind]))
        up = await far.wire()
        await up.head()
        up.send(OK)
        assert (await near.rest()).endswith(b"\r\n\r\nok")
        assert await up.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
        far.close()
        assert await up.rest() == b""
    assert far.accepted == 1


async def test_chunked_request_behind_another_one_is_not_served_with_it(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET + TRAILED)
        up = await far.wire()
        await up.head()
        up.send(OK)
        assert (await near.rest()).endswith(b"\r\n\r\nok")
    assert far.accepted == 1


@pytest.mark.parametrize("pieces", [1, 2])
async def test_what_comes_with_an_offer_of_h2c_is_not_served_and_its_connection_ends(
    app: App, far: Far, pieces: int
) -> None:
    """The parser drops the rest of what it was given, and would go on in the middle of nowhere."""
    offer = b"GET /offer HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    start = len(offer) - 2 if pieces == 2 else 0
    async with client(app) as near:
        await near.send_in_pieces(filter(None, [offer[:start], offer[start:] + GET, GET]))
        up = await far.wire()
        assert (await up.head()).startswith(b"GET /offer ")
        up.send(OK)
        assert (await near.rest()).endswith(b"\r\n\r\nok")
        far.close()
        assert await up.rest() == b""
    assert far.accepted == 1


async def test_body_of_a_request_that_offers_h2c_goes_up_whole(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
            b"Content-Length: 3\r\n\r\nabc"
        )
        up = await far.wire()
        await up.head()
        assert await up.exactly(3) == b"abc"
        up.send(OK)
        assert (await near.rest()).endswith(b"\r\n\r\nok")


LIMITS = {"header_bytes": 4096, "header_count": 10, "target_bytes": 1024}


@pytest.fixture
async def strict(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan, limits=LIMITS) as app:
        yield app


def with_fields(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(lines) + b"\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /" + b"x" * 1024 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (b"GET /" + b"x" * 99999 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (with_fields(b"A: b\r\n" * 10), 431, "headers_too_large"),
        (with_fields(b"A: b\r\n" * 9999), 431, "headers_too_large"),
        (with_fields(b"A: " + b"b" * 4097 + b"\r\n"), 431, "headers_too_large"),
        (with_fields(b"A" * 4097 + b": b\r\n"), 431, "headers_too_large"),
        (with_fields((b"A: " + b"b" * 1024 + b"\r\n") * 4), 431, "headers_too_large"),
        (with_fields(b"A: " + b"b" * 999999), 431, "headers_too_large"),
    ],
)
async def test_request_over_a_limit_gets_the_status_that_says_which(
    strict: App, far: Far, request_: bytes, status: int, code: str
) -> None:
    async with client(strict) as near:
        near.send(request_)
        problem = problem_of(*await near.answer())
        assert (problem["status"], problem["code"]) == (status, code)
    assert far.accepted == 0


async def test_request_at_every_limit_passes(strict: App, far: Far) -> None:
    target = b"/" + b"x" * 1023
    fields = [b"A%d: " % n + b"b" * 400 + b"\r\n" for n in range(9)]
    async with client(strict) as near:
        near.send(with_fields(*fields).replace(b"GET / ", b"GET %b " % target))
        head = await (await far.wire()).head()
    assert target in head
    assert all(field in head for field in fields)


@pytest.mark.parametrize(("header_bytes", "target_bytes"), [(2048, 2048), (1024, 2048)])
async def test_limits_are_told_apart_even_when_they_are_equal_or_crossed(
    far: Far, sandbox: Sandbox, scan: SecretScan, header_bytes: int, target_bytes: int
) -> None:
    limits = {"header_bytes": header_bytes, "target_bytes": target_bytes}
    async with between(far, sandbox, scan, limits=limits) as app:
        for request_, status in [
            (b"GET /" + b"x" * 2048 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
            (with_fields(b"A: " + b"b" * 2049 + b"\r\n"), 431),
        ]:
            async with client(app) as near:
                near.send(request_)
                assert problem_of(*await near.answer())["status"] == status


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


# Clients that do nothing


@pytest.fixture
async def impatient(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan, limits={"client_idle_timeout": 0.05}) as app:
        yield app


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_connection_without_a_whole_head_is_closed_after_its_time(
    impatient: App, start: bytes
) -> None:
    async with client(impatient) as near:
        near.send(start)
        assert await near.rest() == b""


async def test_connection_without_another_request_is_closed_after_its_time(
    impatient: App, far: Far
) -> None:
    async with client(impatient) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(OK)
        await near.answer()
        assert await near.rest() == b""


async def test_client_that_waits_for_a_slow_answer_is_not_idle(impatient: App, far: Far) -> None:
    async with client(impatient) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await near.some()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_client_that_takes_nothing_of_its_answer_is_let_go(impatient: App, far: Far) -> None:
    async with client(impatient) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 50_000_000)
        await up.ended()
        await until(lambda: impatient.active == 0)
        assert not await near.ended()


async def test_client_that_leaves_behind_many_requests_is_noticed(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET * 2000)  # more than are taken in ahead, so reading stops
        up = await far.wire()
        await up.head()
        await near.drained()
        near.close()
        await up.ended()
        await until(lambda: app.active == 0)


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
