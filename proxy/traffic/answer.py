"""One answer on its way from the upstream: a parser without IO, bytes in, head and body out.

Heads and chunks go through llhttp in its strict mode; what that lets pass although RFC 9112 forbids
it is refused here. Memory is bounded by `head_bytes` for heads, trailers and chunk framing.
"""

import re
from dataclasses import dataclass, field
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.errors import UpstreamInvalid
from proxy.traffic.message import Framing, ResponseHead

INTERIM_HEADS: Final = 16
SWITCHING: Final = 101

_HTTP11: Final = b"HTTP/1.1"
_HTTP10: Final = b"HTTP/1.0"
_HEAD_END: Final = b"\r\n\r\n"
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


@dataclass(slots=True)
class _Sink:
    """What the C parser saw. It does not know the parser, so no cycle keeps answers in memory."""

    reason: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)
    head_complete: bool = False
    complete: bool = False

    def on_message_begin(self) -> None:
        if self.complete:
            raise HttpParserError("a second answer")

    def on_status(self, part: bytes) -> None:
        self.reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.head_complete = True

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        self.complete = True


@dataclass(slots=True)
class Answer:
    """One answer: `feed` it what the upstream sends, and take `head` and body from it.

    Heads and chunks are parsed by llhttp in its strict mode; bodies of known length, and those that
    end with the connection, pass it by.
    """

    head_only: bool
    head_bytes: int
    upgrade: bool = False
    """Whether a 101 was asked for; what follows one is a body that ends with the connection."""
    head: ResponseHead | None = None
    body: list[bytes] = field(default_factory=list)
    buffered: int = 0
    started: bool = False
    complete: bool = False
    surplus: bool = False
    """Whether more came than the answer."""
    persistent: bool = False
    """Whether the upstream lets the connection live on."""
    keep_alive_timeout: int | None = None
    _sink: _Sink = field(default_factory=_Sink)
    _parser: HttpResponseParser = field(init=False)
    _interim: int = 0
    _overhead: int = 0
    _left: int = 0
    _start: bytes = b""
    _tail: bytes = b""

    def __post_init__(self) -> None:
        self._parser = HttpResponseParser(self._sink)

    @property
    def switched(self) -> bool:
        """Whether the connection speaks another protocol behind this head, as was asked for."""
        return self.head is not None and self.head.status == SWITCHING

    @property
    def reusable(self) -> bool:
        """Whether the connection is in order behind this answer."""
        return self.complete and self.persistent and not self.surplus

    def feed(self, data: bytes) -> None:
        """Take bytes as they came; raise UpstreamInvalid for what is not strictly HTTP/1.1."""
        self.started = True
        while data and self.head is None:
            data = self._feed_head(data)
        if data:
            self._feed_body(data)

    def feed_eof(self) -> None:
        """Take the orderly end of the connection, which completes only a body framed by it."""
        if self.head is not None and self.head.framing is Framing.CLOSE:
            self.complete = True

    def take(self) -> bytes:
        """Return the body bytes that have come since the last call."""
        data = b"".join(self.body)
        self.body.clear()
        self.buffered = 0
        return data

    def _feed_head(self, data: bytes) -> bytes:
        """Parse no further than one head; return what is behind it."""
        seen = self._tail + data
        end = seen.find(_HEAD_END)
        cut = len(data) if end < 0 else end + len(_HEAD_END) - len(self._tail)
        self._count_overhead(cut)
        self._check_start(data)
        self._parse(data[:cut])
        if self._sink.head_complete != (end >= 0):
            raise UpstreamInvalid("The head of the answer does not end with an empty line.")
        if end < 0:
            self._tail = seen[-3:]
        else:
            self._end_head()
            self._start = self._tail = b""
        return data[cut:]

    def _count_overhead(self, size: int) -> None:
        self._overhead += size
        if self._overhead > self.head_bytes:
            raise UpstreamInvalid(
                f"Head, chunk framing or trailers of the answer exceed {self.head_bytes} bytes."
            )

    def _check_start(self, data: bytes) -> None:
        """Refuse what llhttp lets pass: empty lines in front, HTTP/0.9, HTTP/2.0, RTSP and ICE."""
        if len(self._start) < len(_HTTP11):
            self._start = (self._start + data[: len(_HTTP11)])[: len(_HTTP11)]
            if not (_HTTP11.startswith(self._start) or _HTTP10.startswith(self._start)):
                raise UpstreamInvalid("The answer is not HTTP/1.0 or HTTP/1.1.")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise UpstreamInvalid(f"The answer is malformed: {error}.") from None
        except HttpParserUpgrade:
            pass  # a 101, which is judged at the end of its head

    def _end_head(self) -> None:
        status, sink = self._parser.get_status_code(), self._sink
        switches = status == SWITCHING
        if status < 100:
            raise UpstreamInvalid(f"The answer has status {status:03d}.")
        if switches and not (self.upgrade and self._start == _HTTP11):
            raise UpstreamInvalid("The upstream switches protocols unasked.")
        if _CONTROL.search(sink.reason):
            raise UpstreamInvalid("The reason phrase of the answer has a control character.")
        if status < 200 and not switches:
            self._skip_interim()
        else:
            self._overhead = 0
            self.head = self._read_head(status)
        sink.reason, sink.headers = b"", []
        sink.head_complete = sink.complete = False

    def _skip_interim(self) -> None:
        self._interim += 1
        if self._interim > INTERIM_HEADS:
            raise UpstreamInvalid(f"More than {INTERIM_HEADS} interim heads precede the answer.")

    def _read_head(self, status: int) -> ResponseHead:
        """Find out where the body ends (RFC 9112, section 6.3) and what follows it."""
        length: int | None = None
        codings: list[bytes] = []
        options: list[bytes] = []
        for name, value in self._sink.headers:
            match name.lower():
                case b"content-length":
                    length = int(value.strip(b" \t")[-20:])  # zeros may lead, without end
                case b"transfer-encoding":
                    codings.append(value)
                case b"connection":
                    options += value.lower().translate(None, b" \t").split(b",")
                case b"keep-alive":
                    self._read_keep_alive(value)
        framing = self._framing(status, length, codings)
        http11 = self._start == _HTTP11
        if codings and not http11:
            raise UpstreamInvalid("The answer is HTTP/1.0 and has a Transfer-Encoding.")
        self.persistent = (
            framing is not Framing.CLOSE
            and b"close" not in options
            and (http11 or b"keep-alive" in options)
        )
        if framing is not Framing.LENGTH:
            length = None
        self._left = length or 0
        self.complete = framing is Framing.NONE or length == 0
        return ResponseHead(status, self._sink.reason, self._sink.headers, framing, length)

    def _read_keep_alive(self, value: bytes) -> None:
        if found := _KEEP_ALIVE_TIMEOUT.search(value):
            self.keep_alive_timeout = int(found[1])

    def _framing(self, status: int, length: int | None, codings: list[bytes]) -> Framing:
        if codings and [coding.strip(b" \t").lower() for coding in codings] != [b"chunked"]:
            raise UpstreamInvalid("The answer has a Transfer-Encoding other than chunked.")
        if self.head_only or status in (204, 304):
            return Framing.NONE
        if status == SWITCHING:
            return Framing.CLOSE
        if codings:
            return Framing.CHUNKED
        return Framing.CLOSE if length is None else Framing.LENGTH

    def _feed_body(self, data: bytes) -> None:
        head = cast("ResponseHead", self.head)
        if self.complete:
            self.surplus = True
        elif head.framing is Framing.CHUNKED:
            self._feed_chunks(data)
        elif head.framing is Framing.LENGTH:
            self.surplus = len(data) > self._left
            self._keep(data[: self._left])
            self._left -= min(len(data), self._left)
            self.complete = not self._left
        else:
            self._keep(data)

    def _feed_chunks(self, data: bytes) -> None:
        sink = self._sink
        try:
            self._parse(data)
        except UpstreamInvalid:
            if not sink.complete:
                self._keep_chunks()  # what came before the error came in order
                raise
            self.surplus = True
        self._tail = (self._tail + data[-5:])[-5:]
        if not self._keep_chunks():
            self._count_overhead(len(data))
        if sink.complete:
            self.complete = True
            # llhttp swallows empty lines behind the end; with them it does not end "x\r\n\r\n".
            self.surplus |= self._tail[0] in b"\r\n"

    def _keep_chunks(self) -> bool:
        """Keep what the parser saw of the body; tell whether that was anything."""
        if not self._sink.body:
            return False
        self._keep(b"".join(self._sink.body))
        self._sink.body.clear()
        self._overhead = 0
        return True

    def _keep(self, data: bytes) -> None:
        self.body.append(data)
        self.buffered += len(data)
