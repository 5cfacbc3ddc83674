"""Where settings come from: one YAML file, then environment variables, then `--set` flags.

Mappings merge key by key, everything else is replaced whole. Each value's origin is kept, so that
a problem can name the line, the variable or the flag to correct.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import yaml
from msgspec import Struct, field

from proxy.settings.problems import Problem, SettingsError, full_name, shown
from proxy.settings.values import SettingPath, Wrong

PREFIX = "MOBULA_PROXY__"
_FILE_BYTES = 1 << 23
_QUOTED = re.compile(r""" (?:'(?!<)[^']{2,}'|"[^"]*")""")
"""What a complaint about YAML quotes of the settings, a tag say; its own words stand in <>."""
_DEFAULTS = "the defaults"
_DEEPEST = 32
"""How deeply YAML may be nested; no setting is nearly as deep."""


class Tree(Struct):
    """All that the sources say, merged: plain values, and the origin of each."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[SettingPath, str] = field(default_factory=dict)

    def overlay(self, path: SettingPath, value: object, origins: Mapping[SettingPath, str]) -> None:
        """Put `value` at `path`, over what stood there; `origins` are full paths."""
        for step in reversed(path):
            value = {step: value}
        self.values = self._merged(self.values, value, ())
        self.origins |= origins

    def fill(self, usual: Mapping[str, Any]) -> None:
        """Put values where none stand; they have no origin."""
        self.values = _filled(self.values, usual)

    def _merged(self, under: object, over: object, path: SettingPath) -> Any:
        if not isinstance(under, dict) or not isinstance(over, dict):
            self.origins = {p: o for p, o in self.origins.items() if p[: len(path)] != path}
            return over
        merged = {
            key: self._merged(under[key], value, (*path, key)) if key in under else value
            for key, value in over.items()
        }
        return under | merged

    def problem(self, path: SettingPath, text: str, *, show: bool) -> Problem:
        """Return what is wrong at `path`, with the value and its origin."""
        found, value = self._lookup(path)
        return Problem(
            full_name(path),
            text,
            shown(path, value) if show and found else None,
            self._origin(path),
        )

    def _lookup(self, path: SettingPath) -> tuple[bool, object]:
        value: Any = self.values
        for step in path:
            try:
                value = value[step]
            except (LookupError, TypeError):
                return False, None
        return True, value

    def _origin(self, path: SettingPath) -> str:
        """Return the origin of the value, else of what stands around it, else of its neighbours."""
        for length in range(len(path), 0, -1):
            here = path[:length]
            if here in self.origins:
                return self.origins[here]
            if below := [o for p, o in self.origins.items() if p[:length] == here]:
                return below[0]
        return _DEFAULTS


def _filled(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    both = {name for name in values if isinstance(values[name], dict) and name in usual}
    return {**usual, **values, **{name: _filled(values[name], usual[name]) for name in both}}


def read(
    file: Path | None, environ: Mapping[str, str], overrides: Sequence[tuple[str, str]]
) -> Tree:
    """Return the merged tree; raise SettingsError with all that cannot be read."""
    tree, problems = Tree(), []
    from_file = [_read_file(file)] if file else []
    for entry in chain(from_file, _read_environ(environ), _read_overrides(overrides)):
        if isinstance(entry, Problem):
            problems.append(entry)
        else:
            problems += entry.problems
            tree.overlay(entry.path, entry.value, entry.origins)
    if problems:
        raise SettingsError(problems)
    return tree


class _Entry(Struct, frozen=True):
    """What one source says about the settings below `path`."""

    path: SettingPath
    value: object
    origins: Mapping[SettingPath, str]
    problems: Sequence[Problem] = ()


class _Document(Struct):
    """A parsed text: its value, the line of each path, and what a mapping must not have."""

    value: object = None
    lines: dict[SettingPath, int] = field(default_factory=dict)
    misfits: list[tuple[SettingPath, str, int]] = field(default_factory=list)


# --- The file ------------------------------------------------------------------------------------


def read_part(file: Path, path: SettingPath) -> Tree:
    """Return the tree of a file that holds what stands at `path`; raise SettingsError."""
    tree, entry = Tree(), _read_file(file, path)
    problems = [entry] if isinstance(entry, Problem) else entry.problems
    if isinstance(entry, Problem) or problems:
        raise SettingsError(problems)
    tree.overlay(path, entry.value, {path: str(file), **entry.origins})
    return tree


def _read_file(file: Path, path: SettingPath = ()) -> _Entry | Problem:
    try:
        document = _parse(_text(file), path)
        if not isinstance(document.value, dict | None):
            raise Wrong("must be a mapping of settings")
        if path and document.value is None:  # it may be half written
            raise Wrong("is empty; write {} where nothing is meant")
    except Wrong as wrong:
        return Problem(str(file), str(wrong))
    origins = {place: f"{file}, line {line}" for place, line in document.lines.items()}
    problems = [
        Problem(full_name(place) or "settings", text, None, f"{file}, line {line}")
        for place, text, line in document.misfits
    ]
    return _Entry(path, document.value or {}, origins, problems)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(_FILE_BYTES + 1)
        if len(content) > _FILE_BYTES:
            raise Wrong("must be at most 8MiB")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise Wrong(f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise Wrong("must be UTF-8 text") from None


# --- Environment and flags -----------------------------------------------------------------------


def _read_environ(environ: Mapping[str, str]) -> Iterator[_Entry | Problem]:
    """Read the variables, those of whole sections first: the more exact name wins."""
    names = [name for name in environ if name.startswith(PREFIX)]
    # Kubernetes names variables MOBULA_PROXY_PORT and the like, but none with two underscores.
    near = (name for name in environ if re.match(r"MOBULA_PROXY_[^_]\w*__", name))
    yield from (Problem(name, f"names no setting; write {PREFIX}SECTION__KEY") for name in near)
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if all(path):
            yield _read_value(path, environ[name], name)
        else:
            yield Problem(name, f"names no setting; write {PREFIX}SECTION__KEY")


def _read_overrides(overrides: Sequence[tuple[str, str]]) -> Iterator[_Entry | Problem]:
    for key, text in overrides:
        path = tuple(key.split("."))
        if not all(path):
            name = f"--set {full_name(path)}="
            yield Problem(name, "names no setting; write --set section.key=value")
            continue
        entry = _read_value(path, text, f"--set {full_name(path)}")
        if path[0] == "upstreams" and isinstance(entry, _Entry):
            whole = _upstream_path(path, entry.value)
            entry = _Entry(whole, entry.value, {whole: f"--set {key}"}, entry.problems)
        yield entry


def _upstream_path(path: tuple[str, ...], value: object) -> SettingPath:
    """Put the dots of an upstream's name back: it is all but the last word, its setting.

    No upstream setting is a mapping, so a mapping is a whole upstream and has no such last word.
    """
    words = path[1:]
    if len(words) < 2 or isinstance(value, dict):
        return ("upstreams", ".".join(words)) if words else path
    return ("upstreams", ".".join(words[:-1]), words[-1])


def _read_value(path: SettingPath, text: str, origin: str) -> _Entry | Problem:
    if re.fullmatch(r"\[[^\[\]{}\"']*\]:[0-9]+", text):  # [v6]:port only looks like a YAML list
        return _Entry(path, text, {path: origin})
    try:
        document = _parse(text, path)
    except Wrong as wrong:
        return Problem(full_name(path), str(wrong), None, origin)
    problems = [Problem(full_name(p), text, None, origin) for p, text, _ in document.misfits]
    return _Entry(path, document.value, {path: origin}, problems)


# --- YAML ----------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):
    """Safe, and on libyaml: ten thousand clients are a megabyte, which PyYAML's own takes 3 s for.

    A date stays text, because no setting is a date.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way to say it
        first: [resolver for resolver in resolvers if "timestamp" not in resolver[0]]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _refuse_mazes(text: str) -> None:
    """Refuse anchors, which could expand without bound, and depth, which libyaml recurses into."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        problem = ""
        if depth > _DEEPEST:
            problem = f"nothing is nested deeper than {_DEEPEST} levels"
        elif getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases (& and *) are not supported; write the value out"
        if problem:
            mark = cast("Any", event.start_mark)  # libyaml's, which is as good
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _parse(text: str, path: SettingPath) -> _Document:
    """Return what the YAML at `path` says; raise Wrong, without the text, which may be a secret."""
    document = _Document()
    try:
        _refuse_mazes(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        document.value = None if node is None else _value(loader, node, path, document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = _QUOTED.sub(" ***", ", ".join(filter(None, (error.context, error.problem))))
        raise Wrong(f"is not valid YAML{place}: {reason}") from None
    except yaml.YAMLError:  # the reader's, which has no mark
        raise Wrong("holds a character that YAML does not allow") from None
    except (ValueError, RecursionError):  # a number of 5000 digits, brackets without end
        raise Wrong("holds a value that cannot be read") from None
    return document


def _value(loader: _Loader, node: yaml.Node, path: SettingPath, document: _Document) -> object:
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, document)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = item.start_mark.line + 1
        return [
            _value(loader, item, (*path, index), document) for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node)


def _mapping(
    loader: _Loader, node: yaml.MappingNode, path: SettingPath, document: _Document
) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if key_node.tag != "tag:yaml.org,2002:str":
            document.misfits.append(
                (path, "must have text for names; put quotes around them", line)
            )
            continue
        here = (*path, key)
        if key in mapping:
            document.misfits.append((here, "is set twice", line))
        document.lines[here] = line
        mapping[key] = _value(loader, value_node, here, document)
    return mapping
