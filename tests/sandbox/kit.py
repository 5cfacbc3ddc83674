"""What the sandbox's tests share: a clock to turn, and a client that speaks Mobula."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession

from proxy.sandbox import Sandbox

KEY = "static-key-of-the-growth-plan"
FREE_KEY = "static-key-of-the-free-plan"
OTHER_KEY = "static-key-of-somebody-else"
KEYS = {KEY: "growth", FREE_KEY: "free", OTHER_KEY: "enterprise"}
TOKENS = "/api/2/auth/tokens"
INSPECT = "/api/2/auth/token"
DATA = "/api/1/market/data"


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any


class Api:
    """A client of `sandbox`; `key` and `token` choose the credential of a call."""

    def __init__(self, sandbox: Sandbox, session: ClientSession) -> None:
        self.sandbox = sandbox
        self._session = session

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Reply:
        shown = dict(headers or {})
        if key is not None:
            shown["x-api-key"] = key
        if token is not None:
            shown["Authorization"] = f"Bearer {token}"
        async with self._session.request(method, path, headers=shown, **more) as response:
            body = await response.read()
            json = await response.json() if "json" in response.content_type and body else None
            return Reply(response.status, response.headers, body, json)

    async def mint(self, *, key: str = KEY, **fields: object) -> list[dict[str, str]]:
        reply = await self.call("POST", TOKENS, key=key, json=fields or {"count": 1})
        assert reply.status == 200, reply.body
        tokens: list[dict[str, str]] = reply.json["createApiTokens"]
        return tokens

    async def token(self, *, key: str = KEY, **fields: object) -> str:
        return (await self.mint(key=key, **fields))[0]["token"]

    async def report(self) -> dict[str, Any]:
        reply = await self.call("GET", "/_sandbox/ledger")
        report: dict[str, Any] = reply.json
        return report


@asynccontextmanager
async def api_of(sandbox: Sandbox) -> AsyncIterator[Api]:
    async with sandbox, ClientSession(sandbox.url) as session:
        yield Api(sandbox, session)
