"""One connection to an upstream, and the one answer at a time that it carries.

`Connection` drives an `Answer`, the parser, from a transport and keeps time. The rules:

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
import select
import ssl
from collections.abc import Callable
from typing import Final, cast

from proxy.config import UpstreamSettings
from proxy.errors import Refusal, UpstreamClosed, UpstreamInvalid, UpstreamTimeout
from proxy.traffic.answer import Answer
from proxy.traffic.message import ResponseHead

BODY_BUFFER: Final = 256 * 1024


def _nothing() -> None: ...


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
        """Clear it for good: neither the loop nor this refers to the connection any more."""
        self.clear()
        self._expired = _nothing
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

    def begin(self, data: bytes, *, head_only: bool, complete: bool, upgrade: bool = False) -> None:
        """Start an exchange by sending `data`: the head of the request and maybe of its body.

        `head_only` says that the method is HEAD, `complete` that nothing else is to be sent,
        `upgrade` that a 101 is asked for. Behind that, `write` and `read` pass the bytes of the
        other protocol, until the connection ends.
        """
        self.reused = self._answer is not None
        self.expires = None
        most = self._settings.head_bytes
        self._answer = Answer(head_only=head_only, head_bytes=most, upgrade=upgrade)
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
        UpstreamTimeout when no byte comes for `idle_timeout`, but not behind a 101.
        """
        answer = self._current
        while not answer.body:
            if answer.complete:
                return b""
            if self._error is None and not answer.switched:
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

    def discard(self) -> None:
        """Break it for good, and let go of the answer and of the error: nobody asks for them now.

        An error that was raised holds all that was at hand then, this connection and its buffers
        among it, and so they would stay in memory until the next full garbage collection.
        """
        self.abort()
        self._answer = None
        self._error = UpstreamClosed("The connection has been discarded.", answered=True)

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
