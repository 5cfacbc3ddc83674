"""The conformance table, row by row: bytes in, bytes out, through every listener mode."""

from typing import get_args

import pytest
from msgspec.structs import fields

import frames
from conformance.corpus import CORPUS, chunked, going_up, head, post, request
from conformance.doors import DOORS, Enter, Serve
from conformance.exchange import Exchange, Stage
from harness import until
from proxy.app import App
from proxy.config import ListenerSettings
from wire import GET, OK, Far, refused, used_before

CHUNKED = head(b"200 OK", b"Transfer-Encoding: chunked")


def test_every_listener_mode_has_a_door() -> None:
    mode = next(each.type for each in fields(ListenerSettings) if each.name == "mode")
    assert set(get_args(mode)) == set(DOORS)


@pytest.mark.parametrize("exchange", CORPUS, ids=lambda each: each.row)
async def test_row(stage: Stage, exchange: Exchange) -> None:
    await stage.play(exchange)


BAD_CHUNKS = {
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "LF": b"3\nabc\r\n0\r\n\r\n",
    "extension and LF": b"3;\nabc\r\n0\r\n\r\n",
    "negative": b"-3\r\nabc\r\n0\r\n\r\n",
    "none": b"\r\nabc\r\n0\r\n\r\n",
    "too small": b"3\r\nabcd\r\n0\r\n\r\n",
    "LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "17 digits": b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_row_7_chunk_size_that_parsers_read_differently(enter: Enter, body: bytes) -> None:
    async with enter() as near:
        near.send(chunked(body))
        assert await refused(near) == (400, "malformed_request")
        assert await near.rest() == b""


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_row_7_bad_chunk_behind_a_good_one_never_completes_the_upload(
    enter: Enter, far: Far, body: bytes
) -> None:
    async with enter() as near:
        near.send(chunked(b"1\r\na\r\n"))
        up = await far.wire()
        await up.head()
        assert await up.until(b"a\r\n") == b"1\r\na\r\n"
        near.send(body)
        assert await refused(near) == (400, "malformed_request")
        assert b"0\r\n\r\n" not in await up.rest()
        assert await near.rest() == b""


async def test_row_17_host_follows_an_absolute_target_and_keeps_its_port(
    enter: Enter, far: Far
) -> None:
    async with enter() as near:
        near.send(request(b"GET http://a:8080/x", host=b"other"))
        assert await (await far.wire()).request() == going_up(b"GET /x").replace(
            b"Host: *", b"Host: " + far.authority.encode()
        )


async def test_row_21_upstream_that_says_100_itself_makes_no_second_one(
    enter: Enter, far: Far
) -> None:
    async with enter() as near:
        near.send(post(b"Expect: 100-continue", b"Content-Length: 3"))
        assert await near.head() == head(b"100 Continue")
        up = await far.wire()
        assert b"Expect" not in await up.head()
        up.send(head(b"100 Continue"))
        near.send(b"abc")
        assert await up.exactly(3) == b"abc"
        up.send(OK)
        assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")


async def test_row_24_answer_cut_short_is_an_error_for_a_client_of_http10_too(
    enter: Enter, far: Far
) -> None:
    async with enter() as near:
        near.send(b"GET / HTTP/1.0\r\n\r\n")
        up = await far.wire()
        await up.head()
        up.send(head(b"200 OK", b"Content-Length: 10") + b"abc")
        await near.until(b"abc")
        up.close()
        assert not await near.ended()


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_row_28_get_on_a_reused_connection_is_sent_once_more(
    enter: Enter, far: Far, how: str
) -> None:
    async with enter() as near:
        up = await used_before(near, far)
        near.send(request(b"GET /again"))
        first = await up.head()
        up.close() if how == "closes" else up.reset()
        up = await far.wire()
        assert await up.head() == first
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_row_28_post_is_not_sent_again(enter: Enter, far: Far) -> None:
    async with enter() as near:
        up = await used_before(near, far)
        near.send(post(b"Content-Length: 3", body=b"abc"))
        await up.head()
        assert await up.exactly(3) == b"abc"
        up.close()
        assert await refused(near) == (502, "upstream_closed")
    assert far.accepted == 1


async def test_row_28_streamed_put_is_not_sent_again(serve: Serve, far: Far) -> None:
    async with serve(far, limits={"replay_bytes": 4}) as (_, enter), enter() as near:
        up = await used_before(near, far)
        near.send(request(b"PUT /", b"Transfer-Encoding: chunked", body=b"5\r\nabcde\r\n"))
        await up.head()
        assert await up.until(b"e\r\n") == b"5\r\nabcde\r\n"
        up.close()
        assert await refused(near) == (502, "upstream_closed")
    assert far.accepted == 1


async def test_row_29_bytes_pushed_while_idle_are_never_served(enter: Enter, far: Far) -> None:
    async with enter() as near:
        up = await used_before(near, far)
        up.send(head(b"200 OK", b"Content-Length: 4") + b"evil")
        await up.ended()
        await used_before(near, far)
    assert far.accepted == 2


async def test_row_29_bytes_pushed_behind_an_answer_are_never_served(
    enter: Enter, far: Far
) -> None:
    async with enter() as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(OK + head(b"200 OK", b"Content-Length: 4") + b"evil")
        assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")
        await up.ended()
        await used_before(near, far)
    assert far.accepted == 2


async def test_header_of_nine_kilobytes_passes_both_ways(enter: Enter, far: Far) -> None:
    line = b"X-Long: " + b"x" * 9000
    async with enter() as near:
        near.send(request(b"GET /", line))
        up = await far.wire()
        assert line in await up.head()
        answer = head(b"200 OK", line, b"Content-Length: 0")
        up.send(answer)
        assert await near.head() == answer


async def test_client_that_aborts_a_download_closes_the_upstream_connection(
    app: App, enter: Enter, far: Far
) -> None:
    async with enter() as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(CHUNKED + b"1\r\na\r\n")
        await near.until(b"a\r\n")
        near.reset()
        await up.ended()
    await until(lambda: app.active == 0)


async def test_close_4001_of_a_websocket_arrives_as_4001(enter: Enter, far: Far) -> None:
    async with enter() as near:
        near.send(frames.HANDSHAKE)
        up = await far.wire()
        up.send(frames.switching(await up.head()))
        assert (await near.head()).startswith(b"HTTP/1.1 101 ")
        up.send(frames.frame(frames.CLOSE, frames.close(4001, b"why")))
        assert (await frames.receive(near)).data == frames.close(4001, b"why")


async def test_client_that_begins_http2_is_told_so_in_its_own_words(enter: Enter, far: Far) -> None:
    """Empty SETTINGS, and a GOAWAY with HTTP_1_1_REQUIRED (RFC 9113, sections 3.4, 6.8 and 7)."""
    settings = b"\0\0\0\4\0\0\0\0\0"
    goaway = b"\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\x0d"
    async with enter() as near:
        near.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        assert await near.everything() == (settings + goaway, True)
    assert far.accepted == 0


async def test_early_413_in_mid_upload_reaches_the_client(enter: Enter, far: Far) -> None:
    too_large = head(b"413 Content Too Large", b"Content-Length: 4") + b"big!"
    async with enter() as near:
        near.send(chunked(b"1\r\na\r\n"))
        up = await far.wire()
        await up.head()
        up.send(too_large)
        answer, body = await near.answer()
        assert answer.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
        assert body == b"big!"
