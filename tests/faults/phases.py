"""The rows of the fault matrix: where an exchange with an upstream fails, and how.

A phase is data; `faults.upstream` plays it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faults.kinds import Answer
from wire import Far, Wire

SHORT = 0.3
"""Seconds of the one limit that a phase is about; all others keep their long defaults."""

Act = Callable[[Wire], Awaitable[None]]


def _nothing(_: Answer) -> bytes:
    return b""


@dataclass(frozen=True)
class Phase:
    """Where an exchange fails, and how.

    Either no connection comes about (`port`, `meets`, `shows`), or the upstream sends what `says`
    makes of its answer to a request, and does `then`; if that is None, it waits.
    """

    name: str
    port: Callable[[Far], None] | None = None
    """What becomes of the port."""
    meets: Act | None = None
    """What it does with a new connection, before any handshake."""
    shows: str = ""
    """Which certificate it has."""
    says: Callable[[Answer], bytes] = _nothing
    then: Act | None = None
    reads: bool = True
    """Whether it reads the request's body first."""
    secure: bool = False
    """Whether it speaks TLS while it is in order."""
    upload: int = 4
    """How many chunks a streamed body has."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The proxy's settings for this upstream."""

    def __str__(self) -> str:
        return self.name

    @property
    def connects(self) -> bool:
        """Whether a request gets as far as the upstream."""
        return not (self.port or self.meets or self.shows)


# What an upstream does


async def closes(wire: Wire) -> None:
    wire.close()


async def resets(wire: Wire) -> None:
    wire.reset()


async def drops(wire: Wire) -> None:
    wire.drop()


async def stalls(wire: Wire) -> None:
    await wire.ended()


async def hangs_up(wire: Wire) -> None:
    """Close the connection in mid-handshake."""
    await wire.some()
    wire.close()


async def speaks_plainly(wire: Wire) -> None:
    await wire.some()
    wire.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    wire.close()


def floods(data: bytes) -> Act:
    async def flood(wire: Wire) -> None:
        while wire.is_open:
            wire.send(data * 100)
            await wire.drained()

    return flood


async def drips(wire: Wire) -> None:
    while wire.is_open:
        wire.send(b"x")
        await asyncio.sleep(SHORT / 30)


# What it makes of its answer


def half_a_head(answer: Answer) -> bytes:
    return answer.head[:14]


def head_alone(answer: Answer) -> bytes:
    return answer.head


def half_a_body(answer: Answer) -> bytes:
    return b"".join((answer.head, *answer.parts[:1], *(part[:4] for part in answer.parts[1:])))


def whole(answer: Answer) -> bytes:
    return answer.whole


def all_but_the_end(answer: Answer) -> bytes:
    """All but the last chunk, or all but the last byte of a body that is not chunked."""
    return answer.whole.removesuffix(answer.end or answer.body[-1:])


def with_surplus(answer: Answer) -> bytes:
    return answer.whole + b"surplus"


def with_two_lengths(answer: Answer) -> bytes:
    lengths = b"Content-Length: 10\r\nContent-Length: 11\r\n\r\n"
    return answer.start + lengths + answer.body


def with_length_and_chunks(answer: Answer) -> bytes:
    framing = b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n"
    return answer.start + framing + answer.body


def with_bad_chunk(answer: Answer) -> bytes:
    if not answer.body:
        return answer.whole
    chunks = b"4\r\n%b\r\nzz\r\n" % answer.body[:4]
    return answer.start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks


def without_length(answer: Answer) -> bytes:
    return answer.start + b"\r\n" + answer.body


def with_control_byte(answer: Answer) -> bytes:
    return answer.start + b"X-Control: a\x01b\r\n" + answer.framing + b"\r\n" + answer.body


def up_to_a_field(answer: Answer) -> bytes:
    return answer.start + b"X-Endless: "


def saying(data: bytes) -> Callable[[Answer], bytes]:
    return lambda _: data


# The rows

CONNECT_LIMIT = {"connect_timeout": SHORT}
HEAD_LIMIT = {"head_timeout": SHORT}
IDLE_LIMIT = {"idle_timeout": SHORT}

PHASES = (
    Phase("refuses the connection", port=Far.refuse),
    Phase("never accepts the connection", port=Far.stall, settings=CONNECT_LIMIT),
    Phase("closes the new connection", meets=closes),
    Phase("resets the new connection", meets=resets),
    Phase("never answers the TLS handshake", meets=stalls, secure=True, settings=CONNECT_LIMIT),
    Phase("closes in the TLS handshake", meets=hangs_up, secure=True),
    Phase("speaks no TLS", meets=speaks_plainly, secure=True),
    Phase("shows an expired certificate", shows="expired", secure=True),
    Phase("shows another name's certificate", shows="of another name", secure=True),
    Phase("shows an unknown authority's certificate", shows="unknown", secure=True),
    Phase("closes before it reads the body", reads=False, then=closes),
    Phase("never reads the body", reads=False, upload=2048, settings=HEAD_LIMIT | IDLE_LIMIT),
    Phase("answers and closes before it reads the body", reads=False, says=whole, then=closes),
    Phase("closes before the head", then=closes),
    Phase("resets before the head", then=resets),
    Phase("stalls before the head", settings=HEAD_LIMIT),
    Phase("closes in the head", says=half_a_head, then=closes),
    Phase("resets in the head", says=half_a_head, then=resets),
    Phase("stalls in the head", says=half_a_head, settings=HEAD_LIMIT),
    Phase("drips out an endless head", says=up_to_a_field, then=drips, settings=HEAD_LIMIT),
    Phase("pours out an endless head", says=up_to_a_field, then=floods(b"more and more")),
    Phase("pours out 1xx heads", then=floods(b"HTTP/1.1 102 Processing\r\n\r\n")),
    Phase("switches protocols unasked", says=saying(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")),
    Phase("sends garbage for a head", says=saying(b"\x16\x03\x01garbage\r\n\r\n")),
    Phase("sends a control byte in the head", says=with_control_byte),
    Phase("sends two lengths", says=with_two_lengths),
    Phase("sends a length and chunks", says=with_length_and_chunks),
    Phase("closes after the head", says=head_alone, then=closes),
    Phase("resets after the head", says=head_alone, then=resets),
    Phase("stalls after the head", says=head_alone, settings=IDLE_LIMIT),
    Phase("closes in the body", says=half_a_body, then=closes),
    Phase("resets in the body", says=half_a_body, then=resets),
    Phase("stalls in the body", says=half_a_body, settings=IDLE_LIMIT),
    Phase("closes just before the end", says=all_but_the_end, then=closes),
    Phase("resets just before the end", says=all_but_the_end, then=resets),
    Phase("stalls just before the end", says=all_but_the_end, settings=IDLE_LIMIT),
    Phase(
        "ends a body without length by a close without close_notify",
        says=without_length,
        then=drops,
        secure=True,
    ),
    Phase("sends a chunk without a size", says=with_bad_chunk),
    Phase("sends more than its length", says=with_surplus),
    Phase("resets after the whole answer", says=whole, then=resets),
)
