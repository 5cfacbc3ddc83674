"""What an app's calls come to, by the facts that the proxy has gathered of them."""

import pytest

from proxy.launch.checks.calls import judge
from proxy.launch.report import Line, fail, has_failed, ok
from proxy.launch.runtimes import Runtime, runtimes_of
from proxy.traffic.fact import OTHER_HOSTS, Fact

API, GRAPHQL = "api.mobula.io", "graphql.mobula.io"
PYTHON = runtimes_of(["python3"])


def fact(status: int = 200, code: str = "", upstream: str = API) -> Fact:
    return Fact(upstream, method="GET", path="/", status=status, code=code, attempts=1)


def tunnel(host: str) -> Fact:
    return Fact(OTHER_HOSTS, method="CONNECT", path=f"{host}:443", status=200)


def judged(*facts: Fact, runtimes: list[Runtime] | None = None) -> Line:
    (line,) = judge(facts, runtimes or [])
    return line


# Those that came through


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ([fact()], "came through: 1 x 200"),
        ([fact(404), fact(), fact()], "came through: 2 x 200, 1 x 404"),
        ([fact(), fact(0)], "came through: 1 x left before an answer, 1 x 200"),
        ([fact(101)], "came through: 1 x 101"),
    ],
)
def test_calls_that_the_api_has_answered_are_counted_by_status(
    facts: list[Fact], found: str
) -> None:
    assert judged(*facts) == ok("calls", API, found)


def test_each_upstream_has_a_line() -> None:
    lines = judge([fact(), fact(upstream=GRAPHQL)], [])
    assert [each.subject for each in lines] == [API, GRAPHQL]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 0])
def test_where_no_answer_was_a_good_one_that_is_warned_of(status: int) -> None:
    line = judged(fact(status), fact(status))
    assert (line.grade.value, line.step) == (
        "warn",
        "these answers are the API's own: see what they say",
    )


def test_a_websocket_that_we_ended_has_come_through() -> None:
    assert judged(fact(101, "websocket_idle")).grade.value == "ok"


# Those that did not

REFUSED = {
    "ca_not_trusted": (0, "does not trust the local CA", "python: requests reads REQUESTS_CA_"),
    "tls_handshake_failed": (0, "broken off during the handshake", "python: requests reads REQU"),
    "client_unknown": (
        401,
        "show a key that is not the proxy's",
        "have it read its key from MOBUL",
    ),
    "token_unavailable": (
        503,
        "2 requests were refused",
        "see token_unavailable in docs/errors.md",
    ),
}


@pytest.mark.parametrize("code", REFUSED)
def test_calls_that_were_refused_are_told_with_what_helps(code: str) -> None:
    status, found, step = REFUSED[code]
    line = judged(fact(status, code), fact(status, code), runtimes=PYTHON)
    assert line.grade.value == "fail"
    assert found in line.found
    assert line.found.startswith("2 ")
    assert line.found.endswith(f" ({code})")
    assert line.step.startswith(step)


def test_beside_calls_that_came_through_refusals_are_a_warning() -> None:
    lines = judge([fact(), fact(0, "ca_not_trusted"), fact(401, "client_unknown", GRAPHQL)], [])
    grades = [(each.subject, each.grade.value) for each in lines]
    assert grades == [(API, "ok"), (API, "warn"), (GRAPHQL, "fail")]


def test_without_any_call_the_other_ways_in_are_told() -> None:
    line = judged(runtimes=PYTHON)
    assert line == fail("calls", "none", "no call to an upstream came", step=line.step)
    assert line.step.startswith("python: aiohttp needs trust_env=True")
    assert "make $MOBULA_API_URL its base URL" in line.step
    assert "a tls listener" in line.step


def test_of_an_app_of_unknown_kind_the_other_ways_in_are_told_all_the_same() -> None:
    assert judged().step.startswith("look for a setting of the app for a proxy; or make ")


# Those that went elsewhere


@pytest.mark.parametrize("host", ["new-api.mobula.io", "mobula.io"])
def test_a_host_of_the_api_that_is_no_upstream_is_told(host: str) -> None:
    assert judged(tunnel(host), tunnel(host)) == fail(
        "calls",
        host,
        "it is no upstream, so the app's own key went there, through a tunnel",
        step="name it in upstreams, beside the others",
    )


def test_other_hosts_are_none_of_our_business() -> None:
    hosts = ["pypi.org", "notmobula.io", "mobula.io.evil.test", "a.test"]
    *_, line = judge([fact(), *map(tunnel, hosts)], [])
    assert line == ok(
        "tunnels",
        "other hosts",
        "pypi.org, notmobula.io, mobula.io.evil.test and 1 more, untouched",
    )


def test_other_hosts_that_were_not_reached_are_warned_of() -> None:
    lost = fact(502, "upstream_unreachable", OTHER_HOSTS)
    *_, line = judge([fact(), lost, lost], [])
    assert (line.grade.value, line.found) == ("warn", "2 not reached (upstream_unreachable)")
    assert line.step.startswith("see upstream_unreachable in docs/errors.md; if it was a host of")


def test_to_have_called_other_hosts_is_not_to_have_called_the_api() -> None:
    lines = judge([tunnel("pypi.org")], [])
    assert has_failed(lines)
    assert [each.check for each in lines] == ["tunnels", "calls"]
