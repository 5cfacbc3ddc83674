"""How a client's connection opens on a forward listener, and how it is refused, byte by byte."""

import socket
from typing import Any

import psutil
import pytest

from harness import SecretScan, until
from name_server import NameServer
from proxy.app import App
from proxy.network.guard import Guard
from wire import (
    ELSEWHERE,
    ESTABLISHED,
    GET,
    Far,
    Start,
    client,
    let_through,
    problem_of,
    refused,
    trickle,
    used_before,
)


def connect(
    target: bytes = b"other.test:443", *lines: bytes, version: bytes = b"HTTP/1.1"
) -> bytes:
    return b"\r\n".join((b"CONNECT %b %b" % (target, version), *lines, b"", b""))


# The head


@pytest.mark.both_loops
@pytest.mark.parametrize(
    "pieces",
    [
        [ELSEWHERE],
        [ELSEWHERE[i : i + 1] for i in range(len(ELSEWHERE))],
        [ELSEWHERE[:-2], ELSEWHERE[-2:]],
        [b"\r\n\n\r\n" + ELSEWHERE],
        [b"\r", b"\n\r\n", b"C", ELSEWHERE[1:]],
    ],
    ids=["whole", "bytes", "halves of its end", "empty lines", "empty lines in pieces"],
)
async def test_connect_may_come_in_any_pieces(
    forward: App, way_out: Far, pieces: list[bytes]
) -> None:
    async with client(forward) as near:
        await near.send_in_pieces(pieces)
        up = await way_out.wire()
        assert await up.head() == ELSEWHERE
        up.send(b"HTTP/1.1 200 OK\r\n\r\n")
        assert await near.head() == ESTABLISHED
        near.send(b"ping")
        assert await up.exactly(4) == b"ping"


@pytest.mark.both_loops
async def test_what_comes_right_behind_a_connect_reaches_the_far_end_first(
    forward: App, way_out: Far
) -> None:
    async with client(forward) as near:
        near.send(ELSEWHERE + b"right behind, ")
        up = await way_out.wire()
        await up.head()
        near.send(b"while it is dialled, ")
        up.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await near.head()
        near.send(b"and later")
        assert await up.exactly(44) == b"right behind, while it is dialled, and later"


@pytest.mark.parametrize("method", [b"GET", b"COPY"])
async def test_other_methods_are_requests_however_they_begin(
    forward: App, far: Far, method: bytes
) -> None:
    request = b"%b / HTTP/1.1\r\nHost: far.test\r\n\r\n" % method
    async with client(forward) as near:
        await near.send_in_pieces(request[i : i + 1] for i in range(len(request)))
        assert (await (await far.wire()).head()).startswith(method + b" / ")


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "malformed": (connect(b"other.test:443", b"no colon"), 400, "malformed_request"),
    "no port": (connect(b"other.test"), 400, "malformed_request"),
    "wrong port": (connect(b"other.test:65536"), 400, "malformed_request"),
    "no host": (connect(b".:443"), 400, "malformed_request"),
    "a body": (connect(b"other.test:443", b"Content-Length: 3"), 400, "malformed_request"),
    "another Host": (connect(b"other.test:443", b"Host: a"), 421, "misdirected_request"),
    "another Host than the upstream": (
        connect(b"far.test:443", b"Host: other.test"),
        421,
        "misdirected_request",
    ),
    "too many fields": (connect(b"a:1", *[b"X: y"] * 129), 431, "headers_too_large"),
    "too long": (connect(b"a:1", b"X: " + b"y" * 40_960), 431, "headers_too_large"),
    "too long, and without an end": (connect(b"a:1", b"X: " + b"y" * 40_960)[:-2], 431, ""),
    "another version": (connect(version=b"HTTP/2.0"), 505, "version_unsupported"),
}


@pytest.mark.parametrize("head", REFUSED)
async def test_connect_is_refused_and_what_is_behind_it_never_served(
    forward: App, far: Far, way_out: Far, head: str
) -> None:
    data, status, code = REFUSED[head]
    async with client(forward) as near:
        near.send(data + GET)
        problem = problem_of(*await near.answer())
        assert (problem["status"], problem["code"]) == (status, code or problem["code"])
        near.send(GET)
        assert await near.everything() == (b"", True)
    assert far.accepted == way_out.accepted == 0


async def test_second_connect_is_refused_and_the_connection_closed(
    forward: App, far: Far, way_out: Far
) -> None:
    async with client(forward) as near:
        await used_before(near, far)
        near.send(ELSEWHERE + GET)
        assert await refused(near) == (405, "method_denied")
        assert await near.everything() == (b"", True)
    assert (far.accepted, way_out.accepted) == (1, 0)


# Time


@pytest.mark.parametrize("begun", [b"C", b"CONNECT other.test:443", ELSEWHERE[:-2]])
async def test_connect_that_comes_too_slowly_is_refused(start: Start, begun: bytes) -> None:
    async with start(limits={"header_timeout": "30ms"}) as app, client(app) as near:
        near.send(begun)
        assert await refused(near) == (408, "request_timeout")
        assert await near.ended()


@pytest.mark.parametrize("mode", ["forward", "tls"])
async def test_client_that_says_nothing_is_let_go(start: Start, mode: str) -> None:
    limits = {"client_idle_timeout": "30ms"}
    async with start(listener={"mode": mode}, limits=limits) as app, client(app) as near:
        assert await near.everything() == (b"", True)
        await until(lambda: app.occupancy.connections == 0)


async def test_client_that_sends_nothing_but_empty_lines_is_let_go(start: Start) -> None:
    async with start(limits={"client_idle_timeout": "100ms"}) as app, client(app) as near:
        async with trickle(near, b"\r\n", 0.01):
            answer, _ = await near.everything()
        assert answer == b""
        await until(lambda: app.occupancy.connections == 0)


# Where it leads


@pytest.fixture
def machine() -> str:
    """An address of this machine that is not its loopback."""
    found = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family is socket.AF_INET and not Guard(private=True).refuses(each.address)
    ]
    if not found:
        pytest.skip("this machine has no address that clients may reach")
    return found[0]


@pytest.fixture
def direct(name_server: NameServer) -> dict[str, Any]:
    """The settings of a proxy that dials other hosts itself."""
    return {"upstream_proxy": None, "resolver": "dns", "nameservers": [name_server.place]}


async def test_other_host_is_connected_to_without_an_upstream_proxy_too(
    start: Start, direct: dict[str, Any], name_server: NameServer, machine: str
) -> None:
    name_server.names["other.test"] = (machine,)
    async with Far(machine) as other, start(**direct) as app, client(app) as near:
        near.send(connect(b"other.test:%d" % other.port) + b"ping")
        assert await near.head() == ESTABLISHED
        up = await other.wire()
        assert await up.exactly(4) == b"ping"
        up.send(b"pong")
        assert await near.exactly(4) == b"pong"


async def test_other_hosts_are_denied_where_the_listener_says_so(
    start: Start, way_out: Far
) -> None:
    async with start(listener={"other_hosts": "deny"}) as app, client(app) as near:
        near.send(ELSEWHERE + GET)
        assert await refused(near) == (403, "host_denied")
        assert await near.everything() == (b"", True)
    assert way_out.accepted == 0


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "localhost", "loop.test"],  # noqa: S104
)
async def test_loopback_is_never_reached(
    start: Start, direct: dict[str, Any], name_server: NameServer, far: Far, host: str
) -> None:
    name_server.names["loop.test"] = ("127.0.0.1",)
    async with start(**direct) as app, client(app) as near:
        near.send(connect(f"{host}:{far.port}".encode()) + GET)
        assert await refused(near) == (403, "address_denied")
        assert await near.everything() == (b"", True)
    assert far.accepted == 0


@pytest.mark.parametrize("host", [b"169.254.169.254", b"[fd00:ec2::254]", b"127.0.0.1"])
@pytest.mark.parametrize("port", [b"80", b"443"])
async def test_addresses_that_may_not_be_reached_are_not_asked_of_the_upstream_proxy_either(
    forward: App, way_out: Far, host: bytes, port: bytes
) -> None:
    async with client(forward) as near:
        near.send(connect(host + b":" + port))
        assert await refused(near) == (403, "address_denied")
    assert way_out.accepted == 0


async def test_private_addresses_are_not_reached_where_the_listener_says_so(
    start: Start, direct: dict[str, Any], name_server: NameServer
) -> None:
    name_server.names["other.test"] = ("10.1.2.3",)
    async with (
        start(listener={"private_hosts": "deny"}, **direct) as app,
        client(app) as near,
    ):
        near.send(ELSEWHERE)
        assert await refused(near) == (403, "address_denied")


async def test_name_that_nobody_knows_is_unreachable(start: Start, direct: dict[str, Any]) -> None:
    async with start(**direct) as app, client(app) as near:
        near.send(ELSEWHERE)
        problem = problem_of(*await near.answer())
        assert (problem["status"], problem["code"]) == (502, "upstream_unreachable")
        assert problem["detail"] == (
            "other.test:443: its name could not be resolved: no name server knows it."
        )


async def test_port_on_which_nobody_listens_is_unreachable(
    start: Start, direct: dict[str, Any], machine: str
) -> None:
    async with Far(machine) as other, start(**direct) as app, client(app) as near:
        other.refuse()
        near.send(connect(other.authority.encode()))
        problem = problem_of(*await near.answer())
        assert (problem["status"], problem["code"]) == (502, "upstream_unreachable")
        assert problem["detail"] == f"{other.authority}: connection refused."


@pytest.mark.both_loops
async def test_what_the_upstream_proxy_refuses_is_unreachable(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(ELSEWHERE + GET)
        up = await way_out.wire()
        await up.head()
        up.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        assert await refused(near) == (502, "upstream_unreachable")
        near.send(GET)
        assert await near.everything() == (b"", True)
        assert await up.rest() == b""


@pytest.mark.virtual_time
async def test_host_that_does_not_answer_is_given_up_in_time(forward: App, way_out: Far) -> None:
    async with client(forward) as near:
        near.send(ELSEWHERE)
        up = await way_out.wire()
        await up.head()
        head = await near.head(patience=None)
        assert head.startswith(b"HTTP/1.1 504 ")
        assert b"X-Mobula-Proxy-Error: upstream_timeout" in head
        assert await up.rest() == b""


async def test_our_own_listener_is_refused_as_a_loop(
    start: Start, direct: dict[str, Any], machine: str
) -> None:
    listener = {
        "bind": f"{machine}:0",
        "insecure": True,
        "other_hosts": "tunnel",
        "private_hosts": "tunnel",
    }
    async with start(listener=listener, **direct) as app, client(app) as near:
        near.send(connect(str(app.addresses[0]).encode()) + GET)
        assert await refused(near) == (508, "upstream_loop")
        assert await near.everything() == (b"", True)


# Limits


@pytest.mark.both_loops
async def test_connect_over_the_limit_of_connections_gets_503_and_one_answer(
    start: Start, far: Far, way_out: Far, scan: SecretScan
) -> None:
    async with start(limits={"connections": 1}) as app, client(app) as first:
        first.send(ELSEWHERE)
        up = await let_through(way_out)
        await first.head()
        async with client(app) as second:
            second.send(ELSEWHERE + GET)
            assert await refused(second) == (503, "too_many_connections")
            assert await second.everything() == (b"", True)
        up.close()
        await first.rest()
        first.close()
        await until(lambda: app.occupancy.connections == 0)
        async with client(app) as third:
            third.send(ELSEWHERE)
            await let_through(way_out)
            assert await third.head() == ESTABLISHED
    assert far.accepted == 0
    assert '"level": "error"' not in scan.output.getvalue()


@pytest.mark.parametrize("asked", [connect(b"other.test"), ELSEWHERE, GET])
async def test_whoever_comes_over_the_limit_of_connections_gets_one_answer(
    start: Start, far: Far, scan: SecretScan, asked: bytes
) -> None:
    limits = {"connections": 1}
    async with start(limits=limits) as app, client(app), client(app) as second:
        await until(lambda: app.occupancy.connections == 2)
        second.send(asked)
        answer, _ = await second.everything()
        assert answer.count(b"HTTP/1.1 503 ") == answer.count(b"HTTP/1.1 ") == 1
    assert far.accepted == 0
    assert '"level": "error"' not in scan.output.getvalue()
