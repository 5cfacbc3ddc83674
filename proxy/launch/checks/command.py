"""How a command has ended, and what ran in it."""

import signal
import subprocess
from collections.abc import Callable, Sequence

from proxy.launch.report import Line, ok, warn
from proxy.launch.runtimes import runtime_of

CHECK = "command"
SHOWN = 3
"""How many programs a line names."""
VERSION_SECONDS = 3.0


def judge(name: str, code: int, programs: str) -> Line:
    """Say it; `code` is negative if a signal ended it."""
    if code == 0:
        return ok(CHECK, name, f"exited with 0; {programs}")
    if code in (-signal.SIGINT, 128 + signal.SIGINT):
        return ok(CHECK, name, f"ended by SIGINT, as by Ctrl-C; {programs}")
    ended = f"exited with {code}" if code > 0 else f"ended by {_signal(-code)}"
    return warn(CHECK, name, f"{ended}; {programs}", step="see what it has said itself")


def _signal(number: int) -> str:
    return next((each.name for each in signal.Signals if each == number), f"signal {number}")


def node_version(program: str) -> str:
    """Ask a Node for its version: before 22.21 none honours a proxy variable."""
    try:
        done = subprocess.run(  # noqa: S603 - it has just been run
            [program, "--version"],
            capture_output=True,
            check=False,
            text=True,
            timeout=VERSION_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def describe(programs: Sequence[str], version: Callable[[str], str] = node_version) -> str:
    """Name those that are known to make calls, or else a few of all."""
    known = {runtime: each for each in programs if (runtime := runtime_of(each))}
    names = [
        f"node {version(program)}".rstrip() if runtime.name == "node" else _base(program)
        for runtime, program in known.items()
    ]
    return f"ran {', '.join(names or map(_base, programs[:SHOWN]))}"


def _base(program: str) -> str:
    return program.rpartition("/")[2]
