"""One side of a WebSocket without a socket: bytes in pieces of any size, messages out."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Never

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER

from frames import BINARY, CLOSE, CONTINUATION, MASK, PING, TEXT, close, frame
from proxy.errors import UpstreamClosed
from proxy.traffic.side import Side, ViolationError, close_data

MOST = 100_000


async def _at_once() -> None:
    """Nothing is ever held back."""


class Script:
    """A side whose bytes the test says, and what it was sent."""

    def __init__(self, *pieces: bytes, client: bool = False) -> None:
        self.got = bytearray()
        self._pieces = iter(pieces)
        self.side = Side(
            SERVER if client else CLIENT,
            read=self._read,
            write=self.got.extend,
            drain=_at_once,
            most=MOST,
        )

    async def _read(self) -> bytes:
        return next(self._pieces, b"")

    async def messages(self) -> list[Frame]:
        """Receive until the end."""
        came = []
        while (message := await self.side.receive()) is not None:
            came.append(message)
        return came


@dataclass
class Stream:
    """Messages in fragments, with pings among them, as bytes cut into pieces anywhere."""

    pieces: list[bytes]
    messages: list[tuple[int, bytes]]
    client: bool


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    client = draw(st.booleans())
    mask = MASK if client else b""
    data, messages = b"", []
    for opcode in draw(st.lists(st.sampled_from([TEXT, BINARY]), max_size=4)):
        fragments = [each.encode() for each in draw(st.lists(st.text(), min_size=1, max_size=3))]
        for number, fragment in enumerate(fragments):
            kind, last = CONTINUATION if number else opcode, number == len(fragments) - 1
            data += frame(kind, fragment, fin=last, mask=mask)
            if not last and draw(st.booleans()):
                data += frame(PING, b"p", mask=mask)
                messages.append((PING, b"p"))
        messages.append((opcode, b"".join(fragments)))
    edges = [0, *sorted(draw(st.sets(st.integers(1, len(data) or 1), max_size=6))), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges) if start < end]
    return Stream(pieces, messages, client)


@given(streams())
def test_messages_are_the_same_however_their_bytes_are_cut(stream: Stream) -> None:
    came = asyncio.run(Script(*stream.pieces, client=stream.client).messages())
    assert [(each.opcode, each.data) for each in came] == stream.messages
    assert all(each.fin for each in came)


async def test_what_came_before_a_violation_is_received_before_it_is_raised() -> None:
    script = Script(frame(TEXT, b"a") + frame(CONTINUATION) + frame(TEXT, b"b"), b"more")
    assert await script.side.receive() == Frame(Opcode.TEXT, b"a")
    with pytest.raises(ViolationError) as caught:
        await script.side.receive()
    assert caught.value.code == 1002
    assert await script.side.receive() is None


async def test_nothing_behind_a_close_is_received() -> None:
    script = Script(frame(CLOSE, close(4000)) + frame(TEXT, b"a"), frame(TEXT, b"b"))
    assert await script.messages() == [Frame(Opcode.CLOSE, close(4000))]


async def test_endless_fragments_of_nothing_are_no_message() -> None:
    script = Script(frame(TEXT, fin=False), *[frame(CONTINUATION, fin=False) * 1000] * 10)
    assert await script.messages() == []
    assert repr(script.side) == "<Side open>"


async def test_lost_connection_is_an_end() -> None:
    async def lost() -> bytes:
        raise UpstreamClosed("reset", answered=True)

    side = Side(CLIENT, read=lost, write=bytearray().extend, drain=_at_once, most=MOST)
    assert await side.receive() is None


@pytest.mark.parametrize("error", [ConnectionResetError, lambda: UpstreamClosed("", answered=True)])
async def test_lost_connection_is_not_told_by_draining(error: Callable[[], Exception]) -> None:
    async def lost() -> Never:
        raise error()

    await Side(CLIENT, read=lost, write=bytearray().extend, drain=lost, most=MOST).drain()


async def test_discard_goes_past_violations_to_the_end() -> None:
    script = Script(frame(TEXT, b"\xff"), frame(TEXT, b"a"), frame(CONTINUATION), b"\xff\xff")
    await script.side.discard()
    assert await script.messages() == []


def test_client_is_sent_no_mask_and_an_upstream_another_one_each_time() -> None:
    client, upstream = Script(client=True), Script()
    for script in (client, upstream):
        for _ in range(2):
            assert script.side.write(Frame(Opcode.TEXT, b"abcd"))
    assert client.got == frame(TEXT, b"abcd") * 2
    assert len(upstream.got) == 2 * (2 + 4 + 4)
    assert upstream.got[2:6] != upstream.got[12:16]


def test_nothing_is_written_behind_a_close() -> None:
    script = Script(client=True)
    script.side.close(close(1001))
    assert not script.side.write(Frame(Opcode.TEXT, b"a"))
    script.side.close(close(1000))
    assert script.got == frame(CLOSE, close(1001))
    assert script.side.closed == close(1001)
    assert repr(script.side) == "<Side closed>"


@pytest.mark.parametrize("reason", ["a" * 124, "é" * 62, "a" + "é" * 70])
def test_reason_that_does_not_fit_is_cut_between_characters(reason: str) -> None:
    cut = close_data(1008, reason)[2:]
    assert 121 < len(cut) <= 123
    assert reason.startswith(cut.decode())
