"""The columns of the fault matrix: what kinds of requests there are, and the answers to them."""

from dataclasses import dataclass

REPLAY_BYTES = 4096
"""The limit that a streamed body exceeds, and all others do not."""
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True)
class Answer:
    """A whole answer in pieces; `body` is what a client gets of `parts`."""

    start: bytes
    framing: bytes
    parts: tuple[bytes, ...] = ()
    end: bytes = b""
    body: bytes = b""

    @property
    def head(self) -> bytes:
        return self.start + self.framing + b"\r\n"

    @property
    def whole(self) -> bytes:
        return b"".join((self.head, *self.parts, self.end))


_OK = b"HTTP/1.1 200 OK\r\n"
_LENGTH = b"Content-Length: 10\r\n"
_EVENTS = (b"data: 1\n\n", b"data: 2\n\n")

HEAD_ALONE = Answer(_OK, _LENGTH)
SIZED = Answer(_OK, _LENGTH, (b"01234", b"56789"), body=b"0123456789")
STREAM = Answer(
    _OK + b"Content-Type: text/event-stream\r\n",
    b"Transfer-Encoding: chunked\r\n",
    tuple(chunk(event) for event in _EVENTS),
    LAST_CHUNK,
    b"".join(_EVENTS),
)


@dataclass(frozen=True)
class Kind:
    """A kind of request, and the whole answer to it."""

    name: str
    method: str
    fields: bytes = b""
    body: bytes = b""
    streams: bool = False
    answer: Answer = SIZED

    def __str__(self) -> str:
        return self.name

    @property
    def may_repeat(self) -> bool:
        """Whether it may reach the upstream twice (RFC 9110, section 9.2.2)."""
        return self.method != "POST"

    def pieces(self, upload: int) -> list[bytes]:
        """Return what a client writes, piece by piece; a streamed body has `upload` chunks."""
        head = b"%b / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" % self.method.encode()
        start = head + self.fields + b"\r\n" + self.body
        chunks = [chunk(bytes(2 * REPLAY_BYTES))] * upload
        return [start, *chunks, LAST_CHUNK] if self.streams else [start]


GET = Kind("GET", "GET")
KINDS = (
    GET,
    Kind("HEAD", "HEAD", answer=HEAD_ALONE),
    Kind("POST", "POST", b"Content-Length: 4\r\n", b"body"),
    Kind("POST, streamed", "POST", b"Transfer-Encoding: chunked\r\n", streams=True),
    Kind("PUT", "PUT", b"Content-Length: 4\r\n", b"body"),
    Kind("SSE", "GET", b"Accept: text/event-stream\r\n", answer=STREAM),
)
