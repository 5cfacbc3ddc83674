"""What the tests share: a proxy in this process, the installed command, and raw sockets.

Every secret that a test uses is remembered here, and so is everything that a proxy logged or
printed: after each test, none of the first may stand in the second (promise 1).
"""

import asyncio
import contextlib
import functools
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import aiohttp
import psutil
import pytest
from click.testing import CliRunner

from proxy.app import App
from proxy.cli import main
from proxy.config import LogSettings, Settings, load
from proxy.ops import logs
from proxy.sandbox import Sandbox
from proxy.tokens.clock import steady
from proxy.tokens.key import KeySource
from proxy.tokens.model import Secret

KEY = "live-static-key-0123456789abcdef"
COMMAND = Path(sys.executable).with_name("mobula-proxy")
START_SECONDS = 20.0
_STREAMS = {"out": "stdout", "err": "stderr"}


def program(name: str) -> str:
    """Return the path of a program; a test that needs a missing one is skipped, but not in CI.

    CI installs them, so a missing one is a failure there.
    """
    return shutil.which(name) or lacking(name)


def lacking(what: str) -> NoReturn:
    """Skip the test that needs this; in CI it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"needs {what}")


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

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the records of that name that proxies in this process have logged so far."""
        records = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [record for record in records if record["event"] == event]

    def leaks(self) -> list[str]:
        text = self.output.getvalue()
        tokens = {value for sandbox in self._sandboxes for value in sandbox.ledger.secrets()}
        return [secret for secret in self._secrets | tokens if _shows(text, secret)]


def _shows(text: str, secret: str) -> bool:
    """Tell whether `text` holds a secret: plain, encoded, or but a token's signature."""
    percent, *forms = _forms(secret)
    return percent in text.lower() or any(form in text for form in forms)


@functools.lru_cache(maxsize=4096)
def _forms(secret: str) -> tuple[str, ...]:
    raw = secret.encode()
    percent = "".join(f"%{byte:02x}" for byte in raw)
    base64 = b64encode(raw).decode().rstrip("=")
    signature = secret.rpartition(".")[2]
    return percent, secret, base64, signature


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
async def mobula(scan: SecretScan) -> AsyncIterator[Sandbox]:
    """An emulated Mobula that knows KEY; it saw no static key outside the token endpoints."""
    async with Sandbox(keys={KEY: "growth"}) as sandbox:
        scan.watch(sandbox)
        yield sandbox
        report = sandbox.ledger.report()
        assert report["leaks"] == []
        assert report["over_limit"] == report["after_expiry"] == 0


@contextlib.asynccontextmanager
async def running(
    url: str,
    scan: SecretScan,
    *,
    key: KeySource | None = None,
    placeholder: Secret | None = None,
    clock: Any = steady,
    chance: Callable[[], float] = random.random,
    **sections: Any,
) -> AsyncIterator[App]:
    """A proxy in this process, in front of `url`."""
    settings = settings_for(url, **sections)
    logs.configure(LogSettings(format="json", level="debug"), scan.output)
    source = key or KeySource(name="the test", value=KEY)
    async with App(
        settings,
        source=source,
        key=source.read(),
        placeholder=placeholder,
        clock=clock,
        chance=chance,
    ) as app:
        yield app


def base_url(app: App) -> str:
    return f"http://{app.addresses[0]}"


async def until_ready(app: App) -> None:
    """Wait until a token is in hand."""
    await until(lambda: app.status().ready)


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
        self,
        arguments: Sequence[str],
        scan: SecretScan,
        environ: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        within: Sequence[str] = (),
        named: str | Path = COMMAND,
    ) -> None:
        """`within` is a command that becomes the one behind it, such as nsenter.

        `named` is what the command is called there.
        """
        self._scan = scan
        self._process = subprocess.Popen(
            [*within, str(named), *arguments],
            env={"PATH": os.environ["PATH"], **(environ or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out = ""
        self.err = ""
        self.pid = self._process.pid
        self._news = threading.Condition()
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in _STREAMS]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        with getattr(self._process, _STREAMS[name]) as stream:
            for line in stream:
                with self._news:
                    setattr(self, name, getattr(self, name) + line)
                    self._news.notify_all()

    def line(self, text: str, seconds: float = START_SECONDS) -> str:
        """Wait for a line of output that holds `text`, and return it."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self._process.poll() is not None
            for reader in self._readers if ended else ():
                reader.join(seconds)
            with self._news:
                lines = (self.out + self.err).splitlines()
                for line in lines:
                    if text in line:
                        return line
                assert not ended, f"it ended and never said {text!r}: {self.err}"
                assert time.monotonic() < deadline, f"it does not say {text!r}: {self.err}"
                self._news.wait(0.05)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the log record of that name, and return it."""
        record: dict[str, Any] = json.loads(self.line(f'"event": "{name}"'))
        return record

    def serving(self) -> dict[str, Any]:
        """Wait for the log line that says what is served, and return that line."""
        return self.event("serving")

    def records(self) -> list[dict[str, Any]]:
        """Return the log so far; every line must be a JSON object."""
        return [json.loads(line) for line in self.err.splitlines()]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Wait for the end and return the exit code; `out` and `err` then hold all output."""
        deadline = time.monotonic() + seconds
        for reader in self._readers:
            reader.join(deadline - time.monotonic())
        return self._process.wait(timeout=max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        self._scan.output.write(self.out + self.err)


def called(*arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Call the command in this process: exit code, standard output, standard error.

    Without an `environ` of its own it is given KEY.
    """
    names = [name for name in os.environ if name.startswith("MOBULA_")]
    given = {"MOBULA_API_KEY": KEY} if environ is None else environ
    result = CliRunner().invoke(main, arguments, env={**dict.fromkeys(names), **given})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def served_url(record: Mapping[str, Any]) -> str:
    """The first listener's URL, from the log line that says what is served; empty without one."""
    return next(("http://" + str(each).split()[1] for each in record["listeners"]), "")


@contextlib.contextmanager
def command(
    *arguments: str,
    scan: SecretScan,
    environ: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    within: Sequence[str] = (),
    named: str | Path = COMMAND,
) -> Iterator[Command]:
    """Run the installed command; it is ended by its own process id."""
    process = Command(arguments, scan, environ, stdin, within, named)
    try:
        yield process
    finally:
        process.kill()


@dataclass(frozen=True)
class InstalledSandbox:
    """The installed sandbox while it serves; see `Command` for `within`."""

    url: str
    within: Sequence[str]

    def ledger(self) -> dict[str, Any]:
        """Ask it what has arrived so far."""
        asked = [*self.within, program("curl"), "-sSf", f"{self.url}/_sandbox/ledger"]
        told = subprocess.run(asked, capture_output=True, check=True, timeout=20).stdout
        ledger: dict[str, Any] = json.loads(told)
        return ledger


@contextlib.contextmanager
def installed_sandbox(
    bind: str = "127.0.0.1:0", within: Sequence[str] = ()
) -> Iterator[InstalledSandbox]:
    """The installed sandbox, which saw no static key outside the token endpoints."""
    arguments = ["sandbox", "--bind", bind, "--key", f"{KEY}=growth"]
    # Its output is not scanned: a sandbox shows the keys it was given.
    with command(*arguments, scan=SecretScan(), within=within) as process:
        url = process.line("Sandbox of the Mobula API on ").split()[-1]
        sandbox = InstalledSandbox(url, within)
        yield sandbox
        ledger = sandbox.ledger()
    assert ledger["leaks"] == []
    assert ledger["leak_count"] == ledger["unauthorized"] == 0
    assert ledger["data_requests"] == sum(token["used"] for token in ledger["tokens"])


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


@dataclass(frozen=True)
class Served:
    """The installed command while it serves: its process and its base URLs."""

    process: Command
    url: str
    admin: str

    @classmethod
    async def of(cls, process: Command) -> Self:
        """Wait until a process serves, while this loop goes on."""
        record = await asyncio.to_thread(process.serving)
        return cls(process, served_url(record), f"http://{record['admin']}")

    async def ended(self) -> int:
        """Wait for the end and return the exit code, while this loop goes on."""
        return await asyncio.to_thread(self.process.wait)

    async def said(self, event: str) -> dict[str, Any]:
        """Wait for the log record of that name, while this loop goes on."""
        return await asyncio.to_thread(self.process.event, event)

    async def ready(self) -> None:
        """Wait until a token is in hand."""
        async with asyncio.timeout(START_SECONDS):
            while (await get(self.admin + "/readyz"))[0] != 200:  # noqa: ASYNC110 - as an operator
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(
    sandbox_url: str,
    scan: SecretScan,
    *overrides: str,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Served]:
    """The installed command in front of a sandbox, once it serves; `overrides` are for `--set`.

    Without an `environ` of its own it is given KEY.
    """
    sets = [*flags, *(part for override in overrides for part in ("--set", override))]
    environ = {"MOBULA_API_KEY": KEY} if environ is None else environ
    with command(*command_line(sandbox_url), *sets, scan=scan, environ=environ) as process:
        yield await Served.of(process)


def finished(
    *arguments: str,
    scan: SecretScan,
    environ: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> tuple[int, str, str]:
    """Run the installed command to its end: exit code, standard output, standard error."""
    with command(*arguments, scan=scan, environ=environ, stdin=stdin) as process:
        code = process.wait()
    return code, process.out, process.err


def open_files() -> int:
    """Return how many file descriptors this process has."""
    return psutil.Process().num_fds()


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fail if a task or a file that the block opened is still there soon after it."""
    tasks, files = asyncio.all_tasks(), open_files()
    yield
    await until(lambda: asyncio.all_tasks() <= tasks and open_files() <= files)


async def until(check: Callable[[], bool], seconds: float = 5.0) -> None:
    """Return once `check` is true; TimeoutError if it is not in time."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - what it looks at has no event
            await asyncio.sleep(0.005)


class Gate:
    """Holds up whoever comes until it is opened; hand `hold` to a sandbox as its sleep."""

    def __init__(self) -> None:
        self.held = 0
        self._open = asyncio.Event()

    async def hold(self, _: float) -> None:
        self.held += 1
        await self._open.wait()

    def open(self) -> None:
        self._open.set()

    async def reached(self, count: int = 1) -> None:
        """Return once `count` have come."""
        await until(lambda: self.held >= count)


async def get(url: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
    """One GET on a connection of its own: status, headers, body."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        session.get(url, **options) as response,
    ):
        return response.status, response.headers, await response.read()
