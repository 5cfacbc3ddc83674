"""Requests in plain HTTP to hosts that are no upstreams, through a forward listener."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import KEY, SecretScan, get, nothing_left, until, until_ready
from proxy.app import App
from proxy.config import UpstreamSettings
from proxy.network.dialer import Dialer
from proxy.sandbox import Sandbox
from proxy.traffic.target import read_place
from proxy.traffic.upstream import Upstream
from wire import GET, OK, Far, Start, Wire, client, problem_of, refused, used_before

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CUT_SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"


def get_from(url: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"GET %b HTTP/1.1" % url, b"Host: ignored.test", *lines, b"", b""))


async def asked(way_out: Far, place: bytes = b"other.test:80") -> Wire:
    """Let the request through to the host that it is for; return the connection that carries it."""
    wire = await way_out.wire()
    assert await wire.head() == b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (place, place)
    wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
    return wire


# What goes out


@pytest.mark.both_loops
async def test_request_reaches_the_other_host_and_its_answer_the_client(
    forward: App, far: Far, way_out: Far
) -> None:
    async with client(forward) as near:
        near.send(get_from(b"http://other.test/a/b%20c?d=e&f", b"X-A: b", b"x-a:  c"))
        up = await asked(way_out)
        assert await up.head() == (
            b"GET /a/b%20c?d=e&f HTTP/1.1\r\nHost: other.test\r\nX-A: b\r\nx-a: c\r\n\r\n"
        )
        up.send(b"HTTP/1.1 203 Fine\r\nX-B: c\r\nContent-Length: 2\r\n\r\nok")
        head, body = await near.answer()
        assert head == b"HTTP/1.1 203 Fine\r\nX-B: c\r\nContent-Length: 2\r\n\r\n"
        assert body == b"ok"
        assert await up.ended()
    assert far.accepted == 0


@pytest.mark.parametrize(
    ("url", "place", "host", "target"),
    [
        (b"http://other.test", b"other.test:80", b"other.test", b"/"),
        (b"http://OTHER.test.:80?a", b"other.test:80", b"other.test", b"/?a"),
        (b"HTTP://other.test:8080/x", b"other.test:8080", b"other.test:8080", b"/x"),
        (b"http://192.0.43.8/", b"192.0.43.8:80", b"192.0.43.8", b"/"),
        (b"http://[2606:4700::1]:81/", b"[2606:4700::1]:81", b"[2606:4700::1]:81", b"/"),
    ],
)
async def test_it_goes_where_its_target_says(
    forward: App, way_out: Far, url: bytes, place: bytes, host: bytes, target: bytes
) -> None:
    async with client(forward) as near:
        near.send(get_from(url))
        up = await asked(way_out, place)
        assert await up.head() == b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host)


async def test_credentials_of_the_other_host_stay_and_those_for_the_proxy_do_not(
    forward: App, way_out: Far
) -> None:
    own = (b"Authorization: Bearer their-own", b"X-Api-Key: their-own", b"Cookie: a=b")
    async with client(forward) as near:
        near.send(
            get_from(
                b"http://other.test/?api_key=their-own",
                *own,
                b"Proxy-Authorization: Basic eDp5",
                b"Proxy-Connection: keep-alive",
                b"Connection: X-Hop",
                b"X-Hop: a",
                b"TE: trailers",
            )
        )
        up = await asked(way_out)
        assert await up.head() == b"\r\n".join(
            (b"GET /?api_key=their-own HTTP/1.1", b"Host: other.test", *own, b"", b"")
        )


async def test_static_key_never_leaves_with_it(
    forward: App, way_out: Far, scan: SecretScan
) -> None:
    await until_ready(forward)
    key = KEY.encode()
    encoded = b"".join(b"%%%02x" % each for each in key)
    async with client(forward) as near:
        near.send(
            get_from(
                b"http://other.test/%b/x?a=%b&b=%b&c=d" % (key, key, encoded),
                b"Authorization: " + key,
                b"X-Api-Key: Bearer " + key,
                b"X-Other: a" + key,
                b"X-Kept: b",
            )
        )
        up = await asked(way_out)
        assert await up.head() == (b"GET //x?c=d HTTP/1.1\r\nHost: other.test\r\nX-Kept: b\r\n\r\n")
        up.send(OK)
        await near.answer()
    await until(lambda: forward.active == 0)
    places = {each["place"] for each in scan.logged("a static key was taken out of a request")}
    assert places == {"header", "query", "path"}


@pytest.mark.parametrize("known", [True, False], ids=["length", "chunks"])
async def test_body_goes_out_as_it_came(forward: App, way_out: Far, *, known: bool) -> None:
    body = bytes(range(256)) * 1000
    framing = b"Content-Length: %d" % len(body) if known else b"Transfer-Encoding: chunked"
    head = b"POST http://other.test/ HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing
    framed = body if known else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with client(forward) as near:
        near.send(head + framed)
        up = await asked(way_out)
        head = await up.head()
        assert head == b"POST / HTTP/1.1\r\nHost: other.test\r\n%b\r\n\r\n" % framing
        assert await up.body(head) == body
        up.send(OK)
        assert (await near.answer())[1] == b"ok"


async def test_no_token_is_spent_on_it(forward: App, way_out: Far, sandbox: Sandbox) -> None:
    await until_ready(forward)
    async with client(forward) as near:
        near.send(get_from(b"http://other.test/"))
        up = await asked(way_out)
        assert b"authorization" not in (await up.head()).lower()
        assert forward.status().tokens.leases == 0
        up.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        assert (await near.answer())[1] == b"no"
    assert not any(forward.status().tokens.settled.values())
    assert sandbox.ledger.report()["inspects"] == 0


async def test_it_is_served_while_there_is_no_token(start: Start, way_out: Far) -> None:
    async with start(upstreams={"mint.test": {"url": "http://127.0.0.1:1"}}) as app:
        async with client(app) as near:
            near.send(get_from(b"http://other.test/"))
            up = await asked(way_out)
            await up.head()
            up.send(OK)
            assert (await near.answer())[1] == b"ok"
        assert not app.status().ready


# What comes back


async def test_answer_comes_back_as_it_is_sent(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(get_from(b"http://other.test/"))
        up = await asked(way_out)
        await up.head()
        up.send(CHUNKED)
        assert await near.head() == CHUNKED
        for piece in (b"1\r\na\r\n", b"2\r\nbc\r\n", b"0\r\n\r\n"):
            up.send(piece)
            assert await near.exactly(len(piece)) == piece


async def test_clients_connection_goes_on_to_other_hosts_and_upstreams_in_turn(
    forward: App, far: Far, way_out: Far
) -> None:
    async with client(forward) as near:
        own = await used_before(near, far)
        for place in (b"one.test:80", b"two.test:80", b"one.test:80"):
            near.send(get_from(b"http://%b/" % place))
            up = await asked(way_out, place)
            await up.head()
            up.send(OK)
            assert (await near.answer())[1] == b"ok"
            assert await up.ended()
        near.send(GET)
        await own.request()
        own.send(OK)
        assert (await near.answer())[1] == b"ok"
    assert (far.accepted, way_out.accepted) == (1, 3)


async def test_answer_that_is_cut_short_does_not_look_whole(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(get_from(b"http://other.test/"))
        up = await asked(way_out)
        await up.head()
        up.send(CUT_SHORT)
        await near.until(b"abc")
        up.close()
        assert await near.everything() == (b"", False)


async def test_client_that_leaves_takes_the_connection_with_it(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(get_from(b"http://other.test/"))
        up = await asked(way_out)
        await up.head()
        near.close()
        await up.ended()


async def test_upgrade_that_nobody_asked_for_is_no_answer(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(get_from(b"http://other.test/"))
        up = await asked(way_out)
        await up.head()
        up.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        assert await refused(near) == (502, "upstream_invalid")


# What is refused


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (
            get_from(b"http://other.test/", b"Connection: Upgrade", b"Upgrade: websocket"),
            501,
            "upgrade_unsupported",
        ),
        (get_from(b"https://other.test/"), 403, "host_denied"),
        (get_from(b"http://127.0.0.1/"), 403, "address_denied"),
        (get_from(b"http://localhost:81/"), 403, "address_denied"),
        (get_from(b"http://[::1]/"), 403, "address_denied"),
        (get_from(b"http://169.254.169.254/latest/meta-data"), 403, "address_denied"),
        (get_from(b"http://other.test:0/"), 400, "malformed_request"),
        (get_from(b"http://other.test:65536/"), 400, "malformed_request"),
        (get_from(b"http://./"), 400, "malformed_request"),
        (get_from(b"http://a@other.test/"), 400, "malformed_request"),
        (get_from(b"ftp://other.test/"), 400, "malformed_request"),
    ],
)
async def test_what_is_refused_never_leaves(
    forward: App, way_out: Far, request_head: bytes, status: int, code: str
) -> None:
    async with client(forward) as near:
        near.send(request_head)
        assert await refused(near) == (status, code)
    assert way_out.accepted == 0


HOSTS = st.from_regex(r"[A-Za-z0-9._~!$&'()*+,;=%-]{1,9}", fullmatch=True)
ADDRESSES = st.ip_addresses(v=6).map("[{}]".format)


@given(host=HOSTS | ADDRESSES, port=st.just("") | st.integers(0, 99999).map(":{}".format))
def test_every_place_that_can_be_named_can_be_asked_for(host: str, port: str) -> None:
    place = read_place((host + port).encode())
    if place is not None:
        Upstream(str(place), UpstreamSettings(url=f"http://{place}"), Dialer())


async def test_other_hosts_are_denied_where_the_listener_says_so(
    start: Start, far: Far, way_out: Far
) -> None:
    async with start(listener={"other_hosts": "deny"}) as app, client(app) as near:
        near.send(get_from(b"http://other.test/") + get_from(b"http://far.test/"))
        assert await refused(near) == (403, "host_denied")
        assert await near.everything() == (b"", True)
    assert far.accepted == way_out.accepted == 0


async def test_host_that_cannot_be_reached_is_named_and_the_next_request_served(
    forward: App, far: Far, way_out: Far
) -> None:
    async with client(forward) as near:
        near.send(get_from(b"http://other.test:81/"))
        up = await way_out.wire()
        await up.head()
        up.send(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        problem = problem_of(*await near.answer())
        assert (problem["status"], problem["code"]) == (502, "upstream_unreachable")
        assert problem["detail"] == (
            "other.test:81: the upstream proxy answered 502: it did not connect."
        )
        await used_before(near, far)


# What is told of it, and what is left


async def test_it_is_counted_as_for_other_hosts_and_told_of_without_its_query(
    start: Start, way_out: Far, scan: SecretScan
) -> None:
    async with start(log={"access": True}) as app:
        async with client(app) as near:
            near.send(get_from(b"http://other.test/a?b=c"))
            up = await asked(way_out)
            await up.head()
            up.send(OK)
            await near.answer()
        await until(lambda: bool(scan.logged("request")))
        _, _, metrics = await get(f"http://{app.admin_address}/metrics")
    assert b'_requests_total{status="200",upstream="(other)"} 1.0\n' in metrics
    assert b'_request_duration_seconds_count{upstream="(other)"} 1.0\n' in metrics
    (record,) = scan.logged("request")
    told = {name: record[name] for name in ("upstream", "method", "path", "status")}
    assert told == {"upstream": "(other)", "method": "GET", "path": "/a", "status": 200}


@pytest.mark.both_loops
async def test_no_connection_task_or_file_is_left(forward: App, way_out: Far) -> None:
    await until_ready(forward)
    async with nothing_left():
        for answer in (OK, b"nonsense\r\n\r\n", CUT_SHORT):
            async with client(forward) as near:
                near.send(get_from(b"http://other.test/"))
                up = await asked(way_out)
                await up.head()
                up.send(answer)
                await near.some()
            await up.everything()
            up.close()
    assert forward.occupancy.connections == forward.active == 0
