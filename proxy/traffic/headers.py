"""Header fields on their way through: what is stripped, kept and set. Pure.

Names and values pass as the bytes they came in. What goes: the hop-by-hop fields (RFC 9110,
section 7.6.1), every credential of the client, and whatever holds a known static key.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from proxy.errors import (
    ERROR_HEADER,
    ExpectationFailed,
    HeadersTooLarge,
    MalformedRequest,
    Refusal,
    TransferCodingUnsupported,
    VersionUnsupported,
)
from proxy.traffic.message import Framing, ResponseHead
from proxy.traffic.target import KeyFinder

RawHeaders = Sequence[tuple[bytes, bytes]]

CREDENTIALS = {
    b"authorization": "authorization",
    b"x-api-key": "x-api-key",
    b"proxy-authorization": "proxy-authorization",
}
HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_SET_BY_US = {b"host", b"content-length", b"expect"}
_SPECIAL = HOP_BY_HOP | _SET_BY_US | CREDENTIALS.keys()
_SPECIAL_TO_ALL = HOP_BY_HOP | _SET_BY_US | {b"proxy-authorization"}
_ERROR_HEADER = ERROR_HEADER.lower().encode()
_NOT_RELAYED = HOP_BY_HOP | {b"content-length", _ERROR_HEADER}


@dataclass(slots=True)
class RequestHeaders:
    """A client's header fields, sorted: `lines` go upstream, the rest is for the proxy.

    `length` is the Content-Length as it came, None without one. `upgrade` is the protocol that the
    client asks for, empty if it is content with HTTP/1.1.
    """

    lines: list[bytes] = field(default_factory=list)
    stripped: list[str] = field(default_factory=list)
    length: bytes | None = None
    chunked: bool = False
    expects_continue: bool = False
    upgrade: bytes = b""


def read_request(
    raw: RawHeaders,
    version: tuple[int, int],
    keys: KeyFinder,
    most_bytes: int,
    *,
    is_foreign: bool = False,
) -> RequestHeaders:
    """Sort a client's header fields. Raises the refusal that fits.

    The parser has checked each field's syntax, that there is one Host, and that no length
    contradicts another, and `target.select` has read Host; here is what they leave to others. The
    client's credentials stay in a foreign request, which is for a host that is no upstream: there
    they are that host's.
    """
    if version not in ((1, 0), (1, 1)):
        raise VersionUnsupported("This proxy speaks HTTP/1.1.")
    found = RequestHeaders()
    special: list[tuple[bytes, bytes]] = []
    kept_back = _SPECIAL_TO_ALL if is_foreign else _SPECIAL
    size = 0
    for name, value in raw:
        size += len(name) + len(value) + 4
        low = name.lower()
        if low in kept_back:
            special.append((low, value))
        else:
            found.lines.append(b"%b: %b\r\n" % (name, value))
    if size > most_bytes:
        raise HeadersTooLarge(f"The header block is {size} bytes; at most {most_bytes} are taken.")
    _strip_keys(found, keys)
    _read_special(found, special, version)
    return found


def _strip_keys(found: RequestHeaders, keys: KeyFinder) -> None:
    """Take out what holds a key; nearly always none does, which one look at all of it tells."""
    if found.lines and keys.occur_in(b"".join(found.lines)):
        kept = [each for each in found.lines if not keys.occur_in(each)]
        found.stripped += ["header"] * (len(found.lines) - len(kept))
        found.lines = kept


def _read_special(found: RequestHeaders, special: RawHeaders, version: tuple[int, int]) -> None:
    nominated: set[bytes] = set()
    upgrades: set[bytes] = set()
    for name, value in special:
        if name == b"content-length":
            found.length = value
        elif name == b"connection":
            nominated.update(each.strip() for each in value.lower().split(b","))
        elif name == b"transfer-encoding":
            _read_coding(found, value, version)
        elif name == b"expect":
            _read_expect(found, value, version)
        elif name == b"upgrade":
            upgrades.add(value.strip().lower())
        elif name in CREDENTIALS:
            found.stripped.append(CREDENTIALS[name])
    if b"upgrade" in nominated and upgrades - {b"", b"h2c"}:
        # h2c is what some HTTP clients offer unasked; RFC 9110, section 7.8 lets us ignore it.
        found.upgrade = b", ".join(sorted(upgrades))
    nominated -= HOP_BY_HOP | {b"close"}
    if nominated:
        found.lines = [each for each in found.lines if name_of(each) not in nominated]


def name_of(line: bytes) -> bytes:
    """Return the name of a header line, in lower case."""
    return line.partition(b":")[0].lower()


def _read_coding(found: RequestHeaders, value: bytes, version: tuple[int, int]) -> None:
    if version == (1, 0):
        raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
    if value.strip().lower() != b"chunked":
        raise TransferCodingUnsupported("The only transfer coding taken is chunked.")
    found.chunked = True


def _read_expect(found: RequestHeaders, value: bytes, version: tuple[int, int]) -> None:
    if value.strip().lower() != b"100-continue":
        raise ExpectationFailed("The only expectation known is 100-continue.")
    found.expects_continue = version == (1, 1)


def request_head(method: str, target: bytes, authority: bytes, headers: RequestHeaders) -> bytes:
    """Return the head of the request to send, up to where `authorization` completes it."""
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method.encode(), target, authority)]
    lines += headers.lines
    if headers.chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif headers.length is not None:
        lines.append(b"Content-Length: %b\r\n" % headers.length)
    return b"".join(lines)


def authorization(token: str) -> bytes:
    """Return the last header line and the empty line after it."""
    return b"Authorization: Bearer %b\r\n\r\n" % token.encode()


def client_framing(method: str, head: ResponseHead, version: tuple[int, int]) -> Framing:
    """Return how an answer's body reaches the client; CLOSE also ends the connection."""
    if method == "HEAD" or head.status in (204, 205, 304):
        return Framing.NONE
    if head.framing in (Framing.LENGTH, Framing.NONE):
        return Framing.LENGTH
    return Framing.CHUNKED if version == (1, 1) else Framing.CLOSE


def response_head(
    method: str, head: ResponseHead, framing: Framing, version: tuple[int, int], *, keep: bool
) -> bytes:
    """Return the head of an answer for the client."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    nominated = _nominated(head.headers)
    for name, value in head.headers:
        low = name.lower()
        if low not in _NOT_RELAYED and low not in nominated:
            lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(_framing_line(method, head, framing))
    if not keep:
        lines.append(b"Connection: close\r\n\r\n")
    else:
        lines.append(b"\r\n" if version == (1, 1) else b"Connection: keep-alive\r\n\r\n")
    return b"".join(lines)


def _nominated(headers: RawHeaders) -> set[bytes]:
    return {
        each.strip()
        for name, value in headers
        if len(name) == 10 and name.lower() == b"connection"
        for each in value.lower().split(b",")
    }


def _framing_line(method: str, head: ResponseHead, framing: Framing) -> bytes:
    if framing is Framing.CHUNKED:
        return b"Transfer-Encoding: chunked\r\n"
    if head.status == 205:
        return b"Content-Length: 0\r\n"
    if framing is Framing.LENGTH:
        return b"Content-Length: %d\r\n" % (head.length or 0)
    if head.status == 304 or (method == "HEAD" and head.status != 204):
        return _announced_length(head.headers)
    return b""


def _announced_length(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Keep what HEAD and 304 announce of a body that does not come (RFC 9110, section 8.6)."""
    for name, value in headers:
        if name.lower() == b"content-length":
            return b"Content-Length: %b\r\n" % value
    return b""


def problem_head(refusal: Refusal, body: bytes, *, keep: bool) -> bytes:
    """Return the head of an answer that we made ourselves."""
    reason = refusal.title.encode()
    retry = b"" if refusal.retry_after is None else b"Retry-After: %d\r\n" % refusal.retry_after
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\nX-Mobula-Proxy-Error: %b\r\n%b%b%b\r\n"
        % (
            refusal.status,
            reason,
            len(body),
            refusal.code.encode(),
            retry,
            refusal.fields,
            b"" if keep else b"Connection: close\r\n",
        )
    )
