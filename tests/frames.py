"""WebSocket frames as bytes, made and read without the library that the proxy uses (RFC 6455)."""

import base64
import hashlib
import struct
from dataclasses import dataclass

from wire import Wire

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MASK = b"\x11\x22\x33\x44"

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET /feed HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % KEY
)


@dataclass(frozen=True)
class Frame:
    """One frame as it came; `first` is its first byte, FIN and opcode."""

    first: int
    data: bytes
    masked: bool


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bytes = b"") -> bytes:
    """Return a frame's bytes; one with a `mask` is a client's."""
    bit = 0x80 if mask else 0
    first = (0x80 if fin else 0) | opcode
    if len(data) < 126:
        head = struct.pack("!BB", first, bit | len(data))
    elif len(data) < 65536:
        head = struct.pack("!BBH", first, bit | 126, len(data))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(data))
    return head + mask + (masked(data, mask) if mask else data)


def from_client(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    return frame(opcode, data, fin=fin, mask=MASK)


def close(code: int, reason: bytes = b"") -> bytes:
    """Return what a Close frame holds."""
    return struct.pack("!H", code) + reason


async def receive(wire: Wire) -> Frame:
    """Read one frame."""
    first, second = await wire.exactly(2)
    length = second & 0x7F
    if length > 125:
        size = 2 if length == 126 else 8
        length = int.from_bytes(await wire.exactly(size), "big")
    mask = await wire.exactly(4) if second & 0x80 else b""
    data = await wire.exactly(length)
    return Frame(first, masked(data, mask) if mask else data, masked=bool(mask))


def masked(data: bytes, mask: bytes) -> bytes:
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    number = int.from_bytes(data, "big") ^ int.from_bytes(key, "big")
    return number.to_bytes(len(data), "big")


def accept(key: bytes) -> bytes:
    digest = hashlib.sha1(key + GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest)


def field(head: bytes, name: bytes) -> bytes:
    """Return the value of the one header field of that name."""
    lines = [line.partition(b": ") for line in head.split(b"\r\n")]
    (value,) = [value for each, _, value in lines if each.lower() == name.lower()]
    return value


def switching(request: bytes, *lines: bytes) -> bytes:
    """Return an upstream's right answer to a handshake."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
        % (accept(field(request, b"Sec-WebSocket-Key")), b"".join(lines))
    )
