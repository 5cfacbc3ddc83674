"""An upstream that keeps every byte it gets, and answers each request that h11 finds in them."""

import asyncio
from typing import Self

from conformance.parsers import UnreadableError, read_h11

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Recorder:
    """Serves while its block runs; `received` holds the bytes of each connection."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def authority(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.renew()

    async def renew(self) -> None:
        """Close every connection and forget what came on it."""
        writers, self._writers, self.received = self._writers, [], []
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = bytearray()
        self.received.append(data)
        self._writers.append(writer)
        answered = 0
        try:
            while piece := await reader.read(65536):
                data += piece
                complete = sum(request.complete for request in read_h11(bytes(data)))
                writer.write(ANSWER * (complete - answered))
                answered = complete
        except (ConnectionError, UnreadableError):
            pass
        finally:
            writer.close()
