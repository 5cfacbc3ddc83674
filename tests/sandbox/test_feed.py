"""The feed: subscriptions over a WebSocket, what they cost, and what is flagged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSServerHandshakeError

from proxy.sandbox import Sandbox
from sandbox.kit import KEY, KEYS, Api, api_of


@asynccontextmanager
async def feed(api: Api, token: str) -> AsyncIterator[ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        ClientSession(api.sandbox.url, headers=headers) as session,
        session.ws_connect("/") as socket,
    ):
        yield socket


def subscription(credential: str | None, name: str = "mine") -> dict[str, Any]:
    shown = {} if credential is None else {"authorization": credential}
    return {"type": "market", **shown, "payload": {"subscriptionId": name}}


async def test_each_subscription_is_charged_and_gets_trades_under_its_own_id() -> None:
    async with api_of(Sandbox(keys=KEYS)) as api:
        token = await api.token()
        async with feed(api, token) as socket:
            for name in ("one", "two"):
                await socket.send_json(subscription(token, name))
            came = [await socket.receive_json(timeout=5) for _ in range(4)]
        assert {each["subscriptionId"] for each in came} == {"one", "two"}
        assert came[0]["data"]["pair"] == "ETH/USDC"
        assert (await api.report())["tokens"][0]["used"] == 3


async def test_used_up_token_gets_no_trades(api: Api) -> None:
    token = await api.token(requestLimit="1")
    async with feed(api, token) as socket:
        await socket.send_json(subscription(token))
        assert (await socket.receive_json(timeout=5))["statusCode"] == 429
    assert (await api.report())["over_limit"] == 1


async def test_subscription_without_a_credential_is_refused(api: Api) -> None:
    async with feed(api, await api.token()) as socket:
        await socket.send_json(subscription(None))
        assert (await socket.receive_json(timeout=5))["statusCode"] == 401


async def test_message_that_is_no_json_object_is_refused_and_costs_nothing(api: Api) -> None:
    async with feed(api, await api.token()) as socket:
        await socket.send_str("hello")
        assert (await socket.receive_json(timeout=5))["statusCode"] == 400
    assert (await api.report())["data_requests"] == 1


@pytest.mark.parametrize("binary", [False, True])
async def test_static_key_in_a_message_is_flagged(api: Api, binary: bool) -> None:
    async with feed(api, await api.token()) as socket:
        await (socket.send_bytes(KEY.encode()) if binary else socket.send_str(KEY))
        await socket.receive(timeout=5)
    assert (await api.report())["leaks"] == [{"place": "message", "path": "/"}]


async def test_handshake_needs_a_credential_as_every_request_does(api: Api) -> None:
    with pytest.raises(WSServerHandshakeError) as caught:
        async with feed(api, "nonsense"):
            pass
    assert caught.value.status == 401
