"""The standard streams, which are the child's alone."""

import os

STREAMS = (0, 1, 2)


def fill() -> None:
    """Put nothing in place of those that are closed, before files of ours come to be there."""
    for each in STREAMS:
        try:
            os.fstat(each)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def let_go(*streams: int) -> None:
    """Put nothing in place of these.

    While two processes hold an end of a pipe, the other end does not learn that one has closed it.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in streams:
        os.dup2(nothing, each)
    os.close(nothing)
