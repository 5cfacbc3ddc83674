"""Sections: frozen structs of settings, read from plain values and written back as plain values.

A field's type is a section, a mapping of names to sections, a tuple of sections, a leaf, or what
msgspec checks.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from msgspec import NODEFAULT, Struct, ValidationError, convert
from msgspec.structs import FieldInfo
from msgspec.structs import fields as find_fields

from proxy.settings.problems import SecretPlace, full_name, secret_place
from proxy.settings.values import Leaf, SettingPath, Wrong, one_of

fields = cache(find_fields)
"""The fields of a kind of section; to find them out takes as long as to read a client."""


class Finding(NamedTuple):
    """What is wrong at `path`; `show` tells whether the value there may be shown."""

    path: SettingPath
    text: str
    show: bool = True


class Section(Struct, frozen=True):
    """Base of every section. Made directly, it takes its fields as they are, unchecked."""

    @classmethod
    def clashes(cls, good: Mapping[str, Any]) -> Iterable[Finding]:  # noqa: ARG003 - for overriding
        """Say which fields, right each by itself, do not go together; `good` lacks the wrong."""
        return ()


AnySection = TypeVar("AnySection", bound=Section)


def parse(root: type[AnySection], values: object) -> AnySection | list[Finding]:
    """Return the section that the values make, or all that is wrong, in the order of settings."""
    reading = _Reading(root)
    section: AnySection = reading.section(root, values, ())
    if not reading.findings:
        return section
    order = {name: index for index, name in enumerate(root.__struct_fields__)}
    return sorted(reading.findings, key=lambda found: order.get(str(found.path[0]), len(order)))


def plain(kind: Any, value: Any, *, sparse: bool = False) -> Any:
    """Return what `parse` reads as this value of this kind, in human units.

    A sparse one leaves out what is the default.
    """
    if leaf := leaf_of(kind):
        return leaf.write(value)
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        return {name: plain(inner, item, sparse=sparse) for name, item in value.items()}
    if get_origin(kind) is tuple:
        return [plain(get_args(kind)[0], item, sparse=sparse) for item in value]
    if not is_section(kind):
        return value
    pairs = ((each, getattr(value, each.name)) for each in fields(kind))
    return {
        each.name: plain(each.type, item, sparse=sparse)
        for each, item in pairs
        if not sparse or item != each.default
    }


def leaf_of(kind: Any) -> Leaf | None:
    """Return the leaf that stands beside the type, if any."""
    return next(
        (mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, Leaf)), None
    )


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def default_of(field: FieldInfo) -> Any:
    """Return the field's default, or NODEFAULT when it is required."""
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


_TEXTS = (  # what msgspec says, and what we say
    (r"Expected `int` >= (.+)", "must be at least {}"),
    (r"Expected `int` <= (.+)", "must be at most {}"),
    (r"Expected `int`", "must be a whole number"),
    (r"Expected `bool`", "must be true or false"),
    (r"Expected `str.* of length >= 1", "must not be empty"),
    (r"Expected `str", "must be text"),
)


def _checked(kind: Any, value: object) -> Any:
    """Return the value if msgspec takes it for this kind; raise Wrong if it does not."""
    try:
        return convert(value, kind)
    except ValidationError as error:
        said = str(error)  # may quote the value
    if get_origin(kind) is Literal:
        raise Wrong(f"must be {one_of(get_args(kind))}")
    matches = ((re.match(pattern, said), text) for pattern, text in _TEXTS)
    raise Wrong(next(text.format(*found.groups()) for found, text in matches if found))


class _Reading:
    """One pass over plain values; whatever it returns is good only if it left no findings."""

    def __init__(self, root: type[Section]) -> None:
        self.root = root
        self.findings: list[Finding] = []

    def section(self, kind: type[Section], values: Any, path: SettingPath) -> Any:
        if not isinstance(values, dict):
            place = secret_place(path)
            text = _where_it_belongs(place) if place else "must be a mapping of settings"
            return self._wrong(path, text, show=False)
        known = {each.name: each for each in fields(kind)}
        read = {name: self._field(each, values, (*path, name)) for name, each in known.items()}
        for name in values:
            if name not in known:
                self._wrong((*path, name), self._unknown(kind, (*path, name)), show=False)
        good = {name: value for name, value in read.items() if value is not NODEFAULT}
        for found in kind.clashes(good):
            self._wrong((*path, *found.path), found.text)
        return kind(**good) if len(good) == len(known) else NODEFAULT

    def _field(self, field: FieldInfo, values: Mapping[str, object], path: SettingPath) -> Any:
        """Return the field's value, its default, or NODEFAULT when there is none that is right."""
        if field.name in values:
            if values[field.name] == default_of(field) == {}:  # by default it is empty
                return {}
            before = len(self.findings)
            value = self._any(field.type, values[field.name], path)
            return value if len(self.findings) == before else NODEFAULT
        if field.required:
            return self._wrong(path, "is missing and has no default")
        return default_of(field)

    def _any(self, kind: Any, value: object, path: SettingPath, *, show: bool = True) -> Any:
        if is_section(kind):
            return self.section(kind, value, path)
        if get_origin(kind) is dict:
            return self._mapping(kind, value, path)
        if get_origin(kind) is tuple:
            return self._list(get_args(kind)[0], value, path)
        leaf = leaf_of(kind)
        try:
            return leaf.read(value) if leaf else _checked(kind, value)
        except Wrong as wrong:
            return self._wrong(path, str(wrong), show=show and not (leaf and leaf.secret))

    def _mapping(self, kind: Any, value: object, path: SettingPath) -> Any:
        if not isinstance(value, dict):
            return self._wrong(path, "must be a mapping of names to settings")
        if not value:
            return self._wrong(path, "must have at least one entry")
        names, inner = get_args(kind)
        read: dict[str, Any] = {}
        for given, item in value.items():
            here = (*path, given)
            name = self._any(names, given, here, show=False)  # the value is not what is wrong
            if name in read and name is not NODEFAULT:
                self._wrong(here, "is named twice; case makes no difference", show=False)
            read[name] = self.section(inner, item, here)
        return read

    def _list(self, kind: Any, value: object, path: SettingPath) -> Any:
        if not isinstance(value, list):
            return self._wrong(path, "must be a list")
        if not value:
            return self._wrong(path, "must have at least one entry")
        return tuple(self.section(kind, item, (*path, i)) for i, item in enumerate(value))

    def _wrong(self, path: SettingPath, text: str, *, show: bool = True) -> Any:
        self.findings.append(Finding(path, text, show))
        return NODEFAULT

    def _unknown(self, kind: type[Section], path: SettingPath) -> str:
        if place := secret_place(path):
            return (
                f"holds an unknown setting, not shown because it may be the {place.noun}; "
                "only file is known"
            )
        if meant := self._meant(kind, path):
            return f"unknown setting; did you mean {full_name(meant)}?"
        return f"unknown setting; known here: {one_of(kind.__struct_fields__)}"

    def _meant(self, kind: type[Section], path: SettingPath) -> SettingPath | None:
        """Look for the name itself in other sections, then for one like it, first beside it."""
        *parent, last = path
        word, elsewhere = str(last), _settings_of_sections(self.root)
        beside = nearest(word, kind.__struct_fields__)
        if beside and word not in elsewhere:
            return (*parent, beside)
        found = nearest(word, list(elsewhere))
        return elsewhere[found] if found else None


def _where_it_belongs(place: SecretPlace) -> str:
    return (
        f"must not hold the {place.noun} itself; put it into a file and its path into "
        f"{place.name}.file, or into the environment as {place.variable} or {place.variable}_FILE"
    )


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word that `word` was probably meant to be."""
    from difflib import get_close_matches  # noqa: PLC0415 - only mistakes pay for it

    return next(iter(get_close_matches(word, known, n=1)), None)


def _settings_of_sections(root: type[Section]) -> dict[str, SettingPath]:
    """Map `wait` and `token_wait` to the path of `token.wait`, for each section there is once."""
    return {
        alias: (section.name, key)
        for section in fields(root)
        if is_section(section.type)
        for key in section.type.__struct_fields__
        for alias in (key, f"{section.name}_{key}")
    }
