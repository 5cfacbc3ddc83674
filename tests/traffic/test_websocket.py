"""WebSockets as both ends of the wire see them: handshakes, messages, closes, and the end."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

import aiohttp
import pytest
from websockets.protocol import CLIENT, SERVER
from websockets.protocol import Side as Role

import frames
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    frame,
    from_client,
    receive,
    switching,
)
from harness import KEY, Gate, SecretScan, base_url, get, running, until, until_ready
from proxy.app import App
from proxy.sandbox import Fault, Sandbox
from proxy.tokens.keeper import Keeper
from proxy.tokens.known_keys import KnownKeys
from proxy.traffic.fact import Fact
from proxy.traffic.side import Side
from proxy.traffic.websocket import Relay
from wire import GET, OK, Far, Wire, between, client, problem_of

MINT = "/api/2/auth/tokens"
BEHIND = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
SUBSCRIBE = b'{"type": "market", "authorization": "%b", "payload": {"a": [1.0, 1e2]}}'
WITH_KEY = SUBSCRIBE % KEY.encode()


@contextlib.asynccontextmanager
async def opened(app: App, far: Far) -> AsyncIterator[tuple[Wire, Wire]]:
    """A WebSocket through the proxy: the client's end and the upstream's."""
    async with client(app) as near:
        near.send(HANDSHAKE)
        up = await far.wire()
        up.send(switching(await up.request()))
        assert (await near.head()).startswith(b"HTTP/1.1 101 ")
        yield near, up


def down(opcode: int, data: bytes = b"") -> Frame:
    """A whole frame as a client gets it."""
    return Frame(0x80 | opcode, data, masked=False)


def upward(opcode: int, data: bytes = b"") -> Frame:
    """A whole frame as an upstream gets it."""
    return Frame(0x80 | opcode, data, masked=True)


async def told(wire: Wire) -> tuple[int, str]:
    """Read a Close frame; return its code and reason."""
    got = await receive(wire)
    assert got.first == 0x80 | CLOSE, got
    return int.from_bytes(got.data[:2], "big"), got.data[2:].decode()


def left(app: App) -> int:
    return app.status().tokens.left


def settled(app: App, outcome: str) -> int:
    return app.status().tokens.settled[outcome]


async def assert_nothing_went_up(far: Far, app: App) -> None:
    """The first thing that the upstream ever sees is a request sent after all others."""
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        assert (await up.head()).startswith(b"GET / HTTP/1.1\r\n")


# The handshake


async def test_upstream_shakes_hands_first_and_sees_our_key_and_token(
    app: App, far: Far, sandbox: Sandbox
) -> None:
    async with client(app) as near:
        near.send(
            b"GET /feed?a=1&api_key=%b HTTP/1.1\r\nHost: api.mobula.io\r\nUser-Agent: me\r\n"
            b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nOrigin: null\r\n"
            b"Sec-WebSocket-Version: 13\r\nsec-websocket-key: %b\r\nX-Mine: %b\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\nAuthorization: %b\r\n\r\n"
            % (KEY.encode(), frames.KEY, KEY.encode(), KEY.encode())
        )
        answer = asyncio.create_task(near.head())
        up = await far.wire()
        request = await up.request()
        own_key = frames.field(request, b"Sec-WebSocket-Key")
        assert own_key != frames.KEY
        assert request.replace(own_key, b"*") == (
            b"GET /feed?a=1 HTTP/1.1\r\nHost: %b\r\nUser-Agent: me\r\nOrigin: null\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: *\r\n"
            b"Authorization: Bearer *\r\n\r\n" % far.authority.encode()
        )
        assert up.token.decode() in sandbox.ledger.secrets()
        assert not answer.done()
        up.send(switching(request, b"Date: d\r\n", b"Set-Cookie: c\r\n"))
        assert await answer == (
            b"HTTP/1.1 101 Switching Protocols\r\nDate: d\r\nSet-Cookie: c\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n"
            % frames.accept(frames.KEY)
        )


async def test_each_handshake_goes_up_with_a_key_of_its_own(app: App, far: Far) -> None:
    keys = set()
    for _ in range(2):
        async with client(app) as near:
            near.send(HANDSHAKE)
            request = await (await far.wire()).request()
            keys.add(frames.field(request, b"Sec-WebSocket-Key"))
    assert len(keys) == 2


async def test_subprotocols_go_up_and_the_chosen_one_comes_down(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(HANDSHAKE[:-2] + b"Sec-WebSocket-Protocol: a, b\r\n\r\n")
        up = await far.wire()
        request = await up.request()
        assert frames.field(request, b"Sec-WebSocket-Protocol") == b"a, b"
        up.send(switching(request, b"Sec-WebSocket-Protocol: b\r\n"))
        assert frames.field(await near.head(), b"Sec-WebSocket-Protocol") == b"b"


@pytest.mark.parametrize("size", [5, 300_000])
async def test_frames_right_behind_either_handshake_are_not_lost(
    app: App, far: Far, size: int
) -> None:
    async with client(app) as near:
        near.send(HANDSHAKE + from_client(BINARY, bytes(size)) + from_client(PING, b"early"))
        up = await far.wire()
        up.send(switching(await up.request()) + frame(BINARY, bytes(size)) + frame(PING, b"soon"))
        assert await receive(up) == upward(BINARY, bytes(size))
        assert await receive(up) == upward(PING, b"early")
        await near.head()
        assert await receive(near) == down(BINARY, bytes(size))
        assert await receive(near) == down(PING, b"soon")


async def test_handshake_may_follow_a_request_on_its_connection(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET + HANDSHAKE + from_client(PING, b"early"))
        up = await far.wire()
        await up.request()
        up.send(OK)
        assert (await near.answer())[1] == b"ok"
        up.send(switching(await up.request()))
        assert (await near.head()).startswith(b"HTTP/1.1 101 ")
        assert await receive(up) == upward(PING, b"early")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            b"HTTP/1.1 404 Not Found\r\nX-Why: this\r\nContent-Length: 4\r\n\r\nnope",
            (
                b"HTTP/1.1 404 Not Found\r\nX-Why: this\r\nContent-Length: 4\r\n"
                b"Connection: close\r\n\r\nnope"
            ),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                b"2\r\nok\r\n0\r\n\r\n"
            ),
        ),
    ],
)
async def test_other_answer_than_101_comes_down_and_what_stands_behind_is_not_executed(
    app: App, far: Far, answer: bytes, expected: bytes
) -> None:
    async with client(app) as near:
        near.send(HANDSHAKE + BEHIND)
        up = await far.wire()
        await up.request()
        up.send(answer)
        assert await near.rest() == expected
    async with client(app) as near:
        near.send(GET)
        assert (await up.head()).startswith(b"GET / HTTP/1.1\r\n")


async def test_token_that_is_refused_is_replaced_by_another(app: App, far: Far) -> None:
    await until_ready(app)
    async with client(app) as near:
        near.send(HANDSHAKE)
        up = await far.wire()
        await up.request()
        first = up.token
        up.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        up.send(switching(await up.request()))
        assert up.token != first
        assert (await near.head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (HANDSHAKE.replace(b" 13", b" 8"), 426, "websocket_version"),
        (HANDSHAKE.replace(frames.KEY, b"short"), 400, "malformed_request"),
        (HANDSHAKE.replace(b"GET", b"POST"), 501, "upgrade_unsupported"),
        (HANDSHAKE.replace(b"1.1", b"1.0"), 501, "upgrade_unsupported"),
        (HANDSHAKE.replace(b"websocket", b"tcp"), 501, "upgrade_unsupported"),
        (HANDSHAKE.replace(b"/feed", b"/api/2/auth/tokens"), 403, "auth_path_denied"),
        (HANDSHAKE[:-2] + b"Expect: tea\r\n\r\n", 417, "expectation_failed"),
        (HANDSHAKE[:-2] + b"Content-Length: 3\r\n\r\nabc", 400, "malformed_request"),
    ],
)
async def test_handshake_that_is_refused_ends_the_connection_and_nothing_goes_up(
    app: App, far: Far, request_: bytes, status: int, code: str
) -> None:
    async with client(app) as near:
        near.send(request_ + BEHIND)
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == code
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in head
        assert await near.rest() == b""
    await assert_nothing_went_up(far, app)


async def test_refused_version_is_told_the_right_one(app: App) -> None:
    async with client(app) as near:
        near.send(HANDSHAKE.replace(b" 13", b" 14"))
        head, _ = await near.answer()
    assert b"\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" in head


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (b"Upgrade: websocket", b"Upgrade: h2c"),
        (b"Connection: Upgrade", b"Connection: close"),
        (b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: x"),
        (b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Extensions: x\r\nSec-WebSocket-Accept: "),
        (b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Protocol: x\r\nSec-WebSocket-Accept: "),
        (b"Sec-WebSocket-Accept: ", b"Folded:\r\n x\r\nSec-WebSocket-Accept: "),
    ],
)
async def test_101_that_is_not_right_is_a_bad_gateway(
    app: App, far: Far, line: bytes, instead: bytes
) -> None:
    async with client(app) as near:
        near.send(HANDSHAKE + BEHIND)
        up = await far.wire()
        up.send(switching(await up.request()).replace(line, instead))
        head, body = await near.answer()
        assert problem_of(head, body)["code"] == "upstream_invalid"
        assert await near.rest() == b""
        await up.ended()


async def test_101_that_nobody_asked_for_is_a_bad_gateway(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(GET)
        up = await far.wire()
        await up.request()
        up.send(switching(HANDSHAKE))
        assert problem_of(*await near.answer())["code"] == "upstream_invalid"


async def test_handshake_without_a_token_to_be_had_is_unavailable(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    sandbox.faults.add(Fault(MINT, status=500))
    async with between(far, sandbox, scan, token={"wait": "50ms"}) as app, client(app) as near:
        near.send(HANDSHAKE)
        assert problem_of(*await near.answer())["code"] == "token_unavailable"


# Messages


async def test_credential_of_a_message_becomes_a_token_and_every_other_byte_stays(
    app: App, far: Far, sandbox: Sandbox
) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(TEXT, WITH_KEY))
        sent = (await receive(up)).data
        token = json.loads(sent)["authorization"]
        assert token in sandbox.ledger.secrets()
        assert sent == SUBSCRIBE % token.encode()


async def test_each_message_with_a_credential_takes_a_lease_and_so_does_the_handshake(
    app: App, far: Far
) -> None:
    await until_ready(app)
    before = left(app)
    async with opened(app, far) as (near, up):
        for message in (WITH_KEY, b'{"event": "ping"}', WITH_KEY, b"authorization", b"{}"):
            near.send(from_client(TEXT, message))
            await receive(up)
        assert left(app) == before - 3
        assert (settled(app, "used"), settled(app, "unknown")) == (1, 2)
        assert app.status().tokens.leases == 0


@pytest.mark.parametrize(
    ("opcode", "data"),
    [
        (TEXT, b'{"event": "ping"}'),
        (TEXT, b'{"authorization": null, "b": "\\u0061"}'),
        (TEXT, "{\u00e9\U0001f600".encode()),
        (TEXT, b""),
        (BINARY, b""),
        (BINARY, bytes(range(256)) * 300),
        (BINARY, b'{"authorization": "x"}'),
        (PING, b"\x00\xff"),
        (PONG, b"unasked"),
    ],
)
async def test_all_else_passes_as_it_is_both_ways(
    app: App, far: Far, opcode: int, data: bytes
) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(opcode, data))
        assert await receive(up) == upward(opcode, data)
        up.send(frame(opcode, data))
        assert await receive(near) == down(opcode, data)


async def test_token_that_the_upstream_repeats_is_its_own_business(app: App, far: Far) -> None:
    async with opened(app, far) as (near, up):
        echo = b'{"authorization": "%b", "subscriptionId": "x"}' % up.token
        up.send(frame(TEXT, echo))
        assert await receive(near) == down(TEXT, echo)


async def test_message_in_fragments_is_whole_upstream_and_a_ping_between_them_goes_ahead(
    app: App, far: Far
) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(TEXT, WITH_KEY[:45], fin=False) + from_client(PING, b"1"))
        assert await receive(up) == upward(PING, b"1")
        near.send(from_client(CONTINUATION, fin=False))
        near.send(from_client(CONTINUATION, WITH_KEY[45:]))
        message = await receive(up)
        assert KEY.encode() not in message.data
        assert json.loads(message.data)["payload"] == {"a": [1.0, 100.0]}


async def test_character_may_be_split_between_fragments(app: App, far: Far) -> None:
    async with opened(app, far) as (near, up):
        up.send(frame(TEXT, b"\xf0\x9f", fin=False) + frame(CONTINUATION, b"\x98\x80"))
        assert await receive(near) == down(TEXT, b"\xf0\x9f\x98\x80")


ESCAPED = "".join(f"\\u{ord(char):04x}" for char in KEY)
TEXTS_WITH_KEY = [
    KEY,
    f'{{"payload": {{"authorization": "{KEY}"}}}}',
    f'{{"authorization": "x", "b": "a{KEY}c"}}',
    f'{{"authorization": ["{KEY}"]}}',
    f'{{"{KEY}": 1}}',
    f'[{{"authorization": "{KEY}"}}]',
    f'{{"authorization": "{KEY}"',
    f'{{"b": "{ESCAPED}"}}',
    f'{{"b": "{{\\"authorization\\": \\"{KEY}\\"}}"}}',
]


@pytest.mark.parametrize(
    ("opcode", "data"),
    [
        *((TEXT, text.encode()) for text in TEXTS_WITH_KEY),
        (BINARY, b"\x00\xff" + KEY.encode()),
        (BINARY, WITH_KEY),
        (PING, KEY.encode()),
        (PONG, KEY.encode()),
        (CLOSE, close(1000, KEY.encode())),
    ],
)
async def test_static_key_elsewhere_closes_and_nothing_of_the_message_goes_up(
    app: App, far: Far, opcode: int, data: bytes
) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(opcode, data) + from_client(TEXT, b"behind"))
        code, reason = await told(near)
        assert code == 1008
        assert reason.startswith("mobula-proxy: message_denied: A static key stands elsewhere ")
        assert await told(up) == (1001, "")
        assert left(app) == 9_999
        up.close()
        assert await near.rest() == b""
    await until(lambda: app.active == 0)


async def test_message_waits_for_a_token_and_then_goes(far: Far, scan: SecretScan) -> None:
    gate = Gate()
    token = {"request_limit": 1, "standby": 0}
    async with Sandbox(keys={KEY: "growth"}, sleep=gate.hold) as sandbox:
        scan.watch(sandbox)
        async with between(far, sandbox, scan, token=token) as app:
            await until_ready(app)
            sandbox.faults.add(Fault(MINT, delay=1))
            async with opened(app, far) as (near, up):
                near.send(from_client(TEXT, WITH_KEY))
                await gate.reached()
                gate.open()
                sent = json.loads((await receive(up)).data)["authorization"]
                assert sent.encode() != up.token
                assert sent in sandbox.ledger.secrets()


async def test_message_without_a_token_to_be_had_closes(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    token = {"request_limit": 1, "standby": 0, "wait": "50ms"}
    async with between(far, sandbox, scan, token=token) as app:
        await until_ready(app)
        sandbox.faults.add(Fault(MINT, status=500))
        async with opened(app, far) as (near, up):
            near.send(from_client(TEXT, WITH_KEY))
            code, reason = await told(near)
            assert code == 1013
            assert reason.startswith("mobula-proxy: token_unavailable: No short-lived token can ")
            assert await told(up) == (1001, "")


async def test_subscriptions_are_counted_against_the_tokens_and_none_is_overused(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        running(sandbox.url, scan, token={"request_limit": 8}) as app,
        aiohttp.ClientSession(base_url(app)) as session,
        session.ws_connect("/") as socket,
    ):
        for number in range(30):
            payload = {"subscriptionId": str(number)}
            await socket.send_json({"type": "market", "authorization": KEY, "payload": payload})
        subscribed: set[str] = set()
        while len(subscribed) < 30:
            subscribed.add((await socket.receive_json(timeout=5))["subscriptionId"])
    report = sandbox.ledger.report()
    assert report["unauthorized"] == 0
    assert sum(token["used"] for token in report["tokens"]) == 31


# What breaks the protocol, or a limit

VIOLATIONS = {
    "no mask": (frame(TEXT, b"a"), 1002),
    "reserved bit": (from_client(0x40 | TEXT, b"a"), 1002),
    "unknown opcode": (from_client(0x3, b"a"), 1002),
    "unknown control opcode": (from_client(0xB, b"a"), 1002),
    "long ping": (from_client(PING, b"a" * 126), 1002),
    "ping in fragments": (from_client(PING, b"a", fin=False), 1002),
    "continuation of nothing": (from_client(CONTINUATION, b"a"), 1002),
    "message in a message": (from_client(TEXT, fin=False) + from_client(TEXT, b"b"), 1002),
    "close of one byte": (from_client(CLOSE, b"\x03"), 1002),
    "close without status": (from_client(CLOSE, close(1005)), 1002),
    "close as if lost": (from_client(CLOSE, close(1006)), 1002),
    "close with 999": (from_client(CLOSE, close(999)), 1002),
    "close with 5000": (from_client(CLOSE, close(5000)), 1002),
    "reason not UTF-8": (from_client(CLOSE, close(1000, b"\xff")), 1007),
    "text not UTF-8": (from_client(TEXT, b"\xff"), 1007),
    "text with half a character": (from_client(TEXT, b"a\xc3"), 1007),
    "surrogate": (from_client(TEXT, b"\xed\xa0\x80"), 1007),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_client_that_breaks_the_protocol_is_told_and_nothing_of_it_goes_up(
    app: App, far: Far, data: bytes, code: int
) -> None:
    async with opened(app, far) as (near, up):
        near.send(data + from_client(TEXT, b"behind"))
        got, reason = await told(near)
        assert got == code
        assert reason.startswith("mobula-proxy: malformed_message: ")
        assert await near.rest() == b""
        assert await told(up) == (1001, "")


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (from_client(TEXT, b"a"), 1002, "incorrect masking"),
        (frame(CONTINUATION, b"a"), 1002, "unexpected continuation frame"),
        (frame(CLOSE, close(1006)), 1002, "invalid status code"),
        (frame(TEXT, b"\xff"), 1007, "a text message is not UTF-8"),
    ],
)
async def test_upstream_that_breaks_the_protocol_is_told_and_the_client_hears_of_it(
    app: App, far: Far, data: bytes, code: int, reason: str
) -> None:
    async with opened(app, far) as (near, up):
        up.send(data)
        assert await told(up) == (code, reason)
        assert await told(near) == (
            1011,
            f"mobula-proxy: upstream_invalid: What the upstream sends cannot be relayed: {reason}.",
        )


@pytest.fixture
async def small(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan, limits={"message_bytes": 1000}) as app:
        yield app


async def test_message_may_be_as_large_as_the_limit_either_way(small: App, far: Far) -> None:
    async with opened(small, far) as (near, up):
        near.send(from_client(TEXT, b"a" * 600, fin=False) + from_client(CONTINUATION, b"b" * 400))
        assert len((await receive(up)).data) == 1000
        up.send(frame(BINARY, bytes(1000)))
        assert await receive(near) == down(BINARY, bytes(1000))


@pytest.mark.parametrize(
    "data",
    [
        from_client(BINARY, bytes(1001))[:8],
        from_client(TEXT, b"a" * 600, fin=False) + from_client(CONTINUATION, b"b" * 401),
        b"\x82\xff" + b"\xff" * 8 + frames.MASK,
    ],
)
async def test_client_that_sends_a_larger_message_is_told_and_nothing_of_it_goes_up(
    small: App, far: Far, data: bytes
) -> None:
    async with opened(small, far) as (near, up):
        near.send(data)
        code, reason = await told(near)
        assert code == 1009
        assert reason.startswith("mobula-proxy: message_too_large: ")
        assert await told(up) == (1001, "")


async def test_client_in_the_middle_of_a_large_message_gets_its_close_and_no_reset(
    small: App, far: Far
) -> None:
    async with opened(small, far) as (near, up):
        near.send(from_client(BINARY, bytes(9_000_000)))
        up.close()
        await near.drained()
        assert (await told(near))[0] == 1009
        assert await near.ended()


async def test_upstream_in_the_middle_of_a_large_message_gets_its_close_and_no_reset(
    small: App, far: Far
) -> None:
    async with opened(small, far) as (near, up):
        up.send(frame(BINARY, bytes(9_000_000)))
        assert (await told(near))[0] == 1011
        near.send(from_client(CLOSE, close(1011)))
        await up.drained()
        assert (await told(up))[0] == 1009


async def test_upstream_that_sends_a_larger_message_is_told_and_the_client_hears_of_it(
    small: App, far: Far
) -> None:
    async with opened(small, far) as (near, up):
        up.send(frame(BINARY, bytes(1001)))
        assert (await told(up))[0] == 1009
        code, reason = await told(near)
        assert code == 1011
        assert reason.startswith("mobula-proxy: upstream_invalid: ")


# Closing

both_loops = pytest.mark.both_loops


@both_loops
async def test_upstreams_close_arrives_with_its_code_and_reason_and_the_client_answers(
    app: App, far: Far
) -> None:
    async with opened(app, far) as (near, up):
        up.send(frame(CLOSE, close(4001, b"so long")))
        assert await told(near) == (4001, "so long")
        near.send(from_client(CLOSE, close(4001, b"you too")))
        assert await told(up) == (4001, "you too")
        up.close()
        assert await near.rest() == b""
    await until(lambda: app.active == 0)


@both_loops
async def test_clients_close_arrives_with_its_code_and_reason_and_the_upstream_answers(
    app: App, far: Far
) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(CLOSE, close(4002, "ça va".encode())))
        assert await told(up) == (4002, "ça va")
        up.send(frame(TEXT, b"last words") + frame(CLOSE, close(4002)))
        assert await receive(near) == down(TEXT, b"last words")
        assert await told(near) == (4002, "")
        up.close()
        assert await near.rest() == b""


@pytest.mark.parametrize("code", [1000, 1001, 1012, 1014, 3000, 4999])
async def test_every_code_that_may_be_sent_arrives_as_it_is(app: App, far: Far, code: int) -> None:
    async with opened(app, far) as (near, up):
        up.send(frame(CLOSE, close(code)))
        assert await told(near) == (code, "")


async def test_close_without_a_code_arrives_as_a_normal_one_either_way(app: App, far: Far) -> None:
    async with opened(app, far) as (near, up):
        up.send(frame(CLOSE))
        assert await told(near) == (1000, "")
        near.send(from_client(CLOSE))
        assert await told(up) == (1000, "")


@both_loops
async def test_last_words_of_a_client_that_leaves_at_once_arrive(app: App, far: Far) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(TEXT, WITH_KEY) + from_client(CLOSE, close(4003)))
        near.close()
        assert (await receive(up)).first == 0x80 | TEXT
        assert await told(up) == (4003, "")
        up.close()
        await until(lambda: app.active == 0)


@both_loops
async def test_last_words_of_an_upstream_that_leaves_at_once_arrive(app: App, far: Far) -> None:
    async with opened(app, far) as (near, up):
        up.send(frame(TEXT, b"bye") + frame(CLOSE, close(4004)))
        up.close()
        assert await receive(near) == down(TEXT, b"bye")
        assert await told(near) == (4004, "")
        near.send(from_client(CLOSE, close(4004)))
        assert await near.rest() == b""


@pytest.mark.parametrize("end", [Wire.close, Wire.reset])
async def test_client_that_is_lost_ends_the_upstreams_side(
    far: Far, sandbox: Sandbox, scan: SecretScan, end: Callable[[Wire], None]
) -> None:
    async with (
        between(far, sandbox, scan, log={"access": True}) as app,
        opened(app, far) as (near, up),
    ):
        end(near)
        assert await told(up) == (1011, "")
        up.close()
        await until(lambda: app.active == 0)
    assert '"complete": false' in scan.output.getvalue()


@pytest.mark.parametrize("end", [Wire.close, Wire.reset])
async def test_upstream_that_is_lost_ends_the_clients_side(
    app: App, far: Far, end: Callable[[Wire], None]
) -> None:
    async with opened(app, far) as (near, up):
        end(up)
        assert await told(near) == (
            1011,
            "mobula-proxy: upstream_closed: The upstream ended without a Close.",
        )
        near.send(from_client(CLOSE, close(1011)))
        assert await near.rest() == b""
    await until(lambda: app.active == 0)


async def test_close_of_an_upstream_that_takes_no_more_arrives_while_its_client_sends(
    app: App, far: Far
) -> None:
    async with opened(app, far) as (near, up):
        up.send(frame(CLOSE, close(4005)))
        up.end()
        near.send(from_client(BINARY, bytes(1_000_000)) * 3)
        assert await told(near) == (4005, "")


async def test_upstream_that_ends_instead_of_answering_a_close_leaves_the_client_its_code(
    app: App, far: Far
) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(CLOSE, close(4006)))
        assert await told(up) == (4006, "")
        up.close()
        assert await told(near) == (4006, "")
        assert await near.rest() == b""


async def test_connection_of_a_websocket_is_never_used_for_a_request(app: App, far: Far) -> None:
    async with opened(app, far) as (near, up):
        near.send(from_client(CLOSE, close(1000)))
        await told(up)
        up.send(frame(CLOSE, close(1000)))
        await told(near)
        assert await up.ended(), "an upstream that does not end the connection is left"
    async with client(app) as near:
        near.send(GET)
        other = await far.wire()
        await other.request()
        other.send(OK)
        assert (await near.answer())[1] == b"ok"


# Time, and the proxy's own end


async def test_silence_either_way_ends_it(far: Far, sandbox: Sandbox, scan: SecretScan) -> None:
    limits = {"message_timeout": "50ms"}
    async with between(far, sandbox, scan, limits=limits) as app, opened(app, far) as (near, up):
        assert await told(near) == (
            1001,
            "mobula-proxy: websocket_idle: Nothing passed for 0.05 s, either way.",
        )
        assert await told(up) == (1001, "")


async def test_ping_breaks_the_silence(far: Far, sandbox: Sandbox, scan: SecretScan) -> None:
    limits = {"message_timeout": "500ms"}
    async with between(far, sandbox, scan, limits=limits) as app, opened(app, far) as (near, up):
        await asyncio.sleep(0.1)
        started = time.monotonic()
        near.send(from_client(PING))
        assert await receive(up) == upward(PING)
        assert (await told(near))[0] == 1001
        assert time.monotonic() - started >= 0.49


async def test_idle_timeout_of_answers_is_not_that_of_websockets(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        between(far, sandbox, scan, upstream={"idle_timeout": 0.05}) as app,
        opened(app, far) as (near, up),
    ):
        await asyncio.sleep(0.1)
        up.send(frame(TEXT, b"still here"))
        assert await receive(near) == down(TEXT, b"still here")


async def test_client_that_takes_nothing_holds_its_upstream_back_and_is_let_go(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    limits = {"client_idle_timeout": "300ms"}
    async with between(far, sandbox, scan, limits=limits) as app, opened(app, far) as (near, up):
        up.send(frame(BINARY, bytes(1_000_000)) * 40)
        with pytest.raises(ConnectionError):
            await up.drained()
        await until(lambda: app.active == 0)
        assert not await near.ended()


async def test_upstream_that_takes_nothing_holds_its_client_back_and_is_let_go(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with (
        between(far, sandbox, scan, upstream={"idle_timeout": 0.3}) as app,
        opened(app, far) as (near, _),
    ):
        near.send(from_client(BINARY, bytes(1_000_000)) * 40)
        code, reason = await told(near)
        assert code == 1011
        assert reason.startswith("mobula-proxy: upstream_timeout: ")


@pytest.mark.parametrize("opcode", [BINARY, TEXT])
async def test_slow_reader_gets_all_either_way(app: App, far: Far, opcode: int) -> None:
    async with opened(app, far) as (near, up):
        data = b"a" * 1_000_000
        near.send(from_client(opcode, data) * 20)
        up.send(frame(opcode, data) * 20)
        for _ in range(20):
            assert await receive(near) == down(opcode, data)
        for _ in range(20):
            assert await receive(up) == upward(opcode, data)


@both_loops
async def test_draining_closes_it_and_waits_until_it_is_closed(app: App, far: Far) -> None:
    async with opened(app, far) as (near, up):
        assert app.active == 1
        finishing = asyncio.create_task(app.finish())
        assert await told(near) == (
            1001,
            "mobula-proxy: draining: The proxy is being shut down.",
        )
        assert await told(up) == (1001, "")
        assert not finishing.done()
        near.send(from_client(CLOSE, close(1001)))
        up.send(frame(CLOSE, close(1001)))
        up.close()
        assert await near.rest() == b""
        await finishing
        assert app.active == 0


async def test_handshake_that_is_answered_while_draining_closes_at_once(app: App, far: Far) -> None:
    async with client(app) as near:
        near.send(HANDSHAKE)
        up = await far.wire()
        request = await up.request()
        finishing = asyncio.create_task(app.finish())
        await until(lambda: app.status().draining)
        up.send(switching(request))
        assert (await near.head()).startswith(b"HTTP/1.1 101 ")
        assert (await told(near))[0] == 1001
        near.send(from_client(CLOSE, close(1001)))
        up.close()
        await finishing


# What operators see


async def test_websocket_is_told_once_when_it_is_over(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    async with between(far, sandbox, scan, log={"access": True}) as app:
        async with opened(app, far) as (near, up):
            for _ in range(3):
                near.send(from_client(TEXT, WITH_KEY))
                await receive(up)
            assert '"event": "request"' not in scan.output.getvalue()
            near.send(from_client(BINARY, KEY.encode()))
            await told(near)
            up.close()
            await near.rest()
        await until(lambda: app.active == 0)
        _, _, metrics = await get(f"http://{app.admin_address}/metrics")
    lines = [json.loads(line) for line in scan.output.getvalue().splitlines()]
    (fact,) = [line for line in lines if line["event"] == "request"]
    assert (fact["status"], fact["path"], fact["complete"]) == (101, "/feed", True)
    assert fact["code"] == "message_denied"
    assert b'requests_total{status="101",upstream="far.test"} 1.0' in metrics
    assert b'errors_total{code="message_denied"} 1.0' in metrics
    assert b'stripped_keys_total{place="message"} 1.0' in metrics
    assert b'request_duration_seconds_count{upstream="far.test"} 0.0' in metrics


# Sides that do not answer, without sockets


class Mute:
    """A side that says only what the test says."""

    def __init__(self, role: Role) -> None:
        self.said: asyncio.Queue[bytes] = asyncio.Queue()
        self.got = bytearray()
        self.side = Side(
            role, read=self.said.get, write=self.got.extend, drain=self._drain, most=1000
        )

    async def _drain(self) -> None:
        """Nothing is ever held back."""


class NoToken:
    """A keeper that never has a token."""

    def __init__(self) -> None:
        self.known_keys = KnownKeys()
        self.waited = asyncio.Event()
        self.failure: Exception | None = None

    def lease(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def wait_for_token(self, _: float) -> None:
        self.waited.set()
        await asyncio.Event().wait()


class Silence:
    """A relay between two sides that do not answer, which it does not wait for long."""

    def __init__(self) -> None:
        self.client, self.upstream = Mute(SERVER), Mute(CLIENT)
        self.keeper = NoToken()
        self.fact = Fact("far.test")
        self.relay = Relay(
            self.client.side,
            self.upstream.side,
            keeper=cast("Keeper", self.keeper),
            keys=self.keeper.known_keys,
            charge=lambda: None,
            token_wait=60.0,
            idle=60.0,
            fact=self.fact,
            close_seconds=0.05,
        )


async def test_upstream_that_never_answers_a_close_is_left_and_the_client_is_answered() -> None:
    silence = Silence()
    silence.client.said.put_nowait(from_client(CLOSE, close(4007)))
    await silence.relay.run()
    assert silence.client.got == frame(CLOSE, close(4007))
    assert silence.fact.complete


async def test_client_that_never_answers_a_close_is_left_and_the_upstream_is_answered() -> None:
    silence = Silence()
    silence.upstream.said.put_nowait(frame(CLOSE, close(4008)))
    silence.upstream.said.put_nowait(b"")
    await silence.relay.run()
    assert silence.client.got == frame(CLOSE, close(4008))
    assert len(silence.upstream.got) == len(from_client(CLOSE, close(4008)))
    assert repr(silence.relay) == "<Relay client <Side closed>, upstream <Side closed>>"


async def test_violation_behind_a_close_is_not_taken_for_its_cause() -> None:
    silence = Silence()
    silence.upstream.said.put_nowait(frame(CLOSE, close(4009)))
    running_ = asyncio.create_task(silence.relay.run())
    await until(lambda: silence.client.got == frame(CLOSE, close(4009)))
    silence.client.said.put_nowait(frame(TEXT, b"without a mask"))
    await running_
    assert silence.fact.code == ""


async def test_message_that_comes_while_draining_waits_for_no_token() -> None:
    silence = Silence()
    silence.relay.leave()
    silence.client.said.put_nowait(from_client(TEXT, WITH_KEY) + from_client(CLOSE, close(1001)))
    silence.upstream.said.put_nowait(b"")
    await silence.relay.run()
    assert not silence.keeper.waited.is_set()


async def test_failure_of_our_own_is_raised() -> None:
    silence = Silence()
    silence.keeper.failure = RuntimeError("unforeseen")
    silence.client.said.put_nowait(from_client(TEXT, WITH_KEY))
    with pytest.raises(RuntimeError, match="unforeseen"):
        await silence.relay.run()


async def test_drain_waits_for_no_side_that_does_not_answer() -> None:
    silence = Silence()
    silence.relay.leave()
    async with asyncio.timeout(5.0):
        await silence.relay.run()
    assert silence.fact.code == "draining"


async def test_client_that_leaves_while_its_message_waits_for_a_token_is_not_waited_for() -> None:
    silence = Silence()
    silence.client.said.put_nowait(from_client(TEXT, WITH_KEY))
    running_ = asyncio.create_task(silence.relay.run())
    await silence.keeper.waited.wait()
    running_.cancel()
    async with asyncio.timeout(5.0):
        await running_
    assert silence.upstream.got == b""
    assert not silence.fact.complete
