"""A client's request body: read once, kept while it is small enough to be sent again."""

import asyncio
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from proxy.config import LimitSettings
from proxy.errors import BodyTooLarge, MalformedRequest, RequestTimeout
from proxy.traffic.patience import Patience

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody:
    """The body of one request; `replayable` while all that was read of it is still held."""

    __slots__ = (
        "_clock",
        "_expected",
        "_kept",
        "_length",
        "_limits",
        "_patience",
        "_request",
        "replayable",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        *,
        limits: LimitSettings,
        length: int | None,
        expected: bool,
        clock: Callable[[], float],
    ) -> None:
        """`length` is in bytes, None if only the end will tell. Raises BodyTooLarge.

        `expected` says that the client sends nothing before it is told to go on.
        """
        self.replayable = True
        self._request = request
        self._limits = limits
        self._length = length
        self._expected = expected
        self._clock = clock
        self._patience = Patience(limits.body_timeout, limits.min_rate)
        self._kept: list[bytes] = []
        self._check_size(length or 0)

    async def prefetch(self) -> None:
        """Read the body before its turn if it will be held whole and its length is known.

        So a client that sends it slowly holds nothing but its own connection meanwhile. One that
        may want to see an answer first is not waited for: its body has no known length, or comes
        only when asked for.
        """
        if self._length is None or self._expected:
            return
        if self._length <= self._limits.replay_bytes:
            while not self._request.content.is_eof():
                self._hold(await self._read())

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
        began = self._clock()
        try:
            async with asyncio.timeout(self._patience.left):
                return await self._request.content.readany()
        except TimeoutError:
            raise self._too_slow() from None
        except (web.RequestPayloadError, ConnectionError) as error:
            error.__traceback__ = None  # it holds what is at hand here, and aiohttp keeps it
            left = isinstance(error, ConnectionError)
            detail = "The client left in mid-request." if left else "The request body is malformed."
            raise MalformedRequest(detail) from None
        finally:
            self._patience.waited += self._clock() - began

    def _hold(self, chunk: bytes) -> None:
        """Count what was read, and keep it while it may be sent again. Raises BodyTooLarge."""
        self._patience.moved += len(chunk)
        if self._patience.moved > self._limits.replay_bytes:
            self.replayable = False
            self._kept.clear()
        elif chunk:
            self._kept.append(chunk)
        self._check_size(self._patience.moved)

    def _check_size(self, size: int) -> None:
        most = self._limits.body_bytes
        if size > most:
            raise BodyTooLarge(f"At most {most} bytes of body are taken.")

    def _too_slow(self) -> RequestTimeout:
        seconds, rate = self._limits.body_timeout, self._limits.min_rate
        return RequestTimeout(
            f"The request body stood still for {seconds:g} s, or came at less than {rate} bytes "
            "a second."
        )
