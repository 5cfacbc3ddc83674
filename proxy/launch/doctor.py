"""Doctor: what is wrong with a proxy, or on the way from an app to it, and what to do next."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import uvloop

from proxy.config import SettingsError, load
from proxy.launch.checks import key
from proxy.launch.checks import settings as settings_check
from proxy.launch.examination import Examination
from proxy.launch.exec import usual_settings
from proxy.launch.report import Printer, has_failed
from proxy.launch.trial import Trial
from proxy.ops import logs
from proxy.run import EXIT_FAILED, EXIT_OK, EXIT_USAGE

Overrides = Sequence[tuple[str, str]]


def consult(
    config: Path | None,
    overrides: Overrides,
    words: Sequence[str],
    *,
    mints: bool,
    json_list: bool,
) -> int:
    """Print what there is to say, also of a command if `words` are one; return the exit code."""
    stream = _own_output(shared=bool(words), json_list=json_list)
    printer = Printer(stream, json_list=json_list)
    try:
        _consult(config, overrides, Trial(words) if words else None, printer, mints=mints)
    except SettingsError as error:
        printer.print(settings_check.refused(error))
        return EXIT_USAGE
    finally:
        printer.end()
    return EXIT_FAILED if has_failed(printer.lines) else EXIT_OK


def _own_output(*, shared: bool, json_list: bool) -> TextIO:
    """Return standard output, for us alone if a command will have it; beside JSON it has none."""
    if not shared:
        return sys.stdout
    own = os.fdopen(os.dup(1), "w")
    if json_list:
        os.dup2(2, 1)
    return own


def _consult(
    config: Path | None,
    overrides: Overrides,
    trial: Trial | None,
    printer: Printer,
    *,
    mints: bool,
) -> None:
    usual = usual_settings if trial else lambda _: {}
    settings = load(file=config, environ=os.environ, overrides=overrides, usual=usual)
    logs.configure(settings.log)
    lines, credentials = key.find(settings, os.environ)
    looked_at = settings
    if trial is not None:
        looked_at, more = trial.adapted(settings)
        lines = [*more, *lines]
    sources = settings_check.sources_of(config, os.environ, overrides)
    printer.print([*settings_check.judge(looked_at, sources), *lines])
    examination = Examination(
        settings=looked_at,
        credentials=credentials,
        environ=os.environ,
        mints=mints,
        for_command=trial is not None,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        examined = runner.run(examination.run())
    printer.print(examined.lines)
    if trial is not None:
        is_fit = examined.is_fit and not has_failed(lines)
        tried = trial.run(settings, credentials, is_fit=is_fit)
        printer.part()
        printer.print(tried)
