"""Programs as a shell finds them, and its exit codes for those that it cannot run."""

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

NOT_FOUND, NOT_RUN = 127, 126
SHELL = "/bin/sh"


class ProgramError(Exception):
    """A program cannot be run, `code` is what a shell would exit with."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name}: {os.strerror(number)}")
        self.code = NOT_FOUND if number == errno.ENOENT else NOT_RUN


def find_program(name: str, environ: Mapping[str, str]) -> str:
    """Return the path of a program. Raises ProgramError.

    Where we may not look, there is nothing: Path's own questions raise then, in some versions.
    """
    files = [each for each in _places(name, environ) if os.path.isfile(each)]  # noqa: PTH113
    for each in files:
        if os.access(each, os.X_OK):
            return each
    if files:
        raise ProgramError(name, errno.EACCES)
    if "/" in name and os.path.isdir(name):  # noqa: PTH112
        raise ProgramError(name, errno.EISDIR)
    raise ProgramError(name, errno.ENOENT)


def _places(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    if "/" in name:
        yield name
    else:
        for folder in environ.get("PATH", os.defpath).split(os.pathsep):
            yield f"{folder or os.curdir}/{name}"


def run_program(path: str, arguments: list[str], environ: Mapping[bytes, bytes]) -> NoReturn:
    """Become this program; `arguments` begin with its name. Raises OSError.

    A script without a first line that says who reads it is for the shell.
    """
    try:
        os.execve(path, arguments, environ)  # noqa: S606 - what it was called for
    except OSError as error:
        if error.errno != errno.ENOEXEC or _is_binary(path):
            raise
    os.execve(SHELL, [SHELL, path, *arguments[1:]], environ)  # noqa: S606 - the same


def _is_binary(path: str) -> bool:
    with Path(path).open("rb") as file:
        return b"\0" in file.readline(80)
