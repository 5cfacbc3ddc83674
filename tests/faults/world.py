"""A proxy in virtual time whose token endpoints fail, and what holds whatever goes wrong there."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from faults.door import Door
from harness import KEY, SecretScan, base_url, get, running
from proxy.app import App
from proxy.sandbox import Fault, Sandbox
from proxy.sandbox.ledger import Credential
from proxy.sandbox.ledger import StaticKey as Owner
from proxy.sandbox.mint import MintOrder
from proxy.tokens.key import KeySource, StaticKey, parse_key

NEW_KEY = "live-static-key-fedcba9876543210"
MINT = "/api/2/auth/tokens"
DATA = "/api/1/market/data?asset=Bitcoin"
EPOCH = 1_800_000_000
"""What Mobula's clock says at first, in seconds."""
LIFETIME = 3600.0
SOON = 5.0
"""Seconds after which a client comes back that was not told when to."""


def now() -> float:
    return asyncio.get_running_loop().time()


class Endpoint:
    """The token endpoints of a sandbox; its data endpoints never fail."""

    def __init__(self, sandbox: Sandbox, door: Door) -> None:
        self.ledger = sandbox.ledger
        self.door = door
        self._faults = sandbox.faults

    def strike(self, path: str = MINT, *, method: str | None = "POST", **effects: Any) -> None:
        """Have creation calls go wrong until it is healed; `effects` are those of a Fault."""
        self._faults.add(Fault(path, method=method, **effects))

    def give(self, *tokens: Mapping[str, str], times: int | None = None) -> None:
        """Answer creation calls with these tokens."""
        self.strike(body=json.dumps({"createApiTokens": tokens}), times=times)

    def token(self, *, exp: bool = True) -> dict[str, str]:
        """A good token as a creation answer would hold it, but which none has given yet."""
        owner = self.ledger.manager(Credential(KEY, bearer=False))
        assert isinstance(owner, Owner)
        (token,) = self.ledger.mint(owner, MintOrder(LIFETIME, 1, 5000), exp=exp)
        ends = datetime.fromtimestamp(token.expires, UTC)
        return {"id": token.id, "token": token.value, "expiresTimeString": ends.isoformat()}

    async def heal(self) -> None:
        self._faults.clear()
        await self.door.open()


Failure = Callable[[Endpoint], None]


class Keys(KeySource):
    """A static key that the test changes."""

    def __init__(self) -> None:
        super().__init__(name="the test", value=KEY)
        self._found: asyncio.Queue[StaticKey] = asyncio.Queue()

    def change(self, value: str) -> None:
        self._found.put_nowait(parse_key(value, self.name))

    async def changed(self, key: StaticKey | None) -> AsyncIterator[StaticKey]:  # noqa: ARG002
        while True:
            yield await self._found.get()


@dataclass(frozen=True)
class Seen:
    """What a client saw, after how many seconds, and what it was told if the proxy refused."""

    status: int
    waited: float = 0.0
    retry_after: int = 0
    reason: str = ""

    def __str__(self) -> str:
        when = f"after {self.waited:.0f} s" if self.waited >= 0.5 else "at once"
        retry = f", retry in {self.retry_after} s" if self.retry_after else ""
        return f"{self.status} {when}{retry}"


class World:
    """A proxy, its clients, its operator, and the token endpoints that it is left with."""

    def __init__(self, app: App, endpoint: Endpoint, keys: Keys, scan: SecretScan) -> None:
        self.app = app
        self.endpoint = endpoint
        self.keys = keys
        self._scan = scan
        self._born = now()

    @property
    def age(self) -> float:
        """Seconds since the proxy started."""
        return now() - self._born

    @property
    def fatal(self) -> bool:
        """Whether Mobula has refused the static key or its plan."""
        fault = self.app.status().tokens.fault
        return fault is not None and fault.fatal

    async def until(self, age: float) -> None:
        await asyncio.sleep(age - self.age)

    async def ask(self) -> Seen:
        """Send a request. A refusal tells that it is ours, when to come back, and why."""
        started = now()
        status, headers, body = await self._get(base_url(self.app) + DATA)
        waited = now() - started
        if "X-Mobula-Proxy-Error" not in headers:
            return Seen(status, waited)
        assert (status, headers["X-Mobula-Proxy-Error"]) == (503, "token_unavailable")
        detail = json.loads(body)["detail"]
        told = re.fullmatch(r"No short-lived token can be had: (.*)\.", detail)
        assert told is not None, detail
        assert not re.search(r"Error|Exception|[<>{}\[\]]", detail), "a reason is for people"
        return Seen(status, waited, int(headers["Retry-After"]), told[1])

    async def served(self) -> None:
        """Send a request while a token is in hand: it neither fails nor waits."""
        assert await self.ask() == Seen(200)
        assert await self.why_not_ready() == ""

    async def why_not_ready(self) -> str:
        status, _, body = await self._get(f"http://{self.app.admin_address}/readyz")
        answer = json.loads(body)
        assert (status == 200) is answer["ready"] is (answer["reason"] == "")
        return str(answer["reason"])

    async def calls(self) -> int:
        """Creation calls that the proxy made; the last one may be under way."""
        _, _, body = await self._get(f"http://{self.app.admin_address}/metrics")
        ended = re.findall(r"^mobula_proxy_mints_total\{.*\} (.*)$", body.decode(), re.MULTILINE)
        return sum(int(float(each)) for each in ended) + self.app.status().tokens.minting

    async def recovers(self, seen: Seen) -> None:
        """Heal the endpoint: a client that comes back when it was told to is served.

        The second time at the latest, for a call that is under way may still fail.
        """
        await self.endpoint.heal()
        for _ in range(2):
            if seen.status != 200:
                await asyncio.sleep(seen.retry_after or SOON)
                seen = await self.ask()
        assert seen.status == 200

    async def _get(self, url: str) -> tuple[int, Mapping[str, str], bytes]:
        status, headers, body = await get(url)
        self._scan.output.write(f"{dict(headers)}{body.decode('latin-1')}\n")
        return status, headers, body

    def check(self) -> None:
        """Assert what holds whatever went wrong."""
        report = self.endpoint.ledger.report()
        assert report["leaks"] == []
        assert report["over_limit"] == report["after_expiry"] == 0
        assert report["max_mint_calls_per_minute"] <= 5
        assert max(self.endpoint.door.most.values()) == 1, "one mint and one inspect at a time"
        tokens = self.app.status().tokens
        assert tokens.leases == 0
        assert sum(tokens.settled.values()) == report["data_requests"]
        self._scan.output.write(repr(self.app.status()))


def _work(_: Endpoint) -> None:
    """Fail in no way."""


@contextlib.asynccontextmanager
async def world_of(scan: SecretScan, failure: Failure = _work) -> AsyncIterator[World]:
    """A proxy with the default settings that starts while its token endpoints fail so."""
    clock = asyncio.get_running_loop().time
    known = {KEY: "growth", NEW_KEY: "growth"}
    async with (
        Sandbox(keys=known, clock=lambda: EPOCH + clock()) as sandbox,
        Door(sandbox.url) as door,
    ):
        scan.watch(sandbox)
        scan.add(NEW_KEY)
        endpoint, keys = Endpoint(sandbox, door), Keys()
        failure(endpoint)
        async with running(
            door.url,
            scan,
            key=keys,
            clock=clock,
            chance=lambda: 0.5,
            upstreams={"token.test": {"url": door.url}, "data.test": {"url": sandbox.url}},
            listeners=[{"bind": "127.0.0.1:0", "upstream": "data.test"}],
        ) as app:
            world = World(app, endpoint, keys, scan)
            yield world
            world.check()
