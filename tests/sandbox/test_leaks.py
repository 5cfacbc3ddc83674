"""Finding static keys, without a server."""

import pytest

from proxy.sandbox.leaks import KeyFinder

KEY = "mobula/key=1"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJ4In0.c2lnbmF0dXJl"


@pytest.fixture
def finder() -> KeyFinder:
    return KeyFinder([KEY])


@pytest.mark.parametrize(
    ("target", "places"),
    [
        ("/clean?asset=Bitcoin", []),
        (f"/{KEY}/x", ["path"]),
        ("/mobula%2Fkey%3d1", ["path"]),
        (f"/x?key={KEY}", ["query"]),
        ("/x?key=%6Dobula%2fkey=1", ["query"]),
        (f"/{KEY}?{KEY}", ["path", "query"]),
    ],
)
def test_a_key_in_the_target_is_found_raw_and_percent_encoded(
    finder: KeyFinder, target: str, places: list[str]
) -> None:
    assert list(finder.places(target, [], manages=False)) == places


def test_a_key_is_found_in_any_header_and_within_a_longer_value(finder: KeyFinder) -> None:
    headers = [(b"Host", b"a"), (b"Cookie", b"k=" + KEY.encode()), (b"X-API-Key", KEY.encode())]
    assert list(finder.places("/", headers, manages=False)) == [
        "header:cookie",
        "header:x-api-key",
    ]


def test_where_tokens_are_managed_only_the_credential_headers_may_hold_a_key(
    finder: KeyFinder,
) -> None:
    headers = [
        (b"authorization", KEY.encode()),
        (b"x-api-key", KEY.encode()),
        (b"Via", KEY.encode()),
    ]
    assert list(finder.places(f"/?{KEY}", headers, manages=True)) == ["query", "header:via"]


def test_redaction_leaves_neither_key_nor_token(finder: KeyFinder) -> None:
    assert finder.redact(f"a {KEY} b {JWT} c") == "a [static key] b [token] c"
    assert finder.redact("/mobula%2Fkey%3D1/x%20y") == "/[static key]/x y"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (f"Bearer {JWT}", "Bearer [token]"),
        (f"bearer {KEY}", "bearer [static key]"),
        (KEY, "[static key]"),
        ("Basic dXNlcjpwYXNz", "[redacted]"),
        ("Bearer something-else", "Bearer [redacted]"),
        (f"Bearer {JWT} and more", "Bearer [redacted]"),
    ],
)
def test_of_a_credential_header_only_scheme_and_kind_are_shown(
    finder: KeyFinder, value: str, shown: str
) -> None:
    assert finder.redact_header(b"Authorization", value.encode()) == ("Authorization", shown)


def test_other_headers_are_shown_as_they_came(finder: KeyFinder) -> None:
    assert finder.redact_header(b"X-Odd", b"caf\xe9  x") == ("X-Odd", "caf\xe9  x")


def test_the_finder_does_not_show_its_keys(finder: KeyFinder) -> None:
    assert repr(finder) == "<KeyFinder 1 static keys>"
