"""Clients in the settings: what they may be, and what a wrong one is told."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import ClientSettings, Settings, SettingsError, effective, load, read_clients
from proxy.traffic.reception import read_roster

PLAIN = "plain-token-4711"
DIGEST = f"sha256:{hashlib.sha256(PLAIN.encode()).hexdigest()}"
ASKING = [{"bind": "127.0.0.1:0", "authenticate": True}]

EVERYTHING = {
    "tokens": [DIGEST],
    "certificates": ["spiffe://cluster.local/ns/Research/sa/app", "app.research.svc", "*.x", "_a"],
    "uids": [0, 10001, 4294967294],
    "service_accounts": ["research/app", "batch/*", "a/b.c-d"],
    "expires": "2027-01-31T12:00:00Z",
    "requests_per_second": 0.5,
    "requests_per_day": 1_000_000,
    "paths": ["/", "/api/1/market", "/api/2/", "/.well-known/a..b"],
    "methods": ["GET", "VERSION-CONTROL"],
}


def loaded(clients: Any, **sections: Any) -> Settings:
    tree = {"listeners": ASKING, "clients": clients, **sections}
    overrides = [(name, json.dumps(each)) for name, each in tree.items()]
    return load(file=None, environ={}, overrides=overrides)


def problems(clients: Any, **sections: Any) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        loaded(clients, **sections)
    assert refused.value.__context__ is None, "what went before may hold the values"
    return [str(each).replace(" in --set clients)", ")") for each in refused.value.problems]


def problem(setting: str, value: Any) -> str:
    """Return what is said of a client that has one wrong setting."""
    (told,) = problems({"a": {"methods": ["GET"], "uids": [1], setting: value}})
    return told


# What they may be


def test_client_may_have_everything() -> None:
    client = loaded({"research": EVERYTHING}).clients["research"]
    assert client.expires == datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()
    assert client.uids == (0, 10001, 4294967294)
    assert client.paths == ("/", "/api/1/market", "/api/2/", "/.well-known/a..b")


@pytest.mark.parametrize("name", ["a", "0", "a-b_c.d", "a" * 63])
def test_name_is_small_letters_and_digits(name: str) -> None:
    assert list(loaded({name: {"uids": [1]}}).clients) == [name]


def test_what_is_left_out_limits_nothing() -> None:
    client = loaded({"a": {"uids": [1]}}).clients["a"]
    assert client == ClientSettings(uids=(1,))
    assert (client.expires, client.requests_per_second, client.requests_per_day) == (None,) * 3
    assert client.paths == client.methods == ()


def test_entry_that_stands_twice_stands_once() -> None:
    client = loaded({"a": {"uids": [1, 2, 1], "certificates": ["A.x", "a.X"]}}).clients["a"]
    assert (client.uids, client.certificates) == ((1, 2), ("a.x",))


@pytest.mark.parametrize("clients", [{}, {"research": EVERYTHING}], ids=["none", "one"])
def test_written_out_they_load_to_the_same(clients: dict[str, Any], tmp_path: Path) -> None:
    first = loaded(clients, clients_file="/clients.yaml")
    file = tmp_path / "config.yaml"
    file.write_text(effective(first))
    assert load(file=file, environ={}, overrides=[]) == first


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - the zone comes after
    st.integers(-1439, 1439),
)
@settings(max_examples=30)
def test_time_that_is_written_out_is_read_as_the_same(naive: datetime, minutes: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    first = loaded({"a": {"uids": [1], "expires": moment.isoformat()}})
    written = yaml.safe_load(effective(first))["clients"]["a"]["expires"]
    assert loaded({"a": {"uids": [1], "expires": written}}) == first


# What they may not be

TIME = "must be a time with its zone, as in 2027-01-31T12:00:00Z, or null"
RATE = "must be a number between 0.001 and 1000000, or null"
COUNT = "must be a whole number between 1 and 1000000000000, or null"
SCALARS: list[tuple[str, Any, str]] = [
    ("expires", "2027-01-31", f"{TIME} (2027-01-31)"),
    ("expires", "2027-01-31T12:00:00", f"{TIME} (2027-01-31T12:00:00)"),
    ("expires", "9999-12-31T23:59:59-23:00", f"{TIME} (9999-12-31T23:59:59-23:00)"),
    ("expires", "0001-01-01T00:00:00+23:00", f"{TIME} (0001-01-01T00:00:00+23:00)"),
    ("expires", 1800000000, f"{TIME} (1800000000)"),
    ("expires", True, f"{TIME} (true)"),
    ("requests_per_second", 0, f"{RATE} (0)"),
    ("requests_per_second", 1_000_001, f"{RATE} (1000001)"),
    ("requests_per_second", "5/s", f"{RATE} (5/s)"),
    ("requests_per_second", float("nan"), f"{RATE} (NaN)"),
    ("requests_per_second", True, f"{RATE} (true)"),
    ("requests_per_day", 0, f"{COUNT} (0)"),
    ("requests_per_day", 1.5, f"{COUNT} (1.5)"),
    ("requests_per_day", "5", f'{COUNT} ("5")'),
    ("requests_per_day", True, f"{COUNT} (true)"),
]


@pytest.mark.parametrize(("setting", "value", "text"), SCALARS)
def test_wrong_value_is_named_with_what_would_be_right(setting: str, value: Any, text: str) -> None:
    assert problem(setting, value) == f"clients.a.{setting}: {text}"


FORMS = {
    "certificates": "subject alternative names, as spiffe://cluster/ns/a or app.example",
    "uids": "numbers of users, as `id -u` prints them",
    "service_accounts": "namespace/name of ServiceAccounts, or namespace/* for all of one",
    "paths": "paths such as /api/1/market, without %, //, ?, . and .. in them",
    "methods": "methods in capitals, such as GET",
}
ENTRIES: list[tuple[str, Any]] = [
    *[("certificates", each) for each in ("", "a b", "-a", "a-", "http//x", "x" * 1025, 1)],
    *[("uids", each) for each in ("root", "1", -1, 4294967295, True, 1.0, None)],
    *[("service_accounts", each) for each in ("app", "*", "*/app", "a/b*", "A/b", "a/b/c", "a/")],
    *[("paths", each) for each in ("", "api", "/a//b", "//", "/a%20b", "/a?b", "/a;b", "/a#b", 5)],
    *[("paths", each) for each in ("/..", "/a/../b", "/a/..", "/./a", "/a/.", "/a\\b", "/é")],
    *[("methods", each) for each in ("get", "GET POST", "", "-", "*", None)],
]


@pytest.mark.parametrize(("setting", "entry"), ENTRIES)
def test_wrong_entry_of_a_list_is_refused_in_words(setting: str, entry: Any) -> None:
    told = problem(setting, [*EVERYTHING[setting], entry])  # type: ignore[misc]
    assert told == f"clients.a.{setting}: must have {FORMS[setting]} (in --set clients)"


@pytest.mark.parametrize("setting", [*FORMS, "tokens"])
@pytest.mark.parametrize("value", [5, "x", {"x": "y"}, None])
def test_what_is_no_list_is_refused(setting: str, value: Any) -> None:
    assert problem(setting, value).startswith(f"clients.a.{setting}: must be a list of ")


def test_list_has_an_end() -> None:
    assert problem("uids", list(range(101))) == (
        "clients.a.uids: must have at most 100 entries (in --set clients)"
    )


@pytest.mark.parametrize(
    "tokens",
    [
        [PLAIN],
        PLAIN,
        {PLAIN: "x"},
        {"x": PLAIN},
        [[PLAIN]],
        [DIGEST, PLAIN],
        [f"sha256:{PLAIN}"],
        [DIGEST.upper()],
        [DIGEST[7:]],
        [f"{DIGEST} "],
    ],
)
def test_plain_token_in_place_of_its_digest_is_never_shown(tokens: Any) -> None:
    told = problem("tokens", tokens)
    assert "sha256: and 64 hexadecimal digits, the SHA-256 of each token" in told
    assert PLAIN not in told
    assert DIGEST[7:] not in told


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a-", ".a", "a b", "a/b", "ä", "a" * 64, 'a"b', "a\nb"]
)
def test_wrong_name_is_refused(name: str) -> None:
    (told,) = problems({name: {"uids": [1]}})
    assert told.startswith("clients.")
    assert "must be a name of at most 63 small letters and digits, with . _ - between them" in told


@pytest.mark.parametrize("client", [{}, {"requests_per_day": 5}, {"tokens": [], "uids": []}])
def test_client_that_nobody_could_be_is_refused(client: dict[str, Any]) -> None:
    (told,) = problems({"a": client})
    assert told == (
        "clients.a: has no credential; give it tokens, certificates, uids or service_accounts "
        "(in --set clients)"
    )


def test_unknown_setting_is_named_and_its_value_is_not() -> None:
    assert problem("token", [PLAIN]) == (
        "clients.a.token: unknown setting; did you mean clients.a.tokens? (in --set clients)"
    )


@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [
        ("tokens", DIGEST, DIGEST),
        ("uids", 7, 7),
        ("service_accounts", "shop/*", "shop/*"),
        ("certificates", "spiffe://a/b", "spiffe://a/b"),
        ("certificates", "App.Example", "app.example"),
    ],
)
def test_credential_of_two_clients_is_refused(setting: str, first: Any, second: Any) -> None:
    told = problems({"a": {setting: [first]}, "b": {"uids": [8], setting: [second]}})
    assert told == [f"clients.b.{setting}: has one that client a has too (in --set clients)"]


def test_names_that_differ_only_in_the_case_of_a_uri_are_two() -> None:
    loaded({"a": {"certificates": ["spiffe://x/A"]}, "b": {"certificates": ["spiffe://x/a"]}})


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = problems({"a": {"uids": [-1], "methods": ["get"]}, "B": {"tokens": [PLAIN]}})
    assert [each.partition(":")[0] for each in told] == [
        "clients.a.uids",
        "clients.a.methods",
        "clients.B",
        "clients.B.tokens",
    ]


# Many


def token_of(number: int) -> bytes:
    return b"token-%d" % number


def test_ten_thousand_clients_are_read_from_a_file_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "clients.yaml"
    digests = [hashlib.sha256(token_of(number)).hexdigest() for number in range(10_000)]
    lines = [f"c{number}: {{tokens: ['sha256:{each}']}}\n" for number, each in enumerate(digests)]
    file.write_text("".join(lines))
    roster = read_roster({}, str(file))
    for number in range(0, 10_000, 999):
        client = roster.of_token(token_of(number))
        assert client is not None
        assert client.name == f"c{number}"
    assert roster.of_token(token_of(10_000)) is None


# A file of their own


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Read a file that is wrong, and return what is said of it."""

    def refused(text: str, **beside: ClientSettings) -> str:
        file = tmp_path / "clients.yaml"
        file.write_text(text)
        with pytest.raises(SettingsError) as told:
            read_clients(file, beside)
        return str(told.value).replace(str(file), "FILE")

    return refused


def test_file_holds_a_mapping_like_the_one_in_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "clients.yaml"
    file.write_text(yaml.safe_dump({"research": EVERYTHING}))
    beside = {"other": ClientSettings(uids=(8,))}
    clients = read_clients(file, beside)
    assert clients == loaded({"research": EVERYTHING}).clients | beside


def test_problem_in_the_file_is_named_with_its_line(refused: Callable[..., str]) -> None:
    assert refused(f"a: {{uids: [1]}}\nb:\n  tokens: ['{PLAIN}']\n  expires: soon\n") == (
        "2 problems with the settings:\n"
        "  clients.b.tokens: must have sha256: and 64 hexadecimal digits, the SHA-256 of each "
        "token (in FILE, line 3)\n"
        f"  clients.b.expires: {TIME} (soon in FILE, line 4)"
    )


def test_file_and_settings_may_not_have_the_same_client(refused: Callable[..., str]) -> None:
    told = refused("a: {uids: [2]}\nb: {uids: [1]}", a=ClientSettings(uids=(1,)))
    assert "clients.a: stands in the settings too" in told
    assert refused("b: {uids: [1]}", a=ClientSettings(uids=(1,))).endswith(
        "clients.b.uids: has one that client a has too (in FILE, line 1)"
    )


def test_client_that_is_named_twice_in_the_file_is_refused(refused: Callable[..., str]) -> None:
    assert "clients.a: is set twice (in FILE, line 2)" in refused("a: {uids: [1]}\na: {uids: [2]}")


@pytest.mark.parametrize("text", ["", "null", "# all gone"])
def test_file_that_may_be_half_written_is_refused(refused: Callable[..., str], text: str) -> None:
    assert refused(text) == (
        "1 problem with the settings:\n  FILE: is empty; write {} where nothing is meant"
    )


def test_last_client_of_a_file_can_be_taken_out(tmp_path: Path) -> None:
    (tmp_path / "clients.yaml").write_text("{}")
    assert read_clients(tmp_path / "clients.yaml", {}) == {}


def test_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.yaml: cannot be read: No such file"):
        read_clients(tmp_path / "missing.yaml", {})
