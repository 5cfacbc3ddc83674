"""The placeholder: who shows it is let in, and it goes no further."""

from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.doors import trust
from frames import CLOSE, HANDSHAKE, TEXT, from_client, receive, switching
from harness import SecretScan, until_ready
from proxy.app import App
from proxy.sandbox import Sandbox
from proxy.tokens.model import Secret
from wire import (
    ESTABLISHED,
    Far,
    Start,
    between,
    client,
    fields_of,
    is_served,
    let_through,
    refused,
)

VALUE = b"mobula-proxy-placeholder"
SECRET = Secret(VALUE.decode())
BASIC = b"Proxy-Authorization: Basic " + b64encode(b"mobula-proxy:" + VALUE)


@pytest.fixture
async def app(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    scan.add(VALUE.decode())
    async with between(far, sandbox, scan, placeholder=SECRET) as app:
        yield app


@pytest.fixture
async def forward(start: Start, scan: SecretScan) -> AsyncIterator[App]:
    scan.add(VALUE.decode())
    async with start(placeholder=SECRET) as app:
        yield app


def request(*lines: bytes, target: bytes = b"/x") -> bytes:
    return b"\r\n".join((b"GET %b HTTP/1.1" % target, b"Host: far.test", *lines, b"", b""))


def connect(place: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"CONNECT %b HTTP/1.1" % place, b"Host: %b" % place, *lines, b"", b""))


@pytest.mark.parametrize(
    ("lines", "target"),
    [
        ([], b"/x"),
        ([b"Authorization: another-key", b"X-Api-Key: another-key"], b"/x?api_key=another-key"),
        ([b"Cookie: " + VALUE], b"/" + VALUE),
    ],
    ids=["nothing", "another key", "elsewhere"],
)
async def test_who_does_not_show_it_is_refused_and_may_try_again(
    app: App, far: Far, lines: list[bytes], target: bytes
) -> None:
    async with client(app) as near:
        near.send(request(*lines, target=target))
        head = await near.head()
        assert head.startswith(b"HTTP/1.1 401 ")
        assert fields_of(head)["www-authenticate"] == 'Bearer realm="mobula-proxy"'
        assert far.accepted == 0
        await near.exactly(int(fields_of(head)["content-length"]))
        await is_served(near, far, request(b"X-Api-Key: " + VALUE))


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"Authorization: " + VALUE, b"/x"),
        (b"Authorization: Bearer " + VALUE, b"/x"),
        (b"X-API-Key: " + VALUE, b"/x"),
        (BASIC, b"/x"),
        (b"X-Other: a", b"/x?apiKey=" + VALUE),
        (b"X-Other: " + VALUE, b"/%b/x?api-key=%b&name=%b" % (VALUE, VALUE, VALUE)),
    ],
)
async def test_who_shows_it_is_served_and_it_stays_here(
    app: App, far: Far, line: bytes, target: bytes
) -> None:
    async with client(app) as near:
        head = await is_served(near, far, request(line, target=target))
        assert VALUE not in head
        assert b64encode(VALUE)[:20] not in head
        assert b"?" not in head


async def test_socket_file_needs_none(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    """Who may open it says its owner."""
    listener = {"bind": f"unix:{tmp_path / 'socket'}"}
    async with (
        between(far, sandbox, scan, listener=listener, placeholder=SECRET) as app,
        client(app) as near,
    ):
        await is_served(near, far, request())


async def test_websocket_shows_it_in_its_handshake_and_in_messages_where_credentials_stand(
    app: App, far: Far
) -> None:
    await until_ready(app)
    async with client(app) as near:
        near.send(HANDSHAKE)
        assert await refused(near) == (401, "client_unknown")
    async with client(app) as near:
        near.send(HANDSHAKE.replace(b"/feed", b"/feed?api_key=" + VALUE))
        up = await far.wire()
        asked = await up.request()
        assert VALUE not in asked
        up.send(switching(asked))
        await near.head()
        near.send(from_client(TEXT, b'{"authorization": "%b"}' % VALUE))
        assert VALUE not in (await receive(up)).data
        near.send(from_client(TEXT, b'{"name": "%b"}' % VALUE))
        assert (await receive(up)).first == 0x80 | CLOSE
        up.close()


# Through a forward listener


async def test_who_asks_a_proxy_is_told_to_show_it_as_to_a_proxy(forward: App, far: Far) -> None:
    async with client(forward) as near:
        near.send(request(target=b"http://far.test/x"))
        head = await near.head()
        assert head.startswith(b"HTTP/1.1 407 ")
        assert fields_of(head)["proxy-authenticate"] == 'Basic realm="mobula-proxy"'
        await near.exactly(int(fields_of(head)["content-length"]))
        head = await is_served(near, far, request(BASIC, target=b"http://far.test/x"))
        assert b"Proxy-Authorization" not in head
        near.send(request(target=b"http://far.test/x"))
        assert await refused(near) == (407, "client_unknown")


async def test_connect_that_shows_it_lets_every_request_behind_it_in(
    forward: App, far: Far, ca_folder: Path
) -> None:
    async with client(forward) as near:
        near.send(connect(b"far.test:443", BASIC))
        assert await near.head() == ESTABLISHED
        await near.start_tls(trust(ca_folder), "far.test")
        for _ in range(2):
            await is_served(near, far, request())


@pytest.mark.parametrize("lines", [[], [b"Proxy-Authorization: Basic eDp5"]])
async def test_connect_that_does_not_show_it_leaves_that_to_each_request(
    forward: App, far: Far, ca_folder: Path, lines: list[bytes]
) -> None:
    async with client(forward) as near:
        near.send(connect(b"far.test:443", *lines))
        assert await near.head() == ESTABLISHED
        await near.start_tls(trust(ca_folder), "far.test")
        near.send(request())
        assert await refused(near) == (401, "client_unknown")
        await is_served(near, far, request(b"Authorization: " + VALUE))
        near.send(request())
        assert await refused(near) == (401, "client_unknown")


async def test_other_hosts_ask_for_none_and_never_get_it(forward: App, way_out: Far) -> None:
    target = b"http://other.test/%b?a=%b" % (VALUE, VALUE)
    async with client(forward) as near:
        near.send(request(b"Authorization: Bearer " + VALUE, b"X-A: " + VALUE, target=target))
        up = await let_through(way_out)
        assert await up.head() == b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n"
    async with client(forward) as near:
        near.send(connect(b"other.test:443"))
        await let_through(way_out)
        assert await near.head() == ESTABLISHED


async def test_way_out_that_our_password_opens_leaves_upstreams_to_each_request(
    start: Start, far: Far, way_out: Far, ca_folder: Path, scan: SecretScan
) -> None:
    through = f"http://me:our-own-password@{way_out.authority}"
    scan.add("our-own-password")
    async with start(placeholder=SECRET, upstream_proxy=through) as app, client(app) as near:
        near.send(connect(b"far.test:443"))
        assert await near.head() == ESTABLISHED
        await near.start_tls(trust(ca_folder), "far.test")
        near.send(request())
        assert await refused(near) == (401, "client_unknown")
    assert far.accepted == way_out.accepted == 0


@pytest.mark.parametrize(
    "sent", [connect(b"other.test:443"), request(target=b"http://other.test/")]
)
async def test_way_out_that_our_password_opens_asks_for_it_too(
    start: Start, way_out: Far, scan: SecretScan, sent: bytes
) -> None:
    through = f"http://me:our-own-password@{way_out.authority}"
    scan.add("our-own-password")
    async with start(placeholder=SECRET, upstream_proxy=through) as app:
        async with client(app) as near:
            near.send(sent)
            assert await refused(near) == (407, "client_unknown")
        assert way_out.accepted == 0
        async with client(app) as near:
            near.send(sent.replace(b"\r\n\r\n", b"\r\n" + BASIC + b"\r\n\r\n"))
            up = await way_out.wire()
            asked = await up.head()
            assert b"Proxy-Authorization: Basic " + b64encode(b"me:our-own-password") in asked
            assert b64encode(VALUE)[:20] not in asked
