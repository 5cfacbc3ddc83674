"""A load generator that costs little: raw keep-alive connections, one request at a time on each."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

OK = 200
KEPT = 20
"""Misses that are kept, to tell what they were."""


@dataclass(frozen=True, slots=True)
class Miss:
    """No answer 200: from where, how many seconds after the start, and what came instead."""

    url: str
    at: float
    answer: bytes


@dataclass(slots=True)
class Result:
    """Answers by status (0: the connection broke), and each request's seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)
    """The first KEPT of those that were not answered 200."""

    @property
    def failed(self) -> int:
        """Requests that were not answered 200."""
        return self.statuses.total() - self.statuses[OK]

    def percentile(self, share: float) -> float:
        ranked = sorted(self.seconds)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


class _Client(asyncio.Protocol):
    """One connection: sends a request, counts its answer's bytes, tells when it is whole."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer = b""
        self._status: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self._status is not None and not self._status.done():
            self._status.set_result(0)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if not end or self._status is None or self._status.done():
            return
        length = head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0]
        whole = len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")
        if whole:
            self._status.set_result(int(head[9:12]))

    async def send(self, request: bytes) -> int:
        """Send one request; return the answer's status, 0 if the connection broke."""
        if self.transport is None:
            return 0
        self.answer = b""
        self._status = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._status

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class _Server:
    """One URL to send GETs to, as one worker sees it."""

    def __init__(self, url: str, headers: str) -> None:
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._place = parts.hostname or "", parts.port or 80
        self._request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n".encode()
        self.client = _Client()

    async def ask(self) -> int:
        """Send a request, over a new connection if there is none; 0 if it broke, or is refused."""
        if self.client.transport is None:
            loop = asyncio.get_running_loop()
            try:
                _, self.client = await loop.create_connection(_Client, *self._place)
            except OSError:
                return 0
        return await self.client.send(self._request)


async def load(
    url: str, *, requests: int, connections: int, rate: float | None = None, headers: str = ""
) -> Result:
    """Send `requests` GETs over `connections`; `rate` is requests a second in all, None: as fast
    as it goes. A broken connection is counted once and dialled anew."""
    return await load_all(
        [url], requests=requests, connections=connections, rate=rate, headers=headers
    )


async def load_all(
    urls: Sequence[str],
    *,
    requests: int,
    connections: int,
    rate: float | None = None,
    headers: str = "",
    resend: bool = False,
) -> Result:
    """Send GETs as `load` does, to each of `urls` in turn, over `connections` to each of them.

    The urls may change meanwhile. If `resend`, a request whose connection broke is sent once more,
    to the next of them, until it is answered.
    """
    result = Result()
    left = iter(range(requests))
    began = time.perf_counter()

    async def work() -> None:
        servers: dict[str, _Server] = {}
        for number in left:
            if rate is not None:
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            started = time.perf_counter()
            for turn in itertools.count(number):
                url = urls[turn % len(urls)]
                server = servers.get(url) or servers.setdefault(url, _Server(url, headers))
                status = await server.ask()
                result.statuses[status] += 1
                if status or not resend:
                    break
            ended = time.perf_counter()
            result.seconds.append(ended - started)
            if status != OK and len(result.misses) < KEPT:
                result.misses.append(Miss(url, ended - began, server.client.answer))
        for server in servers.values():
            server.client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    return result
