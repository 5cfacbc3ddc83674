"""Transcripts of one connection: what goes to the upstream, what it sends, what the caller gets.

The upstream is the other end of a real socket, and the test plays it.
"""

import asyncio
import contextlib
import gc
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import UpstreamSettings
from proxy.errors import UpstreamClosed, UpstreamInvalid, UpstreamTimeout
from proxy.traffic.answer import Answer
from proxy.traffic.connection import BODY_BUFFER, Connection
from proxy.traffic.message import Framing

pytestmark = pytest.mark.both_loops

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


class Peer:
    """The upstream's end of the connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            await self._loop.sock_sendall(self.sock, piece)

    async def expect(self, data: bytes) -> None:
        got = b""
        while len(got) < len(data):
            got += await self._loop.sock_recv(self.sock, len(data) - len(got))
        assert got == data

    async def expect_end(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            assert await self._loop.sock_recv(self.sock, 1) == b""

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Pair:
    """A connection, its upstream, and what the pool has been told."""

    def __init__(self, conn: Connection, peer: Peer, lost: asyncio.Event) -> None:
        self.conn = conn
        self.peer = peer
        self.lost = lost


Connect = Callable[..., Awaitable[Pair]]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    pairs: list[Pair] = []

    async def connect(**settings: Any) -> Pair:
        loop = asyncio.get_running_loop()
        ours, theirs = socket_pair()
        lost = asyncio.Event()
        _, conn = await loop.create_connection(
            lambda: Connection(
                UpstreamSettings(url="http://127.0.0.1", **settings), loop, lambda _: lost.set()
            ),
            sock=ours,
        )
        pairs.append(Pair(conn, Peer(theirs), lost))
        return pairs[-1]

    yield connect
    for pair in pairs:
        pair.conn.abort()
        pair.peer.sock.close()
    await asyncio.sleep(0)


async def body_of(conn: Connection) -> bytes:
    parts = []
    while part := await conn.read():
        parts.append(part)
    return b"".join(parts)


async def ask(pair: Pair, answer: bytes, *, head_only: bool = False, upgrade: bool = False) -> None:
    """Send a request, and let the upstream see it and answer."""
    pair.conn.begin(GET, head_only=head_only, complete=True, upgrade=upgrade)
    await pair.peer.expect(GET)
    await pair.peer.send(answer)


# Answers as they should be


async def test_head_and_body_come_as_they_were_sent(connect: Connect) -> None:
    pair = await connect()
    await ask(
        pair,
        b"HTTP/1.1 203 Fine \xe9\r\nX-a: 1\r\nx-A: \xe9 \r\nEmpty:\r\nSet-Cookie: a\r\n"
        b"Set-Cookie: b\r\nContent-Length: 5\r\n\r\nhello",
    )
    head = await pair.conn.head()
    assert (head.status, head.reason) == (203, b"Fine \xe9")
    assert head.headers == [
        (b"X-a", b"1"),
        (b"x-A", b"\xe9 "),
        (b"Empty", b""),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
        (b"Content-Length", b"5"),
    ]
    assert (head.framing, head.length) == (Framing.LENGTH, 5)
    assert await body_of(pair.conn) == b"hello"
    assert pair.conn.reusable


async def test_small_answer_needs_one_wait(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, HELLO)
    await pair.conn.head()
    assert pair.conn.body_complete
    assert pair.conn.take_nowait() == b"hello"
    assert await pair.conn.read() == b""


async def test_chunked_body_loses_extensions_and_trailers(connect: Connect) -> None:
    pair = await connect()
    chunks = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: v\r\nEmpty:\r\n\r\n"
    await ask(pair, OK + b"Transfer-Encoding: Chunked\r\n\r\n" + chunks)
    head = await pair.conn.head()
    assert (head.framing, head.length) == (Framing.CHUNKED, None)
    assert head.headers == [(b"Transfer-Encoding", b"Chunked")]
    assert await body_of(pair.conn) == b"abcde"
    assert pair.conn.reusable


async def test_body_without_length_ends_with_the_connection(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, OK + b"\r\nhello")
    pair.peer.end()
    assert (await pair.conn.head()).framing is Framing.CLOSE
    assert await body_of(pair.conn) == b"hello"
    assert not pair.conn.reusable


@pytest.mark.parametrize(
    ("answer", "head_only"),
    [
        (OK + b"Content-Length: 5\r\n\r\n", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", True),
        (OK + b"\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False),
    ],
)
async def test_answer_without_body_is_complete_with_its_head(
    connect: Connect, answer: bytes, head_only: bool
) -> None:
    pair = await connect()
    await ask(pair, answer, head_only=head_only)
    assert (await pair.conn.head()).framing is Framing.NONE
    assert await pair.conn.read() == b""
    assert pair.conn.reusable
    await ask(pair, HELLO)
    assert (await pair.conn.head()).status == 200
    assert await body_of(pair.conn) == b"hello"
    assert pair.conn.reused


async def test_interim_heads_are_swallowed(connect: Connect) -> None:
    pair = await connect()
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    await ask(pair, interim + HELLO)
    head = await pair.conn.head()
    assert head.status == 200
    assert head.headers == [(b"Content-Length", b"5")]
    assert pair.conn.take_nowait() == b"hello"


async def test_head_of_nine_kilobytes_works(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, OK + b"X: " + b"a" * 9000 + b"\r\nContent-Length: 0\r\n\r\n")
    assert (await pair.conn.head()).headers[0] == (b"X", b"a" * 9000)


async def test_length_may_have_zeros_in_front_and_spaces_behind(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, OK + b"Content-Length: " + b"0" * 5000 + b"5 \t\r\n\r\nhello")
    assert (await pair.conn.head()).length == 5


# Every way of cutting an answer gives the same result


ANSWERS = [
    (HELLO, False, b"hello"),
    (
        OK + b"A:\r\nB: \r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT:\r\n\r\n",
        False,
        b"abc",
    ),
    (b"HTTP/1.1 100 C\r\nA: b\r\n\r\nHTTP/1.1 103 E\r\n\r\n" + HELLO, False, b"hello"),
    (OK + b"Content-Length: 5\r\n\r\n", True, b""),
    (b"HTTP/1.0 404 \r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n\r\n", False, b"\r\n"),
    (b"HTTP/1.1 204\r\n\r\n", False, b""),
]


def parse(pieces: list[bytes], head_only: bool) -> Answer:
    answer = Answer(head_only=head_only, head_bytes=65536)
    for piece in pieces:
        answer.feed(piece)
    return answer


@pytest.mark.parametrize(("data", "head_only", "body"), ANSWERS)
def test_answer_is_the_same_however_its_bytes_are_cut(
    data: bytes, head_only: bool, body: bytes
) -> None:
    whole = parse([data], head_only)
    assert whole.complete
    assert whole.reusable
    cuts = [[data[:i], data[i:]] for i in range(1, len(data))]
    for pieces in [*cuts, [data[i : i + 1] for i in range(len(data))]]:
        answer = parse(pieces, head_only)
        assert answer.head == whole.head
        assert answer.reusable
        assert answer.take() == body


@pytest.mark.parametrize(("data", "head_only", "body"), ANSWERS)
def test_stray_bytes_behind_an_answer_spoil_it_however_they_are_cut(
    data: bytes, head_only: bool, body: bytes
) -> None:
    for stray in [b"\r\n", b"\n", b"x", HELLO]:
        for i in range(1, len(data)):
            answer = parse([data[:i], data[i:] + stray], head_only)
            assert answer.complete
            assert not answer.reusable
            assert answer.take() == body


@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(0, 300)))
def test_chunked_body_is_the_joined_chunks(chunks: list[bytes], places: list[int]) -> None:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data = OK + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    bounds = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    answer = parse([data[a:b] for a, b in itertools.pairwise(bounds)], False)
    assert answer.reusable
    assert answer.take() == b"".join(chunks)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_awaited_but_nothing_else(data: bytes) -> None:
    for piece in [data, OK + data, OK + b"Transfer-Encoding: chunked\r\n\r\n" + data]:
        with contextlib.suppress(UpstreamInvalid):
            parse([piece], False)


# What is refused


INVALID_HEADS = {
    "length and coding": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "two lengths": OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
    "same length twice": OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
    "list of lengths": OK + b"Content-Length: 3, 3\r\n\r\n",
    "signed length": OK + b"Content-Length: +3\r\n\r\n",
    "length with underscore": OK + b"Content-Length: 3_0\r\n\r\n",
    "empty length": OK + b"Content-Length:\r\n\r\n",
    "endless length": OK + b"Content-Length: 99999999999999999999\r\n\r\n",
    "other coding": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "other coding last": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "other coding first": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "almost chunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "space before colon": OK + b"A : b\r\n\r\n",
    "space before name": OK + b" A: b\r\n\r\n",
    "no colon": OK + b"nonsense\r\n\r\n",
    "no name": OK + b": b\r\n\r\n",
    "folded value": OK + b"A: b\r\n c\r\n\r\n",
    "bare LF behind value": OK + b"A: b\nC: d\r\n\r\n",
    "bare LF behind status": b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
    "bare LF at the end": OK + b"A: b\r\n\n",
    "bare CR": OK + b"A: b\rc\r\n\r\n",
    "control byte": OK + b"A: \x01\r\n\r\n",
    "NUL": OK + b"A: \x00\r\n\r\n",
    "control byte in reason": b"HTTP/1.1 200 O\x01K\r\n\r\n",
    "status 000": b"HTTP/1.1 000 X\r\n\r\n",
    "status 099": b"HTTP/1.1 099 X\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 X\r\n\r\n",
    "status 20": b"HTTP/1.1 20 X\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "RTSP": b"RTSP/1.0 200 OK\r\n\r\n",
    "empty line in front": b"\r\n" + HELLO,
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "bare 101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "whole 101": b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxyz",
}
INVALID_CHUNKS = [
    b"0x3\r\nabc",
    b"3\nabc",
    b"3;\nabc",
    b"3 \r\nabc",
    b"1" * 17 + b"\r\n",
    b"3\r\nabcd\r\n",
]


@pytest.mark.parametrize("data", INVALID_HEADS.values(), ids=INVALID_HEADS.keys())
async def test_invalid_head_is_refused_and_the_connection_closed(
    connect: Connect, data: bytes
) -> None:
    pair = await connect()
    await ask(pair, data)
    with pytest.raises(UpstreamInvalid):
        await pair.conn.head()
    assert repr(pair.conn) == "<Connection closed>"
    await pair.peer.expect_end()


@pytest.mark.parametrize("data", INVALID_CHUNKS)
async def test_invalid_chunk_is_refused(connect: Connect, data: bytes) -> None:
    pair = await connect()
    await ask(pair, OK + b"Transfer-Encoding: chunked\r\n\r\n" + data)
    await pair.conn.head()
    with pytest.raises(UpstreamInvalid):
        await body_of(pair.conn)


async def test_sixteen_interim_heads_are_taken_and_not_one_more(connect: Connect) -> None:
    for count, raises in [(16, False), (17, True)]:
        pair = await connect()
        await ask(pair, b"HTTP/1.1 102 Wait\r\n\r\n" * count + HELLO)
        if raises:
            with pytest.raises(UpstreamInvalid):
                await pair.conn.head()
        else:
            assert (await pair.conn.head()).status == 200


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 ", OK + b"A: ", OK + b"A"])
async def test_endless_head_is_refused(connect: Connect, start: bytes) -> None:
    pair = await connect(head_bytes=1000)
    await ask(pair, start)
    await pair.peer.send(b"a" * 1000)
    with pytest.raises(UpstreamInvalid, match="1000 bytes"):
        await pair.conn.head()


@pytest.mark.parametrize("start", [b"0\r\n", b"0\r\nA: ", b"3;"])
async def test_endless_trailers_and_extensions_are_refused(connect: Connect, start: bytes) -> None:
    pair = await connect(head_bytes=1000)
    await ask(pair, OK + b"Transfer-Encoding: chunked\r\n\r\n")
    await pair.conn.head()
    await pair.peer.send(start, b"a" * 1000)
    with pytest.raises(UpstreamInvalid, match="1000 bytes"):
        await pair.conn.read()


# Another protocol, asked for

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


async def test_bytes_behind_a_101_that_was_asked_for_pass_both_ways(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, SWITCH + b"early", upgrade=True)
    head = await pair.conn.head()
    assert (head.status, head.framing) == (101, Framing.CLOSE)
    assert await pair.conn.read() == b"early"
    pair.conn.write(b"to the upstream")
    await pair.peer.expect(b"to the upstream")
    await pair.peer.send(b"late")
    assert await pair.conn.read() == b"late"
    assert not pair.conn.reusable
    pair.peer.end()
    assert await pair.conn.read() == b""


async def test_interim_heads_may_precede_a_101(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SWITCH, upgrade=True)
    assert (await pair.conn.head()).status == 101


async def test_length_and_coding_of_a_101_frame_nothing(connect: Connect) -> None:
    for field in (b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"):
        pair = await connect()
        await ask(pair, SWITCH[:-2] + field + b"\r\n0\r\n\r\n", upgrade=True)
        assert (await pair.conn.head()).framing is Framing.CLOSE
        assert await pair.conn.read() == b"0\r\n\r\n"


async def test_silence_behind_a_101_is_for_its_user_to_judge(connect: Connect) -> None:
    pair = await connect(idle_timeout=0.02)
    await ask(pair, SWITCH, upgrade=True)
    await pair.conn.head()
    read = asyncio.create_task(pair.conn.read())
    assert await asyncio.wait({read}, timeout=0.1) == (set(), {read})
    await pair.peer.send(b"at last")
    assert await read == b"at last"


async def test_other_answer_than_the_101_asked_for_is_an_ordinary_one(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, HELLO, upgrade=True)
    assert (await pair.conn.head()).status == 200
    assert await body_of(pair.conn) == b"hello"
    assert pair.conn.reusable


async def test_101_in_http10_is_refused_though_it_was_asked_for(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, SWITCH.replace(b"1.1", b"1.0"), upgrade=True)
    with pytest.raises(UpstreamInvalid):
        await pair.conn.head()


async def test_reset_behind_a_101_is_no_orderly_end(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, SWITCH, upgrade=True)
    await pair.conn.head()
    pair.peer.reset()
    with pytest.raises(UpstreamClosed):
        await pair.conn.read()


# Answers cut short


async def test_close_before_the_answer_tells_that_nothing_came(connect: Connect) -> None:
    pair = await connect()
    pair.conn.begin(GET, head_only=False, complete=True)
    pair.peer.end()
    with pytest.raises(UpstreamClosed) as caught:
        await pair.conn.head()
    assert not caught.value.answered


@pytest.mark.parametrize("start", [b"H", OK, OK + b"Content-Length: 5\r\n"])
async def test_close_within_the_head_tells_that_something_came(
    connect: Connect, start: bytes
) -> None:
    pair = await connect()
    await ask(pair, start)
    pair.peer.end()
    with pytest.raises(UpstreamClosed) as caught:
        await pair.conn.head()
    assert caught.value.answered


@pytest.mark.parametrize(
    "start",
    [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"],
)
@pytest.mark.parametrize("end", [Peer.end, Peer.reset])
async def test_body_cut_short_is_given_and_then_an_error(
    connect: Connect, start: bytes, end: Callable[[Peer], None]
) -> None:
    pair = await connect()
    await ask(pair, OK + start)
    await pair.conn.head()
    assert await pair.conn.read() == b"abc"
    end(pair.peer)
    with pytest.raises(UpstreamClosed) as caught:
        await pair.conn.read()
    assert caught.value.answered


async def test_chunks_before_an_invalid_one_are_given_and_then_an_error(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
    await pair.conn.head()
    assert await pair.conn.read() == b"abc"
    with pytest.raises(UpstreamInvalid):
        await pair.conn.read()


async def test_reset_does_not_end_a_body_without_length(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, OK + b"\r\nabc")
    await pair.conn.head()
    assert await pair.conn.read() == b"abc"
    pair.peer.reset()
    with pytest.raises(UpstreamClosed):
        await pair.conn.read()


# Reuse


@pytest.mark.parametrize(
    ("fields", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: foo,  CLOSE\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\n", True),
    ],
)
async def test_connection_is_reused_if_the_upstream_lets_it_live(
    connect: Connect, fields: bytes, reusable: bool
) -> None:
    pair = await connect()
    await ask(pair, fields + b"Content-Length: 5\r\n\r\nhello")
    await pair.conn.head()
    assert await body_of(pair.conn) == b"hello"
    assert pair.conn.reusable is reusable


async def test_connection_is_not_reusable_while_its_answer_is_on_the_way(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, OK + b"Content-Length: 5\r\n\r\nhel")
    await pair.conn.head()
    assert repr(pair.conn) == "<Connection busy>"
    await pair.peer.send(b"lo")
    assert await body_of(pair.conn) == b"hello"
    assert repr(pair.conn) == "<Connection idle>"


async def test_bytes_before_any_request_break_the_connection(connect: Connect) -> None:
    pair = await connect()
    await pair.peer.send(HELLO)
    await pair.lost.wait()
    pair.conn.begin(GET, head_only=False, complete=True)
    with pytest.raises(UpstreamClosed) as caught:
        await pair.conn.head()
    assert not caught.value.answered


async def test_bytes_between_two_requests_are_never_an_answer(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, HELLO)
    await pair.conn.head()
    pair.conn.take_nowait()
    await pair.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    await pair.lost.wait()
    pair.conn.begin(GET, head_only=False, complete=True)
    with pytest.raises(UpstreamClosed) as caught:
        await pair.conn.head()
    assert not caught.value.answered


async def test_bytes_not_yet_noticed_show_on_the_socket(connect: Connect) -> None:
    pair = await connect()
    assert pair.conn.is_quiet()
    pair.peer.sock.send(b"x")
    assert not pair.conn.is_quiet()


async def test_second_answer_in_the_same_packet_is_dropped(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, HELLO + HELLO)
    await pair.conn.head()
    assert await body_of(pair.conn) == b"hello"
    assert not pair.conn.reusable


async def test_body_behind_an_answer_to_head_spoils_the_connection(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, HELLO, head_only=True)
    assert (await pair.conn.head()).status == 200
    assert await pair.conn.read() == b""
    assert not pair.conn.reusable


async def test_upstream_closing_an_idle_connection_is_noticed(connect: Connect) -> None:
    pair = await connect()
    pair.peer.end()
    await pair.lost.wait()
    assert not pair.conn.reusable


# Uploads


async def test_request_goes_out_as_it_is_written(connect: Connect) -> None:
    pair = await connect()
    pair.conn.begin(b"POST / HTTP/1.1\r\n", head_only=False, complete=False)
    pair.conn.write(b"Content-Length: 2\r\n\r\n")
    pair.conn.write(b"hi")
    pair.conn.end()
    await pair.peer.expect(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi")
    await pair.peer.send(HELLO)
    assert (await pair.conn.head()).status == 200


async def test_early_answer_is_given_and_the_connection_waits_for_the_request(
    connect: Connect,
) -> None:
    pair = await connect()
    pair.conn.begin(GET, head_only=False, complete=False)
    await pair.peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert (await pair.conn.head()).status == 413
    assert await body_of(pair.conn) == b"no"
    assert not pair.conn.reusable
    pair.conn.end()
    assert pair.conn.reusable


async def test_answer_is_readable_after_the_upstream_hung_up_on_an_upload(connect: Connect) -> None:
    pair = await connect()
    pair.conn.begin(GET, head_only=False, complete=False)
    await pair.peer.expect(GET)
    await pair.peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    pair.peer.end()
    await pair.lost.wait()
    pair.conn.write(b"more")
    assert pair.conn.writing_paused
    with pytest.raises(UpstreamClosed):
        await pair.conn.drain()
    assert (await pair.conn.head()).status == 413
    assert await body_of(pair.conn) == b"no"


async def test_drain_waits_for_the_upstream_to_read(connect: Connect) -> None:
    pair = await connect()
    pair.conn.begin(GET, head_only=False, complete=False)
    await pair.conn.drain()
    size = len(GET)
    while not pair.conn.writing_paused:
        pair.conn.write(bytes(65536))
        size += 65536
        await asyncio.sleep(0)
    drained = asyncio.ensure_future(pair.conn.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    while size:
        size -= len(await asyncio.get_running_loop().sock_recv(pair.peer.sock, 65536))
    await drained
    assert not pair.conn.writing_paused


# Time


async def test_head_has_to_come_within_its_time(connect: Connect) -> None:
    pair = await connect(head_timeout=0.05)
    await ask(pair, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    with pytest.raises(UpstreamTimeout, match=r"answer within 0\.05 s"):
        await pair.conn.head()
    await pair.peer.expect_end()


async def test_time_for_the_head_starts_when_the_request_is_sent(connect: Connect) -> None:
    pair = await connect(head_timeout=0.05)
    pair.conn.begin(GET, head_only=False, complete=False)
    head = asyncio.ensure_future(pair.conn.head())
    assert not (await asyncio.wait([head], timeout=0.15))[0]
    pair.conn.end()
    with pytest.raises(UpstreamTimeout):
        await head


async def test_body_may_not_stand_still(connect: Connect) -> None:
    pair = await connect(idle_timeout=0.05)
    await ask(pair, OK + b"Content-Length: 5\r\n\r\nhel")
    await pair.conn.head()
    assert await pair.conn.read() == b"hel"
    with pytest.raises(UpstreamTimeout, match="no more of its answer"):
        await pair.conn.read()


async def test_slow_caller_is_no_slow_upstream(connect: Connect) -> None:
    pair = await connect(head_timeout=0.05, idle_timeout=0.05)
    await ask(pair, OK + b"Content-Length: 5\r\n\r\nhel")
    await pair.conn.head()
    await asyncio.sleep(0.15)
    await pair.peer.send(b"lo")
    assert await body_of(pair.conn) == b"hello"


async def test_upload_may_not_stand_still(connect: Connect) -> None:
    pair = await connect(idle_timeout=0.05)
    pair.conn.begin(GET, head_only=False, complete=False)
    while not pair.conn.writing_paused:
        pair.conn.write(bytes(1 << 20))
        await asyncio.sleep(0)
    with pytest.raises(UpstreamTimeout, match="took no more"):
        await pair.conn.drain()


async def test_exchanges_on_one_connection_do_not_inherit_a_deadline(connect: Connect) -> None:
    pair = await connect(head_timeout=0.1)
    for _ in range(8):
        await ask(pair, HELLO)
        await pair.conn.head()
        pair.conn.take_nowait()
        await asyncio.sleep(0.03)
    assert pair.conn.reusable


# Bounds and cancellation


async def test_body_that_nobody_reads_is_held_back(connect: Connect) -> None:
    pair = await connect()
    size = 64 << 20
    await ask(pair, OK + b"Content-Length: %d\r\n\r\n" % size)
    sending = asyncio.ensure_future(pair.peer.send(*[bytes(1 << 20)] * (size >> 20)))
    await pair.conn.head()
    received = most = 0
    while part := await pair.conn.read():
        received += len(part)
        most = max(most, len(part))
        for _ in range(20):
            await asyncio.sleep(0)
    await sending
    assert received == size
    assert most <= BODY_BUFFER + 256 * 1024
    assert pair.conn.reusable


async def test_connection_left_with_a_full_buffer_is_not_reusable(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, OK + b"Content-Length: %d\r\n\r\n" % (64 << 20))
    sending = asyncio.ensure_future(pair.peer.send(*[bytes(1 << 20)] * 64))
    await pair.conn.head()
    assert not (await asyncio.wait([sending], timeout=0.05))[0]
    assert not pair.conn.reusable
    pair.conn.abort()
    with pytest.raises(ConnectionError):
        await sending


@pytest.mark.parametrize("wait", [Connection.head, Connection.read])
async def test_cancelled_wait_leaves_the_connection_unfit_for_reuse(
    connect: Connect, wait: Callable[[Connection], Awaitable[object]]
) -> None:
    pair = await connect()
    pair.conn.begin(GET, head_only=False, complete=True)
    waiting = asyncio.ensure_future(wait(pair.conn))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not pair.conn.reusable


async def test_abort_wakes_whoever_waits(connect: Connect) -> None:
    pair = await connect()
    pair.conn.begin(GET, head_only=False, complete=True)
    head = asyncio.ensure_future(pair.conn.head())
    await asyncio.sleep(0)
    pair.conn.abort()
    with pytest.raises(UpstreamClosed):
        await head


async def test_exchange_keeps_no_garbage(connect: Connect) -> None:
    pair = await connect()
    await ask(pair, HELLO)
    await pair.conn.head()
    pair.conn.take_nowait()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await ask(pair, HELLO)
            await pair.conn.head()
            pair.conn.take_nowait()
        answers = [thing for thing in gc.get_objects() if isinstance(thing, Answer)]
    finally:
        gc.enable()
    assert len(answers) == 1
