"""Clients that do not keep to the rules, or ask for trouble: of them nothing may stay behind."""

import asyncio

from soak.client import BROKEN_OFF
from soak.crowd import ECHO, LARGE, STREAM, UPLOAD, Crowd, Kind, request

IDLE_SECONDS = 4.0
LIMITS = {"client_idle_timeout": IDLE_SECONDS, "header_timeout": 3.0, "body_timeout": 2.0}
"""How slow the proxy under test lets its clients be."""
MUCH = 30_000_000
"""More bytes than all the buffers on the way take."""

MALFORMED = {
    b"nonsense\r\n\r\n": "400 malformed_request",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n": "400 malformed_request",
    b"GET / HTTP/1.1\r\n\r\n": "400 malformed_request",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n": "400 malformed_request",
    b"GET / HTTP/1.1\r\nHost: a\r\nbad name: 1\r\n\r\n": "400 malformed_request",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n": "400 malformed_request",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n": "414 target_too_long",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n": "431 headers_too_large",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 200 + b"\r\n": "431 headers_too_large",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": (
        "400 malformed_request"
    ),
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n": (
        "501 transfer_coding_unsupported"
    ),
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n": (
        "400 malformed_request"
    ),
    b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n": "405 method_denied",
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: cake\r\n\r\n": "417 expectation_failed",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n": (
        "426 websocket_version"
    ),
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: irc\r\n\r\n": (
        "501 upgrade_unsupported"
    ),
}
DENIED = ("/api/2/auth/tokens", "/api/2/auth/token?token=x", "/api/2/%61uth/tokens/1")
TROUBLE = {
    "status=500": "500",
    "status=503; delay=0.1": "503",
    "status=401": "401",
    "status=403": "403",
    "status=429": "429",
    "delay=0.3": "200",
    "drop=head": "502 upstream_closed",
    "drop=body": BROKEN_OFF,
}
"""What the sandbox is asked to do to one request, and what its client must then see."""


async def sends_nonsense(crowd: Crowd) -> None:
    data = crowd.draw("malformed", MALFORMED)
    async with crowd.client() as client:
        crowd.judge(await client.ask(data), MALFORMED[data])


async def asks_for_tokens(crowd: Crowd) -> None:
    async with crowd.client() as client:
        method = crowd.rng.choice(("GET", "POST", "DELETE"))
        answer = await client.ask(request(method, crowd.rng.choice(DENIED)))
        crowd.judge(answer, "403 auth_path_denied")


async def asks_for_trouble(crowd: Crowd) -> None:
    async with crowd.client() as client:
        for _ in range(2):
            fault = crowd.draw("trouble", TROUBLE)
            answer = await client.ask(request("GET", ECHO, fields=f"X-Sandbox-Fault: {fault}\r\n"))
            crowd.judge(answer, TROUBLE[fault])
            if not client.open:
                break


async def leaves_in_head(crowd: Crowd) -> None:
    async with crowd.client() as client:
        data = request("GET", ECHO)
        client.wire.send(data[: crowd.rng.randrange(len(data))])
        await crowd.pause(0.5)
        crowd.leave(client)


async def leaves_in_body(crowd: Crowd) -> None:
    async with crowd.client() as client:
        data = request("POST", UPLOAD, body=bytes(200_000))
        client.wire.send(data[: -crowd.rng.randrange(1, 199_000)])
        await crowd.pause(0.5)
        crowd.leave(client)


async def leaves_before_answer(crowd: Crowd) -> None:
    async with crowd.client() as client:
        client.wire.send(request("GET", ECHO, fields="X-Sandbox-Fault: delay=1\r\n"))
        await crowd.pause(0.9)
        crowd.leave(client)


async def leaves_in_answer(crowd: Crowd) -> None:
    async with crowd.client() as client:
        endless = (f"{STREAM}?events=1000&interval=0.1", f"{LARGE}?bytes={MUCH}")
        client.wire.send(request("GET", crowd.rng.choice(endless)))
        await client.wire.head()
        await crowd.pause(0.5)
        crowd.leave(client)


async def reads_nothing(crowd: Crowd) -> None:
    """It takes the proxy two looks, IDLE_SECONDS apart, to see that nothing is taken."""
    async with crowd.client() as client:
        client.wire.send(request("GET", f"{LARGE}?bytes={MUCH}"))
        await asyncio.sleep(2.5 * IDLE_SECONDS)
        crowd.judge(await client.answer(), BROKEN_OFF)


async def dribbles_a_head(crowd: Crowd) -> None:
    """Slow, but not too slow."""
    async with crowd.client() as client:
        data = request("GET", ECHO)
        for place in range(0, len(data), 20):
            client.wire.send(data[place : place + 20])
            await crowd.pause(0.3)
        crowd.judge(await client.answer(), "200")


async def never_ends_a_head(crowd: Crowd) -> None:
    async with crowd.client() as client:
        client.wire.send(b"GET / HTTP/1.1\r\n")
        for _ in range(10):
            client.wire.send(b"X-More: 1\r\n")
            await crowd.pause(0.4)
        crowd.judge(await client.answer(), "408 request_timeout")


async def dribbles_a_body(crowd: Crowd) -> None:
    async with crowd.client() as client:
        client.wire.send(request("POST", UPLOAD, body=bytes(1000))[:-999])
        for _ in range(10):
            client.wire.send(b"x")
            await crowd.pause(0.4)
        crowd.judge(await client.answer(), "408 request_timeout")


async def stays_on(crowd: Crowd) -> None:
    """Keep the connection after the last request: it is the proxy that ends it."""
    async with crowd.client() as client:
        crowd.judge(await client.ask(request("GET", ECHO)), "200")
        await asyncio.sleep(IDLE_SECONDS - 1)
        assert await client.wire.rest() == b""


RUDE = {
    "sends nonsense": Kind(sends_nonsense, 4),
    "asks for tokens": Kind(asks_for_tokens, 2),
    "asks for trouble": Kind(asks_for_trouble, 4),
    "leaves in head": Kind(leaves_in_head, 2),
    "leaves in body": Kind(leaves_in_body, 2),
    "leaves before answer": Kind(leaves_before_answer, 2),
    "leaves in answer": Kind(leaves_in_answer, 2),
    "reads nothing": Kind(reads_nothing, 1),
    "dribbles a head": Kind(dribbles_a_head, 1),
    "never ends a head": Kind(never_ends_a_head, 1),
    "dribbles a body": Kind(dribbles_a_body, 1),
    "stays on": Kind(stays_on, 1),
}
