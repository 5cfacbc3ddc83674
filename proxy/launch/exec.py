"""A proxy for one child: it serves from before the child starts until it has ended."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import structlog

from proxy import run
from proxy.app import App
from proxy.config import Settings
from proxy.errors import TokenUnavailable
from proxy.launch.adapt import adapted, hosts, refusal, sockets, usual, with_network_proxy
from proxy.launch.environment import Way, child_environment
from proxy.launch.folder import own_folder
from proxy.launch.process import Child
from proxy.launch.program import ProgramError, find_program
from proxy.launch.signals import Signals, exit_code
from proxy.launch.streams import let_go
from proxy.launch.trust import trusted_files
from proxy.launch.witness import Witness
from proxy.listening import StartError
from proxy.tokens.key import KeySource, StaticKey
from proxy.tokens.model import Secret
from proxy.traffic.bundle import PASSWORD
from proxy.traffic.fact import Observer

PRELOAD = Path(__file__).with_name("preload.cjs")
FIRST_TOKEN_SECONDS = 60.0
"""How long the first token may take; that long a used-up mint budget is closed at the most."""
PLACEHOLDER_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the proxy needs to mint, or to live on what others mint."""

    source: KeySource | None
    key: StaticKey | None
    store_secret: Secret | None = None

    @property
    def seal(self) -> Secret | None:
        """What the store is sealed with."""
        return self.store_secret or (self.key.secret if self.key else None)

    def secrets(self) -> list[Secret]:
        """Return what no child may see."""
        return [each for each in (self.key and self.key.secret, self.store_secret) if each]


class Launch:
    """One child, and the proxy that serves it alone."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, serves_all: bool
    ) -> None:
        """Fork what becomes the child; make it while there is one thread. Raises ProgramError.

        One that `serves_all` does not ask its clients for the placeholder.
        """
        self.program = find_program(command[0], environ)
        """The path of what is run."""
        self._command = command[0]
        self._environ = environ
        self._serves_all = serves_all
        self._placeholder = Secret(f"mobula-proxy-{secrets.token_urlsafe(PLACEHOLDER_BYTES)}")
        self._witness = Witness()
        self._child = Child(self.program, command, self._witness)
        let_go(0, 1)

    def __repr__(self) -> str:
        return f"<Launch of {self._child!r}>"

    @property
    def pid(self) -> int:
        return self._child.pid

    async def run(
        self, settings: Settings, credentials: Credentials, observe: Observer | None = None
    ) -> int:
        """Serve the child until it ends, and return its exit code, as `Child.run` does.

        `observe` is told what becomes of its requests. Raises BindError or StartError if the proxy
        cannot start, or gets no token in time, and ValueError as `App` does.
        """
        signals = Signals()
        self._witness.listen()
        with own_folder() as name:
            self._witness.bequeath(name)
            folder = Path(name)
            app = self._app(settings, credentials, folder, observe)
            async with AsyncExitStack() as stack:
                code = -await signals.break_off(stack.enter_async_context(app))
                if not code:
                    way = self._way(settings, app, folder)
                    environ = child_environment(self._environ, credentials.secrets(), way)
                    code = await self._serve(app, signals, environ)
        return code

    def _app(
        self,
        settings: Settings,
        credentials: Credentials,
        folder: Path,
        observe: Observer | None,
    ) -> App:
        if reason := refusal(settings, self._environ):
            _warn("the user's state directory cannot be used: set state_dir to another", reason)
        return App(
            adapted(self._through_network(settings), folder, self._environ),
            source=credentials.source,
            key=credentials.key,
            secret=credentials.store_secret,
            placeholder=None if self._serves_all else self._placeholder,
            observe=observe,
        )

    def _through_network(self, settings: Settings) -> Settings:
        try:
            return with_network_proxy(settings, self._environ)
        except ValueError as error:
            _warn("the proxy of this network cannot be used", f"it {error}")
            return settings

    def _way(self, settings: Settings, app: App, folder: Path) -> Way:
        ca = app.local_ca
        return Way(
            address=app.addresses[0],
            placeholder=self._placeholder,
            hosts=hosts(settings),
            sockets=sockets(settings, folder),
            preload=PRELOAD,
            trust=trusted_files(self._environ, folder, ca),
            trust_store=ca.files.truststore,
            trust_store_password=PASSWORD.decode(),
        )

    async def _serve(self, app: App, signals: Signals, environ: Mapping[str, str]) -> int:
        code = -await signals.break_off(self._await_token(app))
        if not code:
            quitting = asyncio.create_task(self._end_on_quit(app))
            try:
                code = await self._child.run(environ, signals)
            except ProgramError as error:
                sys.stderr.write(f"mobula-proxy: {error}\n")
                code = error.code
            quitting.cancel()
        await signals.break_off(app.finish())
        return code

    async def _await_token(self, app: App) -> None:
        try:
            await app.wait_for_token(FIRST_TOKEN_SECONDS)
        except TokenUnavailable as error:
            raise StartError(f"{self._command} was not started. {error.detail}") from error

    async def _end_on_quit(self, app: App) -> None:
        await app.wait_quit()
        self._child.send(signal.SIGTERM)


def _warn(event: str, reason: str) -> None:
    log: Any = structlog.get_logger("mobula_proxy")
    log.warning(event, reason=reason)


def usual_settings(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what to take for settings that are not given; see `config.load`."""
    return usual(given, os.environ)


def launch(
    command: Sequence[str], settings: Settings, credentials: Credentials, *, serves_all: bool
) -> NoReturn:
    """Run a command with a proxy of its own, and exit as it does."""
    this = _made(command, serves_all=serves_all)
    sys.exit(exit_code(run.outcome(this.run(settings, credentials))))


def launch_demo(
    command: Sequence[str], settings: Settings, key: str, *, serves_all: bool
) -> NoReturn:
    """Do the same with a sandbox in place of the API."""
    this = _made(command, serves_all=serves_all)

    async def work() -> int:
        async with run.demo(settings, key) as (in_demo, source, _):
            return await this.run(in_demo, Credentials(source=source, key=source.read()))

    sys.stderr.write("mobula-proxy: no static key: a demo, with made-up data\n")
    sys.exit(exit_code(run.outcome(work())))


def _made(command: Sequence[str], *, serves_all: bool) -> Launch:
    try:
        return Launch(command, os.environ, serves_all=serves_all)
    except ProgramError as error:
        run.fail(str(error), error.code)
    except OSError as error:
        run.fail(f"no process can be started: {error.strerror}", run.EXIT_FAILED)
