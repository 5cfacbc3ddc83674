"""A door before a server: it lets connections through, refuses them, or leaves them waiting."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

from wire import bound


class Door:
    """Relays to the server at `url`, byte by byte, while it stands open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.most: Counter[bytes] = Counter()
        """How many connections were open at once at the most, by the method first asked for."""
        self._behind = (parts.hostname, parts.port)
        self._place = bound(("127.0.0.1", 0))  # keeps the port ours while nobody listens on it
        self._server: asyncio.Server | None = None
        self._crowd: list[socket.socket] = []
        self._relays: set[asyncio.Task[None]] = set()
        self._inside: Counter[bytes] = Counter()

    def __repr__(self) -> str:
        return f"<Door {self.url}, {len(self._relays)} inside>"

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self._place.getsockname())

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.shut()
        self._place.close()
        for relay in self._relays:
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)

    async def open(self) -> None:
        """Let connections through."""
        self.shut()
        place = bound(self._place.getsockname())
        self._server = await asyncio.start_server(self._enter, sock=place)

    def shut(self) -> None:
        """Refuse connections; those that are through stay."""
        if self._server is not None:
            self._server.close()
        for each in self._crowd:
            each.close()
        self._server, self._crowd = None, []

    def crowd(self) -> None:
        """Leave connections waiting: others wait before them, and nobody lets these in."""
        self.shut()
        place = bound(self._place.getsockname())
        place.listen(0)
        self._crowd = [place]
        for _ in range(2):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(place.getsockname())
            self._crowd.append(waiting)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)
        try:
            await self._relay(reader, writer)
        finally:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        far_reader, far_writer = await asyncio.open_connection(*self._behind)
        with self._counted(first.partition(b" ")[0]):
            far_writer.write(first)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    @contextlib.contextmanager
    def _counted(self, method: bytes) -> Iterator[None]:
        self._inside[method] += 1
        self.most |= self._inside
        try:
            yield
        finally:
            self._inside[method] -= 1


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
    finally:
        writer.close()
