"""Virtual time: a loop whose clock leaps over every wait, so that an hour passes in a moment.

A test marked `virtual_time` runs on it. What is handed the loop's `time` as its clock lives in it
too. Sockets are real: time stands still while one of them, or a thread, has anything to do.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SILENCE = 0.0005
"""Real seconds for which no socket may have anything to tell before time moves on."""


class _Leaps(selectors.SelectSelector):
    """Moves `now` on instead of waiting, unless `threads` are at work.

    By select(2), since epoll would wait for a whole millisecond before each leap.
    """

    def __init__(self, silence: float) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0
        self._silence = silence

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self.threads:
            return super().select(timeout)
        events = super().select(self._silence)
        if not events:
            self.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Tells virtual time, in seconds from 0."""

    def __init__(self, silence: float = SILENCE) -> None:
        """`silence` may be 0 if no socket gets anything from outside this loop."""
        self._leaps = _Leaps(silence)
        super().__init__(self._leaps)

    def time(self) -> float:
        return self._leaps.now

    def leap(self, seconds: float) -> None:
        """Let time pass in which the loop stands still, as in a machine that is suspended."""
        self._leaps.now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Let real time pass until the thread is done."""
        work = super().run_in_executor(executor, func, *args)
        self._leaps.threads += 1
        work.add_done_callback(self._end_of_thread)
        return work

    async def shutdown_default_executor(self, *_: object) -> None:
        """Let real time pass until the threads are done, however little a timeout would leave."""
        self._leaps.threads += 1
        await super().shutdown_default_executor()
        self._leaps.threads -= 1

    def _end_of_thread(self, _: object) -> None:
        self._leaps.threads -= 1
