"""How a signal that went to all of a process group is told from one that went to us alone."""

import asyncio
import os
import shutil
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn

from proxy.launch.signals import PASSED_ON
from proxy.launch.streams import let_go

GRACE_SECONDS = 0.05
"""How long whoever signals one process after the other may take to come to the next."""
_END = b"\0"
"""Of a message to the witness."""


class Witness:
    """A process of our group that does nothing but tell which signals it was sent.

    Nothing else tells a signal that went to the whole group, be it from a terminal or from a
    process, from one that went to us alone: the system says who sent it, but not to whom. Since it
    lives a little longer than we do, it also clears up when we cannot.
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

    def bequeath(self, folder: str) -> None:
        """Have it remove a folder that is still there when we are gone, as after SIGKILL."""
        with suppress(BrokenPipeError):
            os.write(self._ask, os.fsencode(folder) + _END)

    def forget(self) -> None:
        """Take all signals so far for answered."""
        self._seen.clear()

    async def saw(self, number: int) -> bool:
        """Tell whether it was sent this signal as well; ask once for each that we are sent."""
        await asyncio.sleep(GRACE_SECONDS)
        with suppress(BrokenPipeError):  # if it is gone, nobody knows
            os.write(self._ask, _END)
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

    A message that is empty is a question, and any other a folder to remove. It ends when nobody is
    left to ask.
    """
    folder = b""
    try:
        let_go(0, 1, 2)
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell)
        for each in PASSED_ON:
            signal.signal(each, lambda *_: None)
        with suppress(OSError):  # nobody is left to read the answer
            for message in _messages(questions):
                folder = message or folder
                if not message:
                    os.write(tell, b"\0")
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def _messages(pipe: int) -> Iterator[bytes]:
    text = b""
    while byte := os.read(pipe, 1):
        if byte == _END:
            yield text
            text = b""
        else:
            text += byte
