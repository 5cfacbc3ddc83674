"""The client's connections, on aiohttp's low-level server, and what keeps them in order."""

import asyncio
import select
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from proxy.config import LimitSettings
from proxy.errors import (
    HeadersTooLarge,
    MalformedRequest,
    Refusal,
    RequestTimeout,
    TargetTooLong,
    TooManyConnections,
    VersionUnsupported,
)
from proxy.traffic.auth import NO_EVIDENCE, Auth, Evidence, evidence_of
from proxy.traffic.connection import BODY_BUFFER
from proxy.traffic.fact import Fact, Observer
from proxy.traffic.handler import SENT_CLOSE, Handler
from proxy.traffic.headers import problem_head
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.request import FrontRequest
from proxy.traffic.target import Entrance

WATCH_SECONDS = 1.0
"""How often it is looked whether a client whose bytes are not being read is still there."""
HEAD_END = b"\r\n\r\n"
"""What ends a head, and a chunked body as well."""
READ_BUFFER = 64 * 1024
"""Bytes of a body that are taken in ahead, twice over; they wait while the upload does."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first that speaks HTTP/2 without asking (RFC 9113, section 3.4)."""
HTTP2_REFUSAL = b"".join(
    (
        struct.pack(">xHBxI", 0, 0x4, 0),  # SETTINGS, none
        struct.pack(">xHBxIII", 8, 0x7, 0, 0, 0xD),  # GOAWAY: HTTP_1_1_REQUIRED
    )
)
"""Why not, in its own words (RFC 9113, sections 6.5, 6.8 and 7)."""
FAREWELL_SECONDS = 3.0
"""How long a client may go on sending once it has been told that its connection ends."""
FAREWELLS = 256
"""Clients too many at a time that are told so; others are only cut off."""


class FrontConnection(web.RequestHandler):
    """One client connection; its malformed requests are refused as all our errors are."""

    __slots__ = (
        "_answered",
        "_body_end",
        "_doubted_body",
        "_farewell",
        "_head_timer",
        "_header_timeout",
        "_heads",
        "_last_body",
        "_occupancy",
        "_offers",
        "_refuse",
        "_watch",
        "auth",
        "entrance",
        "evidence",
    )

    def __init__(
        self,
        server: "FrontServer",
        *,
        entrance: Entrance,
        evidence: Evidence,
        auth: Auth | None,
        occupancy: Occupancy,
        refuse: Callable[[Refusal, Entrance], None],
        header_timeout: float,
        **settings: Any,
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self.entrance = entrance
        self.evidence = evidence
        self.auth = auth
        self._occupancy = occupancy
        self._refuse = refuse
        self._header_timeout = header_timeout
        self._answered = 0
        """How many of the requests that came have been answered."""
        self._heads = 0
        """How many heads had come when the timer for the next one was set."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._doubted_body: StreamReader | None = None
        """The one body, begun, behind whose end the parser is not to be trusted."""
        self._body_end = b""
        """The last four bytes received since it has begun."""
        self._offers = False
        """Whether it is the body of a request that offers an upgrade."""
        self._last_body: StreamReader | None = None
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the client in, or tell it that there is no room.

        An answer of some size may wait here for a slow client without holding an upstream.
        """
        super().connection_made(transport)
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=BODY_BUFFER)
        if self.auth is not None:
            self.evidence = evidence_of(transport, self.evidence)
        self._occupancy.connections += 1
        if self._occupancy.too_many_connections:
            self.turn_away(
                TooManyConnections("As many clients as are allowed are connected.", retry_after=1)
            )

    def connection_lost(self, exc: BaseException | None) -> None:
        self._occupancy.connections -= 1
        for timer in (self._head_timer, self._farewell, self._watch):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._last_body = self._doubted_body = None  # they know this connection

    def data_received(self, data: bytes) -> None:
        """Parse, and fail a body that turns out malformed, for which aiohttp would go on waiting.

        After a body that is not whole nothing can follow but the parser's complaint about it.
        """
        if not self._request_count and data.startswith(HTTP2_PREFACE):
            self._turn_away_http2()
            return
        queued = len(self._messages)
        super().data_received(data)
        self._time_head(data)
        for message, body in islice(self._messages, queued, None):
            if (error := getattr(message, "exc", None)) is not None:
                error.__traceback__ = None  # it holds what came, and is held by that
            self._contain(message, body, data)
        if self._doubted_body is not None:
            self._contain_end(self._doubted_body, data)
        if self._messages and (body := self._messages[-1][1]) is not self._last_body:
            if self._last_body is not None and not self._last_body.is_eof():
                self._last_body.set_exception(web.RequestPayloadError())
            self._last_body = body

    def _contain(self, message: Any, body: StreamReader, data: bytes) -> None:
        """Serve nothing behind a request after which aiohttp's parser is not to be trusted.

        Behind an upgrade that it does not know it drops the rest of the bytes it was given. (Those
        behind one that it knows are for who takes it; one that is refused ends the connection.) A
        chunked body's last trailer field it takes for the first header field of the next request.
        """
        if self._doubted_body is not None:
            self.close()
            return
        offers = bool(getattr(message, "upgrade", False))
        if body is EMPTY_PAYLOAD:
            if offers and not (self._upgraded or _ends_one_head(data)):
                self.close()
        elif offers or getattr(message, "chunked", False):
            self._doubted_body, self._offers = body, offers

    def _contain_end(self, body: StreamReader, data: bytes) -> None:
        """Have a new parser read on behind a chunked body, or nothing more if that has begun.

        Until the body has ended the connection takes in what comes: it is the rest of the body.
        """
        self._body_end = (self._body_end + data)[-len(HEAD_END) :]
        if body.is_eof():
            # A full queue pauses the parser, which then holds bytes that a new one would not have.
            if self._body_end == HEAD_END and not (self._offers or self._buffer_paused):
                self._parser = self._new_parser()
                self._doubted_body, self._body_end = None, b""
            else:
                self.close()

    @property
    def takes_more(self) -> bool:
        """Whether a request may follow those that have come; not while their answers pile up."""
        return not (self._close or self.writing_paused)

    def _new_parser(self) -> HttpRequestParser:
        """Make a parser like the one that aiohttp made at the start."""
        return HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    def _time_head(self, data: bytes) -> None:
        """Start the clock for a head that has begun, stop it for one that has come.

        Empty lines begin none: some clients send one behind a body (RFC 9112, section 2.2).
        """
        if self._head_timer is not None:
            if self._request_count > self._heads:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._awaits_head() and data.strip(b"\r\n"):
            self._heads = self._request_count
            self._head_timer = self._loop.call_later(self._header_timeout, self._head_expired)

    def _awaits_head(self) -> bool:
        """Tell whether all that came has been answered, and more may come.

        aiohttp's own `_current_request` lags behind by a turn of the loop on Python 3.11.
        """
        return self._request_count == self._answered and not (self._close or self._force_close)

    def _head_expired(self) -> None:
        self._head_timer = None
        if self._request_count == self._heads and self._awaits_head():
            limit = self._header_timeout
            self.turn_away(RequestTimeout(f"The request's head took longer than {limit:g} s."))

    def turn_away(self, refusal: Refusal) -> None:
        """Refuse without a request to answer, and close; who is turned away already stays so."""
        transport = self.transport
        if transport is None or self._force_close:
            return
        self._refuse(refusal, self.entrance)
        if self._occupancy.connections > self._occupancy.most_connections + FAREWELLS:
            self._force_close = True
            transport.abort()
            return
        _write_problem(transport, refusal)
        self._take_leave()

    def _turn_away_http2(self) -> None:
        refusal = VersionUnsupported("This proxy speaks HTTP/1.1, and the client HTTP/2.")
        self._refuse(refusal, self.entrance)
        if self.transport is not None:
            self.transport.write(HTTP2_REFUSAL)
        self._take_leave()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """End the connection behind an answer that says so, or behind which nothing is served."""
        self._answered += 1
        finished = await super().finish_response(request, resp, start_time)
        if not resp.keep_alive or self._close:
            self._take_leave()
        return finished

    def _take_leave(self) -> None:
        """Say that nothing more will come, and close when the client has done the same.

        If it were closed while the client still sends, its kernel would throw away what the client
        has not read yet, be it the very answer that says why (RFC 9112, section 9.6).
        """
        # To aiohttp this means that it throws away what comes, and leaves the closing to us.
        self._force_close = True
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            with suppress(OSError):  # the client has left, and it was not being listened to
                transport.write_eof()
            self._reading_paused = self._buffer_paused = False
            self._resume_transport_reading()
            self._farewell = self._loop.call_later(FAREWELL_SECONDS, transport.abort)
        else:
            transport.close()

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH_SECONDS, self._look)

    def _look(self) -> None:
        """End the connection if the client has left while its bytes were not being read."""
        self._watch = None
        if self.transport is None or not (self._reading_paused or self._buffer_paused):
            return
        if _has_left(self.transport):
            self.transport.abort()
        else:
            self._watch = self._loop.call_later(WATCH_SECONDS, self._look)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's hook
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's hook
    ) -> web.StreamResponse:
        """Answer what the parser refused, and close; the client's bytes are not repeated."""
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            # The handler has answered or broken off already; what is left is to say it in the log.
            self.logger.error("The handler failed", exc_info=exc)
            self.force_close()
            raise ConnectionError
        refusal = self._judge(exc)
        self._refuse(refusal, self.entrance)
        if self.transport is not None:
            _write_problem(self.transport, refusal)
        return SENT_CLOSE

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - aiohttp's hook
        """Say what kind of error broke the connection; its text may hold a client's bytes."""
        self.logger.debug("client connection: %s", type(kw.get("exc_info")).__name__)

    def _judge(self, error: BaseException | None) -> Refusal:
        if isinstance(error, LineTooLong):
            # aiohttp tells only which limit was broken, so the two are never equal.
            if error.args[1] == self.max_line_size:
                return TargetTooLong(f"At most {self.max_line_size} bytes of target are taken.")
            return HeadersTooLarge("A header field is longer than the header block may be.")
        if "Too many headers" in str(error):
            return HeadersTooLarge(f"At most {self.max_headers} header fields are taken.")
        return MalformedRequest("The bytes received are not a valid HTTP/1.1 request.")

    def close_if_idle(self) -> None:
        """Close unless a request is being served or has just arrived."""
        if self._awaits_head():
            self.force_close()


def _ends_one_head(data: bytes) -> bool:
    """Tell whether bytes in which a head ends hold nothing behind it."""
    splits_end = data.startswith((b"\r", b"\n"))
    return not splits_end and 0 <= data.find(HEAD_END) == len(data) - len(HEAD_END)


def _write_problem(transport: asyncio.Transport, refusal: Refusal) -> None:
    body = refusal.problem()
    transport.write(problem_head(refusal, body, keep=False) + body)


def _has_left(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    # Off Linux there is no POLLRDHUP, and a client that left in order goes unnoticed for longer.
    left = getattr(select, "POLLRDHUP", select.POLLHUP)
    poll.register(transport.get_extra_info("socket").fileno(), left)
    return bool(poll.poll(0))


class FrontServer(web.Server):
    """Makes a `FrontConnection` for each client and keeps track of them."""

    def __init__(
        self,
        handler: Handler,
        entrance: Entrance,
        limits: LimitSettings,
        occupancy: Occupancy,
        observe: Observer,
        auth: Auth | None,
    ) -> None:
        request = partial(FrontRequest, loop=asyncio.get_running_loop())
        super().__init__(
            cast("Callable[..., Awaitable[web.StreamResponse]]", handler),
            request_factory=request,
            handler_cancellation=True,
        )
        self._observe = observe
        self._entrance = entrance
        field_bytes = limits.header_bytes
        if field_bytes == limits.target_bytes:
            field_bytes += 1
        self._settings: dict[str, Any] = {
            "access_log": None,
            "auth": auth,
            "auto_decompress": False,
            "header_timeout": limits.header_timeout,
            "keepalive_timeout": limits.client_idle_timeout,
            "max_field_size": field_bytes,
            "read_bufsize": READ_BUFFER,
            "max_headers": limits.header_count,
            "max_line_size": limits.target_bytes,
            "occupancy": occupancy,
            "refuse": self._refused,
        }

    def __call__(self) -> FrontConnection:
        return self.enter(self._entrance)

    def enter(self, entrance: Entrance, evidence: Evidence = NO_EVIDENCE) -> FrontConnection:
        """Return the protocol of a connection of which more is known than of all others."""
        return FrontConnection(self, entrance=entrance, evidence=evidence, **self._settings)

    def _refused(self, refusal: Refusal, entrance: Entrance) -> None:
        self._observe(Fact(entrance.upstream, status=refusal.status, code=refusal.code))
