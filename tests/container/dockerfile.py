"""Reads a Dockerfile: the instructions that ours uses, as Docker's reference defines them.

What is not known here is an error, so that no instruction goes unheeded.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What Docker gives to those that set none."""
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

Variables = Mapping[str, str]


@dataclass(frozen=True)
class Instruction:
    name: str
    flags: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Config:
    """What an image says of how it is run; `arguments` are those of the build so far."""

    environ: Variables = field(default_factory=lambda: {"PATH": PATH})
    arguments: Variables = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: Variables = field(default_factory=dict)

    @property
    def variables(self) -> Variables:
        return {**self.arguments, **self.environ}


@dataclass(frozen=True)
class Run:
    """A shell command, with its variables and in its folder, which is made if it is missing."""

    script: str
    environ: Variables
    folder: str


@dataclass(frozen=True)
class Copy:
    """Files and folders of the context, or of another stage, that are put into a folder."""

    sources: tuple[str, ...]
    target: str
    folder: str
    stage: str | None


Step = Run | Copy


@dataclass(frozen=True)
class Stage:
    """`base` is another stage or an image; `steps` change the tree, one after the other."""

    name: str
    base: str
    config: Config
    steps: tuple[Step, ...] = ()


def read(text: str, given: Variables | None = None) -> dict[str, Stage]:
    """Return the stages in their order, by name or number; `given` is as for `--build-arg`."""
    stages: dict[str, Stage] = {}
    outer = Config(environ={})
    stage = None
    for each in _instructions(text):
        if each.name == "FROM":
            stage = _begun(each, outer.arguments, stages)
        elif stage is None:
            outer = _configured(outer, each, given or {})
        else:
            stage = _continued(stage, each, given or {})
        if stage is not None:
            stages[stage.name] = stage
    return stages


def _instructions(text: str) -> Iterator[Instruction]:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, *words = line.split(maxsplit=1)
            yield _instruction(name.upper(), "".join(words).strip())


def _instruction(name: str, text: str) -> Instruction:
    flags = {}
    while found := re.match(r"--([a-z]+)=(\S+)\s+", text) if name != "RUN" else None:
        flags[found[1]] = found[2]
        text = text[found.end() :]
    return Instruction(name, flags, text)


def _begun(instruction: Instruction, arguments: Variables, stages: Mapping[str, Stage]) -> Stage:
    base, *named = _words(instruction.text, arguments)
    name = named[1] if named else str(len(stages))
    config = stages[base].config if base in stages else Config()
    return Stage(name, base, replace(config, arguments={}))


def _continued(stage: Stage, instruction: Instruction, given: Variables) -> Stage:
    config = stage.config
    if instruction.name not in ("RUN", "COPY"):
        return replace(stage, config=_configured(config, instruction, given))
    if config.user != "0:0":
        raise ValueError(f"{instruction.name} after USER is not known here")
    step = _step(config, instruction)
    return replace(stage, steps=(*stage.steps, step))


def _step(config: Config, instruction: Instruction) -> Step:
    if instruction.name == "RUN":
        return Run(instruction.text, config.variables, config.folder)
    *sources, target = _words(instruction.text, config.variables)
    flags = dict(instruction.flags)
    step = Copy(tuple(sources), target, config.folder, flags.pop("from", None))
    if flags:
        raise ValueError(f"COPY with {', '.join(flags)} is not known here")
    return step


def _configured(config: Config, instruction: Instruction, given: Variables) -> Config:
    text, known = instruction.text, config.variables
    match instruction.name:
        case "ARG":
            name, _, value = text.partition("=")
            arguments = {**config.arguments, name: given.get(name, _filled(value, known))}
            return replace(config, arguments=arguments)
        case "ENV":
            return replace(config, environ={**config.environ, **_pairs(text, known)})
        case "LABEL":
            return replace(config, labels={**config.labels, **_pairs(text, known)})
        case "WORKDIR":
            return replace(config, folder=_filled(text, known))
        case "USER":
            return replace(config, user=_filled(text, known))
        case "STOPSIGNAL":
            return replace(config, stop_signal=_filled(text, known))
        case "ENTRYPOINT":
            return replace(config, entrypoint=_exec_form(text))
        case "CMD":
            return replace(config, command=_exec_form(text))
    raise ValueError(f"{instruction.name} is not known here")


def _pairs(text: str, known: Variables) -> Variables:
    pairs = (word.partition("=") for word in _words(text, known))
    return {name: value for name, _, value in pairs}


def _words(text: str, known: Variables) -> Sequence[str]:
    return [_filled(word, known) for word in shlex.split(text)]


def _filled(text: str, known: Variables) -> str:
    return _VARIABLE.sub(lambda found: known[found[1] or found[2]], text)


def _exec_form(text: str) -> tuple[str, ...]:
    words = json.loads(text)
    if not isinstance(words, list):
        raise TypeError(f"{text} is not in exec form")
    return tuple(words)
