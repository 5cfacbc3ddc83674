"""Numbers as people write them: counts, durations (`1h30m`) and sizes (`64KiB`).

In the models a duration is seconds and a size is bytes. A parser raises `Wrong` with what would be
right; it never repeats the value, which may be a secret.
"""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

SettingPath = tuple[str | int, ...]


class Wrong(ValueError):  # noqa: N818 - a verdict for pydantic; callers meet SettingsError
    """What would be right, for each wrong part of a value; a part's path starts at that value."""

    def __init__(self, *parts: tuple[SettingPath, str], sibling: str | None = None) -> None:
        super().__init__("; ".join(text for _, text in parts))
        self.parts = parts
        self.sibling = sibling

    @classmethod
    def because(cls, text: str, *, sibling: str | None = None) -> Self:
        """Say what is wrong with the whole value, or with the `sibling` field next to it."""
        return cls(((), text), sibling=sibling)


# --- Numbers -------------------------------------------------------------------------------------

Count = Annotated[int, Field(strict=True)]
"""A whole number; strict, so that neither `true` nor `1.0` nor quoted digits pass for one."""

Flag = Annotated[bool, Field(strict=True)]
"""`true` or `false`; strict, so that `1` and `"no"` are questions and not answers."""

Text = Annotated[str, Field(min_length=1)]

# --- Durations -----------------------------------------------------------------------------------

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION_PARTS = (
    rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?"
)
_DURATION = re.compile(rf"(?=[0-9])(?:{_DURATION_PARTS}|{_NUMBER})")
_DURATION_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001, 1.0)  # one for each group; the last is bare
_LONGEST = 365 * 86400  # far below where an event loop's timers overflow


def parse_duration(value: object) -> float:
    """Return seconds, in whole milliseconds, from text such as `1h30m` or from a number of seconds.

    Raises Wrong for anything that is no duration, and for less than 1ms or more than 365d.
    """
    seconds = _seconds(value)
    if not 0.001 <= seconds <= _LONGEST:  # also false for NaN
        raise Wrong.because("must be between 1ms and 365d")
    return round(seconds * 1000) / 1000


def _seconds(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        pairs = zip(found.groups(), _DURATION_UNITS, strict=True)
        return sum(float(number) * unit for number, unit in pairs if number)
    raise Wrong.because("must be a duration such as 250ms, 10s, 5m or 1h30m")


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


def within(shortest: str, longest: str) -> AfterValidator:
    """Bound a Duration; the bounds are text so that the error says them as people would."""
    low, high = parse_duration(shortest), parse_duration(longest)

    def check(seconds: float) -> float:
        if not low <= seconds <= high:
            raise Wrong.because(f"must be between {shortest} and {longest}")
        return seconds

    return AfterValidator(check)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": ["string", "number"],
            "pattern": f"^{_DURATION.pattern}$",
            "exclusiveMinimum": 0,
            "maximum": _LONGEST,
        }
    ),
]
"""Seconds; text such as `250ms`, `10s`, `5m`, `1h30m`, `1d`, or a positive number of seconds."""

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
        raise Wrong.because("must be between 1B and 1GiB")
    return size


def _bytes(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        number, unit = found.groups(default="B")
        return int(number) * _SIZE_UNITS[unit] if len(number) <= _LARGEST_DIGITS else _LARGEST + 1
    raise Wrong.because("must be a size such as 512B, 64KiB, 1MiB or 10kB")


def format_size(size: int) -> str:
    """Return the shortest text that `parse_size` reads as this many bytes: `64KiB`, `10kB`."""
    exact = (
        f"{size // factor}{unit}" for unit, factor in _SIZE_UNITS.items() if size % factor == 0
    )
    return min(exact, key=lambda text: len(text.rstrip("BKMGik")))


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "type": ["string", "integer"],
            "pattern": f"^{_SIZE.pattern}$",
            "minimum": 1,
            "maximum": _LARGEST,
        }
    ),
]
"""Bytes; text such as `64KiB`, `1MiB`, `10kB`, or a whole number of bytes."""
