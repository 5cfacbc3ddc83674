"""A load generator that costs little: raw keep-alive connections, one request at a time on each."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit


@dataclass(slots=True)
class Result:
    """Answers by status (0: the connection broke), and each request's seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that were not answered 200."""
        return self.statuses.total() - self.statuses[200]

    def percentile(self, share: float) -> float:
        ranked = sorted(self.seconds)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


class _Client(asyncio.Protocol):
    """One connection: sends a request, counts its answer's bytes, tells when it is whole."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        length = head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0]
        whole = len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")
        if whole:
            self._buffer = b""
            self._answer.set_result(int(head[9:12]))

    async def send(self, request: bytes) -> int:
        """Send one request; return the answer's status, 0 if the connection broke."""
        if self.transport is None:
            return 0
        self._buffer = b""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


async def load(
    url: str, *, requests: int, connections: int, rate: float | None = None, headers: str = ""
) -> Result:
    """Send `requests` GETs over `connections`; `rate` is requests a second in all, None: as fast
    as it goes. A broken connection is counted once and dialled anew."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n".encode()
    result = Result()
    left = iter(range(requests))
    began = time.perf_counter()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        client = _Client()
        for number in left:
            if rate is not None:
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            if client.transport is None:
                _, client = await loop.create_connection(_Client, host, port)
            started = time.perf_counter()
            result.statuses[await client.send(request)] += 1
            result.seconds.append(time.perf_counter() - started)
        if client.transport is not None:
            client.transport.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    return result
