"""The signals of this process, and what they mean while there is no child yet."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those that ask a program to end."""
PASSED_ON = (*ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP)


class Signals:
    """Has `heed` told of each signal, in the loop that runs when it is made.

    What is ignored then stays so: `nohup` has SIGHUP ignored, and a shell what reaches its jobs.
    """

    def __init__(self) -> None:
        self.heed: Callable[[int], None] = lambda _: None
        loop = asyncio.get_running_loop()
        for each in (*PASSED_ON, signal.SIGCONT):
            if signal.getsignal(each) is not signal.SIG_IGN:
                loop.add_signal_handler(each, self._take, each)

        def take(number: int, _: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._take, number)

        # uvloop keeps this one to itself, for processes that it has started.
        signal.signal(signal.SIGCHLD, take)

    def _take(self, number: int) -> None:
        self.heed(number)

    async def break_off(self, work: Coroutine[Any, Any, object]) -> int:
        """Do some work until a signal asks to end; return that signal, or 0 if the work is done."""
        task = asyncio.ensure_future(work)
        received = 0

        def heed(number: int) -> None:
            nonlocal received
            if number in ENDING:
                received = number
                task.cancel()
            elif number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)

        self.heed = heed
        await asyncio.wait([task])
        if not received:
            task.result()
        return received


def in_foreground() -> bool:
    """Tell whether what is typed at the controlling terminal is for this process's group."""
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def exit_code(code: int) -> int:
    """Return what to exit with for a child's exit code, which is negative if a signal ended it.

    That is what a shell would say. If the signal was SIGINT we end by it, too, and do not return: a
    shell goes on with its script when what it has started handled the key and merely exits.
    """
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)  # returns in the first process of a container
    return code if code >= 0 else 128 - code
