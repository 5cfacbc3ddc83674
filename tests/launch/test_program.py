"""Which program is run, and what is said of one that cannot be, as shells do both."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.test_process import wrapped
from proxy.launch.program import ProgramError, find_program


def make(path: Path, content: bytes, mode: int = 0o755) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[None]:
    """The working directory; `first` and `second` in it are on the path."""
    make(tmp_path / "first" / "plain", b"", 0o644)
    make(tmp_path / "first" / "both", b"", 0o644)
    make(tmp_path / "second" / "both", b"")
    (tmp_path / "first" / "folder").mkdir()
    make(tmp_path / "local", b"")
    with contextlib.chdir(tmp_path):
        yield


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "path", "found"),
    [
        ("both", "first:second", "second/both"),
        ("./second/both", "", "./second/both"),
        ("local", "first:", "./local"),
        ("sh", None, "/bin/sh"),
    ],
)
def test_a_program_is_found_on_the_path_or_where_its_name_says(
    name: str, path: str | None, found: str
) -> None:
    assert find_program(name, {} if path is None else {"PATH": path}) == found


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("nothing", 127, "nothing: No such file or directory"),
        ("./nothing", 127, "./nothing: No such file or directory"),
        ("local", 127, "local: No such file or directory"),
        ("folder", 127, "folder: No such file or directory"),
        ("", 127, ": No such file or directory"),
        ("plain", 126, "plain: Permission denied"),
        ("./first/plain", 126, "./first/plain: Permission denied"),
        ("./first/folder", 126, "./first/folder: Is a directory"),
    ],
)
def test_one_that_cannot_be_run_is_told_by_the_code_that_a_shell_gives(
    name: str, code: int, reason: str
) -> None:
    with pytest.raises(ProgramError) as caught:
        find_program(name, {"PATH": "first:second"})
    assert (caught.value.code, str(caught.value)) == (code, reason)


TOO_LONG = "x" * 300
"""A name that the system refuses even root to look for."""


@pytest.mark.usefixtures("here")
def test_a_folder_that_nobody_can_look_into_holds_nothing() -> None:
    assert find_program("both", {"PATH": f"{TOO_LONG}:second"}) == "second/both"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_nor_does_one_that_this_user_may_not_enter(tmp_path: Path) -> None:
    """The command is found behind it, as a shell finds it."""
    (tmp_path / "closed").mkdir(mode=0o700)
    script = (
        "import os; from proxy.launch.program import find_program; os.setuid(65534); "
        f"print(find_program('sh', {{'PATH': '{tmp_path}/closed:/bin'}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "/bin/sh\n"


@pytest.mark.parametrize("name", [TOO_LONG, f"./{TOO_LONG}"])
def test_a_name_that_is_too_long_is_that_of_no_program(name: str) -> None:
    with pytest.raises(ProgramError) as caught:
        find_program(name, {"PATH": "/bin"})
    assert caught.value.code == 127


def test_a_script_that_names_no_interpreter_is_run_by_the_shell(tmp_path: Path) -> None:
    script = make(tmp_path / "script", b'echo "$0" "$@"; exit 7\n')
    done = wrapped(script, "a b", "c")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{script} a b c\n", "")


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (b"\x7fELF\x00\x00", 126, "Exec format error"),
        (b"#!/no/such/interpreter\n", 127, "No such file or directory"),
    ],
)
def test_what_the_system_cannot_run_is_told_so_too(
    tmp_path: Path, content: bytes, code: int, reason: str
) -> None:
    path = make(tmp_path / "broken", content)
    done = wrapped(path)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"wrapper: {path}: {reason}\n")
