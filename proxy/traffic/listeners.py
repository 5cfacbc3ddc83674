"""The addresses clients connect to, on aiohttp's low-level server."""

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

from proxy.config import Address, LimitSettings, ListenerSettings
from proxy.errors import HeadersTooLarge, MalformedRequest, Refusal, TargetTooLong
from proxy.traffic.fact import Fact, Observer
from proxy.traffic.handler import SENT_CLOSE, Handler
from proxy.traffic.headers import problem_head

BACKLOG = 1024
UNIX_MODE = 0o660
WATCH_SECONDS = 1.0
"""How often it is looked whether a client whose bytes are not being read is still there."""
CLOSE_SECONDS = 0.01
"""How long a request that was not over in time may take to notice; to aiohttp, 0 means for ever."""


class BindError(Exception):
    """An address cannot be listened on; the text names it."""


class FrontConnection(web.RequestHandler):
    """One client connection; its malformed requests are refused as all our errors are."""

    __slots__ = ("_last_body", "_refuse", "_watch")

    def __init__(
        self, server: "FrontServer", refuse: Callable[[Refusal], None], **settings: Any
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._refuse = refuse
        self._last_body: StreamReader | None = None
        self._watch: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Parse, and fail a body that turns out malformed, for which aiohttp would go on waiting.

        After a body that is not whole nothing can follow but the parser's complaint about it.
        """
        super().data_received(data)
        if self._messages and (body := self._messages[-1][1]) is not self._last_body:
            if self._last_body is not None and not self._last_body.is_eof():
                self._last_body.set_exception(web.RequestPayloadError())
            self._last_body = body

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
        self._refuse(refusal)
        body = refusal.problem()
        if self.transport is not None:
            self.transport.write(problem_head(refusal, body, keep=False) + body)
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
        if self._current_request is None and not self._messages:
            self.force_close()


def _has_left(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    # Off Linux there is no POLLRDHUP, and a client that left in order goes unnoticed for longer.
    left = getattr(select, "POLLRDHUP", select.POLLHUP)
    poll.register(transport.get_extra_info("socket").fileno(), left)
    return bool(poll.poll(0))


class FrontServer(web.Server):
    """Makes a `FrontConnection` for each client and keeps track of them."""

    def __init__(self, handler: Handler, limits: LimitSettings, observe: Observer) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._observe = observe
        self._upstream = handler.upstream_name
        field_bytes = limits.header_bytes
        if field_bytes == limits.target_bytes:
            field_bytes += 1
        self._settings = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": limits.client_idle_timeout,
            "lingering_time": min(10.0, limits.body_timeout),
            "max_field_size": field_bytes,
            "max_headers": limits.header_count,
            "max_line_size": limits.target_bytes,
        }

    def __call__(self) -> FrontConnection:
        return FrontConnection(self, self._refused, **self._settings)

    def _refused(self, refusal: Refusal) -> None:
        self._observe(Fact(self._upstream, status=refusal.status, code=refusal.code))


class Listener:
    """One bound address and the connections that came through it."""

    def __init__(
        self, settings: ListenerSettings, handler: Handler, limits: LimitSettings, observe: Observer
    ) -> None:
        self.mode = settings.mode
        self.address = settings.bind
        self.handler = handler
        self._front = FrontServer(handler, limits, observe)
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<Listener {self.mode} on {self.address}, {len(self._front.connections)} open>"

    async def bind(self) -> None:
        """Start to listen; `address` then holds the port taken. Raises BindError."""
        self._server, self.address = await listen(self._front, self.address)

    def drain(self) -> None:
        """Refuse new connections, close idle ones, and let each request in flight be the last."""
        self.handler.draining = True
        if self._server is not None:
            self._server.close()
        for connection in self._front.connections:
            if isinstance(connection, FrontConnection):
                connection.close_if_idle()

    async def close(self) -> None:
        """End every connection now."""
        self.drain()
        await self._front.shutdown(CLOSE_SECONDS)
        if self.address.path:
            Path(self.address.path).unlink(missing_ok=True)  # noqa: ASYNC240 - once, at the end


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], address: Address
) -> tuple[asyncio.Server, Address]:
    """Listen on a TCP address or Unix socket; return the port taken too. Raises BindError."""
    loop = asyncio.get_running_loop()
    try:
        if address.path:
            return await _listen_unix(loop, factory, address.path), address
        server = await loop.create_server(factory, address.host, address.port, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise BindError(f"cannot listen on {address}: {_reason(error)}") from error
    port = server.sockets[0].getsockname()[1]
    return server, Address(address.host, port)


async def _listen_unix(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol], path: str
) -> asyncio.Server:
    if _answers(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    server = await loop.create_unix_server(factory, path, backlog=BACKLOG)
    Path(path).chmod(UNIX_MODE)  # noqa: ASYNC240 - once, at the start
    return server


def _answers(path: str) -> bool:
    """Tell whether a process listens on a socket file; one that a crash left behind does not."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (0, errno.EAGAIN)


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the name could not be resolved"
    return os.strerror(error.errno) if error.errno else str(error)
