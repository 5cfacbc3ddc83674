"""The static key and the store secret: found where, and read by whom."""

from pathlib import Path
from typing import Any

import pytest

from harness import KEY, settings_for
from proxy.launch.checks.key import find
from proxy.launch.exec import Credentials
from proxy.launch.report import Line
from proxy.tokens.key import parse_key
from proxy.tokens.model import Secret

SECRET = "5e" * 32
PRINT = parse_key(KEY, "the test").fingerprint
NOT_ASCII = "holds a space, a control character or a character outside ASCII"
MEMBER = {"role": "member", "store": {"url": "redis://redis"}}


def found(environ: dict[str, str], **sections: Any) -> tuple[list[Line], Credentials]:
    return find(settings_for("https://api.test", **sections), environ)


def told(lines: list[Line]) -> list[tuple[str, str, str, str]]:
    return [(each.grade.value, each.check, each.subject, each.found) for each in lines]


def test_a_key_is_told_by_its_source_and_fingerprint() -> None:
    lines, credentials = found({"MOBULA_API_KEY": KEY})
    assert told(lines) == [("ok", "static key", "MOBULA_API_KEY", f"fingerprint {PRINT}")]
    assert credentials.key is not None
    assert credentials.seal == Secret(KEY)


def test_a_key_in_a_file_of_our_own_is_well(tmp_path: Path) -> None:
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text(KEY)
    lines, _ = found({}, api_key={"file": str(tmp_path / "key")})
    assert told(lines) == [("ok", "static key", f"file {tmp_path / 'key'}", f"fingerprint {PRINT}")]


def test_a_file_that_all_can_read_is_warned_of(open_folder: Path) -> None:
    (open_folder / "key").touch(0o644)
    (open_folder / "key").write_text(KEY)
    ((line,), _) = found({"MOBULA_API_KEY_FILE": str(open_folder / "key")})
    assert line.grade.value == "warn"
    assert line.found == f"fingerprint {PRINT}; every user of this machine can read it"
    assert line.step.startswith(f"chmod o-r {open_folder / 'key'} ")


REFUSED = {
    "none": ({}, "none", "no static key", "Set MOBULA_API_KEY, or "),
    "two": (
        {"MOBULA_API_KEY": KEY, "MOBULA_API_KEY_FILE": "/x"},
        "none",
        "MOBULA_API_KEY and MOBULA_API_KEY_FILE are both set: unset one",
        "Set MOBULA_API_KEY, or ",
    ),
    "empty": (
        {"MOBULA_API_KEY": ""},
        "MOBULA_API_KEY",
        "the static key from MOBULA_API_KEY is empty",
        "Set MOBULA_API_KEY, or ",
    ),
    "blank": (
        {"MOBULA_API_KEY": f"Bearer {KEY}"},
        "MOBULA_API_KEY",
        f"the static key from MOBULA_API_KEY {NOT_ASCII}",
        "It must be the bare key as Mobula's dashboard shows it.",
    ),
    "missing": (
        {"MOBULA_API_KEY_FILE": "/nowhere"},
        "file /nowhere",
        "the static key cannot be read from file /nowhere: No such file or directory",
        "Set MOBULA_API_KEY, or ",
    ),
}


@pytest.mark.parametrize(("environ", "subject", "why", "step"), REFUSED.values(), ids=REFUSED)
def test_a_key_that_cannot_be_used_is_told_with_the_reason_and_the_remedy(
    environ: dict[str, str], subject: str, why: str, step: str
) -> None:
    lines, credentials = found(environ)
    (line,) = lines
    assert told(lines) == [("fail", "static key", subject, why)]
    assert line.step.startswith(step)
    assert (credentials.key, credentials.seal) == (None, None)


def test_a_store_secret_is_told_where_there_is_one_and_seals_in_place_of_the_key() -> None:
    lines, credentials = found({"MOBULA_API_KEY": KEY, "MOBULA_STORE_SECRET": SECRET})
    assert told(lines)[1:] == [
        ("ok", "store secret", "MOBULA_STORE_SECRET", "it seals what the store keeps")
    ]
    assert credentials.seal == Secret(SECRET)


def test_a_store_secret_that_is_too_short_is_told() -> None:
    lines, credentials = found({"MOBULA_API_KEY": KEY, "MOBULA_STORE_SECRET": "short"})
    assert told(lines)[1][0] == "fail"
    assert credentials.store_secret is None


def test_a_member_needs_no_key_but_a_store_secret() -> None:
    lines, _ = found({"MOBULA_STORE_SECRET": SECRET}, **MEMBER)
    assert told(lines) == [
        ("ok", "static key", "none", "a member needs none"),
        ("ok", "store secret", "MOBULA_STORE_SECRET", "it seals what the store keeps"),
    ]


def test_a_member_without_a_store_secret_is_told_how_to_give_one() -> None:
    (_, line), _ = found({"MOBULA_API_KEY": KEY}, **MEMBER)
    assert (line.grade.value, line.subject) == ("fail", "none")
    assert line.found == "no store secret, which a member needs to read its fleet's tokens"
    assert line.step.startswith("Set MOBULA_STORE_SECRET, or ")


def test_what_was_found_shows_no_secret() -> None:
    _, credentials = found({"MOBULA_API_KEY": KEY, "MOBULA_STORE_SECRET": SECRET})
    assert KEY not in repr(credentials)
    assert SECRET not in repr(credentials)
