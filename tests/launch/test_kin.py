"""What a process and its descendants run, seen while they live."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.launch.kin import PROC, Kin
from proxy.launch.runtimes import runtimes_of

PATIENCE = 20.0
FORKS = """
import os
from proxy.launch.kin import Kin
wait, go = os.pipe()
pid = os.fork()
if pid == 0:
    os.read(wait, 1)
    os._exit(0)
kin = Kin(pid, "/bin/cat")
kin.look()
os.write(go, b"!")
os.waitpid(pid, 0)
print(kin.programs)
"""
needs_proc = pytest.mark.skipif(not PROC.is_dir(), reason="needs /proc")


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the end of its input, which is that of the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def names(kin: Kin) -> list[str]:
    return [each.name for each in runtimes_of(kin.programs)]


@needs_proc
def test_what_a_wrapper_of_wrappers_starts_is_seen() -> None:
    inner = f"{sys.executable} -c 'import sys; sys.stdin.read()'; exit"
    with (
        started("sh", "-c", f'sh -c "{inner}"; exit') as process,
        Kin(process.pid, "/bin/sh") as kin,
    ):
        until(lambda: "python" in names(kin))
    assert names(kin) == ["python"]


@needs_proc
def test_what_others_start_is_not_seen() -> None:
    with (
        started(sys.executable, "-c", "input()") as other,
        started("sh", "-c", "read line; exit") as process,
    ):
        kin = Kin(process.pid, "/bin/sh")
        kin.look()
        assert names(kin) == []
        assert [os.path.realpath("/bin/sh")] == kin.programs
        other.communicate(b"\n")


@needs_proc
def test_a_copy_of_ourselves_that_has_not_become_the_program_is_not_taken_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout == f"['{os.path.realpath('/bin/cat')}']\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"#!/usr/bin/env node\nconsole.log()", "node"),
        (b"\x7fELF....\xff Go buildinf:....", "go"),
    ],
)
def test_without_a_process_to_look_at_the_file_of_the_program_tells(
    tmp_path: Path, content: bytes, name: str
) -> None:
    file = tmp_path / "app"
    file.write_bytes(content)
    gone = 2**22 + 1  # no system has so many
    kin = Kin(gone, str(file))
    kin.look()
    assert names(kin) == [name]


@pytest.mark.parametrize("content", [b"", b"\x7fELF"])
def test_a_file_that_tells_nothing_is_told_by_its_path(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "app"
    file.write_bytes(content)
    assert Kin(os.getpid(), str(file)).programs == [str(file)]


def test_a_link_is_followed_to_the_program_itself(tmp_path: Path) -> None:
    (tmp_path / "app").symlink_to(sys.executable)
    kin = Kin(os.getpid(), str(tmp_path / "app"))
    assert names(kin) == ["python"]
