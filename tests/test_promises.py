"""Promise 1, end to end: no static key and no token where it does not belong, whatever goes wrong.

Everything that can be seen from outside goes into `scan`, which fails the test over any secret.
"""

import asyncio
import contextlib
import gc
import json
import signal
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import psutil
import pytest

from harness import (
    KEY,
    SecretScan,
    Served,
    base_url,
    finished,
    get,
    running,
    serving,
    until,
    until_ready,
)
from proxy.sandbox import Fault, Sandbox
from proxy.tokens.key import KeyRefusedError, KeySource, parse_key
from proxy.tokens.model import Lease, Secret, Token

MINT = "/api/2/auth/tokens"
INSPECT = "/api/2/auth/token"
DATA = "/api/1/market/data"
ECHO = "/api/1/sandbox/echo"

PERCENT = "".join(f"%{byte:02X}" for byte in KEY.encode())
HEADERS = [
    {"Authorization": KEY},
    {"Authorization": f"Bearer {KEY}"},
    {"Authorization": f"Basic {KEY}", "x-api-key": KEY, "Proxy-Authorization": KEY},
    {"Cookie": f"session={KEY}; other=1"},
    {"X-Mine": f"prefix-{KEY}-suffix", "Referer": f"http://app/?api_key={KEY}", "User-Agent": KEY},
]
TARGETS = [
    f"{ECHO}?api_key={KEY}&a=1",
    f"{ECHO}?Api-Key={quote(KEY, safe='')}",
    f"{ECHO}?a={KEY}&b=2",
    f"{ECHO}?a={PERCENT}",
    f"{ECHO}/{KEY}/x",
    f"/{PERCENT}",
    f"{MINT}/{KEY}",
    f"{MINT}?token={KEY}",
]
MESSAGES = [
    KEY,
    json.dumps({"authorization": "x", "payload": {"authorization": KEY}}),
    json.dumps({"authorization": [KEY]}),
    json.dumps([{"authorization": KEY}]),
    json.dumps({"data": json.dumps({"key": KEY})}),
]
MALFORMED = [
    f"{KEY}\r\n\r\n",
    f"GET /{KEY} HTTP/9.9\r\n\r\n",
    f"{KEY} / HTTP/1.1\r\nHost: a\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: {KEY} {KEY}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\n{KEY}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nX-{KEY}\x00: {KEY}\r\n\r\n",
    f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {KEY}\r\n\r\n",
    f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {KEY}\r\n\r\n",
    f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nExpect: {KEY}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {KEY}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nX: {KEY * 2000}\r\n\r\n",
    f"GET /{KEY * 1000} HTTP/1.1\r\nHost: a\r\n\r\n",
    f"CONNECT {KEY}:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    f"GET {KEY} HTTP/1.1\r\nHost: a\r\n\r\n",
    f"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nX: {KEY}\r\n\r\n",
]
ECHOED = {"X-Echo": KEY}
"""An API may repeat what it was sent; that must not reach our log either."""


async def seen(scan: SecretScan, url: str, **options: Any) -> int:
    """Send a request, have all of the answer scanned, and return its status."""
    status, headers, body = await get(url, **options)
    scan.output.write(f"{dict(headers)}{body.decode('latin-1')}\n")
    return status


async def seen_raw(scan: SecretScan, url: str, data: bytes) -> bytes:
    """Send bytes, have what is answered scanned, and return it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(data)
        async with asyncio.timeout(10.0):
            answer = await reader.read(65536)
    finally:
        writer.close()
    scan.output.write(answer.decode("latin-1"))
    return answer


async def seen_feed(scan: SecretScan, url: str, message: str) -> object:
    """Send a message over a WebSocket, have what is answered scanned, and return it."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.send_str(message)
        came = await socket.receive(timeout=10)
    scan.output.write(f"{came.data} {came.extra}\n")
    return came.data


async def watch_operators(scan: SecretScan, served: Served) -> None:
    """Have scanned what operators see."""
    for path in ("/metrics", "/status", "/readyz", "/startupz", f"/{KEY}"):
        await seen(scan, served.admin + path)
    admin = served.admin.removeprefix("http://")
    for more in ([], ["--json"]):
        _, out, err = await asyncio.to_thread(
            finished, "status", "--admin", admin, *more, scan=scan
        )
        scan.output.write(out + err)


async def test_the_installed_command_shows_no_secret_in_any_trouble(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    file = tmp_path / "api-key"
    file.write_text(KEY)
    async with serving(
        sandbox.url, scan, "log.level=debug", "log.access=true", "token.wait=200ms",
        environ={"MOBULA_API_KEY_FILE": str(file)},
    ) as served:  # fmt: skip
        await served.ready()

        # Keys wherever an app might put one, and requests that make no sense.
        for headers in HEADERS:
            assert await seen(scan, served.url + ECHO, headers=headers) == 200
        for target in TARGETS:
            head = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            answer = await seen_raw(scan, served.url, head.encode())
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 403", b"HTTP/1.1 404"))
        for data in MALFORMED:
            for url in (served.url, served.admin):
                await seen_raw(scan, url, data.encode("latin-1"))

        # The same over WebSockets.
        trade = await seen_feed(scan, served.url, json.dumps({"authorization": KEY}))
        assert "ETH/USDC" in str(trade)
        for message in MESSAGES:
            assert await seen_feed(scan, f"{served.url}/?api_key={KEY}", message) == 1008

        # An API that fails, breaks off, and repeats what it was sent.
        for fault in (
            Fault(DATA, status=500, times=1),
            Fault(DATA, status=403, times=1),
            Fault(DATA, status=429, times=1),
            Fault(DATA, revoke=True, times=1),
        ):
            sandbox.faults.add(fault)
            await seen(scan, served.url + DATA)
        for fault in (Fault(DATA, drop="head", times=2), Fault(DATA, drop="body", times=1)):
            sandbox.faults.add(fault)
            head = f"GET {DATA} HTTP/1.1\r\nHost: a\r\nX-Mine: {KEY}\r\n\r\n"
            with contextlib.suppress(ConnectionError):  # a body cut short ends in a reset
                await seen_raw(scan, served.url, head.encode())

        # Token endpoints that refuse, and repeat what they were sent.
        sandbox.faults.add(Fault(INSPECT, status=500, body=KEY, headers=ECHOED))
        sandbox.faults.add(
            Fault(MINT, status=401, body=json.dumps({"message": KEY}), headers=ECHOED)
        )
        sandbox.ledger.revoke_all()
        assert await seen(scan, served.url + DATA) in (401, 503)
        async with aiohttp.ClientSession() as client:
            await client.post(served.admin + "/rotate")
        await until(lambda: '"mint failed"' in served.process.err)
        await watch_operators(scan, served)

        # A key file that becomes unreadable, or holds something else.
        file.write_text(f"{KEY} {KEY}")
        await served.said("static key unreadable, the last one stays")

        process = psutil.Process(served.process.pid)
        assert process.children() == []
        scan.output.write(repr(process.cmdline()) + repr(process.environ()))
        served.process.signal(signal.SIGTERM)
        assert await served.ended() == 143
    assert "Traceback" not in served.process.err
    assert any(record["event"] == "request" for record in served.process.records())
    assert len(sandbox.ledger.secrets()) >= 2


@pytest.mark.parametrize("fault", [{"status": 401, "body": KEY}, {"drop": "head"}, {"body": KEY}])
async def test_a_first_mint_that_fails_shows_no_secret(
    sandbox: Sandbox, scan: SecretScan, fault: dict[str, Any]
) -> None:
    sandbox.faults.add(Fault(MINT, **fault))
    async with running(sandbox.url, scan, token={"wait": "50ms"}) as app:
        await until(lambda: app.status().tokens.fault is not None)
        assert await seen(scan, base_url(app) + DATA, headers={"Authorization": KEY}) == 503
        scan.output.write(repr(app.status()))
    assert '"mint failed"' in scan.output.getvalue()


async def test_no_object_of_a_running_proxy_shows_a_secret_in_its_repr(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        stream = base_url(app) + "/api/1/sandbox/stream?events=50&interval=1"
        request = asyncio.create_task(get(stream))
        feed = asyncio.create_task(subscribed(base_url(app)))
        await until(lambda: app.status().upstreams[0].busy == 2)
        await until(lambda: app.status().tokens.settled["unknown"] == 1)
        shown = set()
        for each in alive():
            scan.output.write(f"{each!r}\n{each}\n")
            shown.add(type(each).__name__)
        scan.output.write(
            repr(asdict(app.status())) + json.dumps(asdict(app.status()), default=str)
        )
        request.cancel()
        feed.cancel()
        await asyncio.wait({request, feed})
        await until(lambda: app.active == 0)
    expected = {"App", "Keeper", "TokenPool", "MobulaClient", "KeySource", "StaticKey", "Secret"}
    expected |= {"Token", "KnownKeys", "Handler", "Attempt", "Outgoing", "Connection", "Upstream"}
    expected |= {"Handshake", "Relay", "Side"}
    assert expected - shown == set()


async def subscribed(url: str) -> None:
    """Subscribe to the feed with the key, and take what comes."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.send_json({"authorization": KEY})
        async for _ in socket:
            """Whatever it is."""


def alive() -> Iterator[object]:
    """Every object of the proxy's own classes that is reachable, the sandbox's left out."""
    for each in gc.get_objects():
        module = str(type(each).__module__)
        if module.startswith("proxy.") and not module.startswith("proxy.sandbox"):
            yield each


def test_a_secret_comes_out_only_when_it_is_asked_to() -> None:
    secret = Secret(KEY)
    token = Token(id="a", secret=secret, key=secret, minted_at=0.0, expires_at=1.0, limit=1, left=1)
    every = [secret, token, Lease(1, token, 1), parse_key(KEY, "the test"), [secret], {"a": secret}]
    for each in every:
        assert KEY not in f"{each!r}{each}"
    assert KEY not in json.dumps(asdict(token), default=str)
    assert KEY not in f"{secret!s}{secret!a}"
    assert secret.reveal() == KEY
    with pytest.raises(TypeError):
        json.dumps(secret)


@pytest.mark.parametrize("text", [f"{KEY} {KEY}", KEY + "\x00", KEY * 400, f"\n{KEY}", f"é{KEY}"])
def test_a_refused_key_stands_in_no_part_of_the_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "api-key"
    file.write_text(text)
    source = KeySource(name=f"file {file}", path=file)
    with pytest.raises(KeyRefusedError) as caught:
        source.read()
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert KEY not in repr(source) + repr(caught.value.args)
