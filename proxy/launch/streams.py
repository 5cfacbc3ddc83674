"""The standard streams: what is in their place if they are closed, and when they are a child's."""

import os
import sys

STREAMS = (0, 1, 2)


def fill() -> None:
    """Put nothing in place of those that are closed, before files of ours come to be there.

    For these Python has None to write to.
    """
    for each in STREAMS:
        try:
            os.fstat(each)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def let_go(*streams: int) -> None:
    """Put nothing in place of these.

    While two processes hold an end of a pipe, the other end does not learn that one has closed it.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in streams:
        os.dup2(nothing, each)
    os.close(nothing)
