"""The proxy that a network has of its own: it connects whoever shows the right credentials."""

import asyncio
from base64 import b64encode
from typing import Self

from wire import PATIENCE, fields_of

_REFUSAL = b"HTTP/1.1 407 \r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"


class ConnectProxy:
    """Leads to this machine, whatever host it is asked for; `asked` is what each client asked."""

    def __init__(self, user: str = "", password: str = "") -> None:
        self.password = password
        self.user = user
        self.asked: list[str] = []
        self.passed = bytearray()
        """All that it could read of what clients sent."""
        self._relays: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ConnectProxy {self.place}, {len(self._relays)} inside>"

    @property
    def url(self) -> str:
        """The URL for those who know the credentials."""
        return f"http://{self.user}:{self.password}@{self.place}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.place = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)
        try:
            await self._serve(reader, writer)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
        line = head.decode("latin-1").partition("\r\n")[0]
        self.asked.append(line)
        pair = b64encode(f"{self.user}:{self.password}".encode()).decode()
        if fields_of(head).get("proxy-authorization") != f"Basic {pair}":
            writer.write(_REFUSAL)
            await writer.drain()
            writer.write_eof()
            await reader.read()
            return
        method, target, _ = line.split()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", _port(target))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            self.passed += head
            far_writer.write(head)
        try:
            await self._relay(reader, writer, far_reader, far_writer)
        finally:
            far_writer.transport.abort()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        async def up() -> None:
            while data := await reader.read(65_536):
                self.passed += data
                far_writer.write(data)

        async def down() -> None:
            while data := await far_reader.read(65_536):
                writer.write(data)

        ways = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


def _port(target: str) -> int:
    """Return the port of `host:port`, or of `http://host:port/path`."""
    return int(target.removeprefix("http://").partition("/")[0].rpartition(":")[2])
