"""The client's end of one answer: how it takes what is written, and how it is let go."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from proxy.config import LimitSettings
from proxy.traffic.attempt import chunk
from proxy.traffic.connection import Connection
from proxy.traffic.patience import Patience


class Client:
    """Writes one answer to a client, which takes it at its own pace; see `Patience`."""

    __slots__ = ("_clock", "_limits", "_patience", "request", "transport", "write")

    def __init__(
        self,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        limits: LimitSettings,
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.transport = transport
        self._limits = limits
        self._clock = clock
        self._patience: Patience | None = None
        self.write = transport.write

    async def relay(self, connection: Connection, head: bytes, *, chunked: bool) -> None:
        """Write a head, and the body behind it as it comes from the upstream.

        Raises what `Connection.read` and `drain` raise; what is written then is not the whole.
        """
        piece = connection.take_nowait()
        self.write(head + (chunk(piece) if chunked and piece else piece))
        while not connection.body_complete:
            await self.drain()
            piece = await connection.read()
            if piece:
                self.write(chunk(piece) if chunked else piece)
        if chunked:
            self.write(b"0\r\n\r\n")

    async def drain(self) -> None:
        """Wait while the client is slow. Raises TimeoutError once it is too slow."""
        if not self.request.protocol.writing_paused:
            return
        # One task through all looks at the client: aiohttp cannot wait again once it was cancelled.
        drained = asyncio.create_task(self.request.writer.drain())
        try:
            while not drained.done():
                await self._look(drained)
        finally:
            drained.cancel()
        await drained

    @property
    def has_all(self) -> bool:
        """Whether the kernel has taken all that was written."""
        return not self.transport.get_write_buffer_size()

    async def flush(self) -> None:
        """Wait until the kernel has all of the answer, so that an exit cannot cut it short."""
        low, high = self.transport.get_write_buffer_limits()
        self._hold(high=0)
        try:
            await self.drain()
        finally:
            self._hold(high=high, low=low)

    def _hold(self, **limits: int) -> None:
        """Set how much may wait to be sent; uvloop refuses that for a connection that is gone."""
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(**limits)

    def break_off(self) -> None:
        """End the connection so that the client cannot take what it got for the whole answer."""
        break_off(self.transport)

    async def _look(self, drained: asyncio.Task[None]) -> None:
        """Give the client what time it has left, and see how much it takes meanwhile."""
        if self._patience is None:
            self._patience = Patience(self._limits.client_idle_timeout, self._limits.min_rate)
        patience, began, unsent = self._patience, self._clock(), self._unsent()
        await asyncio.wait({drained}, timeout=max(0.0, patience.left))
        taken = unsent - self._unsent()
        patience.waited += self._clock() - began
        patience.moved += taken
        if not drained.done() and (taken <= 0 or patience.left <= 0):
            raise TimeoutError

    def _unsent(self) -> int:
        """Return how many bytes the client has not taken: ours, and those that the kernel holds."""
        ours = self.transport.get_write_buffer_size()
        sock = self.transport.get_extra_info("socket")
        try:
            held = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError, AttributeError):  # it may be closed already
            return ours
        return ours + int.from_bytes(held, sys.byteorder)


def break_off(transport: asyncio.Transport) -> None:
    """End a connection with a reset, which nobody takes for an orderly end."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with suppress(OSError, ValueError):  # it may be closed already; uvloop: ValueError
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
