"""One connection to an upstream, and the one answer at a time that it carries.

`Answer` is the parser and does no IO: bytes in, head and body out. `Connection` drives it from a
transport and keeps time. The rules:

- An error breaks a connection for good, and what came of the answer before stays readable.
- Bytes that no request asked for (before a request, or behind the end of its answer) are never
  handed to anybody, and their connection is never used again.
- A connection is reused only if the request went out whole, the answer came whole, and both sides
  said so in so many words. Whatever is odd is refused (RFC 9112, sections 6.3 and 9.3).
- Memory is bounded: by `head_bytes` for heads, trailers and chunk framing, by `BODY_BUFFER` and
  one read of the transport for a body that nobody fetches.
"""

import asyncio
import math
import re
import select
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.config import UpstreamSettings
from proxy.errors import Refusal, UpstreamClosed, UpstreamInvalid, UpstreamTimeout
from proxy.traffic.message import Framing, ResponseHead

BODY_BUFFER: Final = 256 * 1024
INTERIM_HEADS: Final = 16

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
            raise UpstreamInvalid("The upstream switches protocols unasked.") from None

    def _end_head(self) -> None:
        status, sink = self._parser.get_status_code(), self._sink
        if status < 100 or status == 101:
            raise UpstreamInvalid(f"The answer has status {status:03d}.")
        if _CONTROL.search(sink.reason):
            raise UpstreamInvalid("The reason phrase of the answer has a control character.")
        if status < 200:
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
                raise
            self.surplus = True
        self._tail = (self._tail + data[-5:])[-5:]
        if sink.body:
            self._keep(b"".join(sink.body))
            sink.body.clear()
            self._overhead = 0
        else:
            self._count_overhead(len(data))
        if sink.complete:
            self.complete = True
            # llhttp swallows empty lines behind the end; with them it does not end "x\r\n\r\n".
            self.surplus |= self._tail[0] in b"\r\n"

    def _keep(self, data: bytes) -> None:
        self.body.append(data)
        self.buffered += len(data)


class _Deadline:
    """A deadline that is cheap to move: its timer is late rather than replaced, and re-arms."""

    __slots__ = ("_armed", "_expired", "_loop", "_timer", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._armed = self._when = math.inf

    def set(self, delay: float) -> None:
        self._when = self._loop.time() + delay
        if self._when < self._armed:
            self._arm()

    def clear(self) -> None:
        self._when = math.inf

    def stop(self) -> None:
        """Clear it for good: nothing refers to the connection any more."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = self._when
        self._timer = self._loop.call_at(self._when, self._fire)

    def _fire(self) -> None:
        self._timer, self._armed = None, math.inf
        if self._loop.time() >= self._when:
            self.clear()
            self._expired()
        elif self._when < math.inf:
            self._arm()


class Connection(asyncio.Protocol):
    """One upstream connection; it carries one exchange at a time.

    An exchange: `begin`, then `write` and `drain` as needed and `end`, and beside or after that
    `head`, then `read` until it returns b"". One task may write while another one reads; not two of
    either. Whoever acquired a connection releases it, in whatever state the exchange is.
    """

    __slots__ = (
        "_answer",
        "_drainer",
        "_error",
        "_loop",
        "_lost",
        "_poll",
        "_reader",
        "_reading_paused",
        "_receiving",
        "_sending",
        "_sent",
        "_settings",
        "_transport",
        "_unsent",
        "_writing_paused",
        "born",
        "expires",
        "reused",
    )

    def __init__(
        self,
        settings: UpstreamSettings,
        loop: asyncio.AbstractEventLoop,
        lost: Callable[["Connection"], None],
    ) -> None:
        """`lost` is called once, when the connection is of no more use."""
        self.born = loop.time()
        self.expires: float | None = None
        """Until when an unused connection is kept; the pool's, and reset by each exchange."""
        self.reused = False
        """Whether this exchange found the connection used before."""
        self._settings = settings
        self._loop = loop
        self._lost = lost
        self._answer: Answer | None = None
        self._error: Refusal | None = None
        self._sent = True
        self._unsent = 0
        self._reading_paused = False
        self._writing_paused = False
        self._reader: asyncio.Future[None] | None = None
        self._drainer: asyncio.Future[None] | None = None
        self._receiving = _Deadline(loop, self._receive_expired)
        self._sending = _Deadline(loop, self._send_expired)

    def __repr__(self) -> str:
        if self._error is not None:
            state = "closed"
        elif self.reusable:
            state = "idle"
        else:
            state = "busy"
        return f"<Connection {state}{', reused' if self.reused else ''}>"

    # The request

    def begin(self, data: bytes, *, head_only: bool, complete: bool) -> None:
        """Start an exchange by sending `data`: the head of the request and maybe of its body.

        `head_only` says that the method is HEAD, `complete` that nothing else is to be sent.
        """
        self.reused = self._answer is not None
        self.expires = None
        self._answer = Answer(head_only=head_only, head_bytes=self._settings.head_bytes)
        self._sent = False
        self.write(data)
        if complete:
            self.end()

    def write(self, data: bytes) -> None:
        """Send more of the request; on a broken connection this does nothing."""
        if self._error is None and not self._transport.is_closing():
            self._transport.write(data)

    @property
    def writing_paused(self) -> bool:
        """Whether to `drain` before writing more."""
        return self._writing_paused or self._error is not None

    async def drain(self) -> None:
        """Wait until more may be written.

        Raises UpstreamTimeout when nothing moves for `idle_timeout`, and UpstreamClosed when nobody
        will take the rest; the upstream may have answered all the same: see `head`.
        """
        while self._writing_paused and self._error is None:
            self._unsent = self._transport.get_write_buffer_size()
            self._sending.set(self._settings.idle_timeout)
            self._drainer = self._loop.create_future()
            await self._drainer
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Say that the request has been sent whole; from now on `head_timeout` counts."""
        self._sent = True
        if self._error is None and self._current.head is None:
            self._receiving.set(self._settings.head_timeout)

    # The answer

    async def head(self) -> ResponseHead:
        """Wait for the head of the answer, which may come before the request is sent whole.

        Raises UpstreamClosed, UpstreamInvalid or UpstreamTimeout.
        """
        answer = self._current
        while answer.head is None:
            await self._more()
        return answer.head

    async def read(self) -> bytes:
        """Return all body bytes at hand, or wait for some; b"" is the end of the body.

        Raises UpstreamClosed for a body cut short, UpstreamInvalid for a malformed one, and
        UpstreamTimeout when no byte comes for `idle_timeout`.
        """
        answer = self._current
        while not answer.body:
            if answer.complete:
                return b""
            if self._error is None:
                self._receiving.set(self._settings.idle_timeout)
            await self._more()
        return self.take_nowait()

    @property
    def body_complete(self) -> bool:
        """Whether the body has come to its end, all taken or not."""
        return self._current.complete

    def take_nowait(self) -> bytes:
        """Return the body bytes at hand, maybe none."""
        data = self._current.take()
        if self._reading_paused:
            self._reading_paused = False
            if self._error is None:
                self._transport.resume_reading()
        return data

    # The connection

    @property
    def reusable(self) -> bool:
        """Whether nothing of an exchange is left to do, and another one may follow."""
        answer = self._answer
        return (
            self._error is None
            and not self._reading_paused
            and (answer is None or (self._sent and answer.reusable))
        )

    @property
    def keep_alive_timeout(self) -> int | None:
        """How many seconds the upstream said it keeps the connection; None if it did not say."""
        return None if self._answer is None else self._answer.keep_alive_timeout

    def is_quiet(self) -> bool:
        """Whether the socket has nothing to read: an end or stray bytes not yet noticed."""
        return not self._poll.poll(0)

    def abort(self) -> None:
        self._fail(self._closed("The proxy closed the connection to the upstream."))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            self._fail(UpstreamClosed("The upstream sent bytes unasked.", answered=False))
            return
        try:
            answer.feed(data)
        except UpstreamInvalid as error:
            self._fail(error)
            return
        if answer.buffered > BODY_BUFFER:
            self._hold_back(answer)
        if answer.head is not None:
            self._receiving.clear()
            _wake(self._reader)

    def eof_received(self) -> None:
        answer = self._answer
        if answer is not None and not answer.complete and _ended_orderly(self._transport):
            answer.feed_eof()
        self._fail(self._closed("The upstream closed the connection."))

    def connection_lost(self, exc: Exception | None) -> None:
        how = "closed" if exc is None else "reset"
        self._fail(self._closed(f"The upstream {how} the connection."))

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._sending.clear()
        _wake(self._drainer)

    @property
    def _current(self) -> Answer:
        assert self._answer is not None, "begin() comes first"  # noqa: S101 - the caller's duty
        return self._answer

    async def _more(self) -> None:
        """Wait until more of the answer has come, or raise what keeps it from coming."""
        if self._error is not None:
            raise self._error
        self._reader = self._loop.create_future()
        await self._reader

    def _hold_back(self, answer: Answer) -> None:
        if not answer.complete and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _receive_expired(self) -> None:
        if self._current.head is None:
            limit, what = self._settings.head_timeout, "did not begin its answer"
        else:
            limit, what = self._settings.idle_timeout, "sent no more of its answer"
        self._fail(UpstreamTimeout(f"The upstream {what} within {limit:g} s."))

    def _send_expired(self) -> None:
        unsent, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if self._unsent < unsent:
            self._sending.set(self._settings.idle_timeout)
            return
        limit = self._settings.idle_timeout
        self._fail(UpstreamTimeout(f"The upstream took no more of the request within {limit:g} s."))

    def _closed(self, detail: str) -> UpstreamClosed:
        answer = self._answer
        return UpstreamClosed(detail, answered=answer is not None and answer.started)

    def _fail(self, error: Refusal) -> None:
        """Break the connection for good; the first error is the one that callers get."""
        if self._error is not None:
            return
        self._error = error
        self._receiving.stop()
        self._sending.stop()
        self._transport.abort()
        _wake(self._reader)
        _wake(self._drainer)
        self._lost(self)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _ended_orderly(transport: asyncio.Transport) -> bool:
    """Whether the peer ended the stream itself: over TLS, with a close_notify (RFC 8446, 6.1)."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False
