"""An upstream that does to each request what its path asks for: well, or badly in many ways."""

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from soak.client import BROKEN_OFF
from wire import Wire

Act = Callable[[Wire, bytes], Awaitable[None]]
"""What is done with a request; the bytes are its marker, which a good answer repeats."""

STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
MOMENT = 0.03
"""Seconds after which what was sent has been read, and what follows is read on its own."""


@dataclass(frozen=True, slots=True)
class Deed:
    """One way to treat a request, and what the client must then see."""

    act: Act
    seen: str


def whole(marker: bytes, more: bytes = b"", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (status, more, len(marker))
    return head + marker


async def answers(wire: Wire, marker: bytes) -> None:
    wire.send(whole(marker))


async def answers_in_drops(wire: Wire, marker: bytes) -> None:
    data = whole(marker)
    for start in range(0, len(data), 10):
        wire.send(data[start : start + 10])
        await asyncio.sleep(MOMENT)


async def answers_gzipped(wire: Wire, marker: bytes) -> None:
    wire.send(whole(gzip.compress(marker), b"Content-Encoding: gzip\r\n"))


async def answers_after_others(wire: Wire, marker: bytes) -> None:
    wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
    wire.send(whole(marker))


async def answers_in_chunks(wire: Wire, marker: bytes) -> None:
    wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n" + marker[:3])
    await asyncio.sleep(MOMENT)
    wire.send(b"\r\n%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(marker[3:]), marker[3:]))


async def answers_until_it_closes(wire: Wire, marker: bytes) -> None:
    wire.send(b"HTTP/1.0 200 OK\r\n\r\n" + marker)
    wire.close()


async def answers_and_closes(wire: Wire, marker: bytes) -> None:
    wire.send(whole(marker))
    wire.close()


async def answers_and_says_more(wire: Wire, marker: bytes) -> None:
    wire.send(whole(marker) + STRAY)


async def answers_and_speaks_unasked(wire: Wire, marker: bytes) -> None:
    wire.send(whole(marker))
    await asyncio.sleep(MOMENT)
    wire.send(STRAY)


def refuses(status: bytes) -> Act:
    async def act(wire: Wire, marker: bytes) -> None:
        wire.send(whole(marker, status=status))

    return act


async def resets(wire: Wire, _: bytes) -> None:
    wire.reset()


def breaks_off(data: bytes) -> Act:
    """Say so much and close."""

    async def act(wire: Wire, _: bytes) -> None:
        wire.send(data)
        wire.close()

    return act


def stalls(data: bytes) -> Act:
    """Say so much, and then nothing until the proxy has had enough."""

    async def act(wire: Wire, _: bytes) -> None:
        wire.send(data)
        await wire.ended()

    return act


async def resets_in_body(wire: Wire, _: bytes) -> None:
    wire.send(HALF)
    await asyncio.sleep(MOMENT)
    wire.reset()


async def refuses_upload(wire: Wire, marker: bytes) -> None:
    wire.send(whole(marker, b"Connection: close\r\n", b"413 Content Too Large"))
    await wire.ended()


async def resets_in_upload(wire: Wire, _: bytes) -> None:
    await wire.exactly(1000)
    wire.reset()


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(500)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSED, INVALID, LATE = "502 upstream_closed", "502 upstream_invalid", "504 upstream_timeout"

DEEDS = {
    "answers": Deed(answers, "200"),
    "answers-in-drops": Deed(answers_in_drops, "200"),
    "answers-gzipped": Deed(answers_gzipped, "200"),
    "answers-after-others": Deed(answers_after_others, "200"),
    "answers-in-chunks": Deed(answers_in_chunks, "200"),
    "answers-until-it-closes": Deed(answers_until_it_closes, "200"),
    "answers-and-closes": Deed(answers_and_closes, "200"),
    "answers-and-says-more": Deed(answers_and_says_more, "200"),
    "answers-and-speaks-unasked": Deed(answers_and_speaks_unasked, "200"),
    "refuses-401": Deed(refuses(b"401 Unauthorized"), "401"),
    "refuses-403": Deed(refuses(b"403 Forbidden"), "403"),
    "refuses-429": Deed(refuses(b"429 Too Many Requests"), "429"),
    "fails-503": Deed(refuses(b"503 Service Unavailable"), "503"),
    "closes-at-once": Deed(breaks_off(b""), CLOSED),
    "resets-at-once": Deed(resets, CLOSED),
    "closes-in-head": Deed(breaks_off(b"HTTP/1.1 200 OK\r\nContent-"), CLOSED),
    "stalls-at-once": Deed(stalls(b""), LATE),
    "stalls-in-head": Deed(stalls(b"HTTP/1.1 200 OK\r\nContent-"), LATE),
    "speaks-tls": Deed(breaks_off(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), INVALID),
    "has-two-lengths": Deed(
        breaks_off(HALF.replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n")), INVALID
    ),
    "switches-protocols": Deed(breaks_off(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), INVALID),
    "has-no-end-of-head": Deed(
        breaks_off(b"HTTP/1.1 200 OK\r\n" + b"X-More: 1\r\n" * 10_000), INVALID
    ),
    "closes-in-body": Deed(breaks_off(HALF), BROKEN_OFF),
    "resets-in-body": Deed(resets_in_body, BROKEN_OFF),
    "stalls-in-body": Deed(stalls(HALF), BROKEN_OFF),
    "closes-in-chunk": Deed(breaks_off(CHUNKED + b"1000\r\nabc"), BROKEN_OFF),
    "closes-between-chunks": Deed(breaks_off(CHUNKED + b"3\r\nabc\r\n"), BROKEN_OFF),
    "has-bad-chunks": Deed(breaks_off(CHUNKED + b"3\r\nabc\r\nxyz\r\n"), BROKEN_OFF),
}
UPLOAD_DEEDS = {
    "refuses-upload": Deed(refuses_upload, "413"),
    "resets-in-upload": Deed(resets_in_upload, CLOSED),
}
"""What is done to a request in the midst of its body."""

_ALL = {name.encode(): deed for name, deed in {**DEEDS, **UPLOAD_DEEDS}.items()}


class Rogue:
    """Serves `/deed/marker`, one after the other."""

    def __init__(self) -> None:
        self.requests = 0
        self.raced: set[bytes] = set()
        """Markers of requests that met with bytes sent unasked, which no proxy could tell apart."""

    async def serve(self, wire: Wire) -> None:
        """Serve one connection until it ends, or until what a deed waits for stays out."""
        try:
            with contextlib.suppress(TimeoutError):
                await self._serve(wire)
        finally:
            wire.close()

    async def _serve(self, wire: Wire) -> None:
        spoke_unasked = False
        while wire.is_open:
            _, deed, marker = (await wire.head(patience=None)).split()[1].split(b"/")
            self.requests += 1
            if spoke_unasked:
                self.raced.add(marker)
                return
            await _ALL[deed].act(wire, marker)
            spoke_unasked = deed == b"answers-and-speaks-unasked"
