"""The pipeline as both ends of the wire see it: what a client sends and gets, and what goes up."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

from harness import KEY, SecretScan, base_url, exchange, get, running, until, until_ready
from proxy.app import App
from proxy.config import Address, LimitSettings
from proxy.sandbox import Fault, Sandbox
from proxy.tokens.known_keys import KnownKeys
from proxy.tokens.model import Lease, Outcome, Secret, Token
from proxy.traffic.admission import Admission
from proxy.traffic.binding import listen
from proxy.traffic.front import FrontServer
from proxy.traffic.handler import Handler
from proxy.traffic.message import Framing, ResponseHead
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.target import Entrance, Names
from wire import (
    GET,
    OK,
    Far,
    Wire,
    between,
    client,
    connect,
    problem_of,
    refused,
    served,
    used_before,
)

DENIED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nX-Why: plan\r\nContent-Length: 4\r\n\r\nmine"
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 9\r\nContent-Length: 4\r\n\r\nslow"
MEBIBYTE = 2**20


def left(app: App) -> int:
    return app.status().tokens.left


def states(app: App) -> set[str]:
    return {token.state for token in app.status().tokens.tokens}


async def assert_no_lease_is_open(app: App, sandbox: Sandbox) -> None:
    """A token that was replaced is revoked only when all its leases are settled."""
    held = {token.id for token in app.status().tokens.tokens}
    app.rotate()

    def revoked() -> bool:
        tokens = sandbox.ledger.report()["tokens"]
        assert isinstance(tokens, list)
        return held <= {token["id"] for token in tokens if token["revoked"]}

    await until(revoked)


async def assert_nothing_went_up(far: Far, app: App) -> None:
    """The first thing that the upstream ever sees is a request sent after all others."""
    async with client(app) as near:
        near.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        up = await far.wire()
        assert (await up.head()).startswith(b"GET /first HTTP/1.1\r\n")


# Bytes pass as they came


async def test_request_goes_up_and_answer_comes_down_as_they_are(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(
            b"PATCH /a%2Fb//c/../d?x=%27&y HTTP/1.1\r\n"
            b"hOST: api.mobula.io\r\n"
            b"X-A: 1\r\nUser-Agent: me\r\nCookie: a=1\r\nx-a: 2\r\ncookie: b=2\r\n"
            b"X-Latin: caf\xe9\r\nTE: trailers\r\nContent-Length: 3\r\n\r\nabc"
        )
        up = await far.wire()
        assert await up.request() == (
            b"PATCH /a%%2Fb//c/../d?x=%%27&y HTTP/1.1\r\n"
            b"Host: %b\r\n"
            b"X-A: 1\r\nUser-Agent: me\r\nCookie: a=1\r\nx-a: 2\r\ncookie: b=2\r\n"
            b"X-Latin: caf\xe9\r\nContent-Length: 3\r\n"
            b"Authorization: Bearer *\r\n\r\n" % far.authority.encode()
        )
        assert await up.exactly(3) == b"abc"
        up.send(
            b"HTTP/1.1 299 Fa\xe7ade\r\nset-cookie: a=1\r\nServer: up\r\nSet-Cookie: b=2\r\n"
            b"X-Mobula-Proxy-Error: forged\r\nKeep-Alive: timeout=5\r\nX-Latin: \xe9\r\n"
            b"Content-Length: 4\r\n\r\nd\0\xffe"
        )
        assert await near.answer() == (
            (
                b"HTTP/1.1 299 Fa\xe7ade\r\nset-cookie: a=1\r\nServer: up\r\nSet-Cookie: b=2\r\n"
                b"X-Latin: \xe9\r\nContent-Length: 4\r\n\r\n"
            ),
            b"d\0\xffe",
        )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET /a?", b"GET /a?"),
        (b"GET /%zz", b"GET /%zz"),
        (b"GET //evil/x", b"GET //evil/x"),
        (b"GET /a?b#c?d", b"GET /a?b#c?d"),
        (b'GET /"<>\\^`{|}', b'GET /"<>\\^`{|}'),
        (b"GET http://b.test:8080/x%2F?y", b"GET /x%2F?y"),
        (b"GET http://b.test", b"GET /"),
        (b"OPTIONS *", b"OPTIONS *"),
        (b"GET /a?api_key=x&b", b"GET /a?b"),
        (b"GET /%b" % KEY.encode(), b"GET /"),
    ],
)
async def test_target_goes_up_as_it_is_but_for_authority_and_keys(
    app: App, far: Far, line: bytes, expected: bytes
) -> None:
    async with client(app) as near:
        near.send(line + b" HTTP/1.1\r\nHost: other\r\n\r\n")
        up = await far.wire()
        assert await up.request() == (
            expected
            + b" HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer *\r\n\r\n" % far.authority.encode()
        )


async def test_path_of_the_upstream_stands_before_every_path_but_the_star(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan, prefix="/gw/v1/") as app, client(app) as near:
        up: Wire | None = None
        for line, expected in [
            (b"GET /a?b", b"GET /gw/v1/a?b HTTP"),
            (b"GET //a", b"GET /gw/v1//a HTTP"),
            (b"OPTIONS *", b"OPTIONS * HTTP"),
        ]:
            near.send(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            up = up or await far.wire()
            assert (await up.head()).startswith(expected)
            up.send(OK)
            await near.answer()


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        (b"HEAD", b"200 OK\r\nContent-Length: 5\r\n\r\n", b"200 OK\r\nContent-Length: 5\r\n\r\n"),
        (b"HEAD", b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"200 OK\r\n\r\n"),
        (b"GET", b"204 No Content\r\n\r\n", b"204 No Content\r\n\r\n"),
        (b"GET", b"304 Not\r\nContent-Length: 5\r\n\r\n", b"304 Not\r\nContent-Length: 5\r\n\r\n"),
        (b"GET", b"205 Re\r\nContent-Length: 0\r\n\r\n", b"205 Re\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", b"200 OK\r\nContent-Length: 0\r\n\r\n", b"200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_answer_without_a_body_ends_with_its_head_and_the_next_request_works(
    app: App, far: Far, method: bytes, answer: bytes, expected: bytes
) -> None:
    async with client(app) as near:
        near.send(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 " + answer)
        assert await near.head() == b"HTTP/1.1 " + expected
        near.send(GET)
        await up.head()
        up.send(OK)
        assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")
    assert far.accepted == 1


async def test_requests_sent_at_once_are_answered_in_their_order(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        up = await far.wire()
        for body in (b"/1", b"/2"):
            assert (await up.head()).startswith(b"GET %b HTTP/1.1\r\n" % body)
            up.send(OK.replace(b"ok", body))
        assert [(await near.answer())[1] for _ in range(2)] == [b"/1", b"/2"]
    assert far.accepted == 1


@pytest.mark.parametrize("how", ["says so", "just does"])
async def test_next_request_works_after_the_upstream_closed(app: App, far: Far, how: str) -> None:
    async with client(app) as near:
        for _ in range(3):
            near.send(GET)
            up = await far.wire()
            await up.head()
            up.send(
                OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n") if how == "says so" else OK
            )
            up.close()
            assert await near.answer() == (OK.removesuffix(b"ok"), b"ok")


async def test_client_that_asks_to_close_is_told_and_closed(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        up = await far.wire()
        assert b"onnection" not in await up.head()
        up.send(OK)
        assert await near.rest() == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        )


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_client_of_http10_may_keep_its_connection_when_the_length_is_known(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        up = await used_before(near, far)
        for _ in range(2):
            near.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            await up.head()
            up.send(OK)
            head, _ = await near.answer()
            assert head.endswith(b"\r\nConnection: keep-alive\r\n\r\n")


async def test_answer_that_ends_with_its_connection_is_chunked_for_the_client(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        assert await near.head() == CHUNKED
        assert await near.until(b"abc\r\n") == b"3\r\nabc\r\n"
        up.close()
        assert await near.until(b"0\r\n\r\n") == b"0\r\n\r\n"


# Streaming


async def test_events_arrive_as_they_are_sent(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + CHUNKED[17:])
        assert (await near.head()).endswith(b"text/event-stream\r\n" + CHUNKED[17:])
        for number in range(5):
            event = b"data: %d\n\n" % number
            up.send(b"%x\r\n%b\r\n" % (len(event), event))
            assert await near.until(b"\n\n\r\n") == b"9\r\n" + event + b"\r\n"
        up.send(b"0\r\n\r\n")
        assert await near.exactly(5) == b"0\r\n\r\n"


async def test_download_waits_for_a_slow_client_and_loses_nothing(app: App, far: Far) -> None:
    body = bytes(range(256)) * 4096 * 48
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await near.head()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await up.drained()
        assert await near.exactly(len(body)) == body
        await up.drained()


async def test_client_that_leaves_a_download_ends_the_upstream_connection(
    app: App, far: Far, sandbox: Sandbox
) -> None:
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(CHUNKED + b"1\r\na\r\n")
        await near.until(b"a\r\n")
        near.close()
        await up.ended()
    await until(lambda: app.active == 0)
    await assert_no_lease_is_open(app, sandbox)


async def test_client_that_leaves_before_the_answer_ends_the_upstream_connection(
    app: App, far: Far, sandbox: Sandbox
) -> None:
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        near.close()
        await up.ended()
    await until(lambda: app.active == 0)
    await assert_no_lease_is_open(app, sandbox)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
        CHUNKED + b"3\r\nabc\r\nzz\r\n",
        CHUNKED + b"ff\r\nabc",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_answer_cut_short_is_an_error_for_the_client(
    app: App, far: Far, answer: bytes, version: bytes
) -> None:
    async with client(app) as near:
        near.send(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
        up = await far.wire()
        await up.head()
        up.send(answer)
        await near.head()
        up.close()
        assert not await near.ended()


async def test_reset_does_not_end_an_answer_without_length(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(b"GET / HTTP/1.0\r\n\r\n")
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await near.until(b"abc")
        up.reset()
        assert not await near.ended()


async def test_answer_that_stands_still_is_broken_off(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        between(far, sandbox, scan, upstream={"idle_timeout": 0.05}) as app,
        client(app) as near,
    ):
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(CHUNKED + b"3\r\nabc\r\n")
        assert not await near.ended()


async def test_concurrent_requests_get_each_their_own_answer(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        before = left(app)
        url = base_url(app) + "/api/1/sandbox/echo?n="
        answers = await asyncio.gather(*(get(f"{url}{n}") for n in range(64)))
        assert [json.loads(body)["target"].partition("=")[2] for _, _, body in answers] == [
            str(n) for n in range(64)
        ]
        assert {status for status, _, _ in answers} == {200}
        assert left(app) == before - 64
        assert app.active == 0


# Refused before anything goes up


@pytest.mark.parametrize(
    ("request_", "status", "code", "kept"),
    [
        (b"GET /api/2/auth/tokens HTTP/1.1\r\nHost: a\r\n\r\n", 403, "auth_path_denied", True),
        (b"POST /api/2/%61uth/tokens HTTP/1.1\r\nHost: a\r\n\r\n", 403, "auth_path_denied", True),
        (b"GET http://a/api/2//auth HTTP/1.1\r\nHost: a\r\n\r\n", 403, "auth_path_denied", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417, "expectation_failed", True),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "malformed_request", False),
        (b"GET / HTTP/1.1\r\nHost: @x\r\n\r\n", 400, "malformed_request", False),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "malformed_request", False),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request", False),
        (b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request", False),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "transfer_coding_unsupported",
            False,
        ),
        (
            b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed_request",
            False,
        ),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "method_denied", False),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
            501,
            "upgrade_unsupported",
            False,
        ),
    ],
)
async def test_request_that_cannot_be_served_gets_a_problem_and_nothing_goes_up(
    app: App, far: Far, request_: bytes, status: int, code: str, kept: bool
) -> None:
    async with client(app) as near:
        near.send(request_ + b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n")
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == code
        assert head.startswith(b"HTTP/1.1 %d " % status)
        if kept:
            up = await far.wire()
            assert (await up.head()).startswith(b"GET /behind ")
        else:
            assert b"\r\nConnection: close\r\n" in head
            assert await near.rest() == b""
    if not kept:
        await assert_nothing_went_up(far, app)


@pytest.mark.parametrize("request_", [b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"GET /\r\n\r\n"])
async def test_other_version_of_http_is_not_spoken(app: App, far: Far, request_: bytes) -> None:
    async with client(app) as near:
        near.send(request_)
        assert await refused(near) == (505, "version_unsupported")
        assert await near.rest() == b""
    await assert_nothing_went_up(far, app)


async def test_problem_for_a_head_request_has_no_body(app: App) -> None:
    async with client(app) as near:
        near.send(b"HEAD /api/2/auth/tokens HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await near.rest()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"\r\n\r\n")


async def test_problem_lets_a_client_of_http10_know_that_the_connection_ends(app: App) -> None:
    async with client(app) as near:
        near.send(b"GET /api/2/auth HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in await near.rest()


@pytest.mark.parametrize("target", [b"/2/auth/tokens", b"/api/2/auth", b"/x/../2/auth"])
async def test_path_of_the_upstream_opens_no_way_to_the_token_endpoints(
    far: Far, sandbox: Sandbox, scan: SecretScan, target: bytes
) -> None:
    async with between(far, sandbox, scan, prefix="/api") as app:
        answer = await exchange(
            app, b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target
        )
    assert answer.startswith(b"HTTP/1.1 403 ")


async def test_offer_of_h2c_is_ignored_and_the_connection_lives(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        )
        up = await far.wire()
        assert b"pgrade" not in await up.head()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
        near.send(GET)
        await up.head()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


# The upstream fails


async def test_upstream_that_is_not_there_is_unreachable_and_costs_no_lease(
    app: App, far: Far
) -> None:
    far.refuse()
    await until_ready(app)
    before = left(app)
    async with client(app) as near:
        near.send(GET)
        assert await refused(near) == (502, "upstream_unreachable")
        assert left(app) == before
        near.send(GET)
        assert await refused(near) == (502, "upstream_unreachable")


async def test_upstream_that_does_not_answer_times_out(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        between(far, sandbox, scan, upstream={"head_timeout": 0.05}) as app,
        client(app) as near,
    ):
        near.send(GET)
        up = await far.wire()
        await up.head()
        assert await refused(near) == (504, "upstream_timeout")
        await up.ended()
    assert far.accepted == 1


async def test_busy_upstream_is_said_with_a_time_to_try_again(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        between(far, sandbox, scan, upstream={"connections": 1, "queue": 0}) as app,
        client(app) as near,
        client(app) as second,
    ):
        near.send(GET)
        up = await far.wire()
        await up.head()
        second.send(GET)
        head, body = await second.answer()
        assert problem_of(head, body)["code"] == "upstream_busy"
        assert b"\r\nRetry-After: 1\r\n" in head


# No token


async def test_key_that_mobula_refuses_is_said_at_once_until_it_is_accepted(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    sandbox.faults.add(Fault("/api/2/auth/tokens", status=401))
    async with running(sandbox.url, scan) as app:
        await until(lambda: app.status().tokens.fault is not None)
        assert not app.status().ready
        assert "401" in app.status().reason
        async with client(app) as near:
            near.send(GET)
            head, body = await near.answer()
            problem = problem_of(head, body)
            assert (problem["status"], problem["code"]) == (503, "token_unavailable")
            assert "401" in problem["detail"]
            assert b"\r\nRetry-After: " in head
            sandbox.faults.clear()
            app.rotate()
            await until_ready(app)
            near.send(b"GET /api/1/market/data HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await near.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_request_waits_for_a_token_no_longer_than_it_may(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    sandbox.faults.add(Fault("/api/2/auth/tokens", status=500))
    async with running(sandbox.url, scan, token={"wait": 0.05}) as app, client(app) as near:
        near.send(GET)
        assert await refused(near) == (503, "token_unavailable")


async def test_request_that_came_before_the_first_token_waits_for_it(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    sandbox.faults.add(Fault("/api/2/auth/tokens", delay=0.05, times=1))
    async with running(sandbox.url, scan) as app:
        assert not app.status().started
        status, _, _ = await get(base_url(app) + "/api/1/market/data")
    assert status == 200


# Sent once more


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_get_is_sent_once_more_after_a_lost_connection(app: App, far: Far, how: str) -> None:
    async with client(app) as near:
        up = await used_before(near, far)
        before = left(app)
        near.send(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n")
        first = await up.head()
        up.close() if how == "close" else up.reset()
        up = await far.wire()
        assert await up.head() == first
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
        assert left(app) == before - 2


async def test_get_is_sent_once_more_on_a_fresh_connection(app: App, far: Far) -> None:
    """Where one idle connection died unnoticed, the others may have died with it."""
    async with client(app) as near, client(app) as other:
        near.send(GET)
        other.send(GET)
        idle = [await far.wire(), await far.wire()]
        for up in idle:
            await up.head()
        for up in idle:
            up.send(OK)
        await near.answer()
        await other.answer()
        near.send(GET)
        heard = [asyncio.create_task(up.head()) for up in idle]
        await asyncio.wait(heard, return_when=asyncio.FIRST_COMPLETED)
        next(up for up, head in zip(idle, heard, strict=True) if head.done()).reset()
        up = await far.wire()
        await up.head()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
        for head in heard:
            head.cancel()


async def test_get_is_not_sent_a_third_time(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET)
        for _ in range(2):
            up = await far.wire()
            await up.head()
            up.close()
        assert await refused(near) == (502, "upstream_closed")
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
    assert far.accepted == 3


async def test_put_whose_body_is_held_is_sent_once_more(app: App, far: Far) -> None:
    async with client(app) as near:
        up = await used_before(near, far)
        near.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        for _ in range(2):
            await up.head()
            assert await up.exactly(4) == b"body"
            if far.accepted == 1:
                up.close()
                up = await far.wire()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        b"PATCH / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n"
        + b"x" * 17
        + b"\r\n0\r\n\r\n",
    ],
    ids=["POST", "POST with body", "PATCH", "streamed PUT"],
)
async def test_request_that_must_not_be_repeated_goes_up_once(
    far: Far, sandbox: Sandbox, scan: SecretScan, request_: bytes
) -> None:
    async with between(far, sandbox, scan, limits={"replay_bytes": 16}) as app, client(app) as near:
        up = await used_before(near, far)
        near.send(request_)
        await up.head()
        up.close()
        assert await refused(near) == (502, "upstream_closed")
    assert far.accepted == 1


async def test_request_is_not_sent_again_once_an_answer_has_begun(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 O")
        up.close()
        assert await refused(near) == (502, "upstream_closed")
    assert far.accepted == 1


# Tokens refused


@contextlib.asynccontextmanager
async def replies(far: Far, *answers: bytes) -> AsyncIterator[list[bytes]]:
    """Answer requests with these, the last one for ever; yield the tokens that they came with."""
    tokens: list[bytes] = []
    left = list(answers)

    async def reply(up: Wire) -> None:
        while await up.request():
            tokens.append(up.token)
            up.send(left.pop(0) if len(left) > 1 else left[0])

    async with served(far, reply):
        yield tokens


async def test_request_refused_with_401_goes_once_more_with_another_token(
    app: App, far: Far, sandbox: Sandbox
) -> None:
    async with replies(far, DENIED, OK) as tokens, client(app) as near:
        await until_ready(app)
        near.send(GET)
        assert (await near.answer())[1] == b"ok"
        first, second = tokens
        assert first != second
        await until(lambda: "set_aside" not in states(app))
        await assert_no_lease_is_open(app, sandbox)


async def test_request_is_never_sent_twice_with_a_token_that_was_refused(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        between(far, sandbox, scan, token={"standby": 0}) as app,
        replies(far, DENIED) as tokens,
        client(app) as near,
    ):
        near.send(GET)
        assert await near.answer() == (DENIED.removesuffix(b"nope"), b"nope")
        assert len(tokens) == 1


async def test_second_refusal_is_passed_on_while_its_tokens_are_alive(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        between(far, sandbox, scan, token={"standby": 3}) as app,
        replies(far, DENIED) as tokens,
        client(app) as near,
    ):
        await until_ready(app)
        near.send(GET)
        assert await near.answer() == (DENIED.removesuffix(b"nope"), b"nope")
        assert len(tokens) == len(set(tokens)) == 2


async def test_revoked_tokens_are_replaced_without_a_failed_request(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan) as app:
        url = base_url(app) + "/api/1/market/data"
        assert (await get(url))[0] == 200
        assert sandbox.ledger.revoke_all() == 2
        answers = await asyncio.gather(*(get(url) for _ in range(32)))
        assert {status for status, _, _ in answers} == {200}
        assert sandbox.ledger.report()["mint_calls"] == 2


async def test_tokens_revoked_right_after_a_401_of_the_clients_own_are_replaced_too(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """What Mobula said of a token moments ago says nothing of a request sent since."""
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        url = base_url(app) + "/api/1/market/data"
        assert (await get(url, headers={"X-Sandbox-Fault": "status=401"}))[0] == 401
        sandbox.ledger.revoke_all()
        answers = await asyncio.gather(*(get(url) for _ in range(32)))
        assert {status for status, _, _ in answers} == {200}


async def test_request_is_sent_with_three_tokens_at_the_most(
    app: App, far: Far, sandbox: Sandbox
) -> None:
    async with client(app) as near:
        await until_ready(app)
        near.send(GET)
        tokens = set()
        up = await far.wire()
        for _ in range(3):
            await up.request()
            tokens.add(up.token)
            sandbox.ledger.revoke_all()
            up.send(DENIED)
        assert await near.answer() == (DENIED.removesuffix(b"nope"), b"nope")
        assert len(tokens) == 3


async def test_403_that_is_the_clients_own_arrives_and_keeps_no_token_aside(
    app: App, far: Far, sandbox: Sandbox
) -> None:
    async with replies(far, FORBIDDEN) as tokens:
        await until_ready(app)

        async def ask() -> tuple[bytes, bytes]:
            async with client(app) as near:
                near.send(GET)
                return await near.answer()

        answers = [await ask() for _ in range(3)]
        answers += await asyncio.gather(*(ask() for _ in range(20)))
        assert set(answers) == {(FORBIDDEN.removesuffix(b"mine"), b"mine")}
        assert "set_aside" not in states(app)
        assert sandbox.ledger.report()["inspects"] == 2
        assert len(tokens) == 24


async def test_429_of_the_plan_passes_as_it_came(app: App, far: Far, sandbox: Sandbox) -> None:
    async with replies(far, TOO_MANY) as tokens, client(app) as near:
        for _ in range(5):
            near.send(GET)
            assert await near.answer() == (TOO_MANY.removesuffix(b"slow"), b"slow")
        assert len(tokens) == 5
        assert sandbox.ledger.report()["inspects"] == 1
        assert "set_aside" not in states(app)
        await assert_no_lease_is_open(app, sandbox)


async def test_429_of_a_token_that_is_used_up_goes_once_more_with_another(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan, token={"request_limit": 3}) as app, client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.request()
        spent = up.token
        for _ in range(3):
            bearer = {"Authorization": f"Bearer {spent.decode()}"}
            assert (await get(sandbox.url + "/api/1/market/data", headers=bearer))[0] == 200
        up.send(TOO_MANY)
        await up.request()
        assert up.token != spent
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


@pytest.mark.parametrize("answer", [DENIED, FORBIDDEN, TOO_MANY])
async def test_client_that_leaves_while_mobula_is_asked_leaves_no_lease_open(
    far: Far, sandbox: Sandbox, scan: SecretScan, answer: bytes
) -> None:
    sandbox.faults.add(Fault("/api/2/auth/token", delay=0.1))
    async with between(far, sandbox, scan, token={"standby": 0}) as app:
        async with replies(far, answer), client(app) as near:
            near.send(GET)
            await until(lambda: sandbox.ledger.report()["inspects"] == 1)
            near.close()
            await until(lambda: app.active == 0)
        await assert_no_lease_is_open(app, sandbox)


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"


async def test_post_refused_with_401_goes_once_more_with_its_body(app: App, far: Far) -> None:
    async with client(app) as near:
        await until_ready(app)
        near.send(POST)
        up = await far.wire()
        for answer in (DENIED, OK):
            await up.head()
            assert await up.exactly(4) == b"body"
            up.send(answer)
        assert (await near.answer())[1] == b"ok"


async def test_post_refused_with_401_is_not_repeated_when_its_body_is_no_longer_held(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan, limits={"replay_bytes": 3}) as app, client(app) as near:
        await until_ready(app)
        near.send(POST)
        up = await far.wire()
        await up.head()
        await up.exactly(4)
        up.send(DENIED)
        assert await near.answer() == (DENIED.removesuffix(b"nope"), b"nope")
        near.send(GET)
        assert (await up.head()).startswith(b"GET ")


async def test_post_refused_with_403_is_the_clients_own(app: App, far: Far) -> None:
    async with client(app) as near:
        await until_ready(app)
        near.send(POST)
        up = await far.wire()
        await up.head()
        await up.exactly(4)
        up.send(FORBIDDEN)
        assert await near.answer() == (FORBIDDEN.removesuffix(b"mine"), b"mine")


async def test_static_key_reaches_no_upstream_wherever_a_client_puts_it(
    app: App, far: Far, scan: SecretScan
) -> None:
    key = KEY.encode()
    async with client(app) as near:
        near.send(
            b"GET /%b/x?api_key=%b&y=%b&z HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\n"
            b"X-API-KEY: %b\r\nCookie: k=%b\r\nX-%b: 1\r\nProxy-Authorization: Basic %b\r\n\r\n"
            % ((key,) * 8)
        )
        up = await far.wire()
        assert await up.request() == (
            b"GET //x?z HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer *\r\n\r\n"
            % far.authority.encode()
        )
        scan.add(up.token.decode())
        up.send(OK)
        await near.answer()
    assert "a static key was taken out of a request" in scan.output.getvalue()


# Our own failures


class Failing:
    """Upstream, connection and keeper in one; it fails in a way that nobody foresaw."""

    name, prefix, authority = "far.test", b"", b"far.test"
    known_keys = KnownKeys()
    body_complete = False

    def __init__(self, *, in_answer: bool) -> None:
        self.settled: list[Outcome] = []
        self._in_answer = in_answer

    async def wait_for_token(self, *_: object) -> None:
        pass

    def lease(self, _: object) -> Lease:
        secret = Secret("token")
        return Lease(1, Token("id", secret, secret, 0.0, 1.0, 1, 1), 1)

    def settle(self, _: Lease, outcome: Outcome) -> None:
        self.settled.append(outcome)

    async def acquire(self, **_: bool) -> Self:
        return self

    def release(self, _: object) -> None:
        pass

    def begin(self, _: bytes, **__: bool) -> None:
        pass

    async def head(self) -> ResponseHead:
        if not self._in_answer:
            raise RuntimeError("unforeseen")
        return ResponseHead(200, b"OK", [], Framing.LENGTH, 200)

    def take_nowait(self) -> bytes:
        return b"abc"

    async def read(self) -> bytes:
        raise RuntimeError("unforeseen")


@contextlib.asynccontextmanager
async def serving(failing: Any) -> AsyncIterator[Wire]:
    limits = LimitSettings()
    occupancy = Occupancy(limits.connections, limits.requests)
    admission = Admission(
        upstreams={"a": failing},
        names=Names(["a"]),
        foreign=lambda _, __: failing,
        keys=failing.known_keys,
        limits=limits,
        occupancy=occupancy,
        clock=time.monotonic,
    )
    handler = Handler(
        admission=admission,
        keeper=failing,
        limits=limits,
        occupancy=occupancy,
        token_wait=1.0,
        observe=lambda _: None,
    )
    front = FrontServer(handler, Entrance("a"), limits, occupancy, lambda _: None, None)
    binding = await listen(front, Address("127.0.0.1", 0))
    near = await connect(binding.address)
    try:
        yield near
    finally:
        near.close()
        binding.close()
        await front.shutdown(0.01)


async def test_failure_of_our_own_is_a_problem_and_settles_the_lease() -> None:
    failing = Failing(in_answer=False)
    async with serving(failing) as near:
        near.send(GET)
        assert await refused(near) == (500, "internal_error")
        assert await near.rest() == b""
    assert failing.settled == [Outcome.UNKNOWN]


async def test_failure_of_our_own_in_mid_answer_never_looks_like_its_end() -> None:
    async with serving(Failing(in_answer=True)) as near:
        near.send(GET)
        assert not await near.ended()


# Clients that take their time


def large(size: int) -> bytes:
    return b"GET /api/1/sandbox/large?bytes=%d HTTP/1.1\r\nHost: a\r\n\r\n" % size


async def test_client_that_takes_nothing_is_let_go(sandbox: Sandbox, scan: SecretScan) -> None:
    limits = {"client_idle_timeout": "100ms"}
    async with running(sandbox.url, scan, limits=limits) as app, client(app) as near:
        near.send(large(40_000_000))
        await until(lambda: app.active == 1)
        await until(lambda: app.active == 0)
        assert not await near.ended()


def sip(near: socket.socket) -> int:
    """Read to the end at about 1.5 MB a second; return how many bytes came."""
    taken = 0
    while data := near.recv(15_000):
        taken += len(data)
        time.sleep(0.01)
    return taken


async def test_client_that_reads_slowly_but_steadily_gets_all(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """The kernel makes room in steps that take longer than the limit, yet bytes do go."""
    size = 4_500_000
    limits = {"client_idle_timeout": "250ms"}
    async with running(sandbox.url, scan, limits=limits) as app:
        with socket.socket() as near:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            near.connect((app.addresses[0].host, app.addresses[0].port))
            near.sendall(large(size).replace(b"Host: a", b"Host: a\r\nConnection: close"))
            assert await asyncio.to_thread(sip, near) > size


async def test_client_that_leaves_before_its_answer_breaks_no_answer_off(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan) as app:
        async with client(app) as near:
            near.send(GET)
            await (await far.wire()).request()
        await until(lambda: app.active == 0)
        _, _, metrics = await get(f"http://{app.admin_address}/metrics")
    assert b"mobula_proxy_broken_answers_total{" not in metrics
