"""CONNECT through a proxy that says what the test says."""

import asyncio
import traceback
from base64 import b64encode
from collections.abc import Awaitable
from typing import Self

import pytest

from harness import SecretScan
from name_server import NameServer
from proxy.config import ProxyUrl
from proxy.network.dialer import Dialer
from proxy.network.dns import DnsResolver
from proxy.network.errors import AddressRefused, ResolveError, UpstreamProxyError
from proxy.network.guard import Guard
from proxy.network.upstream_proxy import HEAD_BYTES
from wire import PATIENCE, Far, Wire

pytestmark = pytest.mark.both_loops

PASSWORD = "p@ss: 4711"
GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def through(far: Far, user_info: str = "") -> Dialer:
    return Dialer(upstream_proxy=ProxyUrl.parse(f"http://{user_info}{far.authority}"))


class Connecting:
    """A connection on its way through the proxy at `far`; `wire` is the proxy's end of it."""

    def __init__(self, dialer: Dialer, far: Far, host: str = "api.test") -> None:
        self._far = far
        self._task = asyncio.ensure_future(dialer.connect(host, 443))

    async def __aenter__(self) -> Self:
        self.wire: Wire = await self._far.wire()
        self.asked = await self.wire.head()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        (ended,) = await asyncio.gather(self._task, return_exceptions=True)
        if not isinstance(ended, BaseException):
            ended.close()

    async def first_bytes(self, count: int) -> bytes:
        """Return what stands first in the socket, once it is there."""
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(await self._task, count)

    async def error(self) -> UpstreamProxyError:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(UpstreamProxyError) as caught:
                await self._task
        return caught.value


# What is asked


@pytest.mark.parametrize(
    ("host", "authority"), [("api.test", b"api.test:443"), ("2001:db8::7", b"[2001:db8::7]:443")]
)
async def test_the_proxy_is_asked_to_connect_to_the_host(
    far: Far, host: str, authority: bytes
) -> None:
    async with Connecting(through(far), far, host) as connecting:
        assert connecting.asked == (
            b"CONNECT " + authority + b" HTTP/1.1\r\nHost: " + authority + b"\r\n\r\n"
        )


async def test_credentials_are_sent_as_they_were_before_they_stood_in_a_url(far: Far) -> None:
    dialer = through(far, "user%20name:p%40ss:%204711@")
    async with Connecting(dialer, far) as connecting:
        line = b"Proxy-Authorization: Basic " + b64encode(b"user name:" + PASSWORD.encode())
        assert line in connecting.asked.split(b"\r\n")


async def test_names_are_left_to_the_proxy_and_so_is_what_they_lead_to(
    far: Far, name_server: NameServer
) -> None:
    dialer = Dialer(DnsResolver([name_server.place]), ProxyUrl.parse(f"http://{far.authority}"))
    connecting = asyncio.ensure_future(dialer.connect("api.test", 443, guard=Guard()))
    (await far.wire()).send(GRANTED)
    (await connecting).close()
    assert name_server.asked == []


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "10.1", "::ffff:10.0.0.1"])
async def test_an_address_is_judged_before_the_proxy_hears_of_it(far: Far, host: str) -> None:
    with pytest.raises(AddressRefused):
        await through(far).connect(host, 443, guard=Guard())
    assert far.accepted == 0


@pytest.mark.parametrize(
    "host", ["a.test\r\nX: y", "a b", "a/b", "me@a.test", "b\xfccher.test", ""]
)
async def test_what_cannot_be_a_name_is_not_asked_for(far: Far, host: str) -> None:
    with pytest.raises(ResolveError, match="it is not a name"):
        await through(far).connect(host, 443)
    assert far.accepted == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1"])
async def test_this_machine_is_reached_without_the_proxy(host: str, far: Far) -> None:
    async with Far() as near:
        with await through(far).connect(host, near.port):
            await near.wire()
    assert far.accepted == 0


# What is answered


@pytest.mark.parametrize(
    "head",
    [
        GRANTED,
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 204 \r\nVia: 1.1 proxy\r\nX-Empty:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_BYTES - 24) + b"\r\n\r\n",
    ],
)
async def test_behind_the_head_of_a_good_answer_the_connection_is_the_hosts(
    far: Far, head: bytes
) -> None:
    async with Connecting(through(far), far) as connecting:
        connecting.wire.send(head + b"220 mail.test\r\n\r\n")
        assert await connecting.first_bytes(64) == b"220 mail.test\r\n\r\n"


async def test_an_answer_may_come_in_pieces(far: Far) -> None:
    async with Connecting(through(far), far) as connecting:
        await connecting.wire.send_in_pieces(bytes([byte]) for byte in GRANTED + b"hello")
        assert await connecting.first_bytes(1) == b"h"


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (407, "it does not take the credentials in upstream_proxy"),
        (403, "it does not allow this connection"),
        (502, "it did not connect"),
        (302, "it did not connect"),
        (100, "it did not connect"),
    ],
)
async def test_a_refusal_is_told_with_its_status_and_without_credentials(
    far: Far, status: int, meaning: str, scan: SecretScan
) -> None:
    scan.add("pass4711")
    async with Connecting(through(far, "user:pass4711@"), far) as connecting:
        connecting.wire.send(b"HTTP/1.1 %d user:pass4711\r\n\r\n" % status)
        error = await connecting.error()
        assert error.status == status
        assert str(error) == f"the upstream proxy answered {status}: {meaning}"
        scan.output.write("".join(traceback.format_exception(error)) + repr(error))
        assert await connecting.wire.ended()


NO_HTTP = "gave an answer that is not valid HTTP"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nVia\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nVia : proxy\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nVia: one\r\n two\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nVia: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\nVia: proxy\r\n\r\n",
        b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_opens_nothing(far: Far, rubbish: bytes) -> None:
    async with Connecting(through(far), far) as connecting:
        connecting.wire.send(rubbish)
        assert str(await connecting.error()) == f"the upstream proxy {NO_HTTP}"
        assert await connecting.wire.ended()


async def test_an_answer_without_an_end_is_given_up(far: Far) -> None:
    async with Connecting(through(far), far) as connecting:
        connecting.wire.send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * HEAD_BYTES)
        assert "of more than 8192 bytes" in str(await connecting.error())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_a_proxy_that_hangs_up_is_told_of(far: Far, said: bytes) -> None:
    async with Connecting(through(far), far) as connecting:
        connecting.wire.send(said)
        connecting.wire.close()
        assert "closed the connection before its answer" in str(await connecting.error())


async def test_a_proxy_that_is_slow_is_left_when_the_callers_time_is_up(far: Far) -> None:
    async def impatient(connecting: Awaitable[object]) -> None:
        async with asyncio.timeout(0.05):
            await connecting

    waiting = asyncio.ensure_future(impatient(through(far).connect("api.test", 443)))
    wire = await far.wire()
    wire.send(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(TimeoutError):
        await waiting
    await wire.head()
    assert await wire.ended()


async def test_a_proxy_that_is_not_there_is_told_of(far: Far) -> None:
    far.refuse()
    with pytest.raises(UpstreamProxyError, match="proxy cannot be reached: connection refused"):
        await through(far).connect("api.test", 443)
    unknown = Dialer(upstream_proxy=ProxyUrl.parse("http://proxy.invalid:3128"))
    with pytest.raises(UpstreamProxyError, match="reached: its name could not be resolved"):
        await unknown.connect("api.test", 443)
