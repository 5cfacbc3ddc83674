"""Apps that are told of a proxy, by variables of their environment, and of nothing else."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from conformance.doors import trust
from harness import KEY, SecretScan, installed_sandbox, program
from unmodified.app import (
    APPS,
    CALLERS,
    ECHO,
    MARKET,
    App,
    check_calls,
    check_feed,
    node_knows_proxies,
)
from unmodified.proxies import Proxy, served
from wire import Wire, connect, refused

OTHER_UPSTREAM = "demo-api.mobula.io"
PARALLEL = 200

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""What a client begins with, and its empty SETTINGS (RFC 9113, section 3.4)."""
HTTP_1_1_REQUIRED = bytes.fromhex("000008070000000000000000000000000d")
"""GOAWAY, and why (sections 6.8 and 7)."""


@pytest.fixture(scope="module")
def proxy(scan: SecretScan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Its first listener tunnels to other hosts, its second one denies them."""
    listeners = [
        {"bind": "127.0.0.1:0", "mode": "forward"},
        {"bind": "127.0.0.1:0", "mode": "forward", "other_hosts": "deny"},
    ]
    with (
        installed_sandbox() as sandbox,
        served(
            sandbox,
            tmp_path_factory.mktemp("ca"),
            f"upstreams.api.mobula.io.url={sandbox.url}",
            f"upstreams.{OTHER_UPSTREAM}.url={sandbox.url}",
            listeners=listeners,
            scan=scan,
        ) as proxy,
    ):
        yield proxy


@pytest.fixture(params=CALLERS)
def app(request: pytest.FixtureRequest) -> App:
    if request.param in ("fetch", "https") and not node_knows_proxies():
        pytest.skip("this Node looks at no variables for proxies")
    return APPS[request.param]()


def test_an_app_gets_real_data_and_a_token_takes_the_place_of_its_key(
    app: App, proxy: Proxy
) -> None:
    check_calls(proxy.run(app, MARKET, ECHO, via=proxy.addresses[0]))


def test_a_feed_comes_through_a_connect(proxy: Proxy) -> None:
    check_feed(proxy.run(APPS["websockets"](), via=proxy.addresses[0]))


def test_plain_http_to_the_apis_name_is_led_to_its_url(proxy: Proxy) -> None:
    done = subprocess.run(
        [program("curl"), "-sS", "-H", f"x-api-key: {KEY}", f"http://api.mobula.io{ECHO}"],
        env={"http_proxy": f"http://{proxy.addresses[0]}"},
        capture_output=True, check=True, text=True, timeout=20,
    )  # fmt: skip
    assert ["Authorization", "Bearer [token]"] in json.loads(done.stdout)["headers"]


@pytest.mark.parametrize("name", ["curl", "httpx", "aiohttp"])
def test_of_an_app_that_does_not_trust_the_local_ca_the_proxy_says_so(
    name: str, proxy: Proxy
) -> None:
    """Some tell why they leave, as curl and httpx do; aiohttp only leaves."""
    with proxy.noticing_distrust():
        assert "certificate" in proxy.run_distrusting(APPS[name](), via=proxy.addresses[0])


# Connections


@contextlib.asynccontextmanager
async def connected(proxy: Proxy, listener: int = 0) -> AsyncIterator[Wire]:
    wire = await connect(proxy.addresses[listener])
    try:
        yield wire
    finally:
        wire.close()
        await wire.closed()


def connect_to(place: str, host: str = "") -> bytes:
    return f"CONNECT {place} HTTP/1.1\r\nHost: {host or place}\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def in_tls(proxy: Proxy) -> AsyncIterator[Wire]:
    """A connection for the API, behind a CONNECT and in TLS."""
    async with connected(proxy) as wire:
        wire.send(connect_to("api.mobula.io:443"))
        assert await wire.head() == b"HTTP/1.1 200 Connection Established\r\n\r\n"
        await wire.start_tls(trust(proxy.ca), "api.mobula.io")
        yield wire


def get(host: str, path: str = MARKET) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_as_many_connections_as_come_at_once_are_served(proxy: Proxy) -> None:
    async def served() -> bytes:
        async with in_tls(proxy) as wire:
            wire.send(get("api.mobula.io"))
            return (await wire.answer())[0].partition(b"\r\n")[0]

    answers = await asyncio.gather(*(served() for _ in range(PARALLEL)))
    assert answers == [b"HTTP/1.1 200 OK"] * PARALLEL


async def test_a_request_for_another_host_than_its_connect_is_refused(proxy: Proxy) -> None:
    async with in_tls(proxy) as wire:
        wire.send(get(OTHER_UPSTREAM))
        assert await refused(wire) == (421, "misdirected_request")
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("place", "host", "refusal"),
    [
        ("stranger.test:443", "stranger.test:443", (403, "host_denied")),
        ("api.mobula.io:443", OTHER_UPSTREAM, (421, "misdirected_request")),
    ],
)
async def test_what_comes_behind_a_refused_connect_is_not_executed(
    proxy: Proxy, place: str, host: str, refusal: tuple[int, str]
) -> None:
    before = proxy.sandbox.ledger()["data_requests"]
    async with connected(proxy, 1) as wire:
        wire.send(connect_to(place, host) + get("api.mobula.io"))
        assert await refused(wire) == refusal
        assert await wire.rest() == b""
    assert proxy.sandbox.ledger()["data_requests"] == before


async def test_a_client_that_speaks_http_2_unasked_is_told_to_speak_http_1(proxy: Proxy) -> None:
    async with in_tls(proxy) as wire:
        wire.send(HTTP2_PREFACE)
        assert (await wire.rest()).endswith(HTTP_1_1_REQUIRED)
