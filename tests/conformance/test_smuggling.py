"""What parsers read differently is refused, or reaches the upstream in a form that none misreads.

Three parsers read what the upstream received, and must agree on every request in it.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.doors import Enter, Serve
from conformance.parsers import Request, read_aiohttp, read_h11, read_llhttp
from conformance.recorder import Recorder

LIMITS = {"header_timeout": "50ms", "body_timeout": "50ms"}
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Checked:
    """A proxy before an upstream that records; `send` checks all that comes of a client's bytes."""

    def __init__(self, enter: Enter, recorder: Recorder) -> None:
        self._enter = enter
        self._recorder = recorder

    async def send(self, data: bytes) -> None:
        async with self._enter() as near:
            near.send(data + LAST)
            answers, _ = await near.everything()
        requests = [
            request for each in self._recorder.received for request in await self._read(bytes(each))
        ]
        served = sum(request.complete for request in requests)
        assert len(re.findall(rb"HTTP/1\.1 200 OK", answers)) == served
        await self._recorder.renew()

    async def _read(self, data: bytes) -> list[Request]:
        """Return the requests that an upstream connection carried, on which all parsers agree."""
        requests = read_h11(data)
        assert requests == read_llhttp(data) == await read_aiohttp(data)
        assert all(request.complete for request in requests[:-1])
        for request in requests:
            names = [name for name, _ in request.fields]
            assert (b"host", self._recorder.authority.encode()) in request.fields
            assert names.count(b"host") == names.count(b"authorization") == 1
            assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        return requests


@pytest.fixture
async def checked(serve: Serve) -> AsyncIterator[Checked]:
    async with Recorder() as recorder, serve(recorder, limits=LIMITS) as (_, enter):
        yield Checked(enter, recorder)


def post(*fields: bytes, version: bytes = b"1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST / HTTP/" + version, b"Host: a", *fields, b"", body])


LENGTHS = [
    b"Content-Length: 3",
    b"Content-Length: 03",
    b"Content-Length:3",
    b"Content-Length:\t3\t",
    b"Content-Length: 3 ",
    b"Content-Length: 3, 3",
    b"Content-Length: 3;",
    b"Content-Length: +3",
    b"Content-Length: -3",
    b"Content-Length: 3_0",
    b"Content-Length: 0x3",
    b"Content-Length: 3.0",
    b"Content-Length: 3 3",
    b"Content-Length: 3\x0b",
    b"Content-Length: \xd9\xa3",
    b"Content-Length: ",
    b"Content-Length : 3",
    b" Content-Length: 3",
    b"Content-Length\t: 3",
    b"Content_Length: 3",
    b"Content-Length\0: 3",
    b"X: y\nContent-Length: 3",
    b"X: y\rContent-Length: 3",
    b"Content-Length: 18446744073709551619",
    b"Content-Length: 3\r\nContent-Length: 3",
    b"Content-Length: 3\r\nContent-Length: 4",
    b"Content-Length: 0\r\ncontent-length: 3",
    b"Connection: Content-Length\r\nContent-Length: 3",
]
CODINGS = [
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked",
    b"transfer-encoding:chunked",
    b"Transfer-Encoding:\tchunked ",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\0",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding: ",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    b"TE: chunked",
]
BODIES = [b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n"]
FRAMINGS = [
    *LENGTHS,
    *CODINGS,
    *(b"\r\n".join(pair) for pair in product(LENGTHS[:2], CODINGS)),
    *(b"\r\n".join(pair) for pair in product(CODINGS[:2], LENGTHS)),
]


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("body", BODIES)
async def test_framing_of_a_body(checked: Checked, version: bytes, body: bytes) -> None:
    for framing in FRAMINGS:
        await checked.send(post(framing, version=version, body=body + NEXT))


SIZES = [
    b"3", b"03", b"3 ", b" 3", b"3\t", b"0x3", b"+3", b"-3", b"3_", b"", b"g", b"3;", b"3 ;x",
    b"3;x=y", b'3;x="y"', b'3;x="\r\n"', b"3;\n", b"3\n", b"3\r", b"3;\r", b"3;x\0", b"3\0",
    b"3;\xe9", b"f" * 17, b"0" * 17 + b"3", b"8000000000000003", b"3\r\n", b"2", b"4",
]  # fmt: skip
ENDS = [
    b"0\r\n\r\n", b"0\r\n", b"0\n\n", b"0\r\n\n", b"00\r\n\r\n", b"0;x\r\n\r\n",
    b"0\r\nX: y\r\n\r\n", b"0\r\nContent-Length: 3\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\nHost: evil\r\n\r\n",
    b"0\r\nAuthorization: Bearer evil\r\n\r\n", b"0\r\nX: y\nZ: w\r\n\r\n", b"0\r\n X: y\r\n\r\n",
    b"0\r\n: y\r\n\r\n", b"0\r\nGET / HTTP/1.1\r\n\r\n", b"0 \r\n\r\n",
]  # fmt: skip


async def test_framing_of_a_chunk(checked: Checked) -> None:
    for size, terminator in product(SIZES, [b"\r\n", b"\n", b""]):
        chunked = size + b"\r\nabc" + terminator + b"0\r\n\r\n"
        await checked.send(post(CODINGS[0], body=chunked + NEXT))


async def test_end_of_a_chunked_body(checked: Checked) -> None:
    for end in ENDS:
        await checked.send(post(CODINGS[0], body=b"3\r\nabc\r\n" + end + NEXT))
        await checked.send(post(CODINGS[0], body=b"3\r\nabc\r\n" + end))


LINES = [
    b"GET / HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET\t/\tHTTP/1.1",
    b" GET / HTTP/1.1", b"\r\nGET / HTTP/1.1", b"\nGET / HTTP/1.1", b"GET / HTTP/01.1",
    b"GET / HTTP/1.10", b"GET / HTTP/1.01", b"GET / http/1.1", b"GET / HTTP/2.0",
    b"GET / HTTP/0.9", b"GET /", b"GET / ", b"GET / HTTP/1.1\r", b"get / HTTP/1.1",
    b"GET /\0 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /a b HTTP/1.1",
    b"GET /\r HTTP/1.1", b"GET /a\nb HTTP/1.1", b"GET ?x HTTP/1.1", b"GET x HTTP/1.1",
    b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET //evil/x HTTP/1.1", b"GET /#x HTTP/1.1",
    b"GET http://evil/x HTTP/1.1", b"GET http://evil HTTP/1.1", b"GET http://a:8080/x HTTP/1.1",
    b"GET http://a@evil/x HTTP/1.1", b"GET http:///x HTTP/1.1", b"GET http:/x HTTP/1.1",
    b"GET HTTP://EVIL/x HTTP/1.1", b"GET https://evil/x HTTP/1.1", b"GET ftp://evil/x HTTP/1.1",
    b"GET http://[::1]:1/x HTTP/1.1", b"GET http://evil\\@a/x HTTP/1.1",
    b"GET http://evil?x HTTP/1.1", b"CONNECT evil:443 HTTP/1.1", b"TRACE / HTTP/1.1",
    b"PRI * HTTP/2.0", b"G\0T / HTTP/1.1", b"GET:/ HTTP/1.1",
]  # fmt: skip
FIELDS = [
    b"X: y", b"X:y", b"X:", b": y", b"X", b"X : y", b" X: y", b"X: a\r\n b", b"X: a\r\n\tb",
    b"X: a\nY: b", b"X: a\rY: b", b"X: a\0b", b"X: a\x7fb", b"X: a\x1fb", b"X: \xe9", b"X\xe9: y",
    b"X(: y", b"X\0: y", b"X: y\r", b"X: y\n", b"Host: b", b"host: a", b"Host : b", b" Host: b",
    b"Host: a\r\n b", b"X: y\nHost: b", b"X: y\rHost: b", b"Authorization: evil",
    b"Authorization : evil", b"X: y\nAuthorization: evil", b"Connection: Host, Authorization",
    b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade\r\nUpgrade: h2c",
    b"Upgrade: websocket", b"Connection: upgrade\r\nUpgrade: x", b"Keep-Alive: timeout=1",
    b"Trailer: Content-Length", b"TE: trailers", b"Expect: 100-continue", b"Expect: x",
    b"Proxy-Connection: close",
]  # fmt: skip
HOSTS = [
    b"a", b"A", b"a:80", b"a:", b"", b" a", b"a ", b"a b", b"a,b", b"a/b", b"a@b", b"@", b"a?b",
    b"a#b", b"[::1]", b"[::1", b"::1", b"a:b", b"a\tb", b"a\0", b"\xe9", b"a\\b", b"http://a",
]  # fmt: skip


async def test_request_line(checked: Checked) -> None:
    for line in LINES:
        await checked.send(line + b"\r\nHost: a\r\n\r\n" + NEXT)
        await checked.send(line + b"\r\nHost: other\r\nContent-Length: 3\r\n\r\nabc" + NEXT)


async def test_header_field(checked: Checked) -> None:
    for field in FIELDS:
        await checked.send(post(field, body=NEXT))
        await checked.send(post(field, b"Content-Length: 3", body=b"abc" + NEXT))


async def test_host(checked: Checked) -> None:
    for host, line in product(HOSTS, [b"GET / HTTP/1.1", b"GET http://b/ HTTP/1.1"]):
        await checked.send(line + b"\r\nHost: " + host + b"\r\n\r\n" + NEXT)
    await checked.send(b"GET / HTTP/1.1\r\n\r\n" + NEXT)
    await checked.send(b"GET / HTTP/1.0\r\n\r\n" + NEXT)


PARTS = st.sampled_from([*LENGTHS, *CODINGS, *FIELDS])
BREAKS = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b""])
TEXTS = st.sampled_from(
    [*BODIES, *ENDS, *(size + b"\r\nabc\r\n" for size in SIZES), NEXT, b"\r\n", b"abc"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw something like a request, put together from pieces that parsers disagree about."""
    lines = [draw(st.sampled_from(LINES[:1] * 20 + LINES)), b"Host: a"]
    lines += draw(st.lists(PARTS, max_size=3))
    head = b"".join(line + draw(BREAKS) for line in lines)
    return head + draw(BREAKS) + b"".join(draw(st.lists(TEXTS, max_size=4)))


async def test_whatever_is_put_together_from_such_pieces(checked: Checked) -> None:
    @settings(max_examples=300)
    @given(request=requests())
    def send(request: bytes) -> None:
        asyncio.run_coroutine_threadsafe(checked.send(request), loop).result()

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(send)
