"""A terminal, and the program that runs on it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

PATIENCE = 20.0
_ON_TERMINAL = 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1'
"""The first terminal that the leader of a session opens controls the session."""
_LOCAL_MODES = 3


class Terminal:
    """A pseudo-terminal with a program in its foreground; it does not echo what is typed."""

    def __init__(self, *command: str, environ: Mapping[str, str]) -> None:
        self._shown = ""
        self._master, self._slave = pty.openpty()
        modes = termios.tcgetattr(self._slave)
        modes[_LOCAL_MODES] &= ~termios.ECHO
        termios.tcsetattr(self._slave, termios.TCSANOW, modes)
        self.process = subprocess.Popen(
            ["sh", "-c", _ON_TERMINAL, "sh", os.ttyname(self._slave), *command],
            env=environ,
            start_new_session=True,
        )

    def __repr__(self) -> str:
        return f"<Terminal of {self.process.pid}, {len(self._shown)} characters unread>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        jobs = self._jobs()  # what ignores hanging up would be left behind
        self.hang_up()
        self.process.kill()
        self.process.wait()
        for each in jobs:
            with suppress(psutil.NoSuchProcess):
                each.kill()

    def _jobs(self) -> list[psutil.Process]:
        """Return every process that was started here and has not ended."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hang_up(self) -> None:
        """Close it, as by closing its window."""
        for each in {self._master, self._slave} - {-1}:
            os.close(each)
        self._master = self._slave = -1

    def until(self, text: str) -> str:
        """Wait until it shows a text, and return all that it has shown up to that."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._shown:
            ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert ready, f"it does not show {text!r} but {self._shown!r}"
            self._shown += os.read(self._master, 65536).decode()
        before, _, self._shown = self._shown.partition(text)
        return before

    def lines_until(self, text: str) -> list[str]:
        """Do the same, by lines; `text` ends one."""
        return self.until(f"{text}\r\n").split()
