"""The opening handshake: what a client may ask for, what goes up, and which 101 is a right one."""

import pytest

from frames import KEY
from proxy.errors import MalformedRequest, UpgradeUnsupported, UpstreamInvalid, WebSocketVersion
from proxy.traffic.handshake import Handshake, accept, pass_on, switch_head
from proxy.traffic.headers import RequestHeaders
from proxy.traffic.message import Framing, ResponseHead

OWN_KEY = b"AQIDBAUGBwgJCgsMDQ4PEA=="
OURS = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n" % OWN_KEY
)
VERSION = b"Sec-WebSocket-Version: 13\r\n"
ITS_KEY = b"sec-websocket-key: %b\r\n" % KEY


def asked(*lines: bytes, upgrade: bytes = b"websocket") -> RequestHeaders:
    return RequestHeaders(lines=list(lines), upgrade=upgrade)


def pass_on_get(found: RequestHeaders) -> Handshake:
    return pass_on("GET", (1, 1), found, OWN_KEY)


# The client's


def test_handshake_goes_up_with_our_key_and_without_extensions() -> None:
    extensions = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    found = asked(b"A: b\r\n", VERSION, ITS_KEY, extensions, b"Origin: c\r\n")
    handshake = pass_on_get(found)
    assert found.lines == [b"A: b\r\n", b"Origin: c\r\n", OURS]
    assert handshake == Handshake(KEY, OWN_KEY, ())


def test_subprotocols_go_up_as_they_came_and_are_remembered() -> None:
    offers = (b"Sec-WebSocket-Protocol: a,b\r\n", b"sec-websocket-protocol:  c \r\n")
    found = asked(*offers, VERSION, ITS_KEY)
    assert pass_on_get(found).subprotocols == (b"a", b"b", b"c")
    assert found.lines == [*offers, OURS]


@pytest.mark.parametrize(
    ("method", "version", "upgrade"),
    [
        ("POST", (1, 1), b"websocket"),
        ("GET", (1, 0), b"websocket"),
        ("GET", (1, 1), b"tcp"),
        ("GET", (1, 1), b"h2c, websocket"),
        ("GET", (1, 1), b"tcp, websocket"),
    ],
)
def test_other_upgrade_is_refused(method: str, version: tuple[int, int], upgrade: bytes) -> None:
    with pytest.raises(UpgradeUnsupported):
        pass_on(method, version, asked(VERSION, ITS_KEY, upgrade=upgrade), OWN_KEY)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"Sec-WebSocket-Version: 8\r\n",),
        (b"Sec-WebSocket-Version: 13, 8\r\n",),
        (VERSION, VERSION),
    ],
)
def test_other_version_is_told_which_one_is_spoken(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(WebSocketVersion) as caught:
        pass_on_get(asked(ITS_KEY, *lines))
    assert b"Sec-WebSocket-Version: 13\r\n" in caught.value.fields


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (ITS_KEY, ITS_KEY),
        (b"Sec-WebSocket-Key: \r\n",),
        (b"Sec-WebSocket-Key: c2hvcnQ=\r\n",),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n",),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ== x\r\n",),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSBhbmQ=\r\n",),
    ],
)
def test_handshake_without_one_good_key_is_malformed(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedRequest):
        pass_on_get(asked(VERSION, *lines))


@pytest.mark.parametrize(("length", "chunked"), [(b"1", False), (None, True)])
def test_handshake_with_a_body_is_malformed(length: bytes | None, chunked: bool) -> None:
    found = asked(VERSION, ITS_KEY)
    found.length, found.chunked = length, chunked
    with pytest.raises(MalformedRequest):
        pass_on_get(found)


def test_handshake_may_say_that_it_has_no_body() -> None:
    found = asked(VERSION, ITS_KEY)
    found.length = b"0"
    assert pass_on_get(found).client_key == KEY


# The upstream's

HANDSHAKE = Handshake(KEY, OWN_KEY, (b"a", b"b"))
UPGRADE = (b"Upgrade", b"WebSocket")
CONNECTION = (b"connection", b"keep-alive, UPGRADE")
ACCEPT = (b"Sec-WebSocket-Accept", b"C/0nmHhBztSRGR1CwL6Tf4ZjwpY=")


def switched(*fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(101, b"Fine", list(fields), Framing.CLOSE, None)


def test_accept_is_the_one_of_the_rfc() -> None:
    assert accept(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_right_101_becomes_ours_with_its_other_fields() -> None:
    fields = [(b"Set-Cookie", b"c"), (b"Sec-WebSocket-Protocol", b"b"), (b"Date", b"d")]
    head = switch_head(switched(UPGRADE, CONNECTION, ACCEPT, *fields), HANDSHAKE)
    assert head == (
        b"HTTP/1.1 101 Fine\r\nSet-Cookie: c\r\nSec-WebSocket-Protocol: b\r\nDate: d\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


@pytest.mark.parametrize(
    "fields",
    [
        [CONNECTION, ACCEPT],
        [UPGRADE, ACCEPT],
        [UPGRADE, CONNECTION],
        [UPGRADE, UPGRADE, CONNECTION, ACCEPT],
        [(b"Upgrade", b"h2c"), CONNECTION, ACCEPT],
        [UPGRADE, (b"Connection", b"close"), ACCEPT],
        [UPGRADE, CONNECTION, ACCEPT, ACCEPT],
        [UPGRADE, CONNECTION, (b"Sec-WebSocket-Accept", accept(KEY))],
        [UPGRADE, CONNECTION, ACCEPT, (b"Sec-WebSocket-Extensions", b"permessage-deflate")],
        [UPGRADE, CONNECTION, ACCEPT, (b"Sec-WebSocket-Protocol", b"c")],
        [UPGRADE, CONNECTION, ACCEPT, (b"Sec-WebSocket-Protocol", b"a, b")],
        [UPGRADE, CONNECTION, ACCEPT, *[(b"Sec-WebSocket-Protocol", b"a")] * 2],
    ],
)
def test_101_that_does_not_answer_the_handshake_is_invalid(
    fields: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(UpstreamInvalid):
        switch_head(switched(*fields), HANDSHAKE)
