"""Where the command starts, before anything is loaded that takes time."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line, as a process that ends on signals also when it is the first one.

    The kernel does nothing to the first process of a container for a signal that it has no handler
    for (pid_namespaces(7)): one that came early would be lost, and the container be killed later.
    """
    if os.getpid() == 1:
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, _end)
    from proxy import cli  # noqa: PLC0415 - it loads all the rest

    cli.main()


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
