r"""What a fuzzer's bytes mean: some options, then what one end of a connection does, step by step.

The first byte holds the options. Behind it stands what is sent; 0xFF and a mark is a command, so
that an input can be read (`cat -v`) and a mutation moves a cut without moving anything else:

- `\xff|` ends a segment: all that it sets off happens before the next one is sent
- `\xff*` ends one too, which is sent many times over, so that small inputs fill buffers
- `\xff~` ends one and lets seconds go by
- `\xff.` ends the stream in order: nothing more is sent
- `\xff!` resets the connection

Any other 0xFF is a byte like all others.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MANY_TIMES = 1000
MANY_BYTES = 512 * 1024

_COMMAND = re.compile(rb"\xff([|*~.!])")


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is sent for seconds."""


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more is sent."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is gone."""


Step = Send | Wait | End | Reset


@dataclass(frozen=True, slots=True)
class Script:
    """What one end of a connection does; an End or a Reset is its last step."""

    options: int
    steps: tuple[Step, ...]

    @property
    def sent(self) -> bytes:
        return b"".join(step.data for step in self.steps if isinstance(step, Send))

    @property
    def steady(self) -> bool:
        """Whether it only sends, and neither waits nor leaves."""
        return all(isinstance(step, Send) for step in self.steps)

    @property
    def in_segments(self) -> bool:
        return sum(isinstance(step, Send) for step in self.steps) > 1

    def option(self, bit: int) -> bool:
        return bool(self.options >> bit & 1)

    def in_one_breath(self) -> "Script":
        """Return the script that says the same in one segment and without waiting."""
        rest = (step for step in self.steps if isinstance(step, End | Reset))
        return Script(self.options, (Send(self.sent), *rest))


def parse(data: bytes) -> Script:
    """Read a fuzzer's bytes; all that can be written means something."""
    return Script(data[0] if data else 0, tuple(_steps(data[1:])))


def _steps(data: bytes) -> Iterator[Step]:
    pieces = _COMMAND.split(data)
    may_repeat = True  # once, or the work would know no bounds
    for segment, command in zip(pieces[::2], [*pieces[1::2], b"|"], strict=True):
        times = 1
        if command == b"*" and segment and may_repeat:
            times, may_repeat = min(MANY_TIMES, MANY_BYTES // len(segment)), False
        if segment:
            yield Send(segment * times)
        if command == b"~":
            yield Wait()
        elif command in (b".", b"!"):
            yield End() if command == b"." else Reset()
            return
