"""Settings: where they come from, what they may be, and what a wrong one is told."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import (
    Address,
    Settings,
    SettingsError,
    effective,
    json_schema,
    load,
)
from proxy.settings.places import host_of
from proxy.settings.store_url import StoreUrl
from proxy.settings.values import format_duration, format_size, parse_duration, parse_size

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config.example.yaml"
SCHEMA = ROOT / "docs" / "config.schema.json"
SECRET = "sk-live-8f14e45f"

Loader = Callable[..., Settings]


@pytest.fixture
def loading(tmp_path: Path) -> Loader:
    """Load from the text of a file `config.yaml`, variables without their prefix, and flags."""
    file = tmp_path / "config.yaml"

    def loading(
        text: str | bytes = "",
        environ: Mapping[str, str] | None = None,
        overrides: Sequence[tuple[str, str]] = (),
    ) -> Settings:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        variables = {f"MOBULA_PROXY__{name}": value for name, value in (environ or {}).items()}
        return load(file=file, environ=variables, overrides=overrides)

    return loading


@pytest.fixture
def problems(loading: Loader, tmp_path: Path) -> Callable[..., list[str]]:
    """Load what is wrong, and return a line for each problem."""

    def problems(*sources: object) -> list[str]:
        with pytest.raises(SettingsError) as refused:
            loading(*sources)
        assert refused.value.__context__ is None, "what went before may hold the values"
        return [str(problem).replace(f"{tmp_path}/", "") for problem in refused.value.problems]

    return problems


Problems = Callable[..., list[str]]


# --- Where settings come from --------------------------------------------------------------------


def test_without_any_source_everything_has_its_default() -> None:
    assert load(file=None, environ={}, overrides=()) == Settings()


def test_an_empty_file_changes_nothing(loading: Loader) -> None:
    assert loading("# nothing yet\n") == Settings()


def test_a_file_may_start_with_a_byte_order_mark(loading: Loader) -> None:
    assert loading("\ufefftoken: {standby: 2}").token.standby == 2


def test_the_environment_overrides_the_file_and_flags_override_both(loading: Loader) -> None:
    token = loading(
        "token: {expires_in: 2h, standby: 2, wait: 2s}",
        {"TOKEN__EXPIRES_IN": "3h", "TOKEN__STANDBY": "3"},
        [("token.expires_in", "4h")],
    ).token
    assert (token.expires_in, token.standby, token.wait) == (4 * 3600, 3, 2)


def test_an_upstream_is_named_by_its_host_unless_a_url_says_otherwise(loading: Loader) -> None:
    text = "upstreams: {A.test: {queue: 1}, b.test: {url: 'https://c.test/v2'}}"
    urls = {name: each.url for name, each in loading(text).upstreams.items()}
    assert urls == {"a.test": "https://a.test", "b.test": "https://c.test/v2"}
    flags = [("upstreams.api.mobula.io.connections", "64")]
    assert loading("", {}, flags).upstreams["api.mobula.io"].url == "https://api.mobula.io"


def test_a_variable_that_lacks_an_underscore_is_refused() -> None:
    environ = {"MOBULA_PROXY_TOKEN__STANDBY": "3", "MOBULA_PROXY_CONFIG": "x"}
    with pytest.raises(SettingsError) as refused:
        load(file=None, environ=environ, overrides=[])
    assert [str(problem) for problem in refused.value.problems] == [
        "MOBULA_PROXY_TOKEN__STANDBY: names no setting; write MOBULA_PROXY__SECTION__KEY"
    ]


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_left_alone() -> None:
    environ = {
        "MOBULA_PROXY_PORT": "tcp://10.0.0.1:8080",
        "MOBULA_PROXY_SERVICE_HOST": "10.0.0.1",
        "MOBULA_PROXY_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert load(file=None, environ=environ, overrides=[]) == Settings()


def test_the_last_of_two_flags_wins(loading: Loader) -> None:
    flags = [("log.level", "debug"), ("log.level", "error")]
    assert loading(overrides=flags).log.level == "error"


def test_mappings_merge_and_lists_are_replaced(loading: Loader) -> None:
    loaded = loading(
        "upstreams: {a.test: {url: https://a.test, queue: 1}}\n"
        "listeners: [{bind: '127.0.0.1:1'}, {bind: '127.0.0.1:2'}]",
        {
            "UPSTREAMS": '{"a.test": {"queue": 2}, "b.test": {"url": "https://b.test"}}',
            "LISTENERS": '[{"bind": "127.0.0.1:0", "mode": "reverse"}]',
        },
    )
    assert loaded.upstreams["a.test"].url == "https://a.test"
    assert loaded.upstreams["a.test"].queue == 2
    assert list(loaded.upstreams) == ["a.test", "b.test"]
    assert [str(listener.bind) for listener in loaded.listeners] == ["127.0.0.1:0"]


def test_a_variable_of_one_setting_wins_over_one_of_its_section(loading: Loader) -> None:
    environ = {"TOKEN__WAIT": "3s", "TOKEN": "{wait: 2s, standby: 2}"}
    token = loading("", environ).token
    assert (token.wait, token.standby) == (3, 2)


def test_variables_are_read_in_any_case_after_the_prefix(loading: Loader) -> None:
    assert loading("", {"Log__Access": "true"}).log.access is True


def test_variables_of_other_prefixes_are_not_ours() -> None:
    environ = {
        "MOBULA_PROXY_CONFIG": "/nowhere",
        "MOBULA_PROXY_SERVICE_HOST": "10.0.0.1",  # Kubernetes sets it for a service of our name
        "MOBULA_API_KEY": SECRET,
    }
    assert load(file=None, environ=environ, overrides=()) == Settings()


def test_an_ipv6_address_in_a_variable_needs_no_quotes(loading: Loader) -> None:
    assert loading("", {"ADMIN__BIND": "[::1]:9191"}).admin.bind == Address("::1", 9191)


def test_a_variable_names_an_upstream_where_the_system_allows_dots(loading: Loader) -> None:
    loaded = loading("", {"UPSTREAMS__API.MOBULA.IO__URL": "https://demo.test"})
    assert loaded.upstreams["api.mobula.io"].url == "https://demo.test"


def test_the_path_of_the_static_key_s_file_is_a_setting(loading: Loader) -> None:
    assert loading("", {"API_KEY__FILE": "/run/secrets/key"}).api_key.file == "/run/secrets/key"


def test_a_flag_takes_the_last_word_for_the_setting_of_an_upstream(loading: Loader) -> None:
    flags = [("upstreams.api.mobula.io.url", "https://demo.test")]
    assert loading(overrides=flags).upstreams["api.mobula.io"].url == "https://demo.test"


def test_a_flag_with_a_mapping_sets_a_whole_upstream(loading: Loader) -> None:
    flags = [("upstreams.localhost:9000", "{url: 'http://localhost:9000', queue: 7}")]
    assert loading(overrides=flags).upstreams["localhost:9000"].queue == 7


# --- What cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "token: {",
            (
                "is not valid YAML at line 2, column 1: while parsing a flow node, "
                "did not find expected node content"
            ),
        ),
        (
            f"log:\n  level: a: {SECRET}",
            (
                "is not valid YAML at line 2, column 11: "
                "mapping values are not allowed in this context"
            ),
        ),
        (
            "a: &x 1\nb: *x",
            (
                "is not valid YAML at line 1, column 4: "
                "anchors and aliases (& and *) are not supported; write the value out"
            ),
        ),
        (
            "a: *x",
            (
                "is not valid YAML at line 1, column 4: "
                "anchors and aliases (& and *) are not supported; write the value out"
            ),
        ),
        (
            "log: {}\n---\nlog: {}",
            (
                "is not valid YAML at line 2, column 1: "
                "expected a single document in the stream, "
                "but found another document"
            ),
        ),
        (
            "a: !!python/name:os",
            (
                "is not valid YAML at line 1, column 4: could not determine "
                "a constructor for the tag ***"
            ),
        ),
        ("a: \x00", "holds a character that YAML does not allow"),
        (
            "[" * 10_000 + "]" * 10_000,
            "is not valid YAML at line 1, column 33: nothing is nested deeper than 32 levels",
        ),
        ("a: " + "9" * 5000, "holds a value that cannot be read"),
        ("- token", "must be a mapping of settings"),
        (b"log: \xff", "must be UTF-8 text"),
        ("#" + "é" * (1 << 22), "must be at most 8MiB"),
    ],
    ids=[
        "syntax",
        "second-colon",
        "anchor",
        "alias",
        "documents",
        "tag",
        "nul",
        "deep",
        "long",
        "list",
        "latin-1",
        "huge",
    ],
)
def test_a_file_that_cannot_be_parsed_says_why(
    problems: Problems, text: str | bytes, expected: str
) -> None:
    assert problems(text) == [f"config.yaml: {expected}"]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "none.yaml"
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read: No such file"):
        load(file=file, environ={}, overrides=())


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load(file=tmp_path, environ={}, overrides=())


def test_a_key_that_is_set_twice_is_refused(problems: Problems) -> None:
    assert problems("token:\n  wait: 1s\n  wait: 2s\ntoken: {}") == [
        "token.wait: is set twice (in config.yaml, line 3)",
        "token: is set twice (in config.yaml, line 4)",
    ]


def test_a_key_that_is_no_text_is_refused(problems: Problems) -> None:
    text = "must have text for names; put quotes around them"
    assert problems("1: {}\nupstreams: {8080: {}}") == [
        f"settings: {text} (in config.yaml, line 1)",
        f"upstreams: {text} (in config.yaml, line 2)",
    ]


def test_variables_and_flags_that_cannot_be_parsed_are_named_together(problems: Problems) -> None:
    found = "while parsing a flow sequence, did not find expected ',' or ']'"
    assert problems("", {"LISTENERS": "[1", "LOG": "{level: a, level: b}"}, [("log", "[1")]) == [
        (f"listeners: is not valid YAML at line 2, column 1: {found} (in MOBULA_PROXY__LISTENERS)"),
        "log.level: is set twice (in MOBULA_PROXY__LOG)",
        (f"log: is not valid YAML at line 2, column 1: {found} (in --set log)"),
    ]


def test_variables_and_flags_without_a_name_are_refused(problems: Problems) -> None:
    assert problems("", {"": "1", "LOG____LEVEL": "info"}, [("log.", "1"), ("", "1")]) == [
        "MOBULA_PROXY__: names no setting; write MOBULA_PROXY__SECTION__KEY",
        "MOBULA_PROXY__LOG____LEVEL: names no setting; write MOBULA_PROXY__SECTION__KEY",
        "--set log.=: names no setting; write --set section.key=value",
        "--set =: names no setting; write --set section.key=value",
    ]


# --- What a problem says -------------------------------------------------------------------------


def test_all_problems_are_told_at_once_each_with_its_place(loading: Loader, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        loading(
            "token:\n  standbye: 2\nlisteners:\n  - {bind: '127.0.0.1:1', mode: ftp}",
            {"TOKEN__EXPIRES_IN": "30s"},
            [("log.level", "loud")],
        )
    assert str(refused.value).replace(f"{tmp_path}/", "") == (
        "4 problems with the settings:\n"
        "  token.expires_in: must be between 1m and 24h (30s in MOBULA_PROXY__TOKEN__EXPIRES_IN)\n"
        "  token.standbye: unknown setting; did you mean token.standby? (in config.yaml, line 2)\n"
        "  listeners[0].mode: must be reverse, forward or tls (ftp in config.yaml, line 4)\n"
        "  log.level: must be debug, info, warning or error (loud in --set log.level)"
    )


def test_one_problem_is_counted_as_one() -> None:
    with pytest.raises(SettingsError, match=r"^1 problem with the settings:\n  log"):
        load(file=None, environ={}, overrides=[("log.level", "loud")])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TOKEN__EXPIERS_IN", "did you mean token.expires_in?"),
        ("TOKENS", "did you mean token?"),
        ("TOKEN_EXPIRES_IN", "did you mean token.expires_in?"),
        ("EXPIRES_IN", "did you mean token.expires_in?"),
        ("LOG__COLOUR", "known here: format, level or access"),
        ("UPSTREAMS__API.MOBULA.IO__UR", "did you mean upstreams.api.mobula.io.url?"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_setting_and_without_its_value(
    problems: Problems, name: str, meant: str
) -> None:
    file = "upstreams: {api.mobula.io: {url: https://api.mobula.io}}"
    setting = name.lower().replace("__", ".")
    assert problems(file, {name: SECRET}) == [
        f"{setting}: unknown setting; {meant} (in MOBULA_PROXY__{name})"
    ]


def test_an_unknown_setting_of_a_listener_is_named_in_full(problems: Problems) -> None:
    assert problems("listeners:\n- bind: 127.0.0.1:1\n  insecur: true") == [
        (
            "listeners[0].insecur: unknown setting; did you mean listeners[0].insecure? "
            "(in config.yaml, line 3)"
        )
    ]


def test_a_value_belongs_to_the_source_that_set_it_last(problems: Problems) -> None:
    assert problems(
        "listeners:\n- bind: 127.0.0.1:1\n- bind: 127.0.0.1:2",
        {"LISTENERS": "[{bind: nowhere}]"},
    ) == [
        (
            "listeners[0].bind: must be host:port, [v6]:port or unix:/path, e.g. 127.0.0.1:8080 "
            "(nowhere in MOBULA_PROXY__LISTENERS)"
        )
    ]


def test_long_and_unprintable_values_stay_on_one_line(problems: Problems) -> None:
    long, unprintable = problems("log: {level: '" + "x" * 999 + '\', format: "a\\nb"}')[::-1]
    assert len(long) < 200
    assert r'("a\nb" in config.yaml, line 1)' in unprintable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token:", "token: must be a mapping of settings (in"),
        ("token: {standby: true}", "token.standby: must be a whole number (true in"),
        ("token: {standby: '1'}", 'token.standby: must be a whole number ("1" in'),
        ("token: {standby: 1.0}", "token.standby: must be a whole number (1.0 in"),
        ("token: {standby: -1}", "token.standby: must be at least 0 (-1 in"),
        ("token: {standby: 25}", "token.standby: must be at most 24 (25 in"),
        ("token: {on_exit: stay}", "token.on_exit: must be revoke or keep (stay in"),
        (
            "token: {wait: null}",
            "token.wait: must be a duration such as 250ms, 10s, 5m or 1h30m (null in",
        ),
        ("shutdown: {revoke: 31s}", ("shutdown.revoke: must be between 1ms and 30s (31s in")),
        ("log: {access: 1}", "log.access: must be true or false (1 in"),
        ("log: {access: 'no'}", "log.access: must be true or false (no in"),
        ("log: {level: [info]}", "log.level: must be debug, info, warning or error (in"),
        (
            "log: {level: 2026-02-31}",
            "log.level: must be debug, info, warning or error (2026-02-31 in",
        ),
        ("api_key: {file: ''}", "api_key.file: must not be empty (in"),
        ("listeners: {}", "listeners: must be a list (in"),
        ("listeners: []", "listeners: must have at least one entry (in"),
        ("listeners: [3]", "listeners[0]: must be a mapping of settings (in"),
        ("listeners: [{}]", "listeners[0].bind: is missing and has no default (in"),
        ("upstreams: []", "upstreams: must be a mapping of names to settings (in"),
        ("upstreams: {}", "upstreams: must have at least one entry (in"),
        ("role: boss", "role: must be both, minter or member (boss in"),
        ("state_dir: ''", 'state_dir: must be the path of a directory ("" in'),
        ('state_dir: "a\\0"', 'state_dir: must be the path of a directory ("a\\u0000" in'),
        ("ca: {dir: 3}", "ca.dir: must be the path of a directory (3 in"),
        ("ca: {public_dir: ''}", 'ca.public_dir: must be the path of a directory ("" in'),
        ("token: {inspect_every: 59s}", "token.inspect_every: must be between 1m and 365d (59s in"),
        (
            "service_accounts: {review_every: 2h}",
            "service_accounts.review_every: must be between 1s and 1h (2h in",
        ),
        (
            "service_accounts: {url: 'http://kubernetes.default.svc'}",
            (
                "service_accounts.url: the tokens of apps would travel in clear; use https:// "
                "(http://kubernetes.default.svc in"
            ),
        ),
        ("store: {on_outage: wait}", "store.on_outage: must be local or stop (wait in"),
    ],
)
def test_a_wrong_value_is_told_what_would_be_right(
    problems: Problems, text: str, expected: str
) -> None:
    assert problems(text) == [f"{expected} config.yaml, line 1)"]


def test_what_is_missing_is_looked_for_where_its_neighbours_are(problems: Problems) -> None:
    assert problems("", {}, [("listeners", "[{insecure: true}]")]) == [
        "listeners[0].bind: is missing and has no default (in --set listeners)"
    ]


# --- Secrets -------------------------------------------------------------------------------------

KEY_ELSEWHERE = (
    "api_key: must not hold the static key itself; put it into a file and its path into "
    "api_key.file, or into the environment as MOBULA_API_KEY or MOBULA_API_KEY_FILE"
)
STORE_SECRET_ELSEWHERE = (
    "store.secret: must not hold the store secret itself; put it into a file and its path into "
    "store.secret.file, or into the environment as MOBULA_STORE_SECRET or MOBULA_STORE_SECRET_FILE"
)


def test_a_static_key_in_the_file_is_told_where_it_belongs(problems: Problems) -> None:
    assert problems(f"api_key: {SECRET}") == [f"{KEY_ELSEWHERE} (in config.yaml, line 1)"]


def test_a_static_key_in_a_variable_is_told_where_it_belongs(problems: Problems) -> None:
    assert problems("", {"API_KEY": SECRET}) == [f"{KEY_ELSEWHERE} (in MOBULA_PROXY__API_KEY)"]


def test_a_store_secret_among_the_settings_is_told_where_it_belongs(problems: Problems) -> None:
    assert problems(f"store: {{secret: {SECRET}}}") == [
        f"{STORE_SECRET_ELSEWHERE} (in config.yaml, line 1)"
    ]
    assert problems("", {"STORE__SECRET": SECRET}) == [
        f"{STORE_SECRET_ELSEWHERE} (in MOBULA_PROXY__STORE__SECRET)"
    ]


@pytest.mark.parametrize(
    ("text", "environ", "flags"),
    [
        (f"api_key: {{{SECRET}: 1}}", {}, []),
        (f"api_key: {{value: {SECRET}}}", {}, []),
        (f"api_key: [{SECRET}]", {}, []),
        (f"api_key: {{{SECRET}: 1, {SECRET}: 2}}", {}, []),
        (f"api_key: {{file: [{SECRET}]}}", {}, []),
        (f"api_key: {{'{SECRET}", {}, []),
        (f"api_key: !{SECRET}", {}, []),
        (f"api_key: !<{SECRET}> x", {}, []),
        (f"api_key: !{SECRET}!x y", {}, []),
        (f"key: {SECRET}", {}, []),
        (f"token: {SECRET}", {}, []),
        (f"upstreams: {{a.test: 'https://{SECRET}'}}", {}, []),
        (f"upstreams: {{'a b': {SECRET}}}", {}, []),
        (f"upstreams: {{a.test: {{url: 'https://{SECRET}@a.test'}}}}", {}, []),
        (f"upstreams: {{a.test: {{url: 'https://u:{SECRET}?@a.test'}}}}", {}, []),
        (f"upstreams: {{a.test: {{url: 'https://a.test?key={SECRET}'}}}}", {}, []),
        (f"store: {{url: 'redis://:{SECRET}@redis:0'}}", {}, []),
        (f"store: {{url: 'redis://:{SECRET}'}}", {}, []),
        (f"store: {{url: 'redis://:{SECRET}/x@redis'}}", {}, []),
        (f"store: {{url: 'postgres://:{SECRET}@db'}}", {}, []),
        (f"store: {{url: [{SECRET}]}}", {}, []),
        (f"upstream_proxy: 'http://u:{SECRET}@proxy:0'", {}, []),
        (f"upstream_proxy: 'http://u:{SECRET}'", {}, []),
        (f"upstream_proxy: 'http://u:{SECRET}/x@proxy:1'", {}, []),
        (f"upstream_proxy: {{url: 'http://u:{SECRET}@proxy:1'}}", {}, []),
        (f"upstream-proxy: 'http://u:{SECRET}@proxy:1'", {}, []),
        (f"store: {{secret: {{{SECRET}: 1}}}}", {}, []),
        (f"store: {{secret: {{value: {SECRET}}}}}", {}, []),
        (f"store: {{secret: {{file: [{SECRET}]}}}}", {}, []),
        ("", {"API_KEY__KEY": SECRET}, []),
        ("", {"KEY": SECRET}, []),
        ("", {"API_KEY": f"{{'{SECRET}"}, []),
        ("", {"API_KEY": f"!{SECRET}"}, []),
        ("", {}, [("api_key", SECRET)]),
        ("", {}, [(f"api_key.{SECRET}", "1")]),
        ("", {}, [(f"api_key..{SECRET}", "1")]),
        ("", {}, [("upstreams.a.test.url", f"https://u:{SECRET}@:")]),
    ],
)
def test_a_secret_is_never_shown(
    loading: Loader, text: str, environ: dict[str, str], flags: list[tuple[str, str]]
) -> None:
    with pytest.raises(SettingsError) as refused:
        loading(text, environ, flags)
    assert SECRET not in str(refused.value) + repr(refused.value)


# --- Durations and sizes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("250ms", 0.25), ("10s", 10), ("1.5s", 1.5), ("5m", 300), ("1h", 3600), ("1h30m", 5400),
        ("1d", 86400), ("1d1h1m1s1ms", 90061.001), ("90", 90), (90, 90), (0.25, 0.25),
        (0.0014, 0.001),
    ],
)  # fmt: skip
def test_a_duration_is_seconds(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "s", "1 h", "30m1h", "1h1h", "-1s", "1e3", "1H", "1us", "inf", "\u0661s", True, None, []]
)  # fmt: skip
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 250ms, 10s, 5m or 1h30m"):
        parse_duration(value)


@pytest.mark.parametrize(
    "value",
    [0, -1, "0s", "0.1ms", "366d", "9" * 400, 10**400, float("nan"), float("inf"), -float("inf")],
)
def test_a_duration_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be between 1ms and 365d"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.001, "1ms"), (0.25, "250ms"), (1.5, "1.5s"), (60, "1m"), (90, "1m30s"), (3600, "1h"),
     (5400, "1h30m"), (86400, "1d"), (60.001, "1m0.001s")],
)  # fmt: skip
def test_a_duration_is_written_as_people_would(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 365 * 86_400_000))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == parse_duration(seconds) == seconds


@pytest.mark.parametrize(
    ("value", "size"),
    [("64KiB", 65536), ("1MiB", 1 << 20), ("1GiB", 1 << 30), ("10kB", 10_000), ("5MB", 5_000_000),
     ("1GB", 10**9), ("512B", 512), ("512", 512), (512, 512)],
)  # fmt: skip
def test_a_size_is_bytes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "KiB", "1.5MiB", "64K", "64 KiB", "-1", 1.0, True, None])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as 512B, 64KiB, 1MiB or 10kB"):
        parse_size(value)


@pytest.mark.parametrize("value", [0, -1, "0KiB", "2GiB", (1 << 30) + 1, "9" * 5000])
def test_a_size_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be between 1B and 1GiB"):
        parse_size(value)


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1B"), (65536, "64KiB"), (10_000, "10kB"), (1 << 20, "1MiB")]
)
def test_a_size_is_written_as_people_would(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(1, 1 << 30))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


# --- Addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), True),
        ("127.9.9.9:0", Address("127.9.9.9", 0), True),
        ("localhost:65535", Address("localhost", 65535), True),
        ("[::1]:8080", Address("::1", 8080), True),
        ("[0:0::0:1]:1", Address("::1", 1), True),
        ("unix:/run/proxy.sock", Address(path="/run/proxy.sock"), True),
        ("0.0.0.0:8080", Address("0.0.0.0", 8080), False),  # noqa: S104 - a bind to refuse
        ("[::]:8080", Address("::", 8080), False),
        ("[fe80::1%eth0]:8080", Address("fe80::1%eth0", 8080), False),
        ("proxy.internal:8080", Address("proxy.internal", 8080), False),
        ("localhost.evil.test:8080", Address("localhost.evil.test", 8080), False),
    ],
)
def test_an_address_knows_whether_only_this_machine_reaches_it(
    text: str, address: Address, loopback: bool
) -> None:
    parsed = Address.parse(text)
    assert (parsed.host, parsed.port, parsed.path) == (address.host, address.port, address.path)
    assert parsed.is_loopback is loopback
    assert Address.parse(str(parsed)) == parsed


def test_an_ipv4_address_written_as_ipv6_is_as_local_as_it_was() -> None:
    assert Address.parse("[::ffff:127.0.0.1]:1").is_loopback
    assert not Address.parse("[::ffff:10.0.0.1]:1").is_loopback


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8080", "[::1]:8080", "unix:/run/proxy.sock", "localhost:0"]
)
def test_an_address_gives_its_text_back(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_two_spellings_of_an_address_are_equal() -> None:
    assert Address.parse("[0:0::1]:080") == Address.parse("[::1]:80")
    assert Address.parse("LocalHost:80") == Address.parse("localhost:80")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (8080, "must be host:port, [v6]:port or unix:/path, e.g. 127.0.0.1:8080"),
        ("localhost", "must be host:port, [v6]:port or unix:/path, e.g. 127.0.0.1:8080"),
        ("::1:8080", "must have brackets around an IPv6 address, as in [::1]:8080"),
        (":8080", "must start with an IP address or a host name, as in 127.0.0.1:8080"),
        ("*:8080", "must start with an IP address or a host name, as in 127.0.0.1:8080"),
        ("127.1:8080", "must start with an IP address or a host name, as in 127.0.0.1:8080"),
        ("[127.0.0.1]:8080", "must start with an IP address or a host name, as in 127.0.0.1:8080"),
        ("http://127.0.0.1:80", "must have brackets around an IPv6 address, as in [::1]:8080"),
        ("localhost:", "must have a port between 0 and 65535"),
        ("localhost:65536", "must have a port between 0 and 65535"),
        ("localhost:-1", "must have a port between 0 and 65535"),
        ("localhost:http", "must have a port between 0 and 65535"),
        ("unix:proxy.sock", "must have an absolute path, as in unix:/run/mobula-proxy/proxy.sock"),
        ("unix:/a\nb", "must have an absolute path, as in unix:/run/mobula-proxy/proxy.sock"),
        ("unix:/" + "x" * 107, "must have a path of at most 107 bytes"),
    ],
)
def test_what_is_no_address_is_told_what_would_be(text: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        Address.parse(text)


# --- Upstreams -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://api.mobula.io", "https://api.mobula.io"),
        ("HTTPS://API.Mobula.io:443/", "https://api.mobula.io:443"),
        ("https://demo.test/Prefix/", "https://demo.test/Prefix"),
        ("http://localhost:9000", "http://localhost:9000"),
        ("http://127.0.0.2", "http://127.0.0.2"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_an_upstream_url_is_brought_into_one_form(loading: Loader, text: str, url: str) -> None:
    loaded = loading(f"upstreams: {{a.test: {{url: '{text}'}}}}")
    assert loaded.upstreams["a.test"].url == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("api.mobula.io", "must start with https:// (or http:// for this machine) (api.mobula.io"),
        ("ftp://a.test", "must start with https:// (or http:// for this machine) (ftp://a.test"),
        ("https://", "must name a host, without spaces, as in https://api.mobula.io (https://"),
        (
            "https://a test",
            ('must name a host, without spaces, as in https://api.mobula.io ("https://a test"'),
        ),
        ("https:///2", "must name a host, as in https://api.mobula.io (https:///2"),
        ("https://127.1", "must name a host, as in https://api.mobula.io (https://127.1"),
        (
            "https://a.test\\\\b",
            "must name a host, as in https://api.mobula.io (https://a.test\\\\b",
        ),
        ("https://a.test:0", "must have a port between 1 and 65535 (https://a.test:0"),
        ("https://a.test:x", "must have a port between 1 and 65535 (https://a.test:x"),
        ("https://me:pw@a.test", "must not hold a user name or password (***@a.test"),
        ("https://a.test/?x=1", "must not hold a query or fragment (? or #) (https://a.test/?***"),
        ("https://a.test/#x", "must not hold a query or fragment (? or #) (https://a.test/#***"),
    ],
)
def test_a_wrong_upstream_url_is_told_what_would_be_right(
    problems: Problems, url: str, expected: str
) -> None:
    assert problems(f"upstreams: {{a.test: {{url: '{url}'}}}}") == [
        f"upstreams.a.test.url: {expected} in config.yaml, line 1)"
    ]


IN_CLEAR = (
    "the static key and tokens would travel in clear; use https://, "
    "or set insecure: true beside it if you mean it"
)


@pytest.mark.parametrize("host", ["a.test", "10.0.0.1", "localhost.evil.test", "[::2]", "0.0.0.0"])  # noqa: S104 - hosts to refuse
def test_http_to_another_machine_is_refused(problems: Problems, host: str) -> None:
    assert problems(f"upstreams: {{a.test: {{url: 'http://{host}'}}}}") == [
        f"upstreams.a.test.url: {IN_CLEAR} (http://{host} in config.yaml, line 1)"
    ]


def test_http_to_another_machine_is_served_to_those_who_mean_it(loading: Loader) -> None:
    loaded = loading("upstreams: {a.test: {url: 'http://a.test', insecure: true}}")
    assert loaded.upstreams["a.test"].url == "http://a.test"


@pytest.mark.parametrize(
    ("text", "address"),
    [("192.0.2.7", "192.0.2.7"), ("2001:DB8::0:7", "2001:db8::7"), ("null", None)],
)
def test_an_upstream_may_have_a_fixed_address(
    loading: Loader, text: str, address: str | None
) -> None:
    loaded = loading(f"upstreams: {{a.test: {{address: '{text}'}}}}".replace("'null'", "null"))
    assert loaded.upstreams["a.test"].address == address


@pytest.mark.parametrize(
    "address", ["b.test", "127.1", "[::1]", "10.0.0.1:443", "fe80::1%eth0", ""]
)
def test_a_fixed_address_is_an_ip_address(problems: Problems, address: str) -> None:
    (problem,) = problems("", {}, [("upstreams.a.test.address", f"'{address}'")])
    assert problem.startswith("upstreams.a.test.address: must be an IP address, as in 203.0.113.7")


def test_http_to_the_fixed_address_of_another_machine_is_refused(problems: Problems) -> None:
    (problem,) = problems("upstreams: {localhost: {url: 'http://localhost', address: 10.0.0.1}}")
    assert problem.startswith(f"upstreams.localhost.url: {IN_CLEAR}")


@pytest.mark.parametrize(
    "upstream", ["a.test: {url: 'https://10.0.0.2', %s}", "10.0.0.2: {%s}", "10.0.0.2:443: {%s}"]
)
def test_a_fixed_address_beside_an_address_is_refused(problems: Problems, upstream: str) -> None:
    (problem,) = problems(f"upstreams: {{{upstream % 'address: 10.0.0.1'}}}")
    assert (
        "address: is not needed where the url has an IP address; leave one of them out" in problem
    )


def test_a_fixed_address_behind_an_upstream_proxy_is_refused(problems: Problems) -> None:
    text = "{upstream_proxy: 'http://proxy:3128', upstreams: {a.test: {address: 10.0.0.1}}}"
    (problem,) = problems(text)
    assert problem == (
        "upstreams.a.test.address: cannot be chosen with upstream_proxy, which looks up names "
        "itself; leave one of them out (10.0.0.1 in config.yaml, line 1)"
    )


def test_upstream_names_are_lower_cased(loading: Loader) -> None:
    loaded = loading(
        "upstreams: {LocalHost:9000: {url: https://a.test}}\n"
        "listeners: [{bind: '127.0.0.1:1', upstream: LOCALHOST:9000}]"
    )
    assert list(loaded.upstreams) == ["localhost:9000"]
    assert loaded.listeners[0].upstream == "localhost:9000"


@pytest.mark.parametrize(
    "name", ["https://a.test", "-a.test", "a..test", "a.test/2", "a b", "127.1", "a.test:x:1"]
)
def test_a_wrong_upstream_name_is_told_what_would_be_right(problems: Problems, name: str) -> None:
    shown = f'"{name}"' if " " in name else name
    assert problems(f"upstreams: {{'{name}': {{url: https://a.test}}}}") == [
        (
            f"upstreams.{shown}: must be a host name with an optional port, "
            "e.g. api.mobula.io or localhost:9000 (in config.yaml, line 1)"
        )
    ]


def test_a_wrong_port_in_an_upstream_name_is_told_the_bounds(problems: Problems) -> None:
    assert problems("upstreams: {'a.test:0': {url: https://a.test}}") == [
        "upstreams.a.test:0: must have a port between 1 and 65535 (in config.yaml, line 1)"
    ]


def test_two_spellings_of_an_upstream_name_are_refused(problems: Problems) -> None:
    text = "upstreams:\n  a.test: {url: https://a.test}\n  A.test: {url: https://b.test}"
    assert problems(text) == [
        "upstreams.A.test: is named twice; case makes no difference (in config.yaml, line 3)"
    ]


# --- Listeners and admin -------------------------------------------------------------------------


def test_a_listener_without_an_upstream_has_the_first_one(loading: Loader) -> None:
    loaded = loading(
        "upstreams: {b.test: {url: https://b.test}, a.test: {url: https://a.test}}\n"
        "listeners: [{bind: '127.0.0.1:1'}, {bind: '127.0.0.1:2', upstream: a.test}]"
    )
    assert [listener.upstream for listener in loaded.listeners] == ["b.test", "a.test"]


def test_the_default_listener_has_the_first_upstream_too(loading: Loader) -> None:
    loaded = loading("upstreams: {b.test: {url: https://b.test}}")
    assert [listener.upstream for listener in loaded.listeners] == ["b.test"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("api.mobula.oi", "did you mean api.mobula.io?"), ("x", "known: api.mobula.io or b.test")],
)
def test_an_unknown_upstream_is_refused_with_the_nearest(
    problems: Problems, name: str, hint: str
) -> None:
    upstreams = "upstreams: {api.mobula.io: {}, b.test: {}}\n"
    assert problems(f"{upstreams}listeners: [{{bind: '127.0.0.1:1', upstream: {name}}}]") == [
        f"listeners[0].upstream: no such upstream; {hint} ({name} in config.yaml, line 2)"
    ]


@pytest.mark.parametrize(
    ("bind", "reached"), [("127.0.0.1:1", "tunnel"), ("unix:/a", "tunnel"), ("0.0.0.0:1", "deny")]
)
def test_a_forward_listener_reaches_other_hosts_only_for_this_machine(
    loading: Loader, bind: str, reached: str
) -> None:
    settings = loading(f"listeners: [{{bind: '{bind}', mode: forward, insecure: true}}]")
    (listener,) = settings.listeners
    assert (listener.other_hosts, listener.private_hosts) == (reached, reached)


@pytest.mark.parametrize("mode", ["reverse", "tls"])
@pytest.mark.parametrize("name", ["other_hosts", "private_hosts"])
def test_other_hosts_are_for_forward_listeners_only(
    problems: Problems, mode: str, name: str
) -> None:
    (problem,) = problems(f"listeners: [{{bind: '127.0.0.1:1', mode: {mode}, {name}: tunnel}}]")
    assert problem.startswith(f"listeners[0].{name}: is for listeners of mode forward only (tunnel")


def test_a_mode_that_is_none_is_refused(problems: Problems) -> None:
    assert problems("listeners: [{bind: '127.0.0.1:1', mode: inverse}]") == [
        "listeners[0].mode: must be reverse, forward or tls (inverse in config.yaml, line 1)"
    ]


@pytest.mark.parametrize("bind", ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080", "proxy.test:8080"])
def test_a_listener_off_loopback_is_refused(problems: Problems, bind: str) -> None:
    assert problems(f"listeners: [{{bind: '{bind}'}}]") == [
        (
            "listeners[0].bind: other machines could spend your tokens, because clients are not "
            "authenticated; set authenticate: true beside it, bind 127.0.0.1, [::1] or "
            f"unix:/path, or set insecure: true if you mean it ({bind} in config.yaml, line 1)"
        )
    ]


def test_a_listener_off_loopback_is_served_to_clients_alone(loading: Loader) -> None:
    text = "listeners: [{bind: '0.0.0.0:8080', authenticate: true}]\nclients: {a: {uids: [1]}}"
    assert loading(text).listeners[0].authenticate


def test_a_listener_that_would_let_nobody_in_is_refused(problems: Problems) -> None:
    assert problems("listeners:\n- bind: 127.0.0.1:1\n  authenticate: true") == [
        (
            "listeners[0].authenticate: would let nobody in; name them in clients or clients_file "
            "(true in config.yaml, line 3)"
        )
    ]


def test_clients_of_a_file_are_enough(loading: Loader) -> None:
    text = "listeners: [{bind: '0.0.0.0:1', authenticate: true}]\nclients_file: /clients.yaml"
    assert loading(text).clients_file == "/clients.yaml"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("clients: {a: {uids: [1]}}", "in"), ("clients_file: /clients.yaml", "/clients.yaml in")],
)
def test_clients_that_no_listener_asks_for_are_refused(
    loading: Loader, problems: Problems, text: str, shown: str
) -> None:
    """They would seem to keep others out. A minter may have its members' settings."""
    assert problems(text) == [
        (
            f"{text.partition(':')[0]}: are asked for by no listener; set authenticate: true on "
            f"one, or leave them out ({shown} config.yaml, line 1)"
        )
    ]
    loading(f"{text}\nrole: minter\nstore: {{url: 'redis://store:6379/0'}}")


FILES = {"certificate_file": "/c", "key_file": "/k", "client_ca_file": "/a"}


@pytest.mark.parametrize("tls", [{}, {**FILES, "client_ca_file": None}])
def test_a_listener_speaks_tls_with_both_files_or_with_none(
    loading: Loader, tls: Mapping[str, object]
) -> None:
    loaded = loading(json.dumps({"listeners": [{"bind": "127.0.0.1:1", "tls": tls}]}))
    assert loaded.listeners[0].tls.certificate_file == tls.get("certificate_file")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (["certificate_file"], "key_file: is needed beside certificate_file"),
        (["key_file"], "certificate_file: is needed beside key_file"),
        (["key_file", "client_ca_file"], "certificate_file: is needed beside key_file"),
        (
            ["client_ca_file"],
            "client_ca_file: is of use only with TLS; set certificate_file and key_file beside it",
        ),
    ],
)
def test_half_of_a_listeners_tls_is_refused(
    problems: Problems, given: Sequence[str], wrong: str
) -> None:
    tls = {name: FILES[name] for name in given}
    (problem,) = problems(json.dumps({"listeners": [{"bind": "127.0.0.1:1", "tls": tls}]}))
    assert problem.startswith(f"listeners[0].tls.{wrong}")


def test_client_certificates_that_nobody_looks_at_are_refused(
    loading: Loader, problems: Problems
) -> None:
    """They would seem to keep others out."""
    listener = {"bind": "127.0.0.1:1", "tls": FILES}
    assert problems(json.dumps({"listeners": [listener]})) == [
        (
            "listeners[0].tls.client_ca_file: keeps nobody out by itself; set authenticate: true "
            "on the listener (/a in config.yaml, line 1)"
        )
    ]
    asking = {"listeners": [listener | {"authenticate": True}], "clients": {"a": {"uids": [1]}}}
    assert loading(json.dumps(asking)).listeners[0].tls.client_ca_file == "/a"


@pytest.mark.parametrize("mode", ["forward", "tls"])
def test_tls_of_its_own_is_for_listeners_of_mode_reverse(problems: Problems, mode: str) -> None:
    listener = {"bind": "127.0.0.1:1", "mode": mode, "tls": FILES}
    assert problems(json.dumps({"listeners": [listener]})) == [
        "listeners[0].tls: is for listeners of mode reverse only (in config.yaml, line 1)"
    ]


def test_a_listener_off_loopback_is_served_to_those_who_mean_it(loading: Loader) -> None:
    loaded = loading("listeners: [{bind: '0.0.0.0:8080', insecure: true}]")
    assert str(loaded.listeners[0].bind) == "0.0.0.0:8080"


@pytest.mark.parametrize("bind", ["127.0.0.1:7", "unix:/run/a.sock"])
def test_two_listeners_with_one_address_are_refused(problems: Problems, bind: str) -> None:
    assert problems(f"listeners:\n- bind: {bind}\n- bind: {bind}") == [
        (
            f"listeners[1].bind: must differ from listeners[0].bind, which is {bind} too "
            f"({bind} in config.yaml, line 3)"
        )
    ]


def test_listeners_may_all_ask_for_a_free_port(loading: Loader) -> None:
    loaded = loading(
        "listeners: [{bind: '127.0.0.1:0'}, {bind: '127.0.0.1:0'}]\nadmin: {bind: '127.0.0.1:0'}"
    )
    assert len(loaded.listeners) == 2


def test_the_admin_address_must_not_be_a_listener_s(problems: Problems) -> None:
    text = "admin.bind: must differ from listeners[0].bind, which is {0} too"
    assert problems("admin: {bind: '127.0.0.1:8080'}") == [
        text.format("127.0.0.1:8080") + " (127.0.0.1:8080 in config.yaml, line 1)"
    ]
    assert problems("listeners: [{bind: '127.0.0.1:9090'}]") == [
        text.format("127.0.0.1:9090") + " (in the defaults)"
    ]


def test_the_problems_of_all_listeners_are_told_together(problems: Problems) -> None:
    assert problems(
        "upstreams: {api.mobula.io: {}}\n"
        "listeners:\n- {bind: '127.0.0.1:7', upstream: x}\n- {bind: '127.0.0.1:7', upstream: y}\n"
    ) == [
        "listeners[0].upstream: no such upstream; known: api.mobula.io (x in config.yaml, line 3)",
        "listeners[1].upstream: no such upstream; known: api.mobula.io (y in config.yaml, line 4)",
        (
            "listeners[1].bind: must differ from listeners[0].bind, which is 127.0.0.1:7 too "
            "(127.0.0.1:7 in config.yaml, line 4)"
        ),
    ]


# --- Store ---------------------------------------------------------------------------------------


def test_without_a_word_on_it_the_store_is_in_memory(loading: Loader) -> None:
    assert loading().store.url.in_memory


def test_a_state_dir_holds_the_store(loading: Loader) -> None:
    url = loading("state_dir: /var/lib/mobula-proxy/").store.url
    assert url.reveal() == "sqlite:////var/lib/mobula-proxy/tokens.db"


def test_a_store_url_wins_over_the_state_dir(loading: Loader) -> None:
    assert loading("{state_dir: /x, store: {url: 'memory://'}}").store.url.in_memory


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:///x.db", "x.db"),
        ("sqlite:///a b?#.db", "a b?#.db"),
        ("redis://redis:6379/0", None),
        ("memory://", None),
    ],
)
def test_a_store_url_may_name_a_file(loading: Loader, text: str, file: str | None) -> None:
    url = loading(overrides=[("store", json.dumps({"url": text}))]).store.url
    assert (url.file, url.reveal(), str(url)) == (file, text, text)


A_FILE = (
    "must name a file: sqlite:///tokens.db in the working directory, "
    "or with four slashes sqlite:////var/lib/mobula-proxy/tokens.db"
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (3, "must be text"),
        ("memory", "must be memory://, sqlite:///path or redis://host:port"),
        ("memory://x", "must be memory://, sqlite:///path or redis://host:port"),
        ("mysql://db", "must be memory://, sqlite:///path or redis://host:port"),
        *((f"sqlite:{path}", A_FILE)
          for path in ("", "x.db", "//x.db", "///", "///:memory:", "///\0")),
        ("redis://a,b",
         "must name one server; several are for redis+sentinel:// or redis+cluster://"),
        ("redis+sentinel://a", "must name the master, as in redis+sentinel://host:26379/mymaster"),
    ],
)  # fmt: skip
def test_a_wrong_store_url_is_told_what_would_be_right_and_not_shown(
    problems: Problems, url: object, expected: str
) -> None:
    assert problems("", {}, [("store", json.dumps({"url": url}))]) == [
        f"store.url: {expected} (in --set store)"
    ]


SHARED = [
    (f"redis://:{SECRET}@redis:6379/0", "redis://***@redis:6379/0"),
    (f"rediss://me:{SECRET}@h?ssl_ca_certs=/ca.pem", "rediss://***@h?ssl_ca_certs=/ca.pem"),
    (f"unix://:{SECRET}@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
    (f"redis+sentinel://a,b/m?sentinel_password={SECRET}", "redis+sentinel://a,b/m?***"),
    (f"redis+sentinel://a/m?sentinel%5Fpassword={SECRET}", "redis+sentinel://a/m?***"),
]


@pytest.mark.parametrize(("text", "shown"), SHARED)
def test_credentials_in_a_store_url_are_revealed_to_the_store_only(
    loading: Loader, text: str, shown: str
) -> None:
    loaded = loading(f"store: {{url: '{text}'}}")
    assert loaded.store.url.reveal() == text
    assert str(loaded.store.url) == shown
    assert loaded.store.url.hides
    assert SECRET not in repr(loaded) + str(loaded) + effective(loaded)


@pytest.mark.parametrize(("text", "shown"), SHARED)
def test_what_stands_for_credentials_is_not_taken_for_them(
    loading: Loader, problems: Problems, text: str, shown: str
) -> None:
    written = effective(loading(f"store: {{url: '{text}'}}"))
    assert shown in written
    (problem,) = problems(written)
    assert problem.startswith("store.url: must have its credentials in place of *** (in")


def test_store_urls_compare_by_what_they_hide() -> None:
    url = StoreUrl.parse("redis://:a@redis")
    assert url == StoreUrl.parse("redis://:a@redis")
    assert url != StoreUrl.parse("redis://:b@redis")
    assert repr(url) == "StoreUrl('redis://***@redis')"


@pytest.mark.parametrize(
    ("role", "why"),
    [("member", "nobody could mint for it"), ("minter", "there is nobody to mint for")],
)
def test_a_role_that_needs_others_is_refused_where_no_other_can_be(
    problems: Problems, role: str, why: str
) -> None:
    (problem,) = problems(f"role: {role}")
    assert problem == (
        f"role: {why}, because other processes cannot reach memory://; set store.url, "
        f"e.g. to redis://host:6379/0 ({role} in config.yaml, line 1)"
    )


@pytest.mark.parametrize("role", ["member", "minter"])
@pytest.mark.parametrize("store", ["state_dir: /x", "store: {url: 'redis://redis'}"])
def test_a_role_that_needs_others_is_taken_with_a_store(
    loading: Loader, role: str, store: str
) -> None:
    assert loading(f"role: {role}\n{store}").role == role


# --- Ways out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("[]", ()),
        ("[10.96.0.10, 10.96.0.11:5353]", ("10.96.0.10", "10.96.0.11:5353")),
        (
            "['FD00::A', '[FD00::A]:53', 'fe80::1%eth0']",
            ("fd00::a", "[fd00::a]:53", "fe80::1%eth0"),
        ),
    ],
)
def test_name_servers_are_ip_addresses_with_or_without_a_port(
    loading: Loader, text: str, servers: tuple[str, ...]
) -> None:
    loaded = loading(f"{{resolver: dns, nameservers: {text}}}")
    assert loaded.nameservers == servers
    assert loading(effective(loaded)).nameservers == servers


@pytest.mark.parametrize(
    "server", ["dns.test", "dns.test:53", "10.0.0.1:0", "10.0.0.1:x", "[fd00::a]", "unix:/dns", ""]
)
def test_anything_else_is_no_name_server(problems: Problems, server: str) -> None:
    (problem,) = problems("", {}, [("resolver", "dns"), ("nameservers", f"[10.0.0.1, '{server}']")])
    assert problem == (
        "nameservers: must have an IP address, as in 10.96.0.10, 10.96.0.10:53, fd00::a or "
        "[fd00::a]:53, for its entry 2 (in --set nameservers)"
    )


def test_name_servers_are_a_list(problems: Problems) -> None:
    (problem,) = problems("{resolver: dns, nameservers: 10.0.0.1}")
    assert problem.startswith("nameservers: must be a list of IP addresses, each with or without")


def test_name_servers_that_nobody_would_ask_are_refused(problems: Problems) -> None:
    (problem,) = problems("nameservers: [10.0.0.1]")
    assert problem.startswith("nameservers: are asked only with resolver: dns; set that beside it")


def test_a_password_of_the_upstream_proxy_is_in_no_output(
    loading: Loader, problems: Problems
) -> None:
    loaded = loading(f"upstream_proxy: 'http://me:{SECRET}@proxy:3128'")
    written = effective(loaded)
    assert "upstream_proxy: http://***@proxy:3128\n" in written
    assert SECRET not in written + repr(loaded) + str(loaded)
    (problem,) = problems(written)
    assert problem.startswith("upstream_proxy: must have its credentials in place of *** (in")


# --- The local CA --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("", {}, None),
        ("", {"HOME": "/me"}, "/me/.local/state/mobula-proxy/ca"),
        ("", {"HOME": "/me", "XDG_STATE_HOME": "/state"}, "/state/mobula-proxy/ca"),
        ("", {"HOME": "/me", "XDG_STATE_HOME": "state"}, "/me/.local/state/mobula-proxy/ca"),
        ("", {"HOME": "", "XDG_STATE_HOME": ""}, None),
        ("", {"HOME": "here"}, None),
        ("state_dir: /var/lib/x", {"HOME": "/me"}, "/var/lib/x/ca"),
        ("{state_dir: /var/lib/x, ca: {dir: /ca}}", {"HOME": "/me"}, "/ca"),
        ("ca: {public_dir: /public}", {"HOME": "/"}, "/.local/state/mobula-proxy/ca"),
    ],
)
def test_the_local_ca_has_its_own_place_or_one_among_what_survives_a_restart(
    text: str, environ: dict[str, str], expected: str | None
) -> None:
    overrides = [(name, json.dumps(value)) for name, value in (yaml.safe_load(text) or {}).items()]
    assert load(file=None, environ=environ, overrides=overrides).ca.dir == expected


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("api.mobula.io", "api.mobula.io"),
        ("localhost:9000", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:9000", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:9000", "::1"),
    ],
)
def test_an_upstreams_name_tells_its_host(name: str, host: str) -> None:
    assert host_of(name) == host


# --- Sections ------------------------------------------------------------------------------------


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Settings().token.standby = 2  # type: ignore[misc]


def test_only_mistakes_and_the_schema_pay_for_their_modules() -> None:
    code = (
        "import sys; from proxy.config import load; load(file=None, environ={}, overrides=[]); "
        "print({'difflib', 'proxy.settings.schema'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert printed.stdout == "set()\n"


def test_addresses_hash_and_compare_by_value() -> None:
    assert len({Address("::1", 80), Address.parse("[::1]:80")}) == 1


# --- Effective settings --------------------------------------------------------------------------


def _from_tree(tree: Mapping[str, object]) -> Settings:
    overrides = [(name, json.dumps(section)) for name, section in tree.items()]
    return load(file=None, environ={}, overrides=overrides)


DURATIONS = st.integers(1, 86_400_000).map(lambda milliseconds: milliseconds / 1000)
BINDS = st.sampled_from(["127.0.0.1:0", "[::1]:1", "unix:/run/ä b.sock", "localhost:2"])
SETTINGS = st.fixed_dictionaries(
    {
        "role": st.just("both"),
        "state_dir": st.none() | st.sampled_from(["/var/lib/x", "ä b", "no"]),
        "api_key": st.fixed_dictionaries({"file": st.none() | st.sampled_from(["/k", "no", "1"])}),
        "token": st.fixed_dictionaries({"wait": DURATIONS, "standby": st.integers(0, 24)}),
        "upstreams": st.dictionaries(
            st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,2}(:[1-9][0-9]{1,3})?", fullmatch=True),
            st.fixed_dictionaries(
                {"url": st.just("https://a.test/p"), "head_bytes": st.integers(1, 1 << 30)}
            ),
            min_size=1,
            max_size=3,
        ),
        "listeners": st.lists(
            st.fixed_dictionaries({"bind": BINDS}), min_size=1, max_size=3, unique_by=str
        ),
        "limits": st.fixed_dictionaries({"body_timeout": DURATIONS}),
        "log": st.fixed_dictionaries({"access": st.booleans()}),
    }
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_settings=SETTINGS.map(_from_tree))
def test_effective_settings_load_to_equal_settings(
    loading: Loader, given_settings: Settings
) -> None:
    loaded = loading(effective(given_settings))
    assert loaded == given_settings
    assert list(loaded.upstreams) == list(given_settings.upstreams)


def test_effective_settings_are_in_human_units_and_in_order() -> None:
    text = effective(Settings())
    assert "expires_in: 1h\n" in text
    assert "header_bytes: 32KiB\n" in text
    assert "bind: 127.0.0.1:8080\n" in text
    assert list(yaml.safe_load(text)) == list(Settings.__struct_fields__)


# --- The example and the schema ------------------------------------------------------------------


def _names(node: object, path: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings below `node`, with [] for the items of a list."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _names(value, f"{path}.{key}")
    elif isinstance(node, list):
        for item in node:
            yield from _names(item, f"{path}[]")
    else:
        yield path


def test_the_example_holds_the_defaults() -> None:
    assert load(file=EXAMPLE, environ={}, overrides=()) == Settings()


def test_the_example_names_every_setting_in_order() -> None:
    """One upstream stands for all."""
    example = yaml.safe_load(EXAMPLE.read_text())
    settings = yaml.safe_load(effective(Settings()))
    assert list(example["upstreams"]) == list(settings["upstreams"])
    for each in (example, settings):
        each["upstreams"] = dict(list(each["upstreams"].items())[:1])
    assert list(_names(example)) == list(_names(settings))


def test_the_example_says_why_for_every_setting() -> None:
    above = ""
    for line in EXAMPLE.read_text().splitlines():
        if re.match(r"\s*(- )?\w+: \S", line):
            assert "#" in line or above.lstrip().startswith("#"), line
        above = line


def test_the_committed_schema_is_current() -> None:
    assert SCHEMA.read_text() == json_schema(), (
        "docs/config.schema.json is out of date; run `make schema`"
    )


def test_the_command_that_make_schema_runs_prints_the_schema() -> None:
    command = [sys.executable, "-m", "proxy.config"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert printed.stdout == json_schema()
    assert printed.stderr == ""


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    document = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def test_the_example_is_valid_by_the_schema(schema: jsonschema.Draft202012Validator) -> None:
    schema.validate(yaml.safe_load(EXAMPLE.read_text()))


def test_every_default_in_the_schema_is_valid_by_it() -> None:
    document = json.loads(json_schema())
    for section in document["$defs"].values():
        for name, setting in section["properties"].items():
            if "default" in setting:
                jsonschema.validate(setting["default"], setting | {"$defs": document["$defs"]})
            assert setting["description"], name


@pytest.mark.parametrize(
    "text",
    [
        "token: {wait: 1h 30m}",
        "token: {wait: 0}",
        "token: {standby: 25}",
        "token: {expiers_in: 1h}",
        "limits: {header_bytes: 64K}",
        "listeners: []",
        "listeners: [{bind: localhost}]",
        "listeners: [{bind: '127.0.0.1:1', mode: ftp}]",
        "upstreams: {}",
        "upstreams: {a.test/2: {url: https://a.test}}",
        "upstreams: {a.test: {url: 'ftp://a.test'}}",
        "upstreams: {a.test: {address: b.test}}",
        "resolver: hosts",
        "nameservers: 10.0.0.1",
        "upstream_proxy: 'https://proxy:3128'",
    ],
)
def test_what_the_schema_refuses_is_refused_at_start(
    loading: Loader, schema: jsonschema.Draft202012Validator, text: str
) -> None:
    assert not schema.is_valid(yaml.safe_load(text))
    with pytest.raises(SettingsError):
        loading(text)
