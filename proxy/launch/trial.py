"""A command that is run as `exec` would, to see what becomes of its calls."""

import asyncio
import os
from collections.abc import Sequence

import uvloop
from msgspec.structs import replace

from proxy.config import Settings
from proxy.launch.adapt import with_network_proxy
from proxy.launch.checks import calls, command
from proxy.launch.exec import Credentials, Launch
from proxy.launch.kin import Kin
from proxy.launch.program import ProgramError
from proxy.launch.report import Line, fail, skip, warn
from proxy.launch.runtimes import runtimes_of
from proxy.listening import StartError
from proxy.traffic.binding import BindError
from proxy.traffic.fact import Fact


class Trial:
    """The command, and once it has been run, what there is to say of it."""

    def __init__(self, words: Sequence[str]) -> None:
        """Fork what becomes the command; make it while there is one thread.

        From then on standard output is the command's.
        """
        self._name = words[0]
        self._fault = ""
        self._launch: Launch | None = None
        try:
            self._launch = Launch(words, os.environ, serves_all=False)
        except ProgramError as error:
            self._fault = str(error)

    def __repr__(self) -> str:
        return f"<Trial of {self._name}>"

    def adapted(self, settings: Settings) -> tuple[Settings, list[Line]]:
        """Return the settings that `exec` would use, as far as they are of use for a look."""
        settings = replace(settings, listeners=())
        try:
            return with_network_proxy(settings, os.environ), []
        except ValueError as error:
            found = f"the proxy that it names cannot be used: it {error}"
            return settings, [warn("settings", "HTTPS_PROXY", found, step="set upstream_proxy")]

    def run(self, settings: Settings, credentials: Credentials, *, is_fit: bool) -> list[Line]:
        """Run it, unless the proxy is not fit to start for it."""
        if self._launch is None:
            step = "name a program that is there and may be run"
            return [fail(command.CHECK, self._name, self._fault, step=step)]
        if settings.role == "minter":
            found = "a minter serves no command"
            return [fail(command.CHECK, self._name, found, step="set role to both or member")]
        if not is_fit:
            return [skip(command.CHECK, self._name, "not run, because of what failed above")]
        return self._judged(self._launch, settings, credentials)

    def _judged(self, launch: Launch, settings: Settings, credentials: Credentials) -> list[Line]:
        facts: list[Fact] = []
        try:
            with (
                Kin(launch.pid, launch.program) as kin,
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            ):
                code = runner.run(launch.run(settings, credentials, facts.append))
        except (BindError, StartError, OSError) as error:
            step = "see what failed above, and docs/errors.md"
            return [fail(command.CHECK, self._name, str(error), step=step)]
        ended = command.judge(self._name, code, command.describe(kin.programs))
        return [ended, *calls.judge(facts, runtimes_of(kin.programs))]
