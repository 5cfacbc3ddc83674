"""The sandbox as a server: from its socket through arrival, fault and endpoint to the answer."""

import asyncio
import logging
import secrets
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from proxy.sandbox import tokens
from proxy.sandbox.answer import Answer, MalformedError, Stream, refusal
from proxy.sandbox.arrival import Visit, arrive, pick_fault
from proxy.sandbox.control import PREFIX, Control
from proxy.sandbox.endpoints import Body, Call, DataEndpoints, Sleep
from proxy.sandbox.faults import Faults
from proxy.sandbox.feed import Feed, asks_for_feed
from proxy.sandbox.ledger import Ledger
from proxy.sandbox.wire import Sender, drop, read_body, read_refused_body

SANDBOX_KEYS: Mapping[str, str] = {"sandbox-static-key": "growth"}

_SHUTDOWN_SECONDS = 0.1
_CONNECTION: dict[str, Any] = {
    "access_log": None,  # for speed
    "auto_decompress": False,
    "max_line_size": 65_536,
    "max_field_size": 65_536,
}

_log = logging.getLogger(__name__)


class Sandbox:
    """An emulated Mobula API: `async with Sandbox() as sandbox:`, then ask `sandbox.url`.

    `keys` maps each static key to its plan; `bind` is `host:port`, port 0 for any that is free;
    `clock` tells seconds since the epoch; `sleep` waits out delays and the gaps between events.
    ValueError if `bind` or a key is malformed; entering raises OSError if the address cannot be
    bound. `ledger`, `faults` and `skew` may be used directly while it runs; over HTTP the same is
    reached under `/_sandbox/`.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, str] = SANDBOX_KEYS,
        bind: str = "127.0.0.1:0",
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._host, self._port = _parse_bind(bind)
        self._sleep = sleep
        self._ssl = ssl_context
        self._runner: web.ServerRunner | None = None
        self.ledger = Ledger(
            keys, clock=clock, secret=secrets.token_bytes(32), new_id=lambda: str(uuid.uuid4())
        )
        self.faults = Faults()
        self._control = Control(self.ledger, self.faults)
        self._endpoints = DataEndpoints(self.ledger.finder, sleep)
        self._feed = Feed(self.ledger, sleep)
        self._sender = Sender(self.ledger.now)

    def __repr__(self) -> str:
        return f"<Sandbox {self.url if self._runner else 'not started'} {self.ledger!r}>"

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end; RuntimeError while it is not started."""
        if self._runner is None:
            raise RuntimeError("the sandbox is not started")
        host, port = self._runner.addresses[0][:2]
        scheme = "https" if self._ssl else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def skew(self) -> float:
        """Seconds by which the sandbox's time is ahead of the clock handed in."""
        return self.ledger.skew

    @skew.setter
    def skew(self, seconds: float) -> None:
        self.ledger.skew = seconds

    async def __aenter__(self) -> Self:
        runner = web.ServerRunner(
            _Server(self._handle, self._sender), shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, ssl_context=self._ssl).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.path.startswith(PREFIX):
                return await self._take_control(request)
            return await self._exchange(request)
        except MalformedError as error:
            return self._sender.whole(refusal(400, str(error)))
        except web.RequestPayloadError:
            return self._sender.whole(refusal(400, "body is not valid HTTP"))

    async def _take_control(self, request: web.BaseRequest) -> web.StreamResponse:
        body = (await read_body(request)).whole()
        return self._sender.whole(self._control.answer(request.method, request.path, body))

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        visit = arrive(self.ledger, request)
        fault = pick_fault(self.faults, request, visit, self.ledger.clock())
        if fault is None and visit.refusal is None and asks_for_feed(request):
            return await self._feed.serve(request)
        if fault is None:
            return await self._sender.send(request, await self._answer(request, visit))
        if fault.delay:
            await self._sleep(fault.delay)
        if fault.drop == "head":
            return drop(request)
        if fault.revoke and visit.token is not None:
            visit.refusal = self.ledger.reject(visit.token)
        visit.refusal = fault.answer() or visit.refusal
        answer = await self._answer(request, visit)
        send = self._sender.cut if fault.drop == "body" else self._sender.send
        return await send(request, answer)

    async def _answer(self, request: web.BaseRequest, visit: Visit) -> Answer | Stream:
        if visit.refusal is not None:
            self._search(request, await read_refused_body(request))
            answer: Answer | Stream = visit.refusal
        else:
            body = await read_body(request)
            self._search(request, body.head)
            answer = self._act(request, visit, body)
        if visit.mint is not None and isinstance(answer, Answer):
            visit.mint.status = answer.status
        return answer

    def _search(self, request: web.BaseRequest, body: bytes) -> None:
        if body and self.ledger.finder.in_bytes(body):
            self.ledger.leaked("body", request.path)

    def _act(self, request: web.BaseRequest, visit: Visit, body: Body) -> Answer | Stream:
        try:
            if visit.owner is None:
                return self._endpoints.answer(_call(request, body))
            if visit.mint is None:
                return tokens.answer(
                    self.ledger, visit.owner, visit.kind, request.path, request.query
                )
            answer, visit.mint.count = tokens.mint(
                self.ledger, visit.owner, request.content_type, body.whole()
            )
        except MalformedError as error:
            return refusal(400, str(error))
        return answer


def _call(request: web.BaseRequest, body: Body) -> Call:
    return Call(
        method=request.method,
        path=request.path,
        target=request.raw_path,
        query=request.query,
        headers=request.raw_headers,
        body=body,
    )


def _parse_bind(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"bind must be host:port, not {bind!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


class _Server(web.Server):
    """Makes the connections, and ends a request when its client goes away."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        sender: Sender,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._sender = sender

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._sender)


class _Connection(web.RequestHandler):
    """A connection whose errors are ours: aiohttp would log what came, credentials included."""

    __slots__ = ("_sender",)

    def __init__(self, server: web.Server, sender: Sender) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **_CONNECTION)
        self._sender = sender

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes what came
    ) -> web.StreamResponse:
        if status >= 500:
            _log.error("the sandbox failed: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has already begun")
        response = self._sender.whole(refusal(status))
        response.force_close()
        return response
