"""Reading bodies and sending answers, whole, streamed, cut short or not at all."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from email.utils import formatdate

from aiohttp import HttpVersion11, hdrs, web
from multidict import CIMultiDict

from proxy.sandbox.answer import Answer, Stream
from proxy.sandbox.endpoints import Body
from proxy.sandbox.leaks import MAX_BODY

REFUSED_BODY_SECONDS = 1.0
"""How long the body of a refused request is waited for, only to search it."""

_PROMISED_MORE = 1024
_EMPTY = Body()


async def read_body(request: web.BaseRequest) -> Body:
    """Read the whole body, asking for it if the client waits; keep only what `Body` keeps."""
    if not request.body_exists:
        return _EMPTY
    if _expects_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # else aiohttp believes that the answer has begun
    head, size, digest = bytearray(), 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        head += chunk[: MAX_BODY - len(head)]
        size += len(chunk)
        digest.update(chunk)
    return Body(bytes(head), size, digest.hexdigest())


async def read_refused_body(request: web.BaseRequest) -> bytes:
    """Return the start of a body that nobody wants: up to 64 KiB, and only what comes soon."""
    head = bytearray()
    if not request.body_exists or _expects_continue(request):
        return b""
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSED_BODY_SECONDS):
            while len(head) < MAX_BODY and (chunk := await request.content.readany()):
                head += chunk
    return bytes(head[:MAX_BODY])


def _expects_continue(request: web.BaseRequest) -> bool:
    expect = request.headers.get(hdrs.EXPECT, "")
    return expect.lower() == "100-continue" and request.version >= HttpVersion11


class Sender:
    """Sends answers; `now` tells the sandbox's time, which every `Date` header carries."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = -1
        self._date = ""

    def __repr__(self) -> str:
        return f"<Sender {self._date or 'unused'}>"

    def _headers(self, answer: Answer | Stream) -> CIMultiDict[str]:
        if (second := int(self._now())) != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
        headers = CIMultiDict(((hdrs.DATE, self._date), (hdrs.SERVER, "mobula-sandbox")))
        headers.update(answer.headers)
        return headers

    def whole(self, answer: Answer) -> web.Response:
        """Return `answer` for aiohttp to send."""
        return web.Response(status=answer.status, body=answer.body, headers=self._headers(answer))

    async def send(self, request: web.BaseRequest, answer: Answer | Stream) -> web.StreamResponse:
        """Send `answer` as fast as the client takes it; memory stays flat."""
        if isinstance(answer, Answer):
            return self.whole(answer)
        response = web.StreamResponse(headers=self._headers(answer))
        response.content_length = answer.length
        async with aclosing(answer.chunks) as chunks:
            await response.prepare(request)
            if request.method != hdrs.METH_HEAD:
                async for chunk in chunks:
                    await response.write(chunk)
        return response

    async def cut(self, request: web.BaseRequest, answer: Answer | Stream) -> web.StreamResponse:
        """Send a head that promises more than comes and the start of the body, then close."""
        status, length = 200, None
        if isinstance(answer, Answer):
            status, length = answer.status, len(answer.body)
            chunks = _once(answer.body)
        else:
            length, chunks = answer.length, answer.chunks
        response = web.StreamResponse(status=status, headers=self._headers(answer))
        response.content_length = None if length is None else length + _PROMISED_MORE
        async with aclosing(chunks):
            await response.prepare(request)
            if request.method != hdrs.METH_HEAD:
                await response.write(await anext(chunks, b""))
        if request.transport is not None:
            request.transport.close()
        return response


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def drop(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection without a word; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
