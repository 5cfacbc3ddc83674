"""Clients with a WebSocket: some keep to the rules, and some do not."""

import contextlib
import json
from collections.abc import AsyncIterator

import frames
from frames import CLOSE, PING, PONG, TEXT, close, from_client, receive
from harness import KEY
from soak.crowd import Crowd, Kind, now, request
from wire import Wire

FEED = "/feed"
HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {frames.KEY.decode()}\r\n"
)
TRADES = 6


@contextlib.asynccontextmanager
async def opened(crowd: Crowd) -> AsyncIterator[Wire]:
    async with crowd.client() as client:
        client.wire.send(request("GET", FEED, fields=HANDSHAKE))
        assert (await client.wire.head()).startswith(b"HTTP/1.1 101 ")
        yield client.wire


def subscription(marker: str, shown: str = KEY) -> bytes:
    message = {"type": "market", "authorization": shown, "payload": {"subscriptionId": marker}}
    return from_client(TEXT, json.dumps(message).encode())


async def follows_a_feed(crowd: Crowd) -> None:
    """Subscribe twice, see trades of both, and say goodbye."""
    began, wanted = now(), {crowd.marker(), crowd.marker()}
    async with opened(crowd) as wire:
        for marker in wanted:
            wire.send(subscription(marker))
        for _ in range(TRADES):
            told = json.loads((await receive(wire)).data)
            refused = told.get("statusCode") == 401 and crowd.struck("revoked", began)
            assert refused or told["subscriptionId"] in wanted, told
        wire.send(from_client(PING, b"there?"))
        assert await the_next(wire, PONG) == b"there?"
        wire.send(from_client(CLOSE, close(1000)))
        assert await the_next(wire, CLOSE) == close(1000)
        assert await wire.rest() == b""


async def the_next(wire: Wire, opcode: int) -> bytes:
    """Return what the next frame of that kind holds."""
    while (got := await receive(wire)).first != 0x80 | opcode:
        pass
    return got.data


async def leaves_a_feed(crowd: Crowd) -> None:
    async with opened(crowd) as wire:
        wire.send(subscription(crowd.marker()))
        await receive(wire)
        await crowd.pause(0.5)
        crowd.rng.choice((wire.close, wire.reset))()


async def breaks_the_protocol(crowd: Crowd) -> None:
    async with opened(crowd) as wire:
        wire.send(frames.frame(TEXT, b"without a mask"))
        assert (await the_next(wire, CLOSE)).startswith(close(1002))


async def shows_its_key_elsewhere(crowd: Crowd) -> None:
    async with opened(crowd) as wire:
        wire.send(subscription(KEY))
        assert (await the_next(wire, CLOSE)).startswith(close(1008))


FEEDS = {
    "follows a feed": Kind(follows_a_feed, 5),
    "leaves a feed": Kind(leaves_a_feed, 3),
    "breaks the protocol of a feed": Kind(breaks_the_protocol, 1),
    "shows its key in a feed": Kind(shows_its_key_elsewhere, 1),
}
