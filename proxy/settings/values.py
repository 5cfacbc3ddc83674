"""Durations (`1h30m`) and sizes (`64KiB`) as people write them, and what any such setting is.

In the sections a duration is seconds and a size is bytes. A parser raises `Wrong` with what would
be right; it never repeats the value, which may be a secret.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, cast

from msgspec import Meta, Struct

SettingPath = tuple[str | int, ...]
Text = Annotated[str, Meta(min_length=1)]


class Wrong(ValueError):  # noqa: N818 - a verdict on one value; callers meet SettingsError
    """What would be right."""


class Leaf(Struct, frozen=True):
    """A form of settings beyond what msgspec checks; it stands beside the type, in `Annotated`.

    `read` takes what YAML gives and raises Wrong; `write` gives what `read` takes. The value of a
    `secret` one is in no problem, and `write` may leave out what must not be shown.
    """

    read: Callable[[object], Any]
    schema: Mapping[str, object]
    write: Callable[[Any], object] = lambda value: value
    secret: bool = False


def one_of(words: Sequence[object]) -> str:
    """Return the words as people list them: `a`, `a or b`, `a, b or c`."""
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


# --- Durations -----------------------------------------------------------------------------------

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION_PARTS = (
    rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?"
)
_DURATION = re.compile(rf"(?=[0-9])(?:{_DURATION_PARTS}|{_NUMBER})")
_DURATION_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001, 1.0)  # one for each group; the last is bare


def parse_duration(value: object, shortest: str = "1ms", longest: str = "365d") -> float:
    """Return seconds, in whole milliseconds, from text such as `1h30m` or from a number of seconds.

    Raises Wrong for anything that is no duration, and for one that is out of bounds.
    """
    seconds = _seconds(value)
    if not _seconds(shortest) <= seconds <= _seconds(longest):  # also false for NaN
        raise Wrong(f"must be between {shortest} and {longest}")
    return round(seconds * 1000) / 1000


def _seconds(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        pairs = zip(found.groups(), _DURATION_UNITS, strict=True)
        return sum(float(number) * unit for number, unit in pairs if number)
    raise Wrong("must be a duration such as 250ms, 10s, 5m or 1h30m")


def format_duration(seconds: float) -> str:
    """Return the text that `parse_duration` reads as these seconds: `250ms`, `1.5s`, `1h30m`."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (milliseconds / 1000, "s"))
    return "".join(f"{number:g}{unit}" for number, unit in parts if number)


def duration(shortest: str = "1ms", longest: str = "365d") -> Leaf:
    """Take durations within bounds; 365d is far below where an event loop's timers overflow."""
    schema = {
        "type": ["string", "number"],
        "pattern": f"^{_DURATION.pattern}$",
        "minimum": _seconds(shortest),
        "maximum": _seconds(longest),
    }
    read = partial(parse_duration, shortest=shortest, longest=longest)
    return Leaf(read, schema, format_duration)


def optional(leaf: Leaf) -> Leaf:
    """Take null too, which means that there is none."""
    return Leaf(
        lambda value: None if value is None else leaf.read(value),
        {**leaf.schema, "type": [*cast("list[str]", leaf.schema["type"]), "null"]},
        lambda value: None if value is None else leaf.write(value),
    )


Duration = Annotated[float, duration()]
"""Seconds; text such as `250ms`, `10s`, `5m`, `1h30m`, `1d`, or a positive number of seconds."""

OptionalDuration = Annotated[float | None, optional(duration())]

# --- Sizes ---------------------------------------------------------------------------------------

_SIZE = re.compile(r"([0-9]+)(B|KiB|MiB|GiB|kB|MB|GB)?")
_SIZE_UNITS = {  # on a tie the earlier unit is written: binary before decimal
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_LARGEST = 1 << 30
_LARGEST_DIGITS = 12  # bounds the work of int() before the value is known to be small


def parse_size(value: object) -> int:
    """Return bytes from text such as `64KiB` or from a whole number of bytes.

    Raises Wrong for anything that is no size, and for less than 1B or more than 1GiB.
    """
    size = _bytes(value)
    if not 1 <= size <= _LARGEST:
        raise Wrong("must be between 1B and 1GiB")
    return size


def _bytes(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        number, unit = found.groups(default="B")
        return int(number) * _SIZE_UNITS[unit] if len(number) <= _LARGEST_DIGITS else _LARGEST + 1
    raise Wrong("must be a size such as 512B, 64KiB, 1MiB or 10kB")


def format_size(size: int) -> str:
    """Return the shortest text that `parse_size` reads as this many bytes: `64KiB`, `10kB`."""
    exact = (
        f"{size // factor}{unit}" for unit, factor in _SIZE_UNITS.items() if size % factor == 0
    )
    return min(exact, key=lambda text: len(text.rstrip("BKMGik")))


Size = Annotated[
    int,
    Leaf(
        parse_size,
        {
            "type": ["string", "integer"],
            "pattern": f"^{_SIZE.pattern}$",
            "minimum": 1,
            "maximum": _LARGEST,
        },
        format_size,
    ),
]
"""Bytes; text such as `64KiB`, `1MiB`, `10kB`, or a whole number of bytes."""
