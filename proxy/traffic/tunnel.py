"""A blind tunnel: bytes pass both ways as they come, each end at the other's pace."""

import asyncio
from typing import cast

QUIET_SECONDS = 1.0
"""How long a tunnel may be silent once the proxy is going away."""
WRITE_BUFFER = 256 * 1024
"""Bytes that may wait for an end to take them before the other one is no longer read."""


class Tunnel:
    """Two connections as one; `run` it, and `leave` to have it end once nothing passes.

    An end that says that it will send no more is passed on as such; an end that breaks takes the
    other with it.
    """

    def __init__(self, idle: float) -> None:
        """`idle` bounds a silence, in seconds."""
        self.client = _End(self)
        self.far = _End(self)
        self.client.peer, self.far.peer = self.far, self.client
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._over = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<Tunnel {self.client.received} bytes up, {self.far.received} down>"

    async def run(self) -> None:
        """Return when both ends are gone."""
        self._look()
        try:
            await self._over
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.abort()

    def leave(self) -> None:
        """End it as soon as it is quiet."""
        self._idle = min(self._idle, QUIET_SECONDS)
        self._look()

    def abort(self) -> None:
        """End it now."""
        for each in (self.client, self.far):
            if each.transport is not None:
                each.transport.abort()

    def moved(self) -> None:
        self._moved = self._loop.time()

    def ended(self) -> None:
        """Take note that an end is gone."""
        if self.client.is_gone and self.far.is_gone and not self._over.done():
            self._over.set_result(None)

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = self._moved + self._idle - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self.abort()


class _End(asyncio.Protocol):
    """One end of a tunnel."""

    peer: "_End"

    def __init__(self, tunnel: Tunnel) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = 0
        self.has_said_all = False
        self.is_gone = False
        self._tunnel = tunnel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._tunnel.moved()
        if self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """Pass it on; keep the connection for as long as the other end has something to send."""
        self.has_said_all = True
        transport = self.peer.transport
        if transport is not None and not transport.is_closing():
            transport.write_eof()
            if self.peer.has_said_all:
                transport.close()
        return not self.peer.has_said_all

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        if self.peer.transport is not None:
            if exc is None:
                self.peer.transport.close()
            else:
                self.peer.transport.abort()
        self._tunnel.ended()

    def pause_writing(self) -> None:
        if self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self._tunnel.moved()
        if self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()
