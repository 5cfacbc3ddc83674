"""aiohttp's client on our way of dialling, against servers that say what the test says."""

import asyncio
from collections.abc import Awaitable

import aiohttp
import pytest

from name_server import NameServer
from proxy.config import ProxyUrl
from proxy.network.dialer import Dialer
from proxy.network.dns import DnsResolver
from proxy.network.errors import LoopError, ResolveError
from proxy.network.session import make_connector, through_proxy
from wire import OK, Far

pytestmark = pytest.mark.both_loops


@pytest.fixture
def dialer(name_server: NameServer) -> Dialer:
    """A dialer that asks the test's own name server."""
    return Dialer(DnsResolver([name_server.place]))


async def fetch(dialer: Dialer, url: str, address: str | None = None) -> bytes:
    connector = make_connector(dialer, address=address, ca_file=None)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        return await response.read()


async def answered(fetching: Awaitable[bytes], far: Far) -> bytes:
    """Answer the request that arrives, and return its head."""
    task = asyncio.ensure_future(fetching)
    wire = await far.wire()
    head = await wire.head()
    wire.send(OK)
    assert await task == b"ok"
    return head


async def test_names_are_looked_up_for_every_call(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["api.test"] = ("127.0.0.1",)
    url = f"http://api.test:{far.port}/"
    head = await answered(fetch(dialer, url), far)
    assert f"\r\nHost: api.test:{far.port}\r\n".encode() in head
    asked = len(name_server.asked)
    await answered(fetch(dialer, url), far)
    assert len(name_server.asked) == 2 * asked


async def test_a_fixed_address_stands_for_every_name(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    await answered(fetch(dialer, f"http://api.test:{far.port}/", "127.0.0.1"), far)
    assert name_server.asked == []


async def test_a_name_that_is_not_known_is_told_of(dialer: Dialer, far: Far) -> None:
    with pytest.raises(aiohttp.ClientConnectorDNSError) as caught:
        await fetch(dialer, f"http://api.test:{far.port}/")
    assert isinstance(caught.value.os_error, ResolveError)


@pytest.mark.parametrize("host", ["api.test", "both.test", "localhost", "127.0.0.1"])
async def test_nothing_is_sent_to_a_listener_of_ours(
    dialer: Dialer, name_server: NameServer, far: Far, host: str
) -> None:
    name_server.names["api.test"] = ("127.0.0.1",)
    name_server.names["both.test"] = ("127.0.0.1", "::1")
    dialer.own.add([("127.0.0.1", far.port), ("::1", far.port)])
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        await fetch(dialer, f"http://{host}:{far.port}/")
    assert isinstance(caught.value.os_error, LoopError)
    assert far.accepted == 0


def through(url: str, proxy: str | None) -> tuple[dict[str, object], dict[str, str]]:
    return through_proxy(Dialer(upstream_proxy=ProxyUrl.parse(proxy)), url)


def test_credentials_are_in_headers_and_never_in_the_url_of_the_proxy() -> None:
    credentials = {"Proxy-Authorization": "Basic dXNlcjp3b3Jk"}
    options = {"proxy": "http://proxy.test:3128", "proxy_headers": credentials}
    proxy = "http://user:word@proxy.test:3128"
    assert through("https://api.test", proxy) == (options, {})
    assert through("http://api.test", proxy) == (options, credentials)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.1:1", "https://[::1]:1"])
def test_this_machine_is_reached_without_the_proxy(url: str) -> None:
    assert through(url, "http://user:word@proxy.test:3128") == ({}, {})


def test_without_a_proxy_there_is_nothing_to_say() -> None:
    assert through("https://api.test", None) == ({}, {})
