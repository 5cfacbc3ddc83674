"""Where clients' TLS ends, behind a CONNECT and on a tls listener; byte by byte if it matters."""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import frames
from conformance.doors import trust
from harness import SecretScan, get, nothing_left, until, until_ready
from proxy.app import App
from proxy.config import Address
from proxy.errors import HandshakeFailed
from proxy.traffic.opening import HANDSHAKE_SECONDS
from proxy.traffic.tls import Terminator, bare_context
from tls_client import TlsClient
from wire import ESTABLISHED, GET, OK, Far, Start, Wire, client, connect, fields_of, refused

CONNECT = b"CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n"
ALERT, FATAL = 0x15, 2
PROTOCOL_VERSION, UNRECOGNIZED_NAME = 70, 112


def alert(description: int) -> bytes:
    """An alert before there is any encryption (RFC 8446, section 6)."""
    return bytes((ALERT, 3, 3, 0, 2, FATAL, description))


def get_from(host: str, target: str = "/") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@pytest.fixture(params=["forward", "tls"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def app(start: Start, mode: str) -> AsyncIterator[App]:
    """A proxy to which clients speak TLS, behind a CONNECT or at once."""
    async with start(listener={"mode": mode}, log={"access": True}) as app:
        yield app


@pytest.fixture
def context(ca_folder: Path, app: App) -> ssl.SSLContext:  # noqa: ARG001 - it makes the CA
    """A client that trusts the local CA."""
    return trust(ca_folder)


@pytest.fixture
def careless() -> ssl.SSLContext:
    """A client that believes any server to be any host."""
    return believing_all()


def believing_all() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


CARELESS, BARE = believing_all(), bare_context()
TERMINATOR = Terminator(lambda _: BARE)


@contextlib.asynccontextmanager
async def entering(app: App, mode: str) -> AsyncIterator[Wire]:
    """A connection on which TLS may begin."""
    async with client(app) as near:
        if mode == "forward":
            near.send(CONNECT)
            assert await near.head() == ESTABLISHED
        yield near


async def is_served(near: Wire, far: Far, request: bytes = GET) -> bytes:
    """Have a request served; return its head as it went upstream."""
    near.send(request)
    up = await far.wire()
    head = await up.request()
    up.send(OK)
    assert (await near.answer())[1] == b"ok"
    return head


async def errors(app: App) -> dict[str, float]:
    """Return how often which error has been counted."""
    _, _, metrics = await get(f"http://{app.admin_address}/metrics")
    counted = re.findall(rb'\nmobula_proxy_errors_total\{code="(.*)"\} (.*)', metrics)
    return {code.decode(): float(count) for code, count in counted}


def certified(near: Wire) -> object:
    """Return the names for which the certificate is good that a client was shown."""
    return (near.tls.getpeercert() or {})["subjectAltName"]


# The handshake


@pytest.mark.both_loops
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_that_trusts_the_local_ca_meets_the_upstream_by_its_name(
    app: App, mode: str, far: Far, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    context.minimum_version = context.maximum_version = version
    async with entering(app, mode) as near:
        await near.start_tls(context, "far.test")
        head = await is_served(near, far, get_from("far.test"))
        assert fields_of(head)["host"] == far.authority


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
async def test_only_http_1_1_is_agreed_on(
    app: App, mode: str, far: Far, context: ssl.SSLContext, offered: list[str], agreed: str | None
) -> None:
    context.set_alpn_protocols(offered)
    async with entering(app, mode) as near:
        await near.start_tls(context, "far.test")
        assert near.tls.selected_alpn_protocol() == agreed
        await is_served(near, far, get_from("far.test"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_1_1_is_refused_in_its_own_words(
    app: App, mode: str, careless: ssl.SSLContext
) -> None:
    careless.minimum_version = careless.maximum_version = ssl.TLSVersion.TLSv1_1
    careless.set_ciphers("ALL:@SECLEVEL=0")
    async with entering(app, mode) as near:
        near.send(TlsClient(careless, "far.test").hello())
        answer, orderly = await near.everything()
        assert (answer[5:], orderly) == (alert(PROTOCOL_VERSION)[5:], True)
    assert await errors(app) == {"tls_handshake_failed": 1}


@pytest.mark.both_loops
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_hello_may_come_in_any_pieces(
    app: App, mode: str, far: Far, context: ssl.SSLContext, size: int
) -> None:
    tls = TlsClient(context, "far.test")
    data = (CONNECT if mode == "forward" else b"") + tls.hello()
    async with client(app) as near:
        await near.send_in_pieces(data[i : i + size] for i in range(0, len(data), size))
        if mode == "forward":
            assert await near.head() == ESTABLISHED
        near.send(await tls.finish(near) + tls.say(get_from("far.test")))
        await (await far.wire()).request()


@pytest.mark.both_loops
@pytest.mark.parametrize("turns", range(4))
async def test_requests_that_come_as_the_handshake_ends_are_not_lost(
    app: App, mode: str, far: Far, context: ssl.SSLContext, turns: int
) -> None:
    tls = TlsClient(context, "far.test")
    async with entering(app, mode) as near:
        near.send(tls.hello())
        near.send(await tls.finish(near) + tls.say(get_from("far.test", "/1") + b"GET "))
        for _ in range(turns):
            await asyncio.sleep(0)
        near.send(tls.say(b"/2 HTTP/1.1\r\nHost: far.test\r\n\r\n"))
        up = await far.wire()
        assert (await up.request()).startswith(b"GET /1 ")
        up.send(OK)
        assert (await tls.hear(near)).endswith(b"ok")
        assert (await up.request()).startswith(b"GET /2 ")


class Busy(asyncio.Protocol):
    """Takes all the time that there is, for a while."""

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - asyncio's hook
        end = time.monotonic() + 0.01
        while time.monotonic() < end:
            pass


@pytest.mark.both_loops
async def test_requests_that_come_as_the_handshake_ends_are_not_late_when_the_proxy_is_busy(
    start: Start, mode: str, far: Far, ca_folder: Path
) -> None:
    """And nothing is answered outside of TLS, which the client would not understand."""
    limits = {"header_timeout": "1ms"}
    server = await asyncio.get_running_loop().create_server(Busy, "127.0.0.1", 0)
    async with (
        server,
        start(listener={"mode": mode}, limits=limits) as app,
        entering(app, mode) as near,
    ):
        busy = await connect(Address(*server.sockets[0].getsockname()))
        tls = TlsClient(trust(ca_folder), "far.test")
        near.send(tls.hello())
        near.send(await tls.finish(near) + tls.say(get_from("far.test")))
        busy.send(b"now")
        up = await far.wire()
        await up.request()
        up.send(OK)
        assert (await tls.hear(near)).endswith(b"ok")
        busy.close()


# Which host it is for


async def test_client_that_asks_for_no_name_gets_the_host_of_its_connect_or_of_the_listener(
    app: App, mode: str, far: Far, context: ssl.SSLContext
) -> None:
    context.check_hostname = False
    async with entering(app, mode) as near:
        await near.start_tls(context, None)
        assert certified(near) == (("DNS", "far.test"),)
        await is_served(near, far, get_from("far.test"))


async def test_name_is_told_in_any_case(
    app: App, mode: str, far: Far, context: ssl.SSLContext
) -> None:
    async with entering(app, mode) as near:
        await near.start_tls(context, "FAR.test")
        await is_served(near, far, get_from("far.TEST"))


@pytest.mark.both_loops
async def test_client_is_told_that_it_asks_for_a_name_that_is_no_upstreams(
    start: Start, scan: SecretScan, careless: ssl.SSLContext
) -> None:
    async with start(listener={"mode": "tls"}) as app, client(app) as near:
        near.send(TlsClient(careless, "other.test").hello())
        assert await near.everything() == (alert(UNRECOGNIZED_NAME), True)
        assert await errors(app) == {"server_name_unknown": 1}
        await until(lambda: app.occupancy.connections == 0)
    (warning,) = scan.logged("a client asks for TLS with a name that is no upstream's")
    assert warning["level"] == "warning"


async def test_tls_listener_serves_each_upstream_by_its_name(
    start: Start, far: Far, ca_folder: Path
) -> None:
    async with (
        Far() as other,
        start(
            listener={"mode": "tls"}, upstreams={"other.test": {"url": f"http://{other.authority}"}}
        ) as app,
    ):
        for name, meant in [("other.test", other), ("far.test", far)]:
            async with client(app) as near:
                await near.start_tls(trust(ca_folder), name)
                await is_served(near, meant, get_from(name))
                near.send(get_from("far.test" if meant is other else "other.test"))
                assert await refused(near) == (421, "misdirected_request")
                assert await near.ended()


async def test_client_whose_server_name_is_not_that_of_its_connect_is_misdirected(
    start: Start, far: Far, careless: ssl.SSLContext
) -> None:
    upstreams = {"other.test": {"url": f"http://{far.authority}"}}
    for name in ("other.test", "nowhere.test"):
        async with start(upstreams=upstreams) as app, entering(app, "forward") as near:
            await near.start_tls(careless, name)
            near.send(get_from("far.test") + get_from(name))
            assert await refused(near) == (421, "misdirected_request")
            assert await near.ended()
    assert far.accepted == 0


async def test_server_name_of_one_client_is_not_that_of_another(
    start: Start, far: Far, careless: ssl.SSLContext
) -> None:
    """Two listeners show the same certificate, and one handshake takes place within the other."""
    listeners = [{"bind": "127.0.0.1:0", "mode": "forward"}] * 2
    async with (
        start(listeners=listeners) as app,
        entering(app, "forward") as near,
        client(app, 1) as other,
    ):
        hello = (tls := TlsClient(careless, "nowhere.test")).hello()
        near.send(hello[:20])
        other.send(CONNECT)
        assert await other.head() == ESTABLISHED
        await other.start_tls(careless, "far.test")
        near.send(hello[20:])
        near.send(await tls.finish(near) + tls.say(get_from("far.test")))
        assert b" 421 " in await tls.hear(near)
        await is_served(other, far, get_from("far.test"))


@pytest.mark.parametrize(
    "request_line",
    [b"GET / HTTP/1.1\r\nHost: other.test", b"GET https://other.test/ HTTP/1.1\r\nHost: far.test"],
    ids=["Host", "absolute target"],
)
async def test_request_for_another_host_than_its_connections_is_misdirected(
    app: App, mode: str, far: Far, way_out: Far, context: ssl.SSLContext, request_line: bytes
) -> None:
    async with entering(app, mode) as near:
        await near.start_tls(context, "far.test")
        near.send(request_line + b"\r\n\r\n" + get_from("far.test"))
        assert await refused(near) == (421, "misdirected_request")
        assert await near.ended()
    assert far.accepted == way_out.accepted == 0


# What runs inside


@pytest.mark.both_loops
async def test_refusal_is_read_by_a_client_that_goes_on_sending(
    app: App, mode: str, far: Far, context: ssl.SSLContext
) -> None:
    async with entering(app, mode) as near:
        await near.start_tls(context, "far.test")
        near.send(b"CONNECT other.test:443 HTTP/1.1\r\nHost: a\r\n\r\n" + b"x" * 300_000)
        assert await refused(near) == (405, "method_denied")
        assert await near.ended()
    assert far.accepted == 0


async def test_refusal_that_leaves_the_connection_open_is_followed_by_an_answer(
    app: App, mode: str, far: Far, context: ssl.SSLContext
) -> None:
    async with entering(app, mode) as near:
        await near.start_tls(context, "far.test")
        near.send(get_from("far.test", "/api/2/auth/tokens"))
        assert await refused(near) == (403, "auth_path_denied")
        await is_served(near, far, get_from("far.test"))


async def test_websocket_runs_inside(
    app: App, mode: str, far: Far, context: ssl.SSLContext
) -> None:
    async with entering(app, mode) as near:
        await near.start_tls(context, "far.test")
        near.send(frames.HANDSHAKE.replace(b"Host: a", b"Host: far.test"))
        up = await far.wire()
        up.send(frames.switching(await up.request()))
        assert (await near.head()).startswith(b"HTTP/1.1 101 ")
        near.send(frames.from_client(frames.TEXT, b"up"))
        assert (await frames.receive(up)).data == b"up"
        up.send(frames.frame(frames.TEXT, b"down"))
        assert (await frames.receive(near)).data == b"down"


@pytest.mark.parametrize("pieces", [1, 1000])
async def test_connect_to_port_80_of_an_upstream_is_for_plain_http(
    start: Start, far: Far, pieces: int
) -> None:
    connect = b"CONNECT far.test:80 HTTP/1.1\r\nHost: far.test:80\r\n\r\n"
    data = connect + get_from("far.test") + get_from("other.test")
    async with start() as app, client(app) as near:
        await near.send_in_pieces(data[i : i + pieces] for i in range(0, len(data), pieces))
        assert await near.head() == ESTABLISHED
        up = await far.wire()
        await up.request()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
        assert await refused(near) == (421, "misdirected_request")
        assert await near.ended()


async def test_plain_http_to_a_tls_listener_is_told_to_use_tls(start: Start, far: Far) -> None:
    async with start(listener={"mode": "tls"}) as app, client(app) as near:
        near.send(GET + GET)
        assert await refused(near) == (400, "tls_required")
        assert await near.everything() == (b"", True)
    assert far.accepted == 0


# Handshakes that come to nothing


@pytest.mark.both_loops
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_that_does_not_trust_the_local_ca_is_warned_of(
    app: App, mode: str, scan: SecretScan, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = version
    tls = TlsClient(context, "far.test")
    async with entering(app, mode) as near:
        near.send(tls.hello())
        with pytest.raises(ssl.SSLCertVerificationError):
            await tls.finish(near)
        near.send(tls.to_say)
        await near.everything()
        assert await errors(app) == {"ca_not_trusted": 1}
    (warning,) = scan.logged(
        "a client does not trust the local CA: have it trust the file that "
        "`mobula-proxy ca path` names"
    )
    assert (warning["level"], warning["upstream"]) == ("warning", "far.test")


@pytest.mark.both_loops
@pytest.mark.parametrize("end", [Wire.close, Wire.reset], ids=["closes", "resets"])
@pytest.mark.parametrize("sent", [1, 50, None])
async def test_client_that_breaks_the_handshake_off_is_counted(
    app: App,
    mode: str,
    scan: SecretScan,
    careless: ssl.SSLContext,
    end: Callable[[Wire], None],
    sent: int | None,
) -> None:
    await until_ready(app)
    async with nothing_left(), entering(app, mode) as near:
        near.send(TlsClient(careless, "far.test").hello()[:sent])
        if sent is None:
            await near.some()
        end(near)
        await until(lambda: app.occupancy.connections == 0)
    assert '"level": "error"' not in scan.output.getvalue()
    assert await errors(app) == {"tls_handshake_failed": 1}


@pytest.mark.virtual_time
@pytest.mark.parametrize("sent", [1, 50, None])
async def test_client_that_takes_too_long_for_the_handshake_is_let_go_and_counted(
    app: App, mode: str, careless: ssl.SSLContext, sent: int | None
) -> None:
    loop = asyncio.get_running_loop()
    async with entering(app, mode) as near:
        began = loop.time()
        near.send(TlsClient(careless, "far.test").hello()[:sent])
        while await near.some(patience=None):
            """Whatever it says before it gives up."""
        assert loop.time() - began == pytest.approx(HANDSHAKE_SECONDS, abs=0.5)
    assert await errors(app) == {"tls_handshake_failed": 1}


@pytest.mark.both_loops
async def test_proxy_that_ends_within_a_handshake_leaves_nothing(
    start: Start, scan: SecretScan, careless: ssl.SSLContext
) -> None:
    async with nothing_left(), start(listener={"mode": "tls"}) as app, client(app) as near:
        near.send(TlsClient(careless, "far.test").hello())
        await near.some()
    assert app.occupancy.connections == 0
    assert '"level": "error"' not in scan.output.getvalue()


@pytest.mark.virtual_time
async def test_client_that_says_nothing_behind_its_connect_is_let_go(start: Start) -> None:
    async with start() as app, entering(app, "forward") as near:
        assert await near.some(patience=None) == b""
        await until(lambda: app.occupancy.connections == 0)


# The hello


@given(name=st.from_regex(r"[a-z]{1,30}(\.[a-zA-Z]{1,30}){0,3}", fullmatch=True), data=st.data())
def test_name_is_read_of_a_hello_that_comes_in_any_pieces(name: str, data: st.DataObject) -> None:
    said = TlsClient(CARELESS, name).hello()
    hello = TERMINATOR.hello()
    for end in sorted(data.draw(st.lists(st.integers(0, len(said) - 1), max_size=5))):
        assert not hello.read(said[:end])
    assert hello.read(said)
    assert hello.name == name.lower()


@given(data=st.data())
def test_hello_that_is_damaged_is_read_or_refused(data: st.DataObject) -> None:
    said = bytearray(TlsClient(CARELESS, "far.test").hello())
    at = data.draw(st.integers(0, len(said) - 1))
    said[at] = data.draw(st.integers(0, 255))
    hello = TERMINATOR.hello()
    with contextlib.suppress(HandshakeFailed):
        hello.read(bytes(said))


def test_hello_that_would_be_longer_than_any_is_refused_before_it_has_come() -> None:
    with pytest.raises(HandshakeFailed):
        TERMINATOR.hello().read(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16_380))


def test_name_that_is_not_ascii_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = TlsClient(CARELESS, "far.test").hello()
    hello = TERMINATOR.hello()
    with pytest.raises(HandshakeFailed):
        hello.read(said.replace(b"far.test", b"f\xe4r.test"))
    assert hello.name is None
    assert capsys.readouterr().err == ""
