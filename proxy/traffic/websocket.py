"""A WebSocket between a client and an upstream, once both have shaken hands.

Messages, pings, pongs and closes pass from each side to the other; none is answered here. The
rules:

- A message is passed on once it is whole, and may be no longer than the limit. Its bytes stay, but
  for a client's credentials: a token takes their place, and each such message takes one lease.
- Nothing of a message goes upstream if a static key stands in it elsewhere.
- A side that closes is answered by the other one. A side that ends without a Close, or breaks the
  protocol (RFC 6455), ends both, and so does whatever is refused here.
- Memory is bounded: by the limit for one message each way, and by what paused transports hold.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from websockets.frames import CloseCode, Frame, Opcode

from proxy.config import LimitSettings
from proxy.errors import (
    Draining,
    MalformedMessage,
    MessageTooLarge,
    Refusal,
    UpstreamClosed,
    UpstreamInvalid,
    WebSocketIdle,
)
from proxy.tokens.keeper import Keeper
from proxy.tokens.model import Lease, Outcome
from proxy.traffic.client import Client
from proxy.traffic.connection import Connection
from proxy.traffic.credentials import around_credentials, deny_keys, with_token
from proxy.traffic.fact import Fact
from proxy.traffic.side import Side, ViolationError, client_side, close_data, upstream_side
from proxy.traffic.target import KeyFinder

CLOSE_SECONDS: Final = 5.0
"""How long the other side has to answer a Close."""
GOING_AWAY: Final = close_data(CloseCode.GOING_AWAY)
LOST: Final = close_data(CloseCode.INTERNAL_ERROR)


class Relay:
    """One WebSocket; `run` it, and `leave` to have it end early.

    What Mobula counts for a WebSocket is not documented. A message with a credential is charged
    like a request; as no answer tells what became of it, its lease is settled as unknown, which
    counts as used.
    """

    def __init__(
        self,
        client: Side,
        upstream: Side,
        *,
        keeper: Keeper,
        keys: KeyFinder,
        charge: Callable[[], None],
        token_wait: float,
        idle: float,
        fact: Fact,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        """`token_wait` bounds how long a message waits for a token, `idle` a silence; seconds.

        `keys` finds what must not go upstream; `charge` counts a message that needs a token, and
        raises what its client is refused with.
        """
        self._client = client
        self._upstream = upstream
        self._keeper = keeper
        self._keys = keys
        self._charge = charge
        self._token_wait = token_wait
        self._idle = idle
        self._fact = fact
        self._close_seconds = close_seconds
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Relay client {self._client!r}, upstream {self._upstream!r}>"

    async def run(self) -> None:
        """Relay until both sides have ended. Raises TimeoutError for a client that takes nothing.

        It is cancelled when its client has left, and what that said before still goes up.
        """
        work = asyncio.create_task(self._work())
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            await asyncio.wait({work}, timeout=self._close_seconds)
        finally:
            work.cancel()
            await asyncio.wait({work})
        if work.cancelled():
            self._fact.complete = False
        else:
            work.result()

    def leave(self) -> None:
        """Close both sides because the proxy goes away."""
        self._end(Draining("The proxy is being shut down."))

    async def _work(self) -> None:
        pumps = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
        self._look()
        try:
            await self._closing.wait()
            await asyncio.wait(
                pumps, timeout=self._close_seconds, return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for each in pumps:
                each.cancel()
            await asyncio.wait(pumps)
        for each in pumps:
            if not each.cancelled():
                each.result()
        self._client.close(self._upstream.closed or LOST)
        self._upstream.close(self._client.closed or LOST)

    def _look(self) -> None:
        """End a WebSocket on which nothing has passed for too long."""
        left = self._moved + self._idle - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._end(WebSocketIdle(f"Nothing passed for {self._idle:g} s, either way."))

    def _end(self, refusal: Refusal) -> None:
        """Close both sides, and tell the client why."""
        if self._client.closed is None:
            self._fact.code = refusal.code
        reason = f"mobula-proxy: {refusal.code}: {refusal.detail}"
        self._client.close(close_data(refusal.close_code, reason))
        self._upstream.close(GOING_AWAY)
        self._closing.set()

    # The two directions

    async def _up(self) -> None:
        try:
            if not await self._pump(self._client, self._upstream, self._send_up):
                self._fact.complete = False
                self._upstream.close(LOST)
            return
        except ViolationError as broken:
            self._end(_refusal_of(broken))
        except Refusal as refusal:
            self._end(refusal)
        # It may be in the middle of sending, and then a reset would take our Close from it.
        self._client.finish()
        await self._client.discard()

    async def _down(self) -> None:
        try:
            if not await self._pump(self._upstream, self._client, self._send_down):
                self._fact.complete = False
                self._end(UpstreamClosed("The upstream ended without a Close.", answered=True))
        except ViolationError as broken:
            self._upstream.close(close_data(broken.code, str(broken)))
            self._end(UpstreamInvalid(f"What the upstream sends cannot be relayed: {broken}."))
            await self._upstream.discard()

    async def _pump(
        self, source: Side, target: Side, send: Callable[[Frame], Awaitable[None]]
    ) -> bool:
        """Relay what one side sends until its Close; False if it ends without one, unasked."""
        try:
            while (frame := await source.receive()) is not None:
                self._moved = self._loop.time()
                await send(frame)
                if frame.opcode is Opcode.CLOSE:
                    return True
            if source.closed is None:
                return False
            target.close(source.closed)
            return True
        finally:
            self._closing.set()

    async def _send_down(self, frame: Frame) -> None:
        self._client.write(frame)
        await self._client.drain()

    async def _send_up(self, frame: Frame) -> None:
        """Send on what a client sent, with a token for its credentials. Raises refusals."""
        pieces = [bytes(frame.data)]
        if frame.opcode is Opcode.TEXT:
            pieces = around_credentials(pieces[0])
        deny_keys(pieces, self._keys)
        if len(pieces) == 1:
            self._upstream.write(frame)
        elif self._upstream.closed is None:
            self._note_credential()
            self._charge()
            lease = await self._lease()
            data = with_token(pieces, lease.token.secret.reveal())
            sent = self._upstream.write(Frame(Opcode.TEXT, data))
            self._keeper.settle(lease, Outcome.UNKNOWN if sent else Outcome.NOT_SENT)
        await self._upstream.drain()

    def _note_credential(self) -> None:
        """Say so once: there may be no end of messages."""
        if "message" not in self._fact.stripped:
            self._fact.stripped.append("message")

    async def _lease(self) -> Lease:
        """Return a lease; nothing may be awaited until it is used. Raises TokenUnavailable."""
        deadline = self._loop.time() + self._token_wait
        while (lease := self._keeper.lease()) is None:
            await self._keeper.wait_for_token(deadline - self._loop.time())
        return lease


def between(
    client: Client,
    connection: Connection,
    *,
    keeper: Keeper,
    keys: KeyFinder,
    charge: Callable[[], None],
    token_wait: float,
    limits: LimitSettings,
    fact: Fact,
) -> Relay:
    """Return what relays between a client and a connection whose upstream has switched."""
    return Relay(
        client_side(client, limits.message_bytes),
        upstream_side(connection, limits.message_bytes),
        keeper=keeper,
        keys=keys,
        charge=charge,
        token_wait=token_wait,
        idle=limits.message_timeout,
        fact=fact,
    )


def _refusal_of(broken: ViolationError) -> Refusal:
    """Return what we tell a client that broke the protocol."""
    if broken.code == CloseCode.MESSAGE_TOO_BIG:
        return MessageTooLarge(f"{broken}.")
    return MalformedMessage(f"{broken}.", broken.code)
