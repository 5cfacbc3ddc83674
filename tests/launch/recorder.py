"""A program that says which signals it hears, one a line, until its standard input ends.

Called with the word deaf, it does not read that.
"""

import os
import signal
import sys

SAID = ("INT", "QUIT", "TERM", "HUP", "USR1", "USR2", "WINCH", "CONT")


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


for name in SAID:
    signal.signal(signal.Signals[f"SIG{name}"], lambda number, _: say(signal.Signals(number).name))
say(f"recorder {os.getpid()} of {os.getppid()}")
while sys.argv[1:] == ["deaf"]:
    signal.pause()
for line in sys.stdin:
    say(f"read {line.strip()}")
