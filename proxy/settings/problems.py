"""What is wrong with the settings, in words for whoever wrote them.

A problem names the setting in full, its value, where that came from and what would be right. No
problem holds a secret: nothing below `api_key` is shown, nor the value of an unknown setting, nor
what a URL carries besides its place.
"""

import difflib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.settings.values import SettingPath, Wrong

SECRET = "api_key"  # noqa: S105 - the section's name
_SHOWN_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Problem:
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
    """Return the dotted name, `listeners[0].bind`; what stands below `api_key` could be the key."""
    if path[:1] == (SECRET,) and path[1:] != ("file",):
        return SECRET
    steps = (f"[{step}]" if isinstance(step, int) else f".{_printable(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def shown(path: SettingPath, value: object) -> str | None:
    """Return the value as text for a problem; None when it could hold a secret or is no scalar."""
    if path[:1] == (SECRET,) or isinstance(value, (dict, list)):
        return None
    if not isinstance(value, str) or value.isdecimal() or value in {"true", "false"}:
        return json.dumps(value, default=str)  # quotes tell text from what it looks like
    return _printable(_without_credentials(value)) or '""'


def _without_credentials(text: str) -> str:
    text = re.sub(r"^.*@", "***@", text, flags=re.DOTALL)
    return re.sub(r"([?#]).*$", r"\1***", text, flags=re.DOTALL)


def _printable(text: str) -> str:
    text = text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."
    return text if text.isprintable() and " " not in text else json.dumps(text)


# --- From pydantic's errors ----------------------------------------------------------------------

_TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "missing": lambda _: "is missing and has no default",
    "model_type": lambda _: "must be a mapping of settings",
    "dict_type": lambda _: "must be a mapping of names to settings",
    "tuple_type": lambda _: "must be a list",
    "too_short": lambda _: "must have at least one entry",
    "string_type": lambda _: "must be text",
    "string_too_short": lambda _: "must not be empty",
    "int_type": lambda _: "must be a whole number",
    "bool_type": lambda _: "must be true or false",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "literal_error": lambda context: f"must be {context['expected'].replace(chr(39), '')}",
}

_KEY_ELSEWHERE = (
    "must not hold the static key itself; put the key into a file and its path into api_key.file, "
    "or into the environment as MOBULA_API_KEY or MOBULA_API_KEY_FILE"
)
_KEY_SETTING = "holds an unknown setting, not shown because it may be the key; only file is known"


def explain(
    error: ValidationError, root: type[BaseModel]
) -> Iterator[tuple[SettingPath, str, bool]]:
    """Yield for each error its path, what would be right, and whether the value may be shown."""
    items = error.errors(include_url=False, include_input=False)
    for item in items:
        path, kind, context = item["loc"], item["type"], item.get("ctx", {})
        if kind == "too_short" and _is_broken_inside(path, items):
            continue  # pydantic counts the good entries only, and the bad ones speak for themselves
        if kind == "extra_forbidden":
            yield path, _unknown(path, root), False
        elif path == (SECRET,):
            yield path, _KEY_ELSEWHERE, False
        elif isinstance(wrong := context.get("error"), Wrong):
            here = (*path[:-1], wrong.sibling) if wrong.sibling else _without_key_mark(path)
            yield from (((*here, *part), text, True) for part, text in wrong.parts)
        else:
            text = _TEXTS[kind](context) if kind in _TEXTS else f"is not valid: {item['msg']}"
            yield _without_key_mark(path), text, kind != "model_type"


def _is_broken_inside(path: SettingPath, items: Sequence[ErrorDetails]) -> bool:
    return any(item["loc"][: len(path)] == path != item["loc"] for item in items)


def _without_key_mark(path: SettingPath) -> SettingPath:
    return path[:-1] if path[-1:] == ("[key]",) else path


# --- The nearest known name ----------------------------------------------------------------------


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word that `word` was probably meant to be."""
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def _unknown(path: SettingPath, root: type[BaseModel]) -> str:
    if path[0] == SECRET:
        return _KEY_SETTING
    meant = _meant(path, root)
    if meant:
        return f"unknown setting; did you mean {full_name(meant)}?"
    return f"unknown setting; known here: {one_of(_model_at(path[:-1], root).model_fields)}"


def _meant(path: SettingPath, root: type[BaseModel]) -> SettingPath | None:
    """Look for the name itself in other sections, then for one like it, first beside it."""
    *parent, last = path
    word, elsewhere = str(last), _settings_of_sections(root)
    beside = nearest(word, list(_model_at(tuple(parent), root).model_fields))
    if beside and word not in elsewhere:
        return (*parent, beside)
    found = nearest(word, list(elsewhere))
    return elsewhere[found] if found else None


def _settings_of_sections(root: type[BaseModel]) -> dict[str, SettingPath]:
    """Map `wait` and `token_wait` to the path of `token.wait`, for each section there is once."""
    sections = ((name, field.annotation) for name, field in root.model_fields.items())
    return {
        alias: (section, key)
        for section, model in sections
        if inspect.isclass(model) and issubclass(model, BaseModel)
        for key in model.model_fields
        for alias in (key, f"{section}_{key}")
    }


def _model_at(path: SettingPath, root: type[BaseModel]) -> type[BaseModel]:
    """Return the section that `path` leads to, through mappings and lists of sections."""
    model, steps = root, iter(path)
    for step in steps:
        annotation = model.model_fields[str(step)].annotation
        if not inspect.isclass(annotation) or get_args(annotation):
            next(steps, None)  # the name or the number of one entry
        model = _section(annotation) or model
    return model


def _section(annotation: object) -> type[BaseModel] | None:
    """Return the section in `Section`, `dict[str, Section]` or `tuple[Section, ...]`."""
    kinds = get_args(annotation) or (annotation,)
    return next((k for k in kinds if inspect.isclass(k) and issubclass(k, BaseModel)), None)


def one_of(words: Iterable[object]) -> str:
    """Return the words as people list them: `a`, `a or b`, `a, b or c`."""
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last
