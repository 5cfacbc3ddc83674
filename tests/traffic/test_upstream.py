"""The pool of one upstream, against real servers on this machine."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.config import UpstreamSettings
from proxy.errors import (
    AddressDenied,
    UpstreamBusy,
    UpstreamClosed,
    UpstreamLoop,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.network.dialer import Dialer
from proxy.network.guard import Guard
from proxy.traffic.connection import Connection
from proxy.traffic.upstream import Upstream, UpstreamSnapshot

pytestmark = pytest.mark.both_loops

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


class Server:
    """Answers every request with `answer`; `close_after` closes the connection behind it."""

    def __init__(self) -> None:
        self.answer = HELLO
        self.close_after = False
        self.accepted = 0
        self.ended = asyncio.Event()
        self.streams: list[asyncio.StreamWriter] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.streams:
            # Until Python 3.11.4 asyncio's TLS could not abort what the other end had closed.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.streams.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(self.answer)
                if self.close_after:
                    break
        writer.close()
        self.ended.set()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


Make = Callable[..., Upstream]


@pytest.fixture
async def make(server: Server) -> AsyncIterator[Make]:
    made: list[Upstream] = []

    def make(
        url: str = "", *, dialer: Dialer | None = None, guard: Guard | None = None, **settings: Any
    ) -> Upstream:
        url = url or f"http://127.0.0.1:{server.port}"
        each = UpstreamSettings(url=url, **settings)
        made.append(Upstream("api", each, dialer or Dialer(), guard=guard))
        return made[-1]

    yield make
    for upstream in made:
        await upstream.close()


async def exchange(conn: Connection) -> bytes:
    """Send a request and return the body of the answer."""
    conn.begin(GET, head_only=False, complete=True)
    await conn.head()
    parts = []
    while part := await conn.read():
        parts.append(part)
    return b"".join(parts)


def counts(*, idle: int, busy: int, dialing: int, waiting: int) -> UpstreamSnapshot:
    return UpstreamSnapshot(name="api", idle=idle, busy=busy, dialing=dialing, waiting=waiting)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the pool has no event for its insides
            await asyncio.sleep(0.001)


@contextlib.contextmanager
def silent_port() -> Any:
    """A port that accepts connections in the kernel, where nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


# Names


@pytest.mark.parametrize(
    ("url", "authority", "prefix"),
    [
        ("http://127.0.0.1", b"127.0.0.1", b""),
        ("http://127.0.0.1:80/", b"127.0.0.1", b""),
        ("https://API.mobula.io:443/a/b/", b"api.mobula.io", b"/a/b"),
        ("https://api.mobula.io:80", b"api.mobula.io:80", b""),
        ("https://[::1]", b"[::1]", b""),
        ("https://[::1]:8443/x", b"[::1]:8443", b"/x"),
    ],
)
def test_authority_and_prefix_follow_from_the_url(
    url: str, authority: bytes, prefix: bytes
) -> None:
    upstream = Upstream("api", UpstreamSettings(url=url), Dialer())
    assert (upstream.authority, upstream.prefix) == (authority, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "a",
        "https://",
        "https://u:p@a",
        "https://a?b",
        "https://a#b",
        "https://a b",
        "https://a:99999",
        "https://a:0",
        "https://\xe9",
    ],
)
def test_url_that_is_no_upstream_is_refused_with_its_key(url: str) -> None:
    settings = UpstreamSettings(url=url)
    with pytest.raises(ValueError, match=r"upstreams\.api\.url"):
        Upstream("api", settings, Dialer())


def test_ca_file_without_certificates_is_refused_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    for text in [None, "nonsense"]:
        if text:
            path.write_text(text)
        settings = UpstreamSettings(url="https://a", ca_file=str(path))
        with pytest.raises(ValueError, match=r"upstreams\.api\.ca_file"):
            Upstream("api", settings, Dialer())


# Reuse


async def test_connection_is_used_again(make: Make, server: Server) -> None:
    upstream = make()
    for number in range(3):
        conn = await upstream.acquire()
        assert await exchange(conn) == b"hello"
        assert conn.reused is (number > 0)
        upstream.release(conn)
    assert server.accepted == 1
    assert repr(upstream) == "<Upstream api 0 busy, 1 idle, 0 dialing, 0 waiting>"


async def test_connection_used_last_is_taken_first(make: Make) -> None:
    upstream = make()
    first, second = await upstream.acquire(), await upstream.acquire()
    upstream.release(second)
    upstream.release(first)
    assert await upstream.acquire() is first
    assert await upstream.acquire() is second


async def test_unused_connection_is_returned_as_it_was(make: Make, server: Server) -> None:
    upstream = make()
    conn = await upstream.acquire()
    upstream.release(conn)
    expires = conn.expires
    assert await upstream.acquire() is conn
    assert not conn.reused
    await asyncio.sleep(0.01)
    upstream.release(conn)
    assert conn.expires == expires
    assert server.accepted == 1


@pytest.mark.parametrize("connections", [2, 3])
async def test_fresh_connection_is_dialed_though_others_idle(make: Make, connections: int) -> None:
    upstream = make(connections=connections)
    idle = [await upstream.acquire(), await upstream.acquire()]
    for conn in idle:
        upstream.release(conn)
    assert await upstream.acquire(fresh=True) not in idle
    assert upstream.snapshot() == counts(idle=connections - 1, busy=1, dialing=0, waiting=0)
    assert await upstream.acquire() is idle[1]


async def test_second_release_does_nothing(make: Make) -> None:
    upstream = make()
    conn = await upstream.acquire()
    upstream.release(conn)
    upstream.release(conn)
    assert await upstream.acquire() is conn
    other = await upstream.acquire()
    assert other is not conn


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Length: 0\r\n\r\nstray",
        OK + b"Keep-Alive: timeout=1, max=5\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_connection_that_may_not_live_on_is_closed(
    make: Make, server: Server, answer: bytes
) -> None:
    server.answer = answer
    upstream = make()
    conn = await upstream.acquire()
    await exchange(conn)
    upstream.release(conn)
    await server.ended.wait()
    assert upstream.snapshot() == counts(idle=0, busy=0, dialing=0, waiting=0)


async def test_connection_released_in_mid_exchange_is_closed(make: Make, server: Server) -> None:
    server.answer = OK + b"Content-Length: 9\r\n\r\nhello"
    upstream = make()
    conn = await upstream.acquire()
    conn.begin(GET, head_only=False, complete=True)
    await conn.head()
    upstream.release(conn)
    await server.ended.wait()
    assert upstream.snapshot().idle == 0


async def test_connection_cancelled_in_drain_is_closed(make: Make) -> None:
    with silent_port() as listener:
        upstream = make(f"http://127.0.0.1:{listener.getsockname()[1]}")
        conn = await upstream.acquire()
        conn.begin(GET, head_only=False, complete=False)
        while not conn.writing_paused:
            conn.write(bytes(1 << 20))
            await asyncio.sleep(0)
        drain = asyncio.ensure_future(conn.drain())
        await asyncio.sleep(0)
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drain
        upstream.release(conn)
        assert repr(conn) == "<Connection closed>"


async def test_idle_connection_leaves_the_pool_when_the_upstream_closes_it(
    make: Make, server: Server
) -> None:
    server.close_after = True
    upstream = make()
    conn = await upstream.acquire()
    await exchange(conn)
    upstream.release(conn)
    await until(lambda: upstream.snapshot().idle == 0)


async def test_idle_connection_that_the_upstream_talks_on_leaves_the_pool(
    make: Make, server: Server
) -> None:
    upstream = make()
    upstream.release(await upstream.acquire())
    await until(lambda: server.accepted == 1)
    server.streams[0].write(HELLO)
    await until(lambda: upstream.snapshot().idle == 0)


async def test_end_that_the_loop_has_not_seen_yet_is_seen_by_acquire(make: Make) -> None:
    with silent_port() as listener:
        upstream = make(f"http://127.0.0.1:{listener.getsockname()[1]}")
        conn = await upstream.acquire()
        upstream.release(conn)
        peer, _ = listener.accept()
        peer.close()
        assert await upstream.acquire() is not conn


async def test_unused_connection_is_closed_after_keepalive(make: Make, server: Server) -> None:
    upstream = make(keepalive=0.05)
    conn = await upstream.acquire()
    await exchange(conn)
    upstream.release(conn)
    await server.ended.wait()
    assert upstream.snapshot().idle == 0


async def test_keepalive_of_the_upstream_shortens_ours(make: Make, server: Server) -> None:
    server.answer = OK + b"Keep-Alive: timeout=4\r\nContent-Length: 0\r\n\r\n"
    upstream = make(keepalive=60)
    conn = await upstream.acquire()
    await exchange(conn)
    upstream.release(conn)
    assert conn.expires is not None
    assert conn.expires - asyncio.get_running_loop().time() == pytest.approx(3, abs=0.5)


async def test_connection_past_its_age_is_closed_when_released(make: Make, server: Server) -> None:
    upstream = make(max_age=0.05)
    conn = await upstream.acquire()
    await asyncio.sleep(0.06)
    await exchange(conn)
    upstream.release(conn)
    await server.ended.wait()
    assert upstream.snapshot().idle == 0


# The line


async def test_released_connection_goes_to_whoever_waited_longest(
    make: Make, server: Server
) -> None:
    upstream = make(connections=1)
    conn = await upstream.acquire()
    first = asyncio.ensure_future(upstream.acquire())
    second = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    assert upstream.snapshot().waiting == 2
    await exchange(conn)
    upstream.release(conn)
    assert await first is conn
    assert not second.done()
    upstream.release(conn)
    assert await second is conn
    assert server.accepted == 1


async def test_place_of_a_broken_connection_goes_to_the_next_in_line(
    make: Make, server: Server
) -> None:
    upstream = make(connections=1)
    conn = await upstream.acquire()
    waiting = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    conn.abort()
    upstream.release(conn)
    other = await waiting
    assert other is not conn
    assert await exchange(other) == b"hello"
    assert server.accepted == 2


async def test_connection_that_breaks_on_its_way_to_a_waiter_is_not_given(make: Make) -> None:
    upstream = make(connections=1)
    conn = await upstream.acquire()
    waiting = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    upstream.release(conn)
    conn.abort()
    other = await waiting
    assert other is not conn
    assert upstream.snapshot() == counts(idle=0, busy=1, dialing=0, waiting=0)


async def test_full_line_refuses_at_once(make: Make) -> None:
    upstream = make(connections=1, queue=1)
    await upstream.acquire()
    waiting = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    with pytest.raises(UpstreamBusy) as caught:
        await upstream.acquire()
    assert caught.value.retry_after == 1
    waiting.cancel()


async def test_waiting_in_line_ends_after_its_time(make: Make) -> None:
    upstream = make(connections=1, queue_timeout=0.05)
    await upstream.acquire()
    with pytest.raises(UpstreamBusy, match=r"within 0\.05 s"):
        await upstream.acquire()
    assert upstream.snapshot() == counts(idle=0, busy=1, dialing=0, waiting=0)


async def test_cancelled_waiter_is_passed_over(make: Make) -> None:
    upstream = make(connections=1)
    conn = await upstream.acquire()
    first = asyncio.ensure_future(upstream.acquire())
    second = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    first.cancel()
    upstream.release(conn)
    assert await second is conn
    assert upstream.snapshot() == counts(idle=0, busy=1, dialing=0, waiting=0)


@pytest.mark.parametrize("broken", [False, True], ids=["connection", "room"])
async def test_waiter_cancelled_when_it_was_just_served_passes_it_on(
    make: Make, broken: bool
) -> None:
    upstream = make(connections=1)
    conn = await upstream.acquire()
    first = asyncio.ensure_future(upstream.acquire())
    second = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    if broken:
        conn.abort()
    upstream.release(conn)
    first.cancel()
    assert (await second is conn) is not broken
    assert upstream.snapshot() == counts(idle=0, busy=1, dialing=0, waiting=0)


async def test_many_requests_share_few_connections_in_order(make: Make, server: Server) -> None:
    upstream = make(connections=4)
    order: list[int] = []

    async def one(number: int) -> None:
        conn = await upstream.acquire()
        order.append(number)
        try:
            assert await exchange(conn) == b"hello"
        finally:
            upstream.release(conn)

    await asyncio.gather(*(one(number) for number in range(200)))
    waited = [number for number in order if number >= 4]
    assert waited == sorted(waited)
    assert server.accepted == 4
    assert upstream.snapshot() == counts(idle=4, busy=0, dialing=0, waiting=0)


# Dialing


async def test_port_without_listener_is_unreachable(make: Make) -> None:
    with silent_port() as listener:
        port = listener.getsockname()[1]
    upstream = make(f"http://127.0.0.1:{port}")
    with pytest.raises(UpstreamUnreachable, match="api: connection refused"):
        await upstream.acquire()
    assert upstream.snapshot() == counts(idle=0, busy=0, dialing=0, waiting=0)


async def test_name_without_address_is_unreachable(make: Make) -> None:
    for host in ["nowhere.invalid", "a" * 64 + ".invalid"]:
        upstream = make(f"https://{host}")
        with pytest.raises(UpstreamUnreachable, match="name could not be resolved"):
            await upstream.acquire()


async def test_fixed_address_is_dialed_in_place_of_the_name(make: Make, server: Server) -> None:
    upstream = make(f"http://api.invalid:{server.port}", address="127.0.0.1")
    assert await exchange(await upstream.acquire()) == b"hello"
    assert upstream.authority == f"api.invalid:{server.port}".encode()


async def test_address_that_clients_may_not_reach_is_denied(make: Make, server: Server) -> None:
    upstream = make(guard=Guard())
    with pytest.raises(AddressDenied, match="api: its address may not be reached: it is loopback"):
        await upstream.acquire()
    assert upstream.snapshot() == counts(idle=0, busy=0, dialing=0, waiting=0)
    assert server.accepted == 0


async def test_listener_of_ours_is_a_loop(make: Make, server: Server) -> None:
    dialer = Dialer()
    upstream = make(dialer=dialer)
    assert await upstream.find_loop() is None
    dialer.own.add([("127.0.0.1", server.port)])
    with pytest.raises(UpstreamLoop, match="is a listener of this proxy itself"):
        await upstream.acquire()
    assert await upstream.find_loop() is not None
    assert server.accepted == 0


async def test_handshake_that_takes_too_long_times_out_and_serves_the_next(make: Make) -> None:
    with silent_port() as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        upstream = make(url, connections=1, connect_timeout=0.05)
        both = await asyncio.gather(upstream.acquire(), upstream.acquire(), return_exceptions=True)
    assert [type(error) for error in both] == [UpstreamTimeout, UpstreamTimeout]
    assert upstream.snapshot() == counts(idle=0, busy=0, dialing=0, waiting=0)


async def test_cancelled_dial_closes_its_socket_and_serves_the_next(make: Make) -> None:
    with silent_port() as listener:
        upstream = make(f"https://127.0.0.1:{listener.getsockname()[1]}", connections=1)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        dialing = asyncio.ensure_future(upstream.acquire())
        waiting = asyncio.ensure_future(upstream.acquire())
        peer, _ = await loop.sock_accept(listener)
        assert upstream.snapshot() == counts(idle=0, busy=0, dialing=1, waiting=1)
        dialing.cancel()
        with peer:
            while await loop.sock_recv(peer, 65536):
                pass
        other, _ = await loop.sock_accept(listener)
        other.close()
        with pytest.raises(UpstreamUnreachable):
            await waiting
    assert dialing.cancelled()
    assert upstream.snapshot() == counts(idle=0, busy=0, dialing=0, waiting=0)


# TLS


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def tls_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture
async def tls_server(authority: trustme.CA) -> AsyncIterator[Server]:
    server = Server()
    await server.start(tls_context(authority, "127.0.0.1"))
    yield server
    await server.stop()


async def test_certificate_of_our_authority_is_accepted(
    make: Make, tls_server: Server, ca_file: str
) -> None:
    upstream = make(f"https://127.0.0.1:{tls_server.port}", ca_file=ca_file)
    for number in range(2):
        conn = await upstream.acquire()
        assert await exchange(conn) == b"hello"
        assert conn.reused is (number > 0)
        upstream.release(conn)
    spoken = tls_server.streams[0].get_extra_info("ssl_object")
    assert spoken.selected_alpn_protocol() == "http/1.1"
    assert tls_server.accepted == 1


async def test_certificate_of_another_authority_is_not_accepted(
    make: Make, tls_server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "other.pem"
    trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.write_to_path(str(path))
    for settings in [{}, {"ca_file": str(path)}]:
        upstream = make(f"https://127.0.0.1:{tls_server.port}", **settings)
        with pytest.raises(UpstreamUnreachable, match=r"certificate was not accepted: .*issuer"):
            await upstream.acquire()


async def test_certificate_of_another_host_is_not_accepted(
    make: Make, tls_server: Server, ca_file: str
) -> None:
    upstream = make(f"https://localhost:{tls_server.port}", ca_file=ca_file)
    with pytest.raises(UpstreamUnreachable, match=r"not accepted: Hostname mismatch.*'localhost'"):
        await upstream.acquire()


async def test_server_without_tls_is_unreachable_over_tls(make: Make) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as plain:
        upstream = make(f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}")
        with pytest.raises(UpstreamUnreachable, match="api: TLS failed"):
            await upstream.acquire()


async def test_large_body_comes_whole_over_tls(
    make: Make, tls_server: Server, ca_file: str
) -> None:
    body = bytes(range(256)) * 16384
    tls_server.answer = OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    upstream = make(f"https://127.0.0.1:{tls_server.port}", ca_file=ca_file)
    conn = await upstream.acquire()
    assert await exchange(conn) == body
    upstream.release(conn)
    assert upstream.snapshot().idle == 1


async def test_body_without_length_ends_with_close_notify(
    make: Make, tls_server: Server, ca_file: str
) -> None:
    tls_server.answer, tls_server.close_after = OK + b"\r\nhello", True
    upstream = make(f"https://127.0.0.1:{tls_server.port}", ca_file=ca_file)
    assert await exchange(await upstream.acquire()) == b"hello"


async def test_body_without_length_and_close_notify_is_cut_short(
    make: Make, tls_server: Server, ca_file: str
) -> None:
    tls_server.answer = OK + b"\r\nhello"
    upstream = make(f"https://127.0.0.1:{tls_server.port}", ca_file=ca_file)
    conn = await upstream.acquire()
    conn.begin(GET, head_only=False, complete=True)
    await conn.head()
    assert await conn.read() == b"hello"
    tls_server.streams[0].transport.abort()
    with pytest.raises(UpstreamClosed):
        await conn.read()


# Closing


async def test_close_ends_what_is_busy_idle_or_in_line(make: Make, server: Server) -> None:
    upstream = make(connections=1)
    busy = await upstream.acquire()
    busy.begin(GET, head_only=False, complete=False)
    waiting = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    await upstream.close()
    with pytest.raises(UpstreamBusy):
        await waiting
    with pytest.raises(UpstreamBusy):
        await upstream.acquire()
    with pytest.raises(UpstreamClosed):
        await busy.head()
    upstream.release(busy)
    await server.ended.wait()
    assert upstream.snapshot() == counts(idle=0, busy=0, dialing=0, waiting=0)


async def test_close_ends_idle_connections(make: Make, server: Server) -> None:
    upstream = make()
    upstream.release(await upstream.acquire())
    await upstream.close()
    await server.ended.wait()
    assert upstream.snapshot().idle == 0


async def test_dial_that_ends_after_close_is_not_given(make: Make) -> None:
    upstream = make()
    dialing = asyncio.ensure_future(upstream.acquire())
    await asyncio.sleep(0)
    await upstream.close()
    with pytest.raises(UpstreamBusy):
        await dialing


async def test_idle_connections_hold_no_task(make: Make) -> None:
    upstream = make()
    conns = [await upstream.acquire() for _ in range(5)]
    before = asyncio.all_tasks()
    for conn in conns:
        upstream.release(conn)
    assert upstream.snapshot().idle == 5
    assert not {task for task in asyncio.all_tasks() - before if "_serve" not in repr(task)}
