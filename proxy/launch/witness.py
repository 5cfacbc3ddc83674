"""How a signal that went to all of a process group is told from one that went to us alone."""

import asyncio
import os
import signal
from collections import deque
from contextlib import suppress
from typing import NoReturn

from proxy.launch.signals import PASSED_ON
from proxy.launch.streams import let_go

GRACE_SECONDS = 0.05
"""How long whoever signals one process after the other may take to come to the next."""


class Witness:
    """A process of our group that does nothing but tell which signals it was sent.

    Nothing else tells a signal that went to the whole group, be it from a terminal or from a
    process, from one that went to us alone: the system says who sent it, but not to whom.
    """

    def __init__(self) -> None:
        """Fork it; make it while there is one thread."""
        news, tell = os.pipe()
        questions, self._ask = os.pipe()
        self._news = news
        self._seen: set[int] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        if os.fork() == 0:
            os.close(news)
            os.close(self._ask)
            _testify(tell, questions)
        os.close(tell)
        os.close(questions)

    def __repr__(self) -> str:
        return f"<Witness of {sorted(self._seen)}>"

    def listen(self) -> None:
        """Take in what it tells, in the running loop."""
        asyncio.get_running_loop().add_reader(self._news, self._read)

    def forget(self) -> None:
        """Take all signals so far for answered."""
        self._seen.clear()

    async def saw(self, number: int) -> bool:
        """Tell whether it was sent this signal as well; ask once for each that we are sent."""
        await asyncio.sleep(GRACE_SECONDS)
        with suppress(BrokenPipeError):  # if it is gone, nobody knows
            os.write(self._ask, b"?")
            answer = asyncio.get_running_loop().create_future()
            self._waiting.append(answer)
            await answer
        seen = number in self._seen
        self._seen.discard(number)
        return seen

    def _read(self) -> None:
        told = os.read(self._news, 1024)
        for number in told:
            if number:
                self._seen.add(number)
            else:
                self._waiting.popleft().set_result(None)
        if not told:
            asyncio.get_running_loop().remove_reader(self._news)
            while self._waiting:
                self._waiting.popleft().set_result(None)


def _testify(tell: int, questions: int) -> NoReturn:
    """Write the number of each signal, and an answer behind those that came before a question.

    It ends when nobody is left to ask.
    """
    try:
        let_go(0, 1, 2)
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell)
        for each in PASSED_ON:
            signal.signal(each, lambda *_: None)
        while os.read(questions, 1):
            os.write(tell, b"\0")
    finally:
        os._exit(0)
