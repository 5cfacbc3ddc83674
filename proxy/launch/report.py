"""What doctor says: lines, and how they look.

No text of a line may hold a secret; whoever makes one sees to it.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TextIO

import click


class Grade(Enum):
    """What a line says in a word."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """It was not looked at, because of what another line says."""


_COLOURS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "red", Grade.SKIP: "blue"}
_STEP = "      -> "
_TURN = re.compile(r"[:;] (?=(?:install|name|put|remove|restart|run|set|use) )")
_WIDTHS = (4, 12, 25)
"""Of the columns, the same for parts that are printed apart; what is longer takes its room."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at; make it with `ok`, `warn`, `fail` or `skip`."""

    grade: Grade
    check: str
    subject: str
    """What was looked at."""
    found: str
    step: str = ""
    """What to do next: a command or a setting to type."""


def ok(check: str, subject: str, found: str) -> Line:
    return Line(Grade.OK, check, subject, found)


def warn(check: str, subject: str, found: str, *, step: str) -> Line:
    return Line(Grade.WARN, check, subject, found, step)


def fail(check: str, subject: str, found: str, *, step: str) -> Line:
    return Line(Grade.FAIL, check, subject, found, step)


def skip(check: str, subject: str, why: str) -> Line:
    return Line(Grade.SKIP, check, subject, why)


def merged(lines: Iterable[Line], total: int) -> list[Line]:
    """Make one line of those that say the same of different upstreams, of which there are `total`.

    Where nothing can be reached at all, this is told once.
    """
    alike: dict[Line, list[str]] = {}
    for line in lines:
        alike.setdefault(replace(line, subject=""), []).append(line.subject)
    return [_of_all(line, names, total) for line, names in alike.items()]


def _of_all(line: Line, names: Sequence[str], total: int) -> Line:
    if len(names) == 1:
        return replace(line, subject=names[0])
    subject = f"{total} upstreams" if len(names) == total else ", ".join(names)
    return replace(line, subject=subject, found=f"each: {line.found}")


def parted(text: str) -> tuple[str, str]:
    """Part an error's text, which is told to people, where it turns to what is to be done."""
    found, *remedy = _TURN.split(text, maxsplit=1)
    return found, remedy[0] if remedy else ""


def has_failed(lines: Iterable[Line]) -> bool:
    return any(each.grade is Grade.FAIL for each in lines)


def as_text(lines: Iterable[Line], *, colours: bool) -> str:
    """Return the lines in columns; a next step has a row of its own below what was found."""
    rows = []
    for line in lines:
        word, *others = (
            _shown(cell).ljust(width)
            for cell, width in zip(
                (line.grade.value, line.check, line.subject), _WIDTHS, strict=True
            )
        )
        if colours:
            word = click.style(word, fg=_COLOURS[line.grade])
        rows.append("  ".join([word, *others, _shown(line.found)]))
        if line.step:
            rows.append(f"{_STEP}{_shown(line.step)}")
    return "".join(f"{row}\n" for row in rows)


def _shown(text: str) -> str:
    """Keep what others chose, the name of a program say, from steering a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def as_json(lines: Iterable[Line]) -> str:
    """Return the lines as a JSON list."""
    told = [
        {
            "grade": each.grade.value,
            "check": each.check,
            "subject": each.subject,
            "found": each.found,
            "step": each.step or None,
        }
        for each in lines
    ]
    return json.dumps(told, indent=2) + "\n"


class Printer:
    """Prints a report: as text when it is there, as JSON once there is no more of it."""

    def __init__(self, stream: TextIO, *, json_list: bool) -> None:
        self._stream = stream
        self._json_list = json_list
        self._colours = stream.isatty() and not os.environ.get("NO_COLOR")
        self.lines: list[Line] = []

    def __repr__(self) -> str:
        return f"<Printer of {len(self.lines)} lines>"

    def print(self, lines: Iterable[Line]) -> None:
        added = list(lines)
        self.lines += added
        if not self._json_list:
            self._write(as_text(added, colours=self._colours))

    def part(self) -> None:
        """Leave a row empty, behind what a command has printed."""
        if not self._json_list:
            self._write("\n")

    def end(self) -> None:
        if self._json_list:
            self._write(as_json(self.lines))

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
