"""A client's request body: read once, kept while it is small enough to be sent again."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from proxy.errors import MalformedRequest, RequestTimeout

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody:
    """The body of one request; `replayable` while all that was read of it is still held.

    `keep` bounds what is held, in bytes; `seconds` bounds how long the client may stand still.
    """

    __slots__ = ("_expected", "_keep", "_kept", "_kept_size", "_request", "_seconds", "replayable")

    def __init__(
        self, request: web.BaseRequest, *, keep: int, seconds: float, expected: bool
    ) -> None:
        self.replayable = True
        self._request = request
        self._keep = keep
        self._seconds = seconds
        self._expected = expected
        self._kept: list[bytes] = []
        self._kept_size = 0

    def whole(self) -> bytes | None:
        """Return the body if all of it is here and none of it is lost, else None."""
        if not self._request.content.is_eof() or not self.replayable:
            return None
        rest = self._request.content.read_nowait()
        body = b"".join((*self._kept, rest))
        self._hold(rest)
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body from its start. Raises MalformedRequest and RequestTimeout."""
        for chunk in tuple(self._kept):
            yield chunk
        while chunk := await self._read():
            self._hold(chunk)
            yield chunk

    async def _read(self) -> bytes:
        if self._expected and self._request.transport is not None:
            self._expected = False
            self._request.transport.write(CONTINUE)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._request.content.readany()
        except TimeoutError:
            raise RequestTimeout(f"The request body stood still for {self._seconds:g} s.") from None
        except web.RequestPayloadError:
            raise MalformedRequest("The request body is malformed.") from None
        except ConnectionError:
            raise MalformedRequest("The client left in mid-request.") from None

    def _hold(self, chunk: bytes) -> None:
        self._kept_size += len(chunk)
        if self._kept_size > self._keep:
            self.replayable = False
            self._kept.clear()
        elif chunk:
            self._kept.append(chunk)
