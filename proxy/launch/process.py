"""A child that stands in for us: what is meant for us reaches it, and its end is ours.

It is in our process group, so that a terminal reaches both, the shell that started us has one job,
and pipelines work. The rules of signals:

- One that went to the whole group has reached the child. One that went to us alone is passed on.
- When the child stops, so do we, if a shell waits for that. When we go on, so does the child.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from proxy.launch.program import NOT_RUN, ProgramError, run_program
from proxy.launch.signals import Signals, in_foreground
from proxy.launch.witness import GRACE_SECONDS, Witness

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_PR_SET_PDEATHSIG = 1
"""Of prctl(2): which signal the kernel sends when the parent is gone."""


class Child:
    """A process that waits until it is told to become the program.

    It is forked at once, so make it while there is one thread, and before limits are changed or
    files opened that are not its business: what it inherits is what we did.
    """

    def __init__(self, path: str, arguments: Sequence[str], witness: Witness) -> None:
        """`arguments` begin with the program's name, as it was called."""
        self._name = arguments[0]
        self._witness = witness
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._code: int | None = None
        self._ended = asyncio.Event()
        orders, self._orders = os.pipe()
        self._failure, failure = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            os.close(self._failure)
            _become(path, list(arguments), orders, failure, parent)
        os.close(orders)
        os.close(failure)

    def __repr__(self) -> str:
        return f"<Child {self.pid} {self._name}>"

    async def run(self, environ: Mapping[str, str], signals: Signals) -> int:
        """Have it become the program, and return its exit code once it has ended.

        The code is negative if a signal ended it. Raises ProgramError.
        """
        self._witness.forget()
        signals.heed = self._heed
        self._start(environ)
        self._look()
        await self._ended.wait()
        assert self._code is not None  # noqa: S101 - for the type checker
        return self._code

    def _start(self, environ: Mapping[str, str]) -> None:
        # It may have been ended already, by what was sent to all of the group.
        with suppress(BrokenPipeError), os.fdopen(self._orders, "wb") as orders:
            orders.write(_packed(environ))
        with os.fdopen(self._failure, "rb") as failure:
            number = failure.read()
        if number:
            raise ProgramError(self._name, int(number))

    def send(self, number: int) -> None:
        """Send it a signal, if it has not ended and may be sent one."""
        if self._code is None:
            with suppress(OSError):
                os.kill(self.pid, number)

    def _heed(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._look()
        elif number == signal.SIGCONT:
            self._begin(self._go_on())
        else:
            self._begin(self._pass_on(number))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _pass_on(self, number: int) -> None:
        seen_by_all = await self._witness.saw(number)
        if self._code is None and not (seen_by_all and os.getpgid(self.pid) == os.getpgrp()):
            self.send(number)

    async def _stop(self) -> None:
        """Stop if the child stays stopped: both may be about to go on, and we be ahead."""
        await asyncio.sleep(GRACE_SECONDS)
        self._look()
        if self._stopped and in_foreground():
            os.kill(os.getpid(), signal.SIGSTOP)

    async def _go_on(self) -> None:
        """Have the child go on if it stays stopped: then it was not told to, as we were."""
        await asyncio.sleep(GRACE_SECONDS)
        self._look()
        if self._stopped:
            self.send(signal.SIGCONT)

    def _look(self) -> None:
        """Take note of what has become of it.

        Others are orphans, which come to the first process of a container.
        """
        while self._code is None:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid == self.pid:
                self._note(status)
            elif pid == 0:
                return

    def _note(self, status: int) -> None:
        if os.WIFCONTINUED(status):
            self._stopped = False
        elif os.WIFSTOPPED(status):
            self._stopped = True
            self._begin(self._stop())
        else:
            self._code = os.waitstatus_to_exitcode(status)
            self._ended.set()


def _packed(environ: Mapping[str, str]) -> bytes:
    return b"".join(os.fsencode(f"{name}={value}\0") for name, value in environ.items())


def _unpacked(packed: bytes) -> dict[bytes, bytes]:
    pairs = (each.partition(b"=") for each in packed.split(b"\0")[:-1])
    return {name: value for name, _, value in pairs}


def _become(path: str, arguments: list[str], orders: int, failure: int, parent: int) -> NoReturn:
    """Run the program with the environment that comes as the orders; none come if we failed."""
    try:
        _restore_signals()
        meant = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # while it waits, we may wait for it
        with os.fdopen(orders, "rb") as stream:
            packed = stream.read()
        if packed:
            _end_with(parent)
            signal.signal(signal.SIGTSTP, meant)
            run_program(path, arguments, _unpacked(packed))
    except OSError as error:
        os.write(failure, str(error.errno).encode())
    finally:
        os._exit(NOT_RUN)


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the proxy is gone, be it by SIGKILL; only Linux can.

    The child could not reach the API any more, and might send what it asks for to whoever takes the
    proxy's port next.
    """
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - for this one call

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(NOT_RUN)


def _restore_signals() -> None:
    """Undo what Python has changed; what was ignored when we started stays so."""
    for each in _IGNORED_BY_PYTHON:
        signal.signal(each, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
