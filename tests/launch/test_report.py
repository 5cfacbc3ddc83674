"""The lines of a report: their columns, their JSON, and what is told once."""

import io
import json

import pytest

from proxy.launch.report import (
    Line,
    Printer,
    as_json,
    as_text,
    fail,
    has_failed,
    merged,
    ok,
    parted,
    skip,
    warn,
)

LINES = [
    ok("dns", "api.test", "127.0.0.7"),
    warn("static key", "file key", "all can read it", step="chmod o-r key"),
    fail("tls", "api.test", "connection refused", step="start it"),
    skip("mint", "api.test", "not tried"),
]


def test_columns_are_aligned_and_next_steps_stand_below() -> None:
    assert as_text(LINES, colours=False).splitlines() == [
        "ok    dns           api.test                   127.0.0.7",
        "warn  static key    file key                   all can read it",
        "      -> chmod o-r key",
        "fail  tls           api.test                   connection refused",
        "      -> start it",
        "skip  mint          api.test                   not tried",
    ]


def test_a_subject_that_is_very_long_moves_no_other_line() -> None:
    long = ok("store", "x" * 60, "opened")
    first, second = as_text([long, LINES[0]], colours=False).splitlines()
    assert first == f"ok    store         {'x' * 60}  opened"
    assert second == as_text(LINES, colours=False).splitlines()[0]


def test_colours_are_on_the_first_word_only() -> None:
    first = as_text(LINES, colours=True).splitlines()[0]
    assert first.startswith("\x1b[32mok  \x1b[0m  dns  ")
    assert first.count("\x1b") == 2


def test_what_others_have_named_cannot_steer_a_terminal() -> None:
    assert "a?[2Jb" in as_text([ok("calls", "a\x1b[2Jb", "c\nd")], colours=False)
    assert as_text([ok("calls", "a", "c\nd")], colours=False).endswith("  c?d\n")


def test_json_is_a_list_of_objects() -> None:
    assert json.loads(as_json(LINES))[1:3] == [
        {
            "grade": "warn",
            "check": "static key",
            "subject": "file key",
            "found": "all can read it",
            "step": "chmod o-r key",
        },
        {
            "grade": "fail",
            "check": "tls",
            "subject": "api.test",
            "found": "connection refused",
            "step": "start it",
        },
    ]
    assert json.loads(as_json(LINES))[0]["step"] is None


def test_it_has_failed_if_one_line_says_so() -> None:
    assert has_failed(LINES)
    assert not has_failed([each for each in LINES if each is not LINES[2]])


def refused(name: str, why: str = "refused") -> Line:
    return fail("tls", name, why, step="start it")


def test_what_is_true_of_all_upstreams_is_said_once() -> None:
    assert merged(map(refused, "abc"), 3) == [refused("3 upstreams", "each: refused")]


def test_what_is_true_of_some_is_said_once_and_names_them() -> None:
    assert merged([refused("a"), refused("b", "late"), refused("c")], 3) == [
        refused("a, c", "each: refused"),
        refused("b", "late"),
    ]


def test_what_is_true_of_one_stays_as_it_is() -> None:
    assert merged([refused("a")], 1) == [refused("a")]


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        ("others can read f: run `chmod 600 f`", "others can read f", "run `chmod 600 f`"),
        ("f is damaged (a: b): remove it", "f is damaged (a: b)", "remove it"),
        ("it needs redis-py; install it with: pip", "it needs redis-py", "install it with: pip"),
        ("/f: Permission denied", "/f: Permission denied", ""),
    ],
)
def test_an_error_is_parted_where_it_turns_to_the_remedy(
    text: str, found: str, remedy: str
) -> None:
    assert parted(text) == (found, remedy)


def printed(*parts: list[Line], json_list: bool) -> str:
    stream = io.StringIO()
    printer = Printer(stream, json_list=json_list)
    for part in parts:
        printer.print(part)
        printer.part()
    printer.end()
    return stream.getvalue()


def test_text_is_printed_part_by_part() -> None:
    parts = LINES[:2], LINES[2:]
    first, second = (as_text(each, colours=False) for each in parts)
    assert printed(*parts, json_list=False) == f"{first}\n{second}\n"


def test_json_is_printed_whole() -> None:
    assert printed(LINES[:2], LINES[2:], json_list=True) == as_json(LINES)
