"""Builds the stages of a Dockerfile as trees of files, in chroots of the Debian that it names.

As with a container engine, what an earlier build has made is taken as it is while neither the
instructions that made it nor the files that they copied have changed.
"""

import contextlib
import fcntl
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from container.context import Context
from container.dockerfile import Copy, Run, Stage, Step
from container.trees import ways_out, within
from harness import lacking, program

_AS_DOCKERS_SLIM = (
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    '--aptopt=Dir::Cache::pkgcache "";',
    '--aptopt=Dir::Cache::srcpkgcache "";',
    '--aptopt=DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };',
    '--aptopt=Acquire::Languages "none";',
)


class Builder:
    """Builds in a folder, for nobody else at the same time: see `locked`."""

    def __init__(self, folder: Path, context: Context, stages: Mapping[str, Stage]) -> None:
        self._folder = folder
        self._context = context
        self._stages = stages
        self._used: set[Path] = set()

    def __repr__(self) -> str:
        return f"<Builder of {', '.join(self._stages)}>"

    def tree(self, name: str) -> Path:
        """Return what there is once a stage, or an image, is built."""
        if name not in self._stages:
            return self._debian(name)
        tree = self.tree(self._stages[name].base)
        for steps in _layers(self._stages[name].steps):
            tree = self._layer(tree, steps)
        return tree

    def forget_others(self) -> None:
        """Remove what has not been used since this was made."""
        for each in self._folder.iterdir():
            if each.is_dir() and each not in self._used:
                shutil.rmtree(each)

    def _debian(self, image: str) -> Path:
        found = re.fullmatch(r"debian:(\w+)-slim", image)
        if found is None:
            raise ValueError(f"{image} is not known here")
        asked = [program("mmdebstrap"), "--quiet", *_AS_DOCKERS_SLIM, found[1]]

        def make(tree: Path) -> None:
            ended = subprocess.run([*asked, tree], capture_output=True, text=True, check=False)
            if ended.returncode:
                lacking(f"Debian's packages: {ended.stderr[-1000:]}")

        return self._made(_name(*asked), make)

    def _layer(self, below: Path, steps: Sequence[Step]) -> Path:
        def make(tree: Path) -> None:
            _copy(below, tree)
            for step in steps:
                self._do(step, tree)

        return self._made(_name(below.name, *map(self._identity, steps)), make)

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        tree = self._folder / name
        if not tree.is_dir():
            new = tree.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)  # of a build that was broken off
            make(new)
            new.rename(tree)
        self._used.add(tree)
        return tree

    def _identity(self, step: Step) -> str:
        if isinstance(step, Run):
            return repr(step)
        if step.stage:
            return f"{step} {self.tree(step.stage).name}"
        return f"{step} {[self._context.digest(source) for source in step.sources]}"

    def _do(self, step: Step, tree: Path) -> None:
        (tree / step.folder[1:]).mkdir(parents=True, exist_ok=True)
        if isinstance(step, Run):
            self._run(step, tree)
        elif step.stage:
            self._copy_from(self.tree(step.stage), step, tree)
        else:
            self._copy_in(step, tree)

    def _run(self, step: Run, tree: Path) -> None:
        outside = self._folder / "outside"
        outside.mkdir(exist_ok=True)
        self._used.add(outside)
        command = (*within(tree, outside), "/bin/sh", "-c", f"cd {step.folder} && {step.script}")
        ended = subprocess.run(
            command, env={**ways_out(outside), **step.environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{step.script}: {ended.stdout[-3000:]}"

    @staticmethod
    def _copy_from(stage: Path, step: Copy, tree: Path) -> None:
        for source in step.sources:
            _copy(stage / source[1:], tree / step.target[1:])

    def _copy_in(self, step: Copy, tree: Path) -> None:
        target = tree / step.folder[1:] / step.target
        for source in step.sources:
            files = self._context.files(source)
            assert files, f"{source} is not in the context"
            for file in files:
                is_folder = str(file) != source
                to = target / (file.relative_to(source) if is_folder else file.name)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self._context.path(file), to)


def _layers(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Split after each command, as those are what takes long."""
    ends = [index + 1 for index, step in enumerate(steps) if isinstance(step, Run)]
    return (steps[start:end] for start, end in pairwise((0, *ends, len(steps))) if start < end)


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    how = ("--archive", "--no-target-directory", "--reflink=auto")
    subprocess.run(["cp", *how, str(source), str(target)], check=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process builds there; none does until the end of the block."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
