"""The head of a CONNECT (RFC 9110, section 9.3.6). Pure."""

from dataclasses import dataclass, field

import httptools

from proxy.errors import HeadersTooLarge, MalformedRequest, Misdirected, VersionUnsupported
from proxy.traffic.target import Place, read_place

_FRAMING = (b"content-length", b"transfer-encoding")


@dataclass(slots=True)
class Connect:
    """What a client asks for; `place` has a port."""

    place: Place
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class _Fields:
    """What the parser calls."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def read_connect(head: bytes, most_fields: int) -> Connect:
    """Read a head, from the method to the empty line. Raises the refusal that fits."""
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # so it ends, if there is nothing wrong with it
    except httptools.HttpParserError:
        raise MalformedRequest("The bytes received are not a valid CONNECT.") from None
    if parser.get_http_version() not in ("1.0", "1.1"):
        raise VersionUnsupported("This proxy speaks HTTP/1.1.")
    if len(fields.headers) > most_fields:
        raise HeadersTooLarge(f"At most {most_fields} header fields are taken.")
    return _checked(fields)


def _checked(fields: _Fields) -> Connect:
    place = read_place(fields.target)
    if place is None or place.port is None:
        raise MalformedRequest("The target of a CONNECT is a host and a port.")
    for name, value in fields.headers:
        if name == b"host" and not _agrees(read_place(value), place):
            raise Misdirected("The CONNECT is for another host than its Host header.")
        if name in _FRAMING and (name, value) != (b"content-length", b"0"):
            raise MalformedRequest("A CONNECT has no body.")
    return Connect(place, fields.headers)


def _agrees(host: Place | None, place: Place) -> bool:
    return host is not None and host.host == place.host and host.port in (None, place.port)
