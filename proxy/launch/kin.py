"""The programs that a process runs, and those that its descendants run, while it lives.

A wrapper, be it npm, a shell or make, tells nothing of what makes the calls: only /proc does.
Where there is none, the program's own name and its first line must do.
"""

import os
import threading
import time
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from proxy.launch.runtimes import interpreter_in, language_in, runtime_of

PROC: Final = Path("/proc")
SOONEST, LATEST = 0.02, 0.25
"""Seconds between two looks: at first many programs start, later few."""
_LINE_BYTES = 256
_BINARY_BYTES = 1 << 29
"""Of binaries that are larger nobody reads what they are made of."""


class Kin:
    """Looks again and again in a thread, during its `with` block; `programs` are then known."""

    def __init__(self, pid: int, program: str) -> None:
        """`pid` is a process that becomes the `program`, which is a path, or has become it."""
        self._root = pid
        self._tree = {pid}
        self._known: set[int] = set()
        self._seen: set[str] = set()
        self._programs = {_told_by(program): None}
        self._own = _command_line(os.getpid())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __repr__(self) -> str:
        return f"<Kin of {self._root}: {', '.join(self._programs)}>"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def programs(self) -> list[str]:
        """Paths, or the languages that binaries were made of, in the order of their discovery."""
        return list(self._programs)

    def _look_on(self) -> None:
        started = time.monotonic()
        pause = SOONEST
        while not self._over.wait(pause):
            self.look()
            pause = min(LATEST, SOONEST + (time.monotonic() - started) / 10)

    def look(self) -> None:
        """Take note of what runs now."""
        pids = _pids()
        for pid in sorted(pids - self._known):
            if _parent(pid) in self._tree:
                self._tree.add(pid)
        self._known = pids
        self._tree &= pids  # numbers are given again
        for pid in self._tree:
            self._note(pid)

    def _note(self, pid: int) -> None:
        """Take note of what a process runs, unless it is a copy of us that waits to run it."""
        exe = PROC / str(pid) / "exe"
        with suppress(OSError):
            path = str(exe.readlink())
            if path not in self._seen and _command_line(pid) != self._own:
                self._seen.add(path)
                self._programs.setdefault(_named(path, exe))


def _told_by(program: str) -> str:
    """Return what a program's file tells: who reads it, if it is a script, or what it is."""
    path = Path(program).resolve()
    with suppress(OSError), path.open("rb") as file:
        if interpreter := interpreter_in(file.read(_LINE_BYTES)):
            return interpreter
    return _named(str(path), path)


def _named(path: str, file: Path) -> str:
    """Return the path of a program, or what it was made of if its name does not tell."""
    return path if runtime_of(path) else _language(file) or path


def _language(path: Path) -> str:
    with suppress(OSError, ValueError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= _BINARY_BYTES:
            with mmap(file.fileno(), 0, access=ACCESS_READ) as binary:
                return language_in(binary)
    return ""


def _pids() -> set[int]:
    with suppress(OSError):
        return {int(each.name) for each in PROC.iterdir() if each.name.isdecimal()}
    return set()


def _parent(pid: int) -> int:
    """Return the parent of a process (proc(5)): the name before it may hold anything."""
    with suppress(OSError):
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes()
    return b""
