"""From the first bound socket to the exit code, with the installed command."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from harness import KEY, Gate, SecretScan, Served, get, running, serving, until
from proxy.sandbox import Fault, Sandbox

OTHER_KEY = "other-static-key-fedcba9876543210"
MINT = "/api/2/auth/tokens"
DATA = "/api/1/market/data"
LARGE = "/api/1/sandbox/large"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def gated(gate: Gate, scan: SecretScan) -> AsyncIterator[Sandbox]:
    """A sandbox whose delays last until `gate` is opened."""
    async with Sandbox(keys={KEY: "growth"}, sleep=gate.hold) as sandbox:
        scan.watch(sandbox)
        yield sandbox
        assert sandbox.ledger.report()["leaks"] == []
        gate.open()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file as Kubernetes mounts it: a link through `..data`, which `point_at` swaps."""
    for name, key in (("first", KEY), ("second", OTHER_KEY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "api-key").write_text(key + "\n")
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "api-key").symlink_to("..data/api-key")
    return tmp_path / "api-key"


def point_at(key_file: Path, name: str) -> None:
    """Swap the link in one step, so that no reader sees neither version."""
    (key_file.parent / "..new").symlink_to(name)
    (key_file.parent / "..new").rename(key_file.parent / "..data")


def revoked(sandbox: Sandbox) -> list[bool]:
    """Whether each token that was ever minted is revoked."""
    tokens: Any = sandbox.ledger.report()["tokens"]
    return [token["revoked"] for token in tokens]


# The start


async def test_a_request_that_comes_before_the_first_token_waits_for_it(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault(MINT, delay=1, times=1))
    async with serving(gated.url, scan) as served:
        request = asyncio.create_task(get(served.url + DATA))
        await gate.reached()
        started, _, body = await get(served.admin + "/startupz")
        ready, _, _ = await get(served.admin + "/readyz")
        live, _, _ = await get(served.admin + "/livez")
        assert (live, started, ready) == (200, 503, 503)
        assert b"the first token has not arrived" in body
        gate.open()
        assert (await request)[0] == 200
        assert (await get(served.admin + "/startupz"))[0] == 200


async def test_a_request_that_waited_token_wait_in_vain_gets_a_503_that_says_when_to_retry(
    gated: Sandbox, scan: SecretScan
) -> None:
    gated.faults.add(Fault(MINT, delay=1))
    async with serving(gated.url, scan, "token.wait=50ms", "shutdown.revoke=50ms") as served:
        status, headers, body = await get(served.url + DATA)
    assert status == 503
    assert headers["X-Mobula-Proxy-Error"] == "token_unavailable"
    assert int(headers["Retry-After"]) >= 1
    assert b"Mobula has not given one in time" in body


# The end


async def test_sigterm_lets_requests_in_flight_finish_refuses_new_ones_and_revokes(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault(DATA, delay=1))
    async with serving(gated.url, scan) as served, aiohttp.ClientSession() as client:
        request = asyncio.create_task(client.get(served.url + DATA))
        await gate.reached()
        served.process.signal(signal.SIGTERM)
        assert (await served.said("draining"))["active"] == 1
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(served.url + DATA)
        status, _, body = await get(served.admin + "/readyz")
        assert (status, b'"draining"' in body) == (503, True)
        assert revoked(gated) == [False, False]
        gate.open()
        answer = await request
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        assert (await answer.json())["data"]["name"] == "Bitcoin"
        assert await served.ended() == 143
    assert served.process.records()[-1]["requests_cut_off"] == 0
    assert revoked(gated) == [True, True]


@pytest.mark.parametrize(
    ("end", "overrides", "code", "revokes"),
    [
        (signal.SIGTERM, ["shutdown.exit_zero_on_sigterm=true"], 0, True),
        (signal.SIGINT, [], 130, True),
        (signal.SIGHUP, [], 129, True),
        (signal.SIGTERM, ["token.on_exit=keep"], 143, False),
        ("/quitquitquit", [], 0, True),
    ],
    ids=["exit_zero_on_sigterm", "sigint", "sighup", "on_exit_keep", "quit"],
)
async def test_the_exit_code_tells_what_ended_it_and_on_exit_what_becomes_of_the_tokens(
    sandbox: Sandbox,
    scan: SecretScan,
    end: signal.Signals | str,
    overrides: list[str],
    code: int,
    revokes: bool,
) -> None:
    async with serving(sandbox.url, scan, *overrides) as served:
        await served.ready()
        if isinstance(end, signal.Signals):
            served.process.signal(end)
        else:
            async with aiohttp.ClientSession() as client, client.post(served.admin + end) as answer:
                assert answer.status == 202
        assert await served.ended() == code
    assert revoked(sandbox) == [revokes, revokes]
    assert served.process.records()[-1]["event"] == "stopped"


async def test_a_signal_as_soon_as_it_serves_ends_it_in_good_order(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with serving(sandbox.url, scan) as served:
        served.process.signal(signal.SIGTERM)
        assert await served.ended() == 143
    assert all(revoked(sandbox))


async def test_an_idle_connection_of_a_probe_does_not_delay_the_end(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with serving(sandbox.url, scan) as served, aiohttp.ClientSession() as client:
        async with client.get(served.admin + "/livez") as answer:
            assert answer.headers.get("Connection") != "close"
        served.process.signal(signal.SIGTERM)
        assert await served.ended() == 143


async def test_an_open_websocket_is_closed_and_does_not_delay_the_end(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with serving(sandbox.url, scan) as served, aiohttp.ClientSession() as client:
        async with client.ws_connect(served.url) as socket:
            await socket.send_json({"type": "market", "authorization": KEY})
            await socket.receive_json(timeout=5)
            served.process.signal(signal.SIGTERM)
            async for _ in socket:
                """Trades may come until the Close does."""
            assert socket.close_code == 1001
        assert await served.ended() == 143
    stopped = served.process.records()[-1]
    assert (stopped["requests_cut_off"], stopped["seconds"] < 2) == (0, True)


async def test_a_second_signal_ends_it_at_once_whatever_is_in_flight(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault(DATA, delay=1))
    async with serving(gated.url, scan, "shutdown.drain=1h") as served:
        request = asyncio.create_task(get(served.url + DATA))
        await gate.reached()
        served.process.signal(signal.SIGTERM)
        await served.said("draining")
        served.process.signal(signal.SIGINT)
        assert await served.ended() == 130
        with pytest.raises(aiohttp.ClientError):
            await request
    assert revoked(gated) == [False, False]


def take_slowly(near: socket.socket) -> int:
    """Read to the end in small bites; return how many bytes came."""
    taken = 0
    while data := near.recv(65536):
        taken += len(data)
        time.sleep(0.0005)
    return taken


@pytest.mark.parametrize("size", [2_900_000, 3_000_000])
async def test_an_answer_that_its_client_takes_slowly_is_not_cut_short_by_the_end(
    sandbox: Sandbox, scan: SecretScan, size: int
) -> None:
    """These sizes are a little more than Linux takes off our hands for a client that waits."""
    async with serving(sandbox.url, scan) as served:
        with socket.socket() as near:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            near.connect((urlsplit(served.url).hostname, urlsplit(served.url).port))
            near.sendall(f"GET {LARGE}?bytes={size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert await asyncio.to_thread(near.recv, 1)
            await asyncio.sleep(0.1)  # until the kernel has what it will take
            served.process.signal(signal.SIGTERM)
            assert await asyncio.to_thread(take_slowly, near) > size
        assert await served.ended() == 143


async def test_when_the_drain_takes_too_long_what_is_left_is_cut_off(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault(DATA, delay=1))
    async with serving(gated.url, scan, "shutdown.drain=100ms") as served:
        request = asyncio.create_task(get(served.url + DATA))
        await gate.reached()
        served.process.signal(signal.SIGTERM)
        assert await served.ended() == 143
        with pytest.raises(aiohttp.ClientError):
            await request
    assert served.process.records()[-1]["requests_cut_off"] == 1
    assert revoked(gated) == [True, True]


async def test_a_token_endpoint_that_hangs_delays_the_end_by_shutdown_revoke_at_the_most(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault(MINT + "/*", delay=30))
    async with serving(gated.url, scan, "shutdown.revoke=300ms") as served:
        await served.ready()
        started = time.monotonic()
        served.process.signal(signal.SIGTERM)
        assert await served.ended() == 143
        assert 0.3 <= time.monotonic() - started < 3.0
    assert gate.held == 2
    assert served.process.records()[-1]["event"] == "stopped"


# The static key's file


async def test_a_key_that_is_swapped_under_load_takes_over_without_a_failed_request(
    scan: SecretScan, key_file: Path
) -> None:
    scan.add(OTHER_KEY)
    async with Sandbox(keys={KEY: "growth", OTHER_KEY: "growth"}) as sandbox:
        scan.watch(sandbox)
        environ = {"MOBULA_API_KEY_FILE": str(key_file)}
        async with serving(sandbox.url, scan, environ=environ) as served:
            statuses: list[int] = []
            load = asyncio.create_task(keep_asking(served, statuses))
            await until(lambda: len(statuses) > 20)
            point_at(key_file, "second")
            await until(lambda: minted_with(sandbox, "key-2") == 2)
            await served.said("static key changed")
            await until(lambda: served.process.err.count('"tokens minted"') == 2)
            asked = len(statuses)
            used = used_of(sandbox, "key-1")
            await until(lambda: len(statuses) > asked + 50)
            load.cancel()
            # A request may have been on its way while the first of the new tokens came.
            assert used_of(sandbox, "key-1") <= used + 1
            assert used_of(sandbox, "key-2") >= 49
            mints = minted_with(sandbox, "key-1")
            served.process.signal(signal.SIGTERM)
            assert await served.ended() == 143
        assert set(statuses) == {200}
        assert minted_with(sandbox, "key-1") == mints == 2
        report = sandbox.ledger.report()
        assert report["leaks"] == []
        assert report["unauthorized"] == 0


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({OTHER_KEY: "growth"}, "status 401: Mobula refused the static key"),
        (
            {KEY: "free", OTHER_KEY: "growth"},
            "status 403: the key's plan has no short-lived tokens",
        ),
    ],
    ids=["unknown_key", "plan_without_tokens"],
)
async def test_a_key_that_mobula_refuses_fails_readiness_until_a_good_one_is_written(
    scan: SecretScan, key_file: Path, keys: Mapping[str, str], reason: str
) -> None:
    scan.add(OTHER_KEY)
    async with Sandbox(keys=keys) as sandbox:
        scan.watch(sandbox)
        environ = {"MOBULA_API_KEY_FILE": str(key_file)}
        async with serving(sandbox.url, scan, environ=environ) as served:
            assert reason in (await served.said("mint failed"))["reason"]
            status, _, body = await get(served.admin + "/readyz")
            assert (status, reason in body.decode()) == (503, True)
            started = time.monotonic()
            status, headers, body = await get(served.url + DATA)
            assert time.monotonic() - started < 2.0, "waiting would not have helped"
            assert (status, reason in body.decode()) == (503, True)
            assert headers["X-Mobula-Proxy-Error"] == "token_unavailable"
            assert "Retry-After" in headers

            point_at(key_file, "second")
            await served.ready()
            assert (await get(served.url + DATA))[0] == 200
        assert sandbox.ledger.report()["mint_calls"] == 2


async def keep_asking(served: Served, statuses: list[int]) -> None:
    """Send one request after the other, a few milliseconds apart."""
    async with aiohttp.ClientSession() as client:
        while True:
            async with client.get(served.url + DATA) as answer:
                await answer.read()
            statuses.append(answer.status)
            await asyncio.sleep(0.005)


def tokens_of(sandbox: Sandbox, name: str) -> list[dict[str, Any]]:
    tokens: Any = sandbox.ledger.report()["tokens"]
    return [token for token in tokens if token["key"] == name]


def minted_with(sandbox: Sandbox, name: str) -> int:
    return len(tokens_of(sandbox, name))


def used_of(sandbox: Sandbox, name: str) -> int:
    return sum(token["used"] for token in tokens_of(sandbox, name))


async def test_an_error_while_it_serves_is_raised_as_it_is(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    with pytest.raises(RuntimeError, match="of the caller"):
        async with running(sandbox.url, scan):
            raise RuntimeError("of the caller")


async def test_a_limit_of_open_files_that_is_lower_than_the_settings_want_is_said(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with serving(sandbox.url, scan, "limits.connections=1000000000000") as served:
        warning = await served.said("the limit of open files is low")
    assert warning["level"] == "warning"
    assert warning["limit"] < warning["wanted"]
