"""One side of a WebSocket, client or upstream: bytes become messages, and frames become bytes.

RFC 6455 is kept by the core of the library websockets: masks, reserved bits, opcodes, lengths,
fragments and close codes. (aiohttp's parser minds neither masks nor all codes; wsproto is slower,
bounds nothing and refuses 1014.) What it would answer by itself is dropped: the other side answers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol
from websockets.protocol import Side as Role

from proxy.errors import UpstreamClosed
from proxy.traffic.client import Client
from proxy.traffic.connection import Connection

READ_BUFFER: Final = 64 * 1024
LONGEST_REASON: Final = 123

_SILENT: Final = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True  # the library would show what stands in frames, credentials too


class ViolationError(Exception):
    """A side broke the protocol; `code` and the text are what a Close frame tells it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def close_data(code: int, reason: str = "") -> bytes:
    """Return what a Close frame holds; a reason that does not fit is cut."""
    fitting = reason.encode()[:LONGEST_REASON].decode(errors="ignore")
    return Close(code, fitting).serialize()


NORMAL: Final = close_data(CloseCode.NORMAL_CLOSURE)


class Side:
    """Receives from one side and writes to it; of one WebSocket, and of one task each way."""

    def __init__(
        self,
        role: Role,
        *,
        read: Callable[[], Awaitable[bytes]],
        write: Callable[[bytes], None],
        drain: Callable[[], Awaitable[None]],
        finish: Callable[[], None] = lambda: None,
        most: int,
    ) -> None:
        """`role` is the one that we play towards it; `most` bytes are taken in one message.

        `read` returns b"" at the end, `drain` returns when more may be written, and `finish` says
        that nothing more will be.
        """
        self.closed: bytes | None = None
        """What the Close frame held that it was sent; None before that."""
        self.finish = finish
        self._protocol = Protocol(role, max_size=most, logger=_SILENT)
        self._masks = role is CLIENT
        self._read = read
        self._write = write
        self._drain = drain
        self._kind = Opcode.TEXT
        self._message = bytearray()
        self._came: deque[Frame | ViolationError] = deque()

    def __repr__(self) -> str:
        return f"<Side {'open' if self.closed is None else 'closed'}>"

    async def receive(self) -> Frame | None:
        """Return the next whole message or control frame, None at the end. Raises ViolationError.

        Behind a Close comes only the end.
        """
        while not self._came:
            try:
                data = await self._read()
            except UpstreamClosed:
                return None
            if not data:
                return None
            self._feed(data)
        came = self._came.popleft()
        if isinstance(came, ViolationError):
            # A new one: one that was raised holds this frame, which holds `came`.
            raise ViolationError(came.code, str(came))
        return came

    async def discard(self) -> None:
        """Receive until the end, whatever comes."""
        while True:
            with suppress(ViolationError):
                if await self.receive() is None:
                    return

    def write(self, frame: Frame) -> bool:
        """Send a message or a control frame; tell whether it was, as none is behind a Close.

        On a broken connection it goes nowhere; `receive` tells of that.
        """
        if self.closed is not None:
            return False
        if frame.opcode is Opcode.CLOSE:
            self.closed = bytes(frame.data)
        self._write(frame.serialize(mask=self._masks))
        return True

    async def drain(self) -> None:
        """Wait until more may be written."""
        with suppress(ConnectionError, UpstreamClosed):
            await self._drain()

    def close(self, data: bytes) -> None:
        """Send a Close frame, unless one was sent."""
        self.write(Frame(Opcode.CLOSE, data))

    def _feed(self, data: bytes) -> None:
        was_open = self._protocol.state is OPEN
        self._protocol.receive_data(data)
        self._protocol.data_to_send()  # its own pongs and closes, which nobody is to get
        for frame in cast("list[Frame]", self._protocol.events_received()):
            self._take(frame)
        if was_open and (broken := self._protocol.parser_exc) is not None:
            broken.__traceback__ = None  # it holds the protocol, which keeps it
            told = cast("Close", self._protocol.close_sent)
            self._came.append(ViolationError(told.code, told.reason))

    def _take(self, frame: Frame) -> None:
        """Gather the fragments of a message; control frames may come between them."""
        if frame.opcode is Opcode.CLOSE:
            self._came.append(Frame(Opcode.CLOSE, frame.data or NORMAL))
        elif frame.opcode in (Opcode.PING, Opcode.PONG):
            self._came.append(frame)
        else:
            if frame.opcode is not Opcode.CONT:
                self._kind = frame.opcode
            self._message += frame.data
            if frame.fin:
                self._came.append(_whole(self._kind, bytes(self._message)))
                self._message.clear()


def _whole(kind: Opcode, data: bytes) -> Frame | ViolationError:
    """Check a text; the library leaves that to its users."""
    if kind is Opcode.TEXT:
        try:
            data.decode()
        except UnicodeDecodeError:
            return ViolationError(CloseCode.INVALID_DATA, "a text message is not UTF-8")
    return Frame(kind, data)


def client_side(client: Client, most: int) -> Side:
    """Take over a client's connection, which aiohttp keeps watching: it tells when that is lost."""
    protocol, transport = client.request.protocol, client.transport
    reader = asyncio.StreamReader(READ_BUFFER)
    reader.set_transport(cast("asyncio.Transport", protocol))  # to pause and to resume
    protocol.set_parser(cast("Any", _Intake(reader)))

    def write(data: bytes) -> None:
        if not transport.is_closing():
            client.write(data)

    def finish() -> None:
        if not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    read = partial(reader.read, READ_BUFFER)
    return Side(SERVER, read=read, write=write, drain=client.drain, finish=finish, most=most)


class _Intake:
    """Gets a client's bytes from aiohttp, those too that came right behind its handshake."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.feed_eof = reader.feed_eof

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""


def upstream_side(connection: Connection, most: int) -> Side:
    """Use a connection whose upstream has switched to WebSocket."""
    return Side(
        CLIENT, read=connection.read, write=connection.write, drain=connection.drain, most=most
    )
