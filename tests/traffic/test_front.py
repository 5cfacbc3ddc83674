"""A client's connection: what the parser misreads, limits, and clients that do nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from harness import KEY, SecretScan, exchange, until
from proxy.app import App
from proxy.sandbox import Sandbox
from wire import GET, OK, Far, Wire, between, client, problem_of, refused

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


# What the parser refuses


async def test_malformed_request_is_counted_and_its_bytes_are_not_logged(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan, log={"access": True}) as app:
        await exchange(app, b"GET / HTTP/1.1\r\nAuthorization: " + KEY.encode() + b"\0\r\n\r\n")
    assert '"code": "malformed_request"' in scan.output.getvalue()


@pytest.mark.parametrize("more", [b"x", b"x" * 100_000], ids=["a byte", "a lot"])
async def test_client_that_goes_on_sending_can_read_why_its_request_was_refused(
    app: App, more: bytes
) -> None:
    """Were the connection closed at once, the client's kernel would throw the answer away."""
    async with client(app) as near:
        await near.send_in_pieces([GET.replace(b"Host", b"H ost"), more, more])
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "malformed_request"
        assert await near.rest() == b""


async def test_client_that_goes_on_sending_can_read_an_answer_that_ends_its_connection(
    app: App, far: Far
) -> None:
    async with client(app) as near:
        near.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        up = await far.wire()
        await up.head()
        up.send(OK)
        await near.until(b"\r\n\r\n")
        await near.send_in_pieces([GET, GET])
        assert await near.rest() == b"ok"
    assert far.accepted == 1


async def test_client_that_is_told_to_leave_and_stays_is_cut_off(app: App) -> None:
    async with client(app) as near:
        near.send(b"garbage\r\n\r\n")
        await near.rest()
        await until(lambda: app.occupancy.connections == 0)


TRAILED = CHUNKED + b"3\r\nabc\r\n0\r\nX-A: 1\r\nX-Trailer: 2\r\n\r\n"


async def test_trailer_of_a_request_never_gets_into_the_head_of_the_next_one(
    app: App, far: Far
) -> None:
    """The parser remembers it until the next head; between proxies that is another client's."""
    up: Wire | None = None
    async with client(app) as near:
        for _ in range(3):
            near.send(TRAILED)
            up = up or await far.wire()
            await up.head()
            assert await up.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
            up.send(OK)
            await near.answer()
            near.send(GET)
            assert await up.request() == (
                b"GET / HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer *\r\n\r\n"
                % far.authority.encode()
            )
            up.send(OK)
            await near.answer()
    assert far.accepted == 1


@pytest.mark.parametrize("behind", [GET, GET[:9], TRAILED])
@pytest.mark.parametrize("pieces", [1, 2])
async def test_what_comes_with_the_end_of_a_chunked_body_is_not_served(
    app: App, far: Far, behind: bytes, pieces: int
) -> None:
    start = len(TRAILED) - 4 if pieces == 2 else 0
    async with client(app) as near:
        await near.send_in_pieces(filter(None, [TRAILED[:start], TRAILED[start:] + behind]))
        up = await far.wire()
        await up.head()
        up.send(OK)
        assert (await near.rest()).endswith(b"\r\n\r\nok")
        assert await up.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
        far.close()
        assert await up.rest() == b""
    assert far.accepted == 1


@pytest.mark.parametrize("pieces", [1, 2])
async def test_chunked_request_that_comes_before_the_answer_to_another_one_is_served(
    app: App, far: Far, pieces: int
) -> None:
    """So is one that comes in the moment in which the kernel took the end of that answer."""
    async with client(app) as near:
        await near.send_in_pieces([GET + TRAILED] if pieces == 1 else [GET, TRAILED])
        up = await far.wire()
        for start in (b"GET /", b"POST /", b"GET /"):
            head = await up.head()
            assert head.startswith(start)
            assert b"X-Trailer" not in head
            if start == b"POST /":
                assert await up.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
                near.send(GET)
            up.send(OK)
            assert (await near.answer())[1] == b"ok"
    assert far.accepted == 1


async def test_nothing_is_lost_unsaid_of_many_requests_with_a_chunked_one_among_them(
    app: App, far: Far
) -> None:
    """The parser stops at some number of requests, and would have taken the rest with it."""
    async with client(app) as near:
        near.send(GET * 31 + TRAILED + GET)
        up = await far.wire()
        await up.head()
        up.send(OK)
        assert b"\r\nConnection: close\r\n" in (await near.answer())[0]
        assert await near.rest() == b""


@pytest.mark.parametrize("pieces", [1, 2])
async def test_what_comes_with_an_offer_of_h2c_is_not_served_and_its_connection_ends(
    app: App, far: Far, pieces: int
) -> None:
    """The parser drops the rest of what it was given, and would go on in the middle of nowhere."""
    offer = b"GET /offer HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    start = len(offer) - 2 if pieces == 2 else 0
    async with client(app) as near:
        await near.send_in_pieces(filter(None, [offer[:start], offer[start:] + GET, GET]))
        up = await far.wire()
        assert (await up.head()).startswith(b"GET /offer ")
        up.send(OK)
        assert (await near.rest()).endswith(b"\r\n\r\nok")
        far.close()
        assert await up.rest() == b""
    assert far.accepted == 1


@pytest.mark.parametrize("pieces", [1, 2])
async def test_what_comes_with_a_refused_upgrade_is_not_served(
    app: App, far: Far, pieces: int
) -> None:
    """The parser keeps it back, and would read it once the upgrade has been refused."""
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n"
    )
    behind = TRAILED + GET
    async with client(app) as near:
        await near.send_in_pieces([upgrade + behind] if pieces == 1 else [upgrade, behind])
        assert await refused(near) == (417, "expectation_failed")
        assert await near.rest() == b""
    assert far.accepted == 0


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 3", b"abc"),
        (b"Content-Length: 300000", b"x" * 300_000),
        (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
    ],
    ids=["small", "large", "chunked"],
)
async def test_body_of_a_request_that_offers_h2c_goes_up_whole(
    app: App, far: Far, framing: bytes, body: bytes, pieces: int
) -> None:
    """Java's own client makes the offer with each request, and sends the body by itself."""
    head = (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n%b\r\n\r\n" % framing
    )
    async with client(app) as near:
        await near.send_in_pieces([head + body] if pieces == 1 else [head, body])
        near.send(GET)
        up = await far.wire()
        await up.head()
        assert await up.exactly(len(body)) == body
        up.send(OK)
        assert (await near.rest()).endswith(b"\r\n\r\nok")
    assert far.accepted == 1


@pytest.mark.parametrize(
    "request_",
    [
        TRAILED + GET,
        GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n") + GET,
    ],
    ids=["chunked", "h2c"],
)
async def test_answer_behind_which_nothing_is_served_says_so_and_can_be_read(
    app: App, far: Far, request_: bytes
) -> None:
    async with client(app) as near:
        near.send(request_)
        up = await far.wire()
        await up.head()
        await near.send_in_pieces([GET, GET])
        up.send(OK)
        await until(lambda: app.active == 0)
        await near.send_in_pieces([GET, GET])
        assert b"\r\nConnection: close\r\n" in (await near.answer())[0]
        assert await near.rest() == b""
    assert far.accepted == 1


LIMITS = {"header_bytes": 4096, "header_count": 10, "target_bytes": 1024}


@pytest.fixture
async def strict(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan, limits=LIMITS) as app:
        yield app


def with_fields(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(lines) + b"\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /" + b"x" * 1024 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (b"GET /" + b"x" * 99999 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (with_fields(b"A: b\r\n" * 10), 431, "headers_too_large"),
        (with_fields(b"A: b\r\n" * 9999), 431, "headers_too_large"),
        (with_fields(b"A: " + b"b" * 4097 + b"\r\n"), 431, "headers_too_large"),
        (with_fields(b"A" * 4097 + b": b\r\n"), 431, "headers_too_large"),
        (with_fields((b"A: " + b"b" * 1024 + b"\r\n") * 4), 431, "headers_too_large"),
        (with_fields(b"A: " + b"b" * 999999), 431, "headers_too_large"),
    ],
)
async def test_request_over_a_limit_gets_the_status_that_says_which(
    strict: App, far: Far, request_: bytes, status: int, code: str
) -> None:
    async with client(strict) as near:
        near.send(request_)
        problem = problem_of(*await near.answer())
        assert (problem["status"], problem["code"]) == (status, code)
    assert far.accepted == 0


async def test_request_at_every_limit_passes(strict: App, far: Far) -> None:
    target = b"/" + b"x" * 1023
    fields = [b"A%d: " % n + b"b" * 400 + b"\r\n" for n in range(9)]
    async with client(strict) as near:
        near.send(with_fields(*fields).replace(b"GET / ", b"GET %b " % target))
        head = await (await far.wire()).head()
    assert target in head
    assert all(field in head for field in fields)


@pytest.mark.parametrize(("header_bytes", "target_bytes"), [(2048, 2048), (1024, 2048)])
async def test_limits_are_told_apart_even_when_they_are_equal_or_crossed(
    far: Far, sandbox: Sandbox, scan: SecretScan, header_bytes: int, target_bytes: int
) -> None:
    limits = {"header_bytes": header_bytes, "target_bytes": target_bytes}
    async with between(far, sandbox, scan, limits=limits) as app:
        for request_, status in [
            (b"GET /" + b"x" * 2048 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
            (with_fields(b"A: " + b"b" * 2049 + b"\r\n"), 431),
        ]:
            async with client(app) as near:
                near.send(request_)
                assert problem_of(*await near.answer())["status"] == status


# Clients that do nothing


@pytest.fixture
async def impatient(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan, limits={"client_idle_timeout": 0.05}) as app:
        yield app


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_connection_without_a_whole_head_is_closed_after_its_time(
    impatient: App, start: bytes
) -> None:
    async with client(impatient) as near:
        near.send(start)
        assert await near.rest() == b""


async def test_connection_without_another_request_is_closed_after_its_time(
    impatient: App, far: Far
) -> None:
    async with client(impatient) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(OK)
        await near.answer()
        assert await near.rest() == b""


async def test_client_that_waits_for_a_slow_answer_is_not_idle(impatient: App, far: Far) -> None:
    async with client(impatient) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await near.some()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_client_that_takes_nothing_of_its_answer_is_let_go(impatient: App, far: Far) -> None:
    async with client(impatient) as near:
        near.send(GET)
        up = await far.wire()
        await up.head()
        up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 50_000_000)
        await up.ended()
        await until(lambda: impatient.active == 0)
        assert not await near.ended()


async def test_client_that_leaves_behind_many_requests_is_noticed(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET * 2000)  # more than are taken in ahead, so reading stops
        up = await far.wire()
        await up.head()
        await near.drained()
        near.close()
        await up.ended()
        await until(lambda: app.active == 0)
