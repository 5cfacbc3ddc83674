"""Processes of the installed command that share a store."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from harness import KEY, SecretScan, Served, get, serving
from proxy.sandbox import Sandbox
from proxy.tokens.budget import WINDOW
from proxy.tokens.model import Secret
from proxy.tokens.store.redis import RedisStore
from proxy.tokens.store.seal import Seal

DATA = "/api/1/market/data?asset=Bitcoin"
PATIENCE_SECONDS = 20.0
STORE_SECRET = "store-secret-of-the-tests-0123456789abcdef"
WITH_KEY = {"MOBULA_API_KEY": KEY, "MOBULA_STORE_SECRET": STORE_SECRET}
WITHOUT_KEY = {"MOBULA_STORE_SECRET": STORE_SECRET}


class Processes:
    """Starts, kills and looks at processes that have `settings` in common, as for `--set`.

    `urls` are those of DATA through each that lives and serves, to send a load to.
    """

    def __init__(self, sandbox: Sandbox, scan: SecretScan, *settings: str) -> None:
        scan.add(STORE_SECRET)
        self.urls: list[str] = []
        self.sandbox = sandbox
        self._scan = scan
        self._settings = settings
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Processes {len(self.urls)} serving>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def start(self, *settings: str, environ: Mapping[str, str] | None = None) -> Served:
        """Start one more; return once it serves."""
        served = await self._stack.enter_async_context(
            serving(self.sandbox.url, self._scan, *self._settings, *settings, environ=environ)
        )
        if served.url:
            self.urls.append(served.url + DATA)
        return served

    async def start_many(
        self, count: int, *, environ: Mapping[str, str] | None = None
    ) -> list[Served]:
        """Start some at once; return once each has a token in hand."""
        started = await asyncio.gather(*(self.start(environ=environ) for _ in range(count)))
        await asyncio.gather(*(each.ready() for each in started))
        return started

    async def kill(self, served: Served) -> None:
        """End one with SIGKILL; no more load is sent to it."""
        if served.url:
            self.urls.remove(served.url + DATA)
        served.process.signal(signal.SIGKILL)
        await served.ended()

    @property
    def mint_calls(self) -> int:
        """Creation calls that have arrived so far."""
        calls: int = self.sandbox.ledger.report()["mint_calls"]
        return calls


async def let_a_minute_pass(redis_url: str) -> None:
    """Begin an epoch of STORE_SECRET's shelf as of a minute ago: its budget is no longer blind."""
    shelf = Seal(Secret(STORE_SECRET)).shelf
    store = RedisStore(redis_url, shelf, skew=lambda: -WINDOW - 1.0)
    await store.open()
    await store.leave({})
    await store.close()


def environment(served: Served) -> bytes:
    """Return what a process was started with: its variables and its arguments."""
    about = Path("/proc", str(served.process.pid))
    return (about / "environ").read_bytes() + (about / "cmdline").read_bytes()


async def ask(served: Served) -> int:
    """Return the status of one request through a process."""
    return (await get(served.url + DATA))[0]


async def post(url: str) -> int:
    """Return the status of one POST without a body, on a connection of its own."""
    async with aiohttp.ClientSession() as client, client.post(url) as answer:
        return answer.status


async def status(served: Served) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((await get(served.admin + "/status"))[2])
    return told


async def reach(served: Served) -> str:
    """Return how a process reaches the store, of which `/status` and the metrics agree."""
    _, _, body = await get(served.admin + "/metrics")
    told: str = (await status(served))["store"]["reach"]
    measured = [
        sample.labels["reach"]
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == "mobula_proxy_store_reach" and sample.value
    ]
    return told if measured == [told] else f"{told}, but {measured}"


async def come_to(
    check: Callable[[Served], Awaitable[bool]],
    processes: Sequence[Served],
    seconds: float = PATIENCE_SECONDS,
) -> None:
    """Return once `check` is true of each of them; TimeoutError if it is not in time."""
    async with asyncio.timeout(seconds):
        for each in processes:
            while not await check(each):  # noqa: ASYNC110 - as an operator
                await asyncio.sleep(0.05)
