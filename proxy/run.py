"""The process: runs one coroutine on uvloop, minds signals, and turns the end into an exit code."""

import asyncio
import errno
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import uvloop
from msgspec.structs import replace

from proxy.app import App
from proxy.config import MEMORY, Address, Settings
from proxy.listening import StartError
from proxy.tokens.key import KeySource, StaticKey
from proxy.tokens.model import Secret
from proxy.traffic.binding import BindError

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run `work` and exit with the code it returns; errors of starting become one line."""
    sys.exit(outcome(work))


def outcome(work: Coroutine[Any, Any, int]) -> int:
    """Run `work` and return what it does; an error of starting is told in one line, and exits."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except (BindError, StartError, OSError) as error:
        fail(str(error), EXIT_FAILED)


def fail(text: str, code: int) -> NoReturn:
    """Say on standard error why it ends, and exit with `code`."""
    sys.stderr.write(f"mobula-proxy: {text}\n")
    sys.exit(code)


class SignalWatch:
    """The first signal sets `received`; a second one ends the process at once.

    Make it before anything is served: until then a signal ends the process without a drain.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._event = asyncio.Event()
        loop = asyncio.get_running_loop()
        for each in SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                loop.add_signal_handler(each, self._take, each)

    def _take(self, number: signal.Signals) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


async def serve(
    settings: Settings, source: KeySource | None, key: StaticKey | None, secret: Secret | None
) -> int:
    """Serve until a signal or a quit request; return the exit code."""
    signals = SignalWatch()
    async with _app(settings, source, key, secret) as app:
        return await _until_end(app, settings, signals)


def _app(
    settings: Settings, source: KeySource | None, key: StaticKey | None, secret: Secret | None
) -> App:
    """Return the proxy, or end the process for a file of the settings that is of no use."""
    try:
        return App(settings, source=source, key=key, secret=secret)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)


async def serve_demo(settings: Settings, key: str) -> int:
    """Serve a built-in sandbox in place of every upstream."""
    signals = SignalWatch()
    async with (
        demo(settings, key) as (settings, source, url),
        _app(settings, source, source.read(), None) as app,
    ):
        sys.stdout.write(_demo_text(app, url))
        sys.stdout.flush()
        return await _until_end(app, settings, signals)


@asynccontextmanager
async def demo(settings: Settings, key: str) -> AsyncIterator[tuple[Settings, KeySource, str]]:
    """A sandbox in place of every upstream: the settings that lead there, its key and its URL."""
    from proxy.sandbox import Sandbox  # noqa: PLC0415 - only demos pay for it

    async with Sandbox(keys={key: "growth"}) as sandbox:
        upstreams = {
            name: replace(each, url=sandbox.url, address=None, ca_file=None)
            for name, each in settings.upstreams.items()
        }
        # What the sandbox minted it forgets when it ends, and so should we.
        store = replace(settings.store, url=MEMORY)
        settings = replace(settings, upstreams=upstreams, store=store)
        yield settings, KeySource(name="the sandbox", value=key), sandbox.url


def _demo_text(app: App, url: str) -> str:
    address = app.addresses[0]
    call = "/api/1/market/data?asset=Bitcoin"
    if address.path:
        curl = f"curl --unix-socket {address.path} 'http://localhost{call}'"
    else:
        curl = f"curl 'http://{address}{call}'"
    text = (
        "No static key was given, so this is a demo: requests go to a sandbox of the Mobula API "
        f"that runs beside the proxy, on {url}. Its data is made up; its tokens, limits and "
        "errors behave like the real ones. To serve the real API, set MOBULA_API_KEY and start "
        "again. Try it now:"
    )
    return f"\n{textwrap.fill(text, 88)}\n\n    {curl}\n\n"


async def _until_end(app: App, settings: Settings, signals: SignalWatch) -> int:
    waits = [asyncio.create_task(signals.wait()), asyncio.create_task(app.wait_quit())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
    await app.finish()
    if signals.received is None:
        return EXIT_OK
    if signals.received is signal.SIGTERM and settings.shutdown.exit_zero_on_sigterm:
        return EXIT_OK
    return 128 + signals.received


async def serve_sandbox(bind: Address, keys: Mapping[str, str]) -> int:
    """Serve the sandbox alone until a signal; return the exit code."""
    from proxy.sandbox import Sandbox  # noqa: PLC0415 - only demos pay for it

    try:
        sandbox = Sandbox(keys=keys, bind=str(bind))
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    signals = SignalWatch()
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(sandbox)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE  # asyncio words that one at length
            reason = os.strerror(errno.EADDRINUSE) if in_use else error.strerror
            raise StartError(f"cannot listen on {bind}: {reason}") from error
        sys.stdout.write(
            f"Sandbox of the Mobula API on {sandbox.url}\n"
            f"static keys: {', '.join(f'{key} ({plan})' for key, plan in keys.items())}\n"
            f"ledger: curl {sandbox.url}/_sandbox/ledger\n"
        )
        sys.stdout.flush()
        await signals.wait()
        return 128 + signals.received if signals.received else EXIT_OK
