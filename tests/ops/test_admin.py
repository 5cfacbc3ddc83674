"""The admin listener: each path, who may ask for what, and what it never repeats."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from harness import KEY, Gate, SecretScan, base_url, get, running, until, until_ready
from proxy import __version__
from proxy.app import App
from proxy.config import Address, LogSettings
from proxy.ops import logs
from proxy.ops.admin import Admin, Operated, Status
from proxy.ops.metrics import Metrics
from proxy.sandbox import Fault, Sandbox
from proxy.tokens.model import PoolSnapshot
from proxy.tokens.sharing import SharingSnapshot
from proxy.traffic.binding import listen

MINT = "/api/2/auth/tokens"
DATA = "/api/1/market/data"


@pytest.fixture
async def app(sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        yield app


def admin_url(app: App) -> str:
    return f"http://{app.admin_address}"


async def ask(
    app: App, method: str, path: str, **options: Any
) -> tuple[int, Mapping[str, str], bytes]:
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, admin_url(app) + path, **options) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def told(app: App, path: str) -> dict[str, Any]:
    """The JSON object behind `path`, whatever the status."""
    body: dict[str, Any] = json.loads((await ask(app, "GET", path))[2])
    return body


async def sent(app: App, data: bytes) -> bytes:
    """Send bytes to the admin listener and return all that comes until it closes."""
    address = app.admin_address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        async with asyncio.timeout(5.0):
            return await reader.read()
    finally:
        writer.close()


# Paths


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/livez", "application/json"),
        ("/readyz", "application/json"),
        ("/startupz", "application/json"),
        ("/status", "application/json"),
        ("/metrics", "text/plain"),
    ],
)
async def test_each_path_answers_200_when_all_is_well_and_head_without_the_body(
    app: App, path: str, kind: str
) -> None:
    status, headers, body = await ask(app, "GET", path)
    assert status == 200
    assert body
    assert headers["Content-Type"].startswith(kind)
    status, headers, body = await ask(app, "HEAD", path)
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


async def test_an_unknown_path_is_told_the_known_ones_and_not_repeated(app: App) -> None:
    status, _, body = await ask(app, "GET", f"/{KEY}?{KEY}")
    assert status == 404
    assert b"/livez, /metrics, /quitquitquit, /readyz, /rotate, /startupz, /status" in body
    assert KEY.encode() not in body


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/readyz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("GET", "/quitquitquit", "POST"),
        ("HEAD", "/rotate", "POST"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    app: App, method: str, path: str, allowed: str
) -> None:
    status, headers, _ = await ask(app, method, path)
    assert status == 405
    assert headers["Allow"] == allowed
    assert app.status().ready


async def test_probes_never_call_upstream(app: App, sandbox: Sandbox) -> None:
    before = sandbox.ledger.report()["requests"]
    for path in ("/livez", "/readyz", "/startupz", "/metrics", "/status"):
        await ask(app, "GET", path)
    assert sandbox.ledger.report()["requests"] == before


# Health


async def test_before_the_first_token_only_livez_is_well_and_the_others_say_why(
    scan: SecretScan,
) -> None:
    gate = Gate()
    async with Sandbox(keys={KEY: "growth"}, sleep=gate.hold) as sandbox:
        sandbox.faults.add(Fault(MINT, delay=1))
        async with running(sandbox.url, scan) as app:
            await gate.reached()
            statuses = {path: (await ask(app, "GET", path))[0] for path in ("/livez", "/readyz")}
            why = {"reason": "the first token has not arrived"}
            assert statuses == {"/livez": 200, "/readyz": 503}
            assert await told(app, "/readyz") == {"ready": False, **why}
            assert await told(app, "/startupz") == {"started": False, **why}
            gate.open()
            await until_ready(app)
            assert await told(app, "/startupz") == {"started": True, "reason": ""}


async def test_readyz_tells_why_no_token_can_be_had(sandbox: Sandbox, scan: SecretScan) -> None:
    sandbox.faults.add(Fault(MINT, status=500))
    async with running(sandbox.url, scan) as app:
        await until(lambda: app.status().tokens.fault is not None)
        assert await told(app, "/readyz") == {
            "ready": False,
            "reason": "status 500: the token endpoint failed",
        }


async def test_readyz_fails_while_draining_though_tokens_are_in_hand(app: App) -> None:
    await app.finish()
    assert (await ask(app, "GET", "/readyz"))[0] == 503
    assert await told(app, "/readyz") == {"ready": False, "reason": "draining"}
    assert (await ask(app, "GET", "/startupz"))[0] == 200
    assert (await ask(app, "GET", "/livez"))[0] == 200


# Status


async def test_status_tells_all_that_operators_ask_for(app: App, sandbox: Sandbox) -> None:
    await get(base_url(app) + DATA)
    status = await told(app, "/status")
    assert status["version"] == __version__
    assert (status["ready"], status["started"], status["draining"]) == (True, True, False)
    assert status["reason"] == ""
    assert status["uptime"] > 0
    assert len(status["key"]) == 8
    assert status["listeners"] == [f"reverse {app.addresses[0]} -> api.mobula.io"]
    assert status["active"] == 0
    assert status["upstreams"] == [
        {"name": "api.mobula.io", "idle": 1, "busy": 0, "dialing": 0, "waiting": 0}
    ]
    tokens = status["tokens"]
    report: Any = sandbox.ledger.report()["tokens"]
    assert {each["id"] for each in tokens["tokens"]} == {each["id"] for each in report}
    assert [each["state"] for each in tokens["tokens"]] == ["current", "standby"]
    assert sorted(each["left"] for each in tokens["tokens"]) == [4999, 5000]
    assert all(3500 < each["expires_in"] <= 3600 for each in tokens["tokens"])
    assert (tokens["left"], tokens["permits"], tokens["quarantined"]) == (9999, 4, 0)
    assert (tokens["fault"], tokens["minting"], tokens["drift"]) == (None, False, 0)


async def test_status_shows_the_last_fault_in_plain_words(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    sandbox.faults.add(Fault(MINT, status=429, headers={"Retry-After": "7"}))
    async with running(sandbox.url, scan) as app:
        await until(lambda: app.status().tokens.fault is not None)
        status = await told(app, "/status")
    fault = status["tokens"]["fault"]
    assert (fault["kind"], fault["fatal"], fault["retry_after"]) == ("429", False, 7.0)
    assert status["reason"] == fault["detail"]
    assert status["tokens"]["permits"] == 0


# Control


async def test_rotate_replaces_and_revokes_every_token_without_a_failed_request(
    app: App, sandbox: Sandbox
) -> None:
    def revoked() -> list[bool]:
        tokens: Any = sandbox.ledger.report()["tokens"]
        return [each["revoked"] for each in tokens]

    statuses: list[int] = []

    async def keep_asking() -> None:
        while True:
            statuses.append((await get(base_url(app) + DATA))[0])

    load = [asyncio.create_task(keep_asking()) for _ in range(4)]
    await until(lambda: len(statuses) > 10)
    status, _, body = await ask(app, "POST", "/rotate")
    assert (status, json.loads(body)) == (202, {"rotating": True})
    await until(lambda: sorted(revoked()) == [False, False, True, True])
    asked = len(statuses)
    await until(lambda: len(statuses) > asked + 20)
    for each in load:
        each.cancel()
    await asyncio.wait(load)
    assert set(statuses) == {200}
    assert sandbox.ledger.report()["unauthorized"] == 0


async def test_quitquitquit_asks_for_an_orderly_end(app: App) -> None:
    status, _, body = await ask(app, "POST", "/quitquitquit")
    assert (status, json.loads(body)) == (202, {"quitting": True})
    await asyncio.wait_for(app.wait_quit(), 1.0)


@pytest.mark.parametrize("path", ["/rotate", "/quitquitquit"])
async def test_a_post_of_a_web_page_is_refused(app: App, sandbox: Sandbox, path: str) -> None:
    status, _, body = await ask(app, "POST", path, headers={"Origin": "http://127.0.0.1:9090"})
    assert status == 403
    assert b"requests from web pages are not taken" in body
    assert app.status().ready
    assert sandbox.ledger.report()["mint_calls"] == 1


class Proxy:
    """What an `Admin` operates; remembers what it was asked to do."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.joined = True

    def status(self) -> Status:
        pool = PoolSnapshot((), 0, {}, 0, 0, 0.0, 0, False, 5, 0.0, None)
        store = SharingSnapshot("memory", "joined", "local", 0.0, 1, 0.0)
        return Status(False, False, False, "", 0.0, "", "both", (), 0, pool, store, ())

    def rotate(self) -> bool:
        self.asked.append("rotate")
        return self.joined

    def quit(self) -> None:
        self.asked.append("quit")


class Broken(Proxy):
    def status(self) -> Status:
        raise RuntimeError("broken on purpose")


class Peer(asyncio.Transport):
    """A connection of which nothing but the other end's address is known."""


async def called(proxy: Operated, method: str, path: str, peer: object) -> web.StreamResponse:
    """Call an `Admin` as if from `peer`."""
    request = make_mocked_request(method, path, transport=Peer({"peername": peer}))
    return await Admin(proxy, Metrics()).server().request_handler(request)


@pytest.mark.parametrize("peer", ["10.0.0.7", "192.0.2.1", "fe80::1%eth0", "2001:db8::1"])
async def test_another_machine_may_probe_but_not_control(peer: str) -> None:
    proxy = Proxy()
    for path in ("/rotate", "/quitquitquit"):
        assert (await called(proxy, "POST", path, (peer, 40000))).status == 403
    assert (await called(proxy, "GET", "/livez", (peer, 40000))).status == 200
    assert (await called(proxy, "GET", "/metrics", (peer, 40000))).status == 200
    assert proxy.asked == []


@pytest.mark.parametrize("peer", [("127.0.0.1", 40000), ("127.8.8.8", 1), ("::1", 40000, 0, 0), ""])
async def test_this_machine_may_control_over_a_unix_socket_too(peer: object) -> None:
    proxy = Proxy()
    assert (await called(proxy, "POST", "/rotate", peer)).status == 202
    assert (await called(proxy, "POST", "/quitquitquit", peer)).status == 202
    assert proxy.asked == ["rotate", "quit"]


# What it never repeats


@pytest.mark.parametrize(
    "data",
    [
        f"GET /{KEY} NOT-HTTP\r\n\r\n",
        f"{KEY}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nX-{KEY}\x00: {KEY}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {KEY}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nX: {KEY * 1000}\r\n\r\n",
        f"GET /{KEY * 1000} HTTP/1.1\r\nHost: a\r\n\r\n",
        f"POST /rotate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n",
    ],
    ids=["version", "no_http", "header_name", "length", "long_header", "long_target", "chunk"],
)
async def test_malformed_bytes_are_refused_and_stand_neither_in_the_answer_nor_in_the_log(
    app: App, scan: SecretScan, data: str
) -> None:
    answer = await sent(app, data.encode())
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert KEY.encode() not in answer
    assert "Traceback" not in scan.output.getvalue()
    assert (await ask(app, "GET", "/livez"))[0] == 200


async def test_a_failure_of_our_own_answers_500_and_is_logged_with_its_traceback(
    scan: SecretScan,
) -> None:
    logs.configure(LogSettings(format="json"), scan.output)
    front = Admin(Broken(), Metrics()).server()
    binding = await listen(front, Address("127.0.0.1", 0))
    status, _, body = await get(f"http://{binding.address}/status")
    binding.close()
    await front.shutdown(0.01)
    assert (status, json.loads(body)) == (500, {"detail": "Internal Server Error"})
    (record,) = map(json.loads, scan.output.getvalue().splitlines())
    assert (record["level"], record["event"]) == ("error", "The admin listener failed")
    assert "RuntimeError: broken on purpose" in record["exception"]


async def test_a_rotation_that_cannot_be_done_is_not_agreed_to() -> None:
    proxy = Proxy()
    proxy.joined = False
    assert (await called(proxy, "POST", "/rotate", "")).status == 503
