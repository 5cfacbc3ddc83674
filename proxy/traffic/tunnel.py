"""A blind tunnel: bytes pass both ways as they come, each end at the other's pace."""

import asyncio
import socket
from typing import cast

from proxy.traffic.client import break_off

QUIET_SECONDS = 1.0
"""How long a tunnel may be silent once the proxy is going away."""
WRITE_BUFFER = 256 * 1024
"""Bytes that may wait for an end to take them before the other one is no longer read."""


class Tunnel:
    """Two connections as one; `run` it, and `leave` to have it end once nothing passes.

    An end that says that it will send no more is passed on as such, and so is one that breaks.
    """

    def __init__(self, idle: float) -> None:
        """`idle` bounds a silence, in seconds."""
        self._client = _End(self)
        self._far = _End(self)
        self._client.peer, self._far.peer = self._far, self._client
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._over = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<Tunnel {self._client.received} bytes up, {self._far.received} down>"

    async def run(self, client: asyncio.Transport, far: socket.socket, early: bytes) -> None:
        """Join a client and the far end; return when both are gone.

        Nothing is read of the client so far, and `early` is what it had sent before.
        """
        # The client's end comes first: the far one may speak as soon as it is there.
        client.set_protocol(self._client)
        self._client.connection_made(client)
        try:
            await self._loop.create_connection(lambda: self._far, sock=far)
            if early:
                self._client.data_received(early)
            client.resume_reading()
            self.moved()
            self._look()
            if not self._client.is_gone:  # before there was a far end that could be told of it
                await self._over
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._end()

    def leave(self) -> None:
        """End it as soon as it is quiet."""
        self._idle = min(self._idle, QUIET_SECONDS)
        if self._timer is not None:
            self._look()

    def moved(self) -> None:
        self._moved = self._loop.time()

    def lost(self) -> None:
        """Take note that an end is gone."""
        if self._client.is_gone and self._far.is_gone and not self._over.done():
            self._over.set_result(None)

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = self._moved + self._idle - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._end()

    def _end(self) -> None:
        for each in (self._client, self._far):
            each.end()


class _End(asyncio.Protocol):
    """One end of a tunnel."""

    peer: "_End"

    def __init__(self, tunnel: Tunnel) -> None:
        self.received = 0
        self.has_said_all = False
        self.is_gone = False
        self._tunnel = tunnel
        self._transport: asyncio.Transport | None = None

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._tunnel.moved()
        self.peer.write(data)

    def eof_received(self) -> bool:
        """Pass it on; keep the connection for as long as the other end has something to send."""
        self.has_said_all = True
        self.peer.write_eof()
        return not self.peer.has_said_all

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        self.peer.close(broken=exc is not None and not self.has_said_all)
        self._tunnel.lost()

    def pause_writing(self) -> None:
        self.peer.pause_reading()

    def resume_writing(self) -> None:
        self._tunnel.moved()
        self.peer.resume_reading()

    # What the other end and the tunnel call

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
            if self.has_said_all:
                self._transport.close()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self, *, broken: bool) -> None:
        """End it once it has got all; at once, and with an error, if the other end is `broken`."""
        if self._transport is None:
            return
        if broken:
            break_off(self._transport)
        else:
            self._transport.close()

    def end(self) -> None:
        """End it now; with an error if there is something that it did not get."""
        if self._transport is not None:
            if self._transport.get_write_buffer_size():
                break_off(self._transport)
            else:
                self._transport.abort()
