"""What the settings come to, and what in them is risky."""

from pathlib import Path
from typing import Any

import pytest

from harness import settings_for
from proxy.config import SettingsError, load
from proxy.launch.checks.settings import judge, refused, sources_of
from proxy.launch.report import Line, fail, ok


def judged(**sections: Any) -> list[Line]:
    return list(judge(settings_for("https://api.test", **sections), "the test"))


def test_they_are_summed_up() -> None:
    listeners = [{"bind": "127.0.0.1:8080"}, {"bind": "unix:/run/p.sock", "mode": "forward"}]
    assert judged(listeners=listeners, store={"url": "redis://:pass4711@redis:6379/0"}) == [
        ok(
            "settings",
            "the test",
            "role both; reverse 127.0.0.1:8080, forward unix:/run/p.sock; "
            "store redis://***@redis:6379/0",
        )
    ]


def test_a_listener_that_lets_other_machines_in_is_warned_of() -> None:
    _, line = judged(listeners=[{"bind": "0.0.0.0:8080", "insecure": True}])
    assert (line.grade.value, line.subject) == ("warn", "listeners[0].insecure")
    assert line.found == "whoever reaches 0.0.0.0:8080 can spend your tokens"


def test_an_upstream_in_clear_is_warned_of() -> None:
    _, line = judged(upstream={"url": "http://api.test", "insecure": True})
    assert (line.grade.value, line.subject) == ("warn", "upstreams.api.mobula.io.insecure")


def test_a_listener_on_loopback_is_no_risk_whatever_it_says() -> None:
    assert len(judged(listeners=[{"bind": "127.0.0.1:8080", "insecure": True}])) == 1


@pytest.mark.parametrize(
    ("file", "environ", "overrides", "sources"),
    [
        (None, {"HOME": "/home/me"}, [], "the defaults"),
        (Path("c.yaml"), {}, [], "c.yaml"),
        (None, {"MOBULA_PROXY__ROLE": "both"}, [], "1 variable"),
        (
            Path("c.yaml"),
            {"MOBULA_PROXY__ROLE": "both", "MOBULA_PROXY_CONFIG": "c.yaml"},
            [("role", "both"), ("log.level", "info")],
            "c.yaml, 1 variable, 2 flags",
        ),
    ],
)
def test_it_is_told_where_they_come_from(
    file: Path | None, environ: dict[str, str], overrides: list[tuple[str, str]], sources: str
) -> None:
    assert sources_of(file, environ, overrides) == sources


def test_every_problem_is_a_line() -> None:
    overrides = [("log.level", "loud"), ("token.standby", "-1")]
    with pytest.raises(SettingsError) as caught:
        load(file=None, environ={}, overrides=overrides)
    step = "correct it; config.example.yaml has every setting"
    assert refused(caught.value) == [
        fail(
            "settings", "token.standby", "must be at least 0 (-1 in --set token.standby)", step=step
        ),
        fail(
            "settings",
            "log.level",
            "must be debug, info, warning or error (loud in --set log.level)",
            step=step,
        ),
    ]
