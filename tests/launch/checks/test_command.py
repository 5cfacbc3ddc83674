"""How a command has ended, and what ran in it."""

import signal
from collections.abc import Sequence

import pytest

from harness import program
from proxy.launch.checks.command import describe, judge, node_version


@pytest.mark.parametrize(
    ("code", "grade", "found"),
    [
        (0, "ok", "exited with 0; ran curl"),
        (3, "warn", "exited with 3; ran curl"),
        (-signal.SIGKILL, "warn", "ended by SIGKILL; ran curl"),
        (-40, "warn", "ended by signal 40; ran curl"),
        (-signal.SIGINT, "ok", "ended by SIGINT, as by Ctrl-C; ran curl"),
        (128 + signal.SIGINT, "ok", "ended by SIGINT, as by Ctrl-C; ran curl"),
    ],
)
def test_it_is_told_how_it_ended(code: int, grade: str, found: str) -> None:
    line = judge("app", code, "ran curl")
    assert (line.grade.value, line.subject, line.found) == (grade, "app", found)


@pytest.mark.parametrize(
    ("programs", "told"),
    [
        (["/usr/bin/python3.11"], "ran python3.11"),
        (["/bin/sh", "/usr/bin/curl", "/usr/bin/python3.11"], "ran curl, python3.11"),
        (["/opt/node/bin/node"], "ran node v20.1.0"),
        (["rust"], "ran rust"),
        (["/bin/dash", "/bin/a", "/bin/b", "/bin/c"], "ran dash, a, b"),
    ],
)
def test_what_is_known_to_make_calls_is_named_or_else_a_few_of_all(
    programs: Sequence[str], told: str
) -> None:
    assert describe(programs, version=lambda _: "v20.1.0") == told


def test_a_node_that_tells_no_version_is_named_without_one() -> None:
    assert describe(["node"], version=lambda _: "") == "ran node"


def test_a_node_is_asked_for_its_version() -> None:
    assert node_version(program("node")).startswith("v")


@pytest.mark.parametrize("name", ["/nowhere/node", "/etc/passwd"])
def test_what_does_not_tell_has_none(name: str) -> None:
    assert node_version(name) == ""
