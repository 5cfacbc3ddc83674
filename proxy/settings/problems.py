"""What is wrong with the settings, in words for whoever wrote them.

A problem names the setting in full, its value, where that came from and what would be right. No
problem holds a secret: nothing below `api_key` or `store.secret` is shown, nor the value of an
unknown setting, nor what a URL carries besides its place.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from proxy.settings.values import SettingPath

_SHOWN_LENGTH = 60


class SecretPlace(NamedTuple):
    """A section that says in which file a secret is, and the variable that may hold it instead."""

    path: tuple[str, ...]
    noun: str
    variable: str

    @property
    def name(self) -> str:
        return ".".join(self.path)


STATIC_KEY = SecretPlace(("api_key",), "static key", "MOBULA_API_KEY")
STORE_SECRET = SecretPlace(("store", "secret"), "store secret", "MOBULA_STORE_SECRET")


class Problem(Struct, frozen=True):
    """One wrong setting; `value` is None when there is none or when it must not be shown."""

    name: str
    text: str
    value: str | None = None
    origin: str | None = None

    def __str__(self) -> str:
        place = " in ".join(part for part in (self.value, self.origin) if part)
        if self.value is None and self.origin:
            place = f"in {place}"
        return f"{self.name}: {self.text}" + (f" ({place})" if place else "")


class SettingsError(Exception):
    """The settings are wrong; `problems` is all of them, in the order of the settings."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        title = f"{count} problem{'s' if count > 1 else ''} with the settings:"
        return "\n  ".join([title, *map(str, self.problems)])


def full_name(path: SettingPath) -> str:
    """Return the dotted name, `listeners[0].bind`; below `api_key` it could be the key."""
    place = secret_place(path)
    if place and path != (*place.path, "file"):
        return place.name
    steps = (f"[{step}]" if isinstance(step, int) else f".{_shown_text(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def secret_place(path: SettingPath) -> SecretPlace | None:
    """Return the place of a secret that `path` is at or below."""
    places = (STATIC_KEY, STORE_SECRET)
    return next((each for each in places if path[: len(each.path)] == each.path), None)


def shown(path: SettingPath, value: object) -> str | None:
    """Return the value as text for a problem; None when it could hold a secret or is no scalar."""
    if secret_place(path) or isinstance(value, (dict, list)):
        return None
    if not isinstance(value, str) or value.isdecimal() or value in {"true", "false"}:
        return json.dumps(value, default=str)  # quotes tell text from what it looks like
    return _shown_text(value) or '""'


def _shown_text(text: str) -> str:
    return _printable(_without_credentials(text))


def _without_credentials(text: str) -> str:
    text = re.sub(r"^.*@", "***@", text, flags=re.DOTALL)
    return re.sub(r"([?#]).*$", r"\1***", text, flags=re.DOTALL)


def _printable(text: str) -> str:
    text = text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."
    return text if text.isprintable() and " " not in text else json.dumps(text)
