"""What the tests share: a proxy in this process, the installed command, and raw sockets.

Every secret that a test uses is remembered here, and so is everything that a proxy logged or
printed: after each test, none of the first may stand in the second (promise 1).
"""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from proxy.app import App
from proxy.config import LogSettings, Settings, load
from proxy.ops import logs
from proxy.sandbox import Sandbox
from proxy.tokens.clock import steady
from proxy.tokens.key import KeySource

KEY = "live-static-key-0123456789abcdef"
COMMAND = Path(sys.executable).with_name("mobula-proxy")
START_SECONDS = 20.0


class SecretScan:
    """Collects output and secrets; `leaks` names the secrets found in the output."""

    def __init__(self) -> None:
        self.output = io.StringIO()
        self._secrets: set[str] = {KEY}
        self._sandboxes: list[Sandbox] = []

    def add(self, secret: str) -> None:
        self._secrets.add(secret)

    def watch(self, sandbox: Sandbox) -> None:
        """Count every token that this sandbox mints among the secrets."""
        self._sandboxes.append(sandbox)

    def leaks(self) -> list[str]:
        text = self.output.getvalue()
        tokens = {
            value for sandbox in self._sandboxes for value in sandbox.ledger.secrets()
        }
        return [secret for secret in self._secrets | tokens if secret in text]


def settings_for(url: str, **sections: Any) -> Settings:
    """Settings of a proxy on free ports in front of `url`; `sections` as in the YAML file."""
    tree: dict[str, Any] = {
        "upstreams": {"api.mobula.io": {"url": url} | sections.pop("upstream", {})},
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": {"bind": "127.0.0.1:0"},
        **sections,
    }
    overrides = [(name, json.dumps(section)) for name, section in tree.items()]
    return load(file=None, environ={}, overrides=overrides)


@contextlib.asynccontextmanager
async def running(
    url: str, scan: SecretScan, *, key: KeySource | None = None, clock: Any = steady, **sections: Any
) -> AsyncIterator[App]:
    """A proxy in this process, in front of `url`."""
    settings = settings_for(url, **sections)
    logs.configure(LogSettings(format="json", level="debug"), scan.output)
    source = key or KeySource(name="the test", value=KEY)
    async with App(settings, source=source, key=source.read(), clock=clock) as app:
        yield app


def base_url(app: App) -> str:
    return f"http://{app.addresses[0]}"


async def until_ready(app: App) -> None:
    """Wait until a token is in hand."""
    async with asyncio.timeout(5.0):
        while not app.status().ready:
            await asyncio.sleep(0.002)


async def exchange(app: App, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes to the first listener and return all that comes until it closes."""
    address = app.addresses[0]
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(10.0):
            return await reader.read()
    finally:
        writer.close()


class Command:
    """The installed command as a child process; its output is read as it comes."""

    def __init__(
        self, arguments: Sequence[str], scan: SecretScan, environ: Mapping[str, str] | None = None
    ) -> None:
        self._scan = scan
        self._process = subprocess.Popen(
            [str(COMMAND), *arguments],
            env={"PATH": os.environ["PATH"], **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out = ""
        self.err = ""
        self.pid = self._process.pid

    def serving(self) -> dict[str, Any]:
        """Read the log up to the line that says what is served, and return that line."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.err += line
            if '"event": "serving"' in line:
                record: dict[str, Any] = json.loads(line)
                return record
        raise AssertionError(f"it ended before it served: {self.err}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Wait for the end and return the exit code; `out` and `err` then hold all output."""
        out, err = self._process.communicate(timeout=seconds)
        self.out += out
        self.err += err
        return self._process.returncode

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout and not self._process.stdout.closed:
            self.wait()
        self._scan.output.write(self.out + self.err)


def served_url(record: Mapping[str, Any]) -> str:
    """The first listener's URL, from the log line that says what is served."""
    return "http://" + str(record["listeners"][0]).split()[1]


@contextlib.contextmanager
def command(
    *arguments: str, scan: SecretScan, environ: Mapping[str, str] | None = None
) -> Iterator[Command]:
    """Run the installed command; it is ended by its own process id."""
    process = Command(arguments, scan, environ)
    try:
        yield process
    finally:
        process.kill()


def command_line(sandbox_url: str) -> list[str]:
    """`serve` on free ports in front of a sandbox."""
    return [
        "serve",
        "--set",
        f"upstreams.api.mobula.io.url={sandbox_url}",
        "--set",
        'listeners=[{"bind": "127.0.0.1:0"}]',
        "--set",
        "admin.bind=127.0.0.1:0",
    ]


async def get(url: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
    """One GET on a connection of its own: status, headers, body."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        session.get(url, **options) as response,
    ):
        return response.status, response.headers, await response.read()
