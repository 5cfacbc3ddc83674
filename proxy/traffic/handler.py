"""The one pipeline, for every listener: admit, lease, send, settle, relay.

A lease is taken when a connection is in hand and nothing is awaited between lease and write, so no
token is sent late. It is settled when the answer's head is there.
"""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from proxy.config import LimitSettings
from proxy.errors import AuthPathDenied, Refusal, UpstreamClosed
from proxy.tokens.keeper import Keeper
from proxy.tokens.model import Lease, Outcome, Standing, Token
from proxy.traffic import headers as fields
from proxy.traffic.attempt import Attempt, Outgoing, chunk
from proxy.traffic.body import RequestBody
from proxy.traffic.connection import Connection
from proxy.traffic.fact import Fact, Observer
from proxy.traffic.message import Framing
from proxy.traffic.target import manages_tokens, origin_form, without_keys
from proxy.traffic.upstream import Upstream

REFUSALS = frozenset({401, 403})
USED_UP = 429
BROKEN_OFF = (Refusal, ConnectionError, TimeoutError)
"""What ends an answer after its head without being our own failure."""
MOST_REFUSED = 3
"""Tokens that one request is sent with at the most: its own, another, and a newly minted one."""
INSPECT_SECONDS = 2.0
"""How long a request waits to learn whether a refusal is about its token."""


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer has been written to the transport already."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self._keep_alive = keep

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002 - aiohttp's hook
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's hook
        return None


SENT_KEEP, SENT_CLOSE = Sent(keep=True), Sent(keep=False)


class Handler:
    """Serves one listener's requests; they all go to `upstream`."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        keeper: Keeper,
        limits: LimitSettings,
        token_wait: float,
        observe: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstream_name = upstream.name
        self.draining = False
        self.active = 0
        self._upstream = upstream
        self._keeper = keeper
        self._limits = limits
        self._token_wait = token_wait
        self._observe = observe
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Handler to {self._upstream.name}, {self.active} active>"

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        fact = Fact(self._upstream.name, method=request.method)
        started = self._clock()
        self.active += 1
        try:
            return await self._serve(request, fact)
        except Refusal as refusal:
            return self._refuse(request, refusal, fact)
        except asyncio.CancelledError:
            fact.complete = not fact.status
            raise
        except Exception:
            self._refuse(request, Refusal("The proxy failed; its log says how."), fact)
            raise
        finally:
            self.active -= 1
            fact.seconds = self._clock() - started
            self._observe(fact)

    async def _serve(self, request: web.BaseRequest, fact: Fact) -> web.StreamResponse:
        out = self._admit(request, fact)
        attempt = await self._answered(out, fact)
        try:
            return await self._relay(request, attempt, fact)
        finally:
            await self._discard(attempt)

    # Admit

    def _admit(self, request: web.BaseRequest, fact: Fact) -> Outgoing:
        """Check a request and turn it into what goes upstream. Raises refusals."""
        keys = self._keeper.known_keys
        raw_target = request.raw_path.encode("utf-8", "surrogateescape")
        target, places = without_keys(origin_form(request.method, raw_target), keys)
        fact.path = target.partition(b"?")[0].decode("latin-1")
        found = fields.read_request(
            request.raw_headers, request.version, keys, self._limits.header_bytes
        )
        fact.stripped = found.stripped + places
        prefix = b"" if target == b"*" else self._upstream.prefix
        if manages_tokens(target) or (prefix and manages_tokens(prefix + target)):
            raise AuthPathDenied(
                "The proxy mints and revokes tokens itself; /api/2/auth is not for its clients."
            )
        body = None
        if found.chunked or found.length not in (None, b"0"):
            body = RequestBody(
                request,
                keep=self._limits.replay_bytes,
                seconds=self._limits.body_timeout,
                expected=found.expects_continue,
            )
        head = fields.request_head(request.method, prefix + target, self._upstream.authority, found)
        return Outgoing(request.method, head, body, found.chunked)

    # Send and settle

    async def _answered(self, out: Outgoing, fact: Fact) -> Attempt:
        """Send the request until an answer belongs to the client. Raises refusals."""
        refused: dict[str, Token] = {}
        lost = False
        while True:
            fact.attempts += 1
            try:
                attempt = await self._attempt(out, refused)
            except UpstreamClosed as error:
                if lost or error.answered or not out.may_resend():
                    raise
                lost = True
                continue
            try:
                again = await self._settle(attempt, out, refused)
            except BaseException:
                self._keeper.settle(attempt.lease, Outcome.UNKNOWN)
                await self._discard(attempt)
                raise
            if not again:
                return attempt
            await self._discard(attempt)

    async def _attempt(self, out: Outgoing, refused: dict[str, Token]) -> Attempt:
        attempt = Attempt(*await self._equip(refused))
        try:
            await attempt.send(out)
        except BaseException:
            self._keeper.settle(attempt.lease, Outcome.UNKNOWN)
            await self._discard(attempt)
            raise
        return attempt

    async def _equip(self, refused: dict[str, Token]) -> tuple[Connection, Lease]:
        """Get a connection and a lease, both good at this very moment. Raises refusals."""
        deadline = self._clock() + self._token_wait
        while True:
            await self._keeper.wait_for_token(deadline - self._clock(), refused)
            connection = await self._upstream.acquire()
            lease = self._keeper.lease(refused)
            if lease is not None:
                return connection, lease
            self._upstream.release(connection)

    async def _settle(self, attempt: Attempt, out: Outgoing, refused: dict[str, Token]) -> bool:
        """Settle the lease by the answer's head; tell whether the request goes again."""
        lease, status = attempt.lease, attempt.head.status
        if status not in REFUSALS and status != USED_UP:
            self._keeper.settle(lease, Outcome.USED if status < 400 else Outcome.UNKNOWN)
            return False
        if self._keeper.known_verdict(lease.token, status) in (Standing.ALIVE, Standing.UNKNOWN):
            self._keeper.settle(lease, Outcome.UNKNOWN)
            return False
        refused[lease.token.id] = lease.token
        may_go = out.may_resend(status) and len(refused) < MOST_REFUSED
        if status == USED_UP:
            standing = await self._keeper.verdict(lease.token, status, INSPECT_SECONDS)
            dead = standing in (Standing.EXHAUSTED, Standing.GONE)
            self._keeper.settle(lease, Outcome.EXHAUSTED if dead else Outcome.UNKNOWN)
            return dead and may_go
        self._keeper.refuse(lease, status)
        if not may_go:
            return False
        if len(refused) == 1 and self._keeper.has_other(refused):
            return True
        return await self._all_dead(refused, status)

    async def _all_dead(self, refused: dict[str, Token], status: int) -> bool:
        for token in refused.values():
            standing = await self._keeper.verdict(token, status, INSPECT_SECONDS)
            if standing not in (Standing.EXHAUSTED, Standing.GONE):
                return False
        return True

    async def _discard(self, attempt: Attempt) -> None:
        try:
            await attempt.stop()
        finally:
            self._upstream.release(attempt.connection)

    # Relay

    async def _relay(
        self, request: web.BaseRequest, attempt: Attempt, fact: Fact
    ) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            return SENT_CLOSE
        head, connection = attempt.head, attempt.connection
        framing = fields.client_framing(request.method, head, request.version)
        keep = self._keeps(request) and framing is not Framing.CLOSE
        fact.status = head.status
        data = fields.response_head(request.method, head, framing, request.version, keep=keep)
        if framing is Framing.NONE:
            transport.write(data)
            return SENT_KEEP if keep else SENT_CLOSE
        chunked = framing is Framing.CHUNKED
        piece = connection.take_nowait()
        try:
            transport.write(data + (chunk(piece) if chunked and piece else piece))
            while not connection.body_complete:
                await self._drain(request, transport)
                piece = await connection.read()
                if piece:
                    transport.write(chunk(piece) if chunked else piece)
            if chunked:
                transport.write(b"0\r\n\r\n")
            if transport.get_write_buffer_size():
                await self._flush(request, transport)
        except BaseException as error:
            fact.complete = False
            _break_off(transport)
            if not isinstance(error, BROKEN_OFF):
                raise
            return SENT_CLOSE
        return SENT_KEEP if keep and self._keeps(request) else SENT_CLOSE

    def _keeps(self, request: web.BaseRequest) -> bool:
        """Tell whether the client's connection can take another request after this one."""
        return request.keep_alive and not self.draining and request.content.is_eof()

    async def _flush(self, request: web.BaseRequest, transport: asyncio.Transport) -> None:
        """Wait until the kernel has all of the answer, so that an exit cannot cut it short."""
        low, high = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(high=0)
        try:
            await self._drain(request, transport)
        finally:
            transport.set_write_buffer_limits(high=high, low=low)

    async def _drain(self, request: web.BaseRequest, transport: asyncio.Transport) -> None:
        """Wait while the client is slow. Raises TimeoutError once it takes nothing at all."""
        if not request.protocol.writing_paused:
            return
        # One task through all looks at the client: aiohttp cannot wait again once it was cancelled.
        drained = asyncio.create_task(request.writer.drain())
        try:
            unsent = _unsent(transport)
            while not (await asyncio.wait({drained}, timeout=self._limits.client_idle_timeout))[0]:
                before, unsent = unsent, _unsent(transport)
                if unsent >= before:
                    raise TimeoutError
        finally:
            drained.cancel()
        await drained

    def _refuse(self, request: web.BaseRequest, refusal: Refusal, fact: Fact) -> web.StreamResponse:
        keep = refusal.keeps_connection and request.version == (1, 1) and self._keeps(request)
        fact.status, fact.code = refusal.status, refusal.code
        body = refusal.problem()
        head = fields.problem_head(refusal, body, keep=keep)
        if request.transport is not None:
            request.transport.write(head if request.method == "HEAD" else head + body)
        return SENT_KEEP if keep else SENT_CLOSE


def _unsent(transport: asyncio.Transport) -> int:
    """Return how many bytes the client has not taken yet: ours, and those that the kernel holds."""
    ours = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    try:
        held = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError, AttributeError):  # it may be closed already
        return ours
    return ours + int.from_bytes(held, sys.byteorder)


def _break_off(transport: asyncio.Transport) -> None:
    """End a client's connection so that it cannot take what it got for the whole answer."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with suppress(OSError, ValueError):  # it may be closed already; uvloop: ValueError
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
