"""The promises under load: the whole proxy, real sockets, a strict sandbox with a ledger."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from children import memory_mb
from harness import (
    KEY,
    SecretScan,
    base_url,
    command,
    command_line,
    get,
    running,
    served_url,
    serving,
    until_ready,
)
from load import Result, load
from proxy.app import App
from proxy.sandbox import Fault, Sandbox

DATA = "/api/1/market/data?asset=Bitcoin"
WITH_KEY = f"Authorization: {KEY}\r\nx-api-key: {KEY}\r\n"
MINT_PATH = "/api/2/auth/tokens"


async def drive(app: App, requests: int, rate: float | None = None) -> Result:
    url = base_url(app) + DATA
    return await load(url, requests=requests, connections=64, rate=rate, headers=WITH_KEY)


async def test_no_request_fails_and_no_token_is_overused_through_forty_rotations(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """Promises 1, 2, 3 and 5."""
    async with running(sandbox.url, scan, token={"request_limit": 500, "expires_in": "60s"}) as app:
        result = await drive(app, 20_000)
    report = sandbox.ledger.report()
    assert result.failed == 0
    assert report["data_requests"] == 20_000
    assert report["over_limit"] == report["after_expiry"] == report["leak_count"] == 0
    assert report["max_mint_calls_per_minute"] <= 5
    assert sum(1 for token in report["tokens"] if token["used"]) >= 36
    assert scan.output.getvalue().count("token rotated") >= 36


async def test_revoking_every_token_in_mid_load_fails_no_request(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """Promise 3, and that a storm of refusals costs at most the mint budget (promise 5)."""
    async with running(sandbox.url, scan, token={"request_limit": 5000}) as app:
        await until_ready(app)
        loading = asyncio.create_task(drive(app, 3_000, rate=600))
        await asyncio.sleep(2.0)
        assert sandbox.ledger.revoke_all() >= 2
        result = await loading
    report = sandbox.ledger.report()
    assert result.failed == 0
    assert report["after_revocation"] > 0
    assert report["max_mint_calls_per_minute"] <= 5
    assert report["leak_count"] == 0


@pytest.mark.parametrize("skew", [3600.0, -3600.0])
async def test_a_clock_that_is_an_hour_off_fails_no_request(
    sandbox: Sandbox, scan: SecretScan, skew: float
) -> None:
    sandbox.skew = skew
    async with running(sandbox.url, scan, token={"request_limit": 100}) as app:
        result = await drive(app, 1_000, rate=500)
        left = app.status().tokens.tokens[0].expires_in
    assert result.failed == 0
    assert 3500 < left <= 3600
    assert sandbox.ledger.report()["after_expiry"] == 0


class Outage:
    """A proxy of its own whose token endpoint is down for 15 s from `start` seconds on."""

    def __init__(self, start: float, fault: Fault, scan: SecretScan) -> None:
        self.start = start
        self._fault = fault
        self._scan = scan

    async def failures(self) -> int:
        async with (
            self._sandbox() as sandbox,
            running(sandbox.url, self._scan, token={"expires_in": "60s"}) as app,
        ):
            await until_ready(app)
            outage = asyncio.create_task(self._strike(sandbox))
            result = await drive(app, 6_500, rate=100)
            await outage
            report = sandbox.ledger.report()
            assert report["after_expiry"] == report["over_limit"] == 0
            assert report["max_mint_calls_per_minute"] <= 5
        return result.failed

    @contextlib.asynccontextmanager
    async def _sandbox(self) -> AsyncIterator[Sandbox]:
        async with Sandbox(keys={KEY: "growth"}) as sandbox:
            self._scan.watch(sandbox)
            yield sandbox

    async def _strike(self, sandbox: Sandbox) -> None:
        await asyncio.sleep(self.start)
        sandbox.faults.add(self._fault)
        await asyncio.sleep(15.0)
        sandbox.faults.clear()


@pytest.mark.timeout(150)
async def test_an_outage_of_the_token_endpoint_at_any_moment_fails_no_request(
    scan: SecretScan,
) -> None:
    """Promise 3: lifetime 60 s, 100 requests a second, 15 s of outage that begins anywhere.

    The pool's own tests go through every half second in virtual time; these few are real.
    """
    answers_503 = Fault(path=MINT_PATH, status=503)
    hangs = Fault(path=MINT_PATH, delay=30.0)
    drops = Fault(path=MINT_PATH, drop="head")
    outages = [
        Outage(start, fault, scan)
        for start, fault in [
            (1.0, answers_503),
            (24.0, answers_503),
            (30.0, hangs),
            (35.5, answers_503),
            (37.0, drops),
            (42.0, hangs),
            (46.0, answers_503),
        ]
    ]
    failures = await asyncio.gather(*(outage.failures() for outage in outages))
    assert failures == [0] * len(outages)


SIZE = 200_000_000


async def test_a_big_download_and_upload_with_a_slow_side_stay_under_80_mb(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """Promise 6: back-pressure both ways."""

    async def slowly() -> AsyncIterator[bytes]:
        piece = bytes(1_000_000)
        for _ in range(SIZE // len(piece)):
            yield piece
            await asyncio.sleep(0.002)

    with command(*command_line(sandbox.url), scan=scan, environ={"MOBULA_API_KEY": KEY}) as proxy:
        url = served_url(await asyncio.to_thread(proxy.serving))
        async with aiohttp.ClientSession(read_bufsize=1 << 16) as session:
            got = 0
            async with session.get(f"{url}/api/1/sandbox/large?bytes={SIZE}") as response:
                async for chunk in response.content.iter_chunked(1_000_000):
                    got += len(chunk)
                    await asyncio.sleep(0.005)
            async with session.post(f"{url}/api/1/sandbox/upload", data=slowly()) as response:
                uploaded = (await response.json())["bytes"]
        peak = memory_mb(proxy.pid, "VmHWM")
    assert got == uploaded == SIZE
    assert peak < 80


IDLE = 5_000


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process hold a socket for each idle connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * IDLE), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_five_thousand_idle_connections_cost_under_100_mb_and_none_is_refused(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """Each has been used once, so that all that a connection ever allocates is counted."""
    turns = asyncio.Semaphore(50)

    async def use_once(url: str) -> asyncio.StreamWriter:
        host, _, port = url.removeprefix("http://").partition(":")
        async with turns:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /api/1/sandbox/echo HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        return writer

    async with serving(sandbox.url, scan, "token.request_limit=10000") as served:
        await served.ready()
        before = memory_mb(served.process.pid)
        writers = await asyncio.gather(*(use_once(served.url) for _ in range(IDLE)))
        cost = memory_mb(served.process.pid) - before
        _, _, metrics = await get(served.admin + "/metrics")
        for writer in writers:
            writer.close()
    assert b"\nmobula_proxy_client_connections %d.0\n" % IDLE in metrics
    assert cost < 100
