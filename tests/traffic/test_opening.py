"""How a client's connection opens on a forward listener, and how it is refused, byte by byte."""

import pytest

from harness import SecretScan, until
from wire import GET, Far, Start, client, let_through, refused

ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
ELSEWHERE = b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n"


def connect(
    target: bytes = b"other.test:443", *lines: bytes, version: bytes = b"HTTP/1.1"
) -> bytes:
    return b"\r\n".join((b"CONNECT %b %b" % (target, version), *lines, b"", b""))


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
