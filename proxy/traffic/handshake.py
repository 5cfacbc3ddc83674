"""The opening handshake of a WebSocket (RFC 6455, section 4), the client's and ours. Pure.

Ours goes upstream first and has a key of its own. The client's extensions are not passed on: they
would let messages be compressed, and what cannot be read cannot be searched for static keys.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.errors import MalformedRequest, UpgradeUnsupported, UpstreamInvalid, WebSocketVersion
from proxy.traffic.headers import RequestHeaders, name_of, response_head
from proxy.traffic.message import Framing, ResponseHead

_VERSION = b"13"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OURS = {b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"}


@dataclass(frozen=True, slots=True)
class Handshake:
    """A handshake that is passed on: the client's key, ours, and what subprotocols are offered."""

    client_key: bytes
    own_key: bytes
    subprotocols: tuple[bytes, ...]


def pass_on(
    method: str, version: tuple[int, int], found: RequestHeaders, own_key: bytes
) -> Handshake:
    """Check a client's handshake and put ours in its place among the lines that go upstream.

    `own_key` is 16 random bytes in base64. Raises UpgradeUnsupported for what is no handshake of a
    WebSocket, and the refusal that fits for what is not a good one.
    """
    if found.upgrade != b"websocket" or method != "GET" or version != (1, 1):
        raise UpgradeUnsupported(
            "The only Upgrade taken is that of a GET in HTTP/1.1 to WebSocket."
        )
    if _values(found.lines, b"sec-websocket-version") != [_VERSION]:
        raise WebSocketVersion("This proxy speaks version 13 of the WebSocket protocol.")
    keys = _values(found.lines, b"sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise MalformedRequest("A WebSocket handshake has one Sec-WebSocket-Key, of 16 bytes.")
    if found.chunked or found.length not in (None, b"0"):
        raise MalformedRequest("A WebSocket handshake has no body.")
    found.lines = [each for each in found.lines if name_of(each) not in _OURS]
    offered = _elements(_values(found.lines, b"sec-websocket-protocol"))
    found.lines.append(
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: %b\r\nSec-WebSocket-Key: %b\r\n" % (_VERSION, own_key)
    )
    return Handshake(keys[0], own_key, tuple(offered))


def switch_head(head: ResponseHead, handshake: Handshake) -> bytes:
    """Check the upstream's 101 and return the head of ours. Raises UpstreamInvalid."""
    lines = [b"%b: %b\r\n" % field for field in head.headers]
    tokens = [each.lower() for each in _elements(_values(lines, b"connection"))]
    chosen = _values(lines, b"sec-websocket-protocol")
    if [each.lower() for each in _values(lines, b"upgrade")] != [b"websocket"]:
        raise UpstreamInvalid("The upstream switches to another protocol than WebSocket.")
    if b"upgrade" not in tokens or _values(lines, b"sec-websocket-accept") != [
        accept(handshake.own_key)
    ]:
        raise UpstreamInvalid("The upstream's WebSocket handshake does not answer ours.")
    if _values(lines, b"sec-websocket-extensions"):
        raise UpstreamInvalid("The upstream uses WebSocket extensions that nobody offered.")
    if len(chosen) > 1 or not set(chosen).issubset(handshake.subprotocols):
        raise UpstreamInvalid("The upstream chose a WebSocket subprotocol that nobody offered.")
    return _our_head(head, handshake)


def _our_head(head: ResponseHead, handshake: Handshake) -> bytes:
    fields = [each for each in head.headers if each[0].lower() != b"sec-websocket-accept"]
    relayed = ResponseHead(head.status, head.reason, fields, Framing.NONE, None)
    start = response_head("GET", relayed, Framing.NONE, (1, 1), keep=True)
    return b"%bConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n" % (
        start.removesuffix(b"\r\n"),
        accept(handshake.client_key),
    )


def accept(key: bytes) -> bytes:
    """Return the answer to a Sec-WebSocket-Key (RFC 6455, section 4.2.2)."""
    digest = hashlib.sha1(key + _ACCEPT_SUFFIX, usedforsecurity=False).digest()
    return base64.b64encode(digest)


def _values(lines: Iterable[bytes], name: bytes) -> list[bytes]:
    return [each.partition(b":")[2].strip() for each in lines if name_of(each) == name]


def _elements(values: Iterable[bytes]) -> list[bytes]:
    """Return the elements of a list that may stand in several lines (RFC 9110, section 5.6.1)."""
    return [each.strip() for value in values for each in value.split(b",")]
