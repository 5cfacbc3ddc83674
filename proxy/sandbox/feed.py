"""The feed: made-up trades over a WebSocket, for whoever shows a token in a message.

To subscribe is to send `{"type": "market", "authorization": TOKEN, "payload": {"subscriptionId":
ID}}` (source: Mobula's SDK); it is charged like a data request, as is the handshake (ours).
"""

import asyncio
import itertools
from contextlib import suppress

from aiohttp import WSMsgType, hdrs, web

from proxy.sandbox import data
from proxy.sandbox.answer import Answer, MalformedError, dump, parse_object, refusal
from proxy.sandbox.endpoints import Sleep
from proxy.sandbox.ledger import Credential, Ledger

INTERVAL = 0.1
"""Seconds from one trade to the next."""


def asks_for_feed(request: web.BaseRequest) -> bool:
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


class Feed:
    """Serves WebSockets, on any path; `sleep` spaces out the trades."""

    def __init__(self, ledger: Ledger, sleep: Sleep) -> None:
        self._ledger = ledger
        self._sleep = sleep

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer each message, and send trades for each subscription until the client leaves."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        streams: set[asyncio.Task[None]] = set()
        try:
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
                raw = message.data.encode() if message.type is WSMsgType.TEXT else message.data
                if self._ledger.finder.in_bytes(raw):
                    self._ledger.leaked("message", request.path)
                refused, name = self._subscribe(raw)
                if refused is not None:
                    await socket.send_str(refused.body.decode())
                else:
                    streams.add(asyncio.create_task(self._stream(socket, name)))
        finally:
            for each in streams:
                each.cancel()
        return socket

    def _subscribe(self, raw: bytes) -> tuple[Answer | None, object]:
        """Charge a subscription. Return the refusal, if any, and the subscription's id."""
        try:
            fields = parse_object(raw)
        except MalformedError as error:
            return refusal(400, str(error)), None
        shown, payload = fields.get("authorization"), fields.get("payload")
        self._ledger.arrived("data")
        refused, _ = self._ledger.charge(Credential(str(shown), bearer=True) if shown else None)
        return refused, payload.get("subscriptionId") if isinstance(payload, dict) else None

    async def _stream(self, socket: web.WebSocketResponse, name: object) -> None:
        with suppress(ConnectionError):
            for number in itertools.count(1):
                trade = data.trade(number).decode()
                await socket.send_str(f'{{"subscriptionId":{dump(name).decode()},"data":{trade}}}')
                await self._sleep(INTERVAL)
