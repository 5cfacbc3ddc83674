"""The one pipeline, for every listener: admit, lease, send, settle, relay.

A lease is taken when a connection is in hand and nothing is awaited between lease and write, so no
token is sent late. It is settled when the answer's head is there.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from aiohttp import hdrs, web

from proxy.config import LimitSettings
from proxy.errors import Refusal, TotalTimeout, UpstreamClosed
from proxy.tokens.keeper import Keeper
from proxy.tokens.model import Lease, Outcome, Standing, Token
from proxy.traffic import headers as fields
from proxy.traffic.admission import Admission
from proxy.traffic.answer import SWITCHING
from proxy.traffic.attempt import Attempt, Outgoing
from proxy.traffic.client import Client
from proxy.traffic.connection import Connection
from proxy.traffic.fact import Fact, Observer
from proxy.traffic.handshake import Handshake, switch_head
from proxy.traffic.message import Framing
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.request import FrontRequest
from proxy.traffic.upstream import Upstream

if TYPE_CHECKING:
    from proxy.traffic.websocket import Relay

UNAUTHORIZED = 401
REFUSALS = frozenset({UNAUTHORIZED, 403})
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
    """Serves the requests of all listeners."""

    def __init__(
        self,
        *,
        admission: Admission,
        keeper: Keeper,
        limits: LimitSettings,
        occupancy: Occupancy,
        token_wait: float,
        observe: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draining = False
        self._admission = admission
        self._keeper = keeper
        self._limits = limits
        self._occupancy = occupancy
        self._token_wait = token_wait
        self._observe = observe
        self._clock = clock
        self._websockets: WeakSet[Relay] = WeakSet()

    def __repr__(self) -> str:
        return f"<Handler {self._admission!r}>"

    def drain(self) -> None:
        """Let each request be its connection's last, and end what never ends by itself."""
        self.draining = True
        for each in self._websockets:
            each.leave()

    async def __call__(self, request: FrontRequest) -> web.StreamResponse:
        fact = Fact(request.entrance.upstream, method=request.method)
        started = self._clock()
        self._occupancy.requests += 1
        try:
            if self._limits.total_timeout is None:
                return await self._serve(request, fact, None)
            return await self._serve_in_time(request, fact, self._limits.total_timeout)
        except Refusal as refusal:
            return self._refuse(request, refusal, fact)
        except asyncio.CancelledError:
            fact.complete = not fact.status
            raise
        except Exception:
            self._refuse(request, Refusal("The proxy failed; its log says how."), fact)
            raise
        finally:
            self._occupancy.requests -= 1
            fact.seconds = self._clock() - started
            self._observe(fact)

    async def _serve_in_time(
        self, request: FrontRequest, fact: Fact, limit: float
    ) -> web.StreamResponse:
        try:
            async with asyncio.timeout(limit) as total:
                return await self._serve(request, fact, total)
        except TimeoutError:
            if fact.status:  # the answer has been broken off
                return SENT_CLOSE
            raise TotalTimeout(f"The request was not over within {limit:g} s.") from None

    async def _serve(
        self, request: FrontRequest, fact: Fact, total: asyncio.Timeout | None
    ) -> web.StreamResponse:
        out = await self._admission.admit(request, fact)
        try:
            if out.body is not None:
                await out.body.prefetch()
            attempt = await self._answered(out, fact)
            if total is not None and attempt.head.status == SWITCHING:
                total.reschedule(None)  # a WebSocket has limits of its own
            return await self._answer(request, attempt, fact, out)
        finally:
            if out.is_foreign:
                await out.upstream.close()

    # Send and settle

    async def _answered(self, out: Outgoing, fact: Fact) -> Attempt:
        """Send the request until an answer belongs to the client. Raises refusals."""
        refused: dict[str, Token] = {}
        lost = False
        while True:
            fact.attempts += 1
            try:
                attempt = await self._attempt(out, refused, fresh=lost)
            except UpstreamClosed as error:
                if lost or error.answered or not out.may_resend():
                    raise
                lost = True
                continue
            if attempt.lease is None:
                return attempt
            try:
                again = await self._settle(attempt, attempt.lease, out, refused)
            except BaseException:
                await self._give_up(attempt)
                raise
            if not again:
                return attempt
            await attempt.discard()

    async def _attempt(self, out: Outgoing, refused: dict[str, Token], *, fresh: bool) -> Attempt:
        if out.is_foreign:
            attempt = Attempt(out.upstream, await out.upstream.acquire(fresh=fresh), None)
        else:
            attempt = Attempt(out.upstream, *await self._equip(out.upstream, refused, fresh=fresh))
        try:
            await attempt.send(out)
        except BaseException:
            await self._give_up(attempt)
            raise
        return attempt

    async def _give_up(self, attempt: Attempt) -> None:
        if attempt.lease is not None:
            self._keeper.settle(attempt.lease, Outcome.UNKNOWN)
        await attempt.discard()

    async def _equip(
        self, upstream: Upstream, refused: dict[str, Token], *, fresh: bool
    ) -> tuple[Connection, Lease]:
        """Get a connection and a lease, both good at this very moment. Raises refusals."""
        deadline = self._clock() + self._token_wait
        while True:
            await self._keeper.wait_for_token(deadline - self._clock(), refused)
            connection = await upstream.acquire(fresh=fresh)
            lease = self._keeper.lease(refused)
            if lease is not None:
                return connection, lease
            upstream.release(connection)

    async def _settle(
        self, attempt: Attempt, lease: Lease, out: Outgoing, refused: dict[str, Token]
    ) -> bool:
        """Settle the lease by the answer's head; tell whether the request goes again."""
        status = attempt.head.status
        if status not in REFUSALS and status != USED_UP:
            self._keeper.settle(lease, Outcome.USED if status < 400 else Outcome.UNKNOWN)
            return False
        known = self._keeper.known_verdict(lease.token, status)
        # A 401 is about our credential, so that what Mobula said before this one is not enough.
        again = known is Standing.ALIVE and status == UNAUTHORIZED
        if known in (Standing.ALIVE, Standing.UNKNOWN) and not again:
            self._keeper.settle(lease, Outcome.UNKNOWN)
            return False
        refused[lease.token.id] = lease.token
        may_go = out.may_resend(status) and len(refused) < MOST_REFUSED
        if status == USED_UP or again:
            standing = await self._keeper.verdict(lease.token, status, INSPECT_SECONDS, anew=again)
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

    # Relay

    async def _answer(
        self,
        request: web.BaseRequest,
        attempt: Attempt,
        fact: Fact,
        out: Outgoing,
    ) -> web.StreamResponse:
        """Bring the answer to the client; the upstream is let go as soon as it has given all."""
        transport = request.transport
        if transport is None:
            await attempt.discard()
            return SENT_CLOSE
        client = Client(request, transport, self._limits, self._clock)
        try:
            try:
                if out.handshake is None or attempt.head.status != SWITCHING:
                    may_keep = out.handshake is None and self._keeps(request)
                    keep = await self._relay(request, attempt, client, fact, may_keep)
                else:
                    await self._switch(client, attempt, fact, out, out.handshake)
                    keep = False
            finally:
                await attempt.discard()
            if not client.has_all:
                await client.flush()
        except BaseException as error:
            if not fact.status:  # nothing of an answer is out yet
                raise
            fact.complete = False
            client.break_off()
            if not isinstance(error, BROKEN_OFF):
                raise
            return SENT_CLOSE
        return SENT_KEEP if keep and self._keeps(request) else SENT_CLOSE

    async def _relay(
        self, request: web.BaseRequest, attempt: Attempt, client: Client, fact: Fact, keep: bool
    ) -> bool:
        """Write the answer as it comes; tell whether its end leaves the connection open."""
        head = attempt.head
        framing = fields.client_framing(request.method, head, request.version)
        keep = keep and framing is not Framing.CLOSE
        fact.status = head.status
        data = fields.response_head(request.method, head, framing, request.version, keep=keep)
        if framing is Framing.NONE:
            client.write(data)
        else:
            await client.relay(attempt.connection, data, chunked=framing is Framing.CHUNKED)
        return keep

    async def _switch(
        self, client: Client, attempt: Attempt, fact: Fact, out: Outgoing, handshake: Handshake
    ) -> None:
        """Relay a WebSocket until it ends. Raises UpstreamInvalid for a 101 that is not right."""
        from proxy.traffic.websocket import between  # noqa: PLC0415 - only WebSockets pay for it

        data = switch_head(attempt.head, handshake)
        fact.status = attempt.head.status
        client.write(data)
        relay = between(
            client,
            attempt.connection,
            keeper=self._keeper,
            keys=out.keys,
            charge=out.charge,
            token_wait=self._token_wait,
            limits=self._limits,
            fact=fact,
        )
        self._websockets.add(relay)
        if self.draining:
            relay.leave()
        await relay.run()

    def _keeps(self, request: web.BaseRequest) -> bool:
        """Tell whether the client's connection can take another request after this one."""
        return request.keep_alive and not self.draining and request.content.is_eof()

    def _refuse(self, request: web.BaseRequest, refusal: Refusal, fact: Fact) -> web.StreamResponse:
        # Behind an Upgrade that is refused may come what was never meant to be HTTP.
        keep = (
            refusal.keeps_connection
            and request.version == (1, 1)
            and hdrs.UPGRADE not in request.headers
            and self._keeps(request)
        )
        fact.status, fact.code = refusal.status, refusal.code
        body = refusal.problem()
        head = fields.problem_head(refusal, body, keep=keep)
        if request.transport is not None:
            request.transport.write(head if request.method == "HEAD" else head + body)
        return SENT_KEEP if keep else SENT_CLOSE
