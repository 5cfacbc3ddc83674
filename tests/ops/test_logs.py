"""The log: its form, its lines, and how often they come."""

import io
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog

from harness import KEY, SecretScan, base_url, get, running, until, until_ready
from proxy import __version__
from proxy.app import App
from proxy.config import LogSettings
from proxy.errors import (
    AuthorityNotTrusted,
    ClientCertificateRefused,
    ClientReviewUnavailable,
    ClientUnknown,
    HandshakeFailed,
    Refusal,
    ServerNameUnknown,
)
from proxy.ops import logs
from proxy.ops.logs import AccessLog, TokenLog, TrafficLog
from proxy.sandbox import Fault, Sandbox
from proxy.tokens.events import (
    Drifted,
    Event,
    KeyChanged,
    KeyUnreadable,
    Minted,
    MintFailed,
    Quarantined,
    Revoked,
    Rotated,
)
from proxy.tokens.model import MintFault, Need, Reason, Standing
from proxy.traffic.fact import OTHER_HOSTS, Fact

MINT = "/api/2/auth/tokens"
DATA = "/api/1/market/data"


class Lines:
    """A log of JSON lines, as records."""

    def __init__(self, level: Any = "info") -> None:
        self.stream = io.StringIO()
        logs.configure(LogSettings(format="json", level=level), self.stream)

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def last(self) -> dict[str, Any]:
        """The last record, without its time."""
        record = self.all()[-1]
        assert record.pop("timestamp").endswith("Z")
        return record


def records(scan: SecretScan, event: str) -> list[dict[str, Any]]:
    """The records of that name that a proxy of this process has logged."""
    every = [json.loads(line) for line in scan.output.getvalue().splitlines()]
    return [record for record in every if record["event"] == event]


@pytest.fixture
async def app(sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        yield app


# Form


def test_json_is_one_object_a_line_with_level_time_and_fields() -> None:
    lines = Lines()
    structlog.get_logger().info("said", count=2)
    assert lines.last() == {"event": "said", "level": "info", "count": 2}


def test_pretty_is_for_people_and_in_colour_only_on_a_terminal() -> None:
    out = io.StringIO()
    logs.configure(LogSettings(format="pretty"), out)
    structlog.get_logger().info("said", count=2)
    assert "said" in out.getvalue()
    assert "count=2" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "{" not in out.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("out", "is_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_auto_is_pretty_on_a_terminal_and_json_elsewhere(out: io.StringIO, is_json: bool) -> None:
    logs.configure(LogSettings(format="auto"), out)
    structlog.get_logger().info("said")
    assert out.getvalue().startswith("{") == is_json


@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("a.library")])
def test_what_is_below_the_level_is_not_logged_whoever_says_it(log: Any) -> None:
    lines = Lines("warning")
    log.info("too low")
    log.warning("high enough")
    assert [record["event"] for record in lines.all()] == ["high enough"]


def test_libraries_log_in_the_same_form_to_the_same_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()
    logging.getLogger("aiohttp.server").warning("odd: %s", "a thing")
    assert lines.last() == {"event": "odd: a thing", "level": "warning"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["json", "pretty"])
@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("a.library")])
def test_a_traceback_shows_where_it_failed_but_no_local_variable(form: Any, log: Any) -> None:
    out = io.StringIO()
    logs.configure(LogSettings(format=form), out)
    hidden = "value" + "-of-a-local"
    try:
        raise RuntimeError("went wrong")
    except RuntimeError as error:
        log.error("failed", exc_info=error)
    assert "RuntimeError: went wrong" in out.getvalue()
    assert "test_logs.py" in out.getvalue()
    assert hidden not in out.getvalue()


def test_configuring_it_again_does_not_double_the_lines() -> None:
    Lines()
    lines = Lines()
    structlog.get_logger().info("said")
    assert len(lines.all()) == 1


# Lines


async def test_one_line_at_the_start_says_what_is_served_where(
    app: App, scan: SecretScan, sandbox: Sandbox
) -> None:
    (record,) = records(scan, "serving")
    assert record["version"] == __version__
    assert record["listeners"] == [f"reverse {app.addresses[0]} -> {sandbox.url}"]
    assert record["admin"] == str(app.admin_address)
    assert record["key"] == app.status().key
    assert record["level"] == "info"


async def test_each_mint_and_each_rotation_has_one_line_with_its_reason(
    app: App, scan: SecretScan, sandbox: Sandbox
) -> None:
    await get(base_url(app) + DATA)
    await get(base_url(app) + DATA)
    app.rotate()
    await until(lambda: sandbox.ledger.report()["revokes"] == 2)
    await get(base_url(app) + DATA)
    sandbox.faults.add(Fault(MINT, status=503))
    app.rotate()
    await until(lambda: app.status().tokens.fault is not None)
    minted, failed = records(scan, "tokens minted"), records(scan, "mint failed")
    rotated, revoked = records(scan, "token rotated"), records(scan, "token revoked")
    assert [(each["count"], each["reason"]) for each in minted] == [(2, "stock"), (2, "stock")]
    assert [each["reason"] for each in failed] == ["status 503: the token endpoint failed"]
    assert [each["level"] for each in failed] == ["warning"]
    assert [each["reason"] for each in rotated] == ["first", "requested"]
    assert [each["confirmed"] for each in revoked] == [True, True]
    assert {each["token_id"] for each in revoked} >= {rotated[0]["token_id"]}


FAULT = MintFault("timeout", "no answer within 5 s")


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (
            Minted(2, Need.DEMAND, 0.1234),
            "info",
            {"event": "tokens minted", "count": 2, "reason": "demand", "seconds": 0.123},
        ),
        (
            MintFailed(FAULT, 1.26, covered=True),
            "warning",
            {"event": "mint failed", "reason": "no answer within 5 s", "retry_in": 1.3},
        ),
        (
            MintFailed(FAULT, 1.0, covered=False),
            "error",
            {"event": "mint failed", "reason": "no answer within 5 s", "retry_in": 1.0},
        ),
        (
            Rotated("a", Reason.EXPIRY),
            "info",
            {"event": "token rotated", "token_id": "a", "reason": "expiry"},
        ),
        (
            Quarantined("a", Standing.GONE),
            "warning",
            {"event": "token quarantined", "token_id": "a", "standing": "gone"},
        ),
        (
            Drifted("a", 3),
            "warning",
            {"event": "Mobula counted more than we", "token_id": "a", "requests": 3},
        ),
        (
            Revoked("a", ok=False),
            "info",
            {"event": "token revoked", "token_id": "a", "confirmed": False},
        ),
        (
            KeyChanged("12345678"),
            "info",
            {"event": "static key changed", "fingerprint": "12345678"},
        ),
        (
            KeyUnreadable("it is empty"),
            "warning",
            {"event": "static key unreadable, the last one stays", "reason": "it is empty"},
        ),
    ],
)
def test_each_event_of_tokens_has_one_line(event: Event, level: str, line: dict[str, Any]) -> None:
    lines = Lines()
    TokenLog()(event)
    assert len(lines.all()) == 1
    assert lines.last() == {"level": level, **line}


def test_what_a_mint_answer_held_besides_tokens_has_a_line_of_its_own() -> None:
    lines = Lines()
    TokenLog()(Minted(1, Need.STOCK, 0.1, ("token 2 of 2: not an object",)))
    assert lines.last() == {
        "level": "warning",
        "event": "mint answer partly unreadable",
        "problem": "token 2 of 2: not an object",
    }


# Requests


def clock_of(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def test_a_stripped_key_is_warned_of_at_most_once_a_minute_for_each_place() -> None:
    lines = Lines()
    log = TrafficLog(clock_of(100.0, 100.1, 101.0, 159.9, 160.0))
    for place in ("query", "header", "query", "query", "query"):
        log(Fact("api.mobula.io", path="/a", stripped=[place]))
    assert [record["place"] for record in lines.all()] == ["query", "header", "query"]
    assert lines.last() == {
        "level": "warning",
        "event": "a static key was taken out of a request",
        "place": "query",
        "path": "/a",
    }


def test_the_usual_credentials_of_an_app_are_no_reason_to_warn() -> None:
    lines = Lines()
    TrafficLog()(Fact("a", stripped=["authorization", "x-api-key", "proxy-authorization"]))
    assert lines.all() == []


def test_client_that_shows_its_own_credential_as_a_parameter_is_no_reason_to_warn() -> None:
    lines = Lines()
    TrafficLog()(Fact("a", client="research", stripped=["query"]))
    assert lines.all() == []


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (ClientUnknown, "no credential that is known"),
        (ClientReviewUnavailable, "cannot be checked"),
        (ClientCertificateRefused, "certificate was refused"),
    ],
)
def test_who_is_no_client_is_warned_of_once_a_minute(refusal: type[Refusal], says: str) -> None:
    lines = Lines()
    log = TrafficLog(clock=lambda: 0.0)
    for _ in range(2):
        log(Fact("a", code=refusal.code))
    (line,) = lines.all()
    assert (line["level"], says in line["event"]) == ("warning", True)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (AuthorityNotTrusted, "a client does not trust the local CA"),
        (ServerNameUnknown, "a client asks for TLS with a name"),
        (HandshakeFailed, "a client broke TLS off"),
    ],
)
def test_client_that_breaks_tls_off_is_warned_of_once_a_minute(
    refusal: type[Refusal], said: str
) -> None:
    lines = Lines()
    log = TrafficLog(clock_of(100.0, 101.0, 160.0))
    for _ in range(3):
        log(Fact("api.mobula.io", code=refusal.code))
    assert [record["event"].startswith(said) for record in lines.all()] == [True, True]
    assert lines.last()["level"] == "warning"


def test_calls_to_mobula_that_pass_by_in_a_tunnel_are_warned_of() -> None:
    lines = Lines()
    log = TrafficLog(clock_of(100.0, 101.0, 160.0))
    for place in ("demo-api.mobula.io:443", "pulse.mobula.io:443", "new.mobula.io:8443"):
        log(Fact(OTHER_HOSTS, method="CONNECT", path=place))
    assert [record["host"] for record in lines.all()] == ["demo-api.mobula.io", "new.mobula.io"]


@pytest.mark.parametrize(
    "fact",
    [
        Fact(OTHER_HOSTS, method="CONNECT", path="example.com:443"),
        Fact(OTHER_HOSTS, method="CONNECT", path="notmobula.io:443"),
        Fact(OTHER_HOSTS, method="GET", path="/x:.mobula.io"),
        Fact("api.mobula.io", method="CONNECT", path="api.mobula.io:443"),
    ],
)
def test_other_tunnels_are_nobody_s_business(fact: Fact) -> None:
    lines = Lines()
    TrafficLog()(fact)
    assert lines.all() == []


async def test_requests_have_no_line_unless_the_access_log_is_on(
    app: App, scan: SecretScan
) -> None:
    await get(base_url(app) + DATA)
    assert records(scan, "request") == []


async def test_an_access_line_tells_what_became_of_a_request_without_query_or_secret(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan, log={"access": True}) as app:
        await get(f"{base_url(app)}{DATA}/{KEY}/?asset=Bitcoin&api_key={KEY}")
        await get(base_url(app) + MINT)
    first, second = records(scan, "request")
    assert 0 < first.pop("ms") < 5000
    assert (
        first.items()
        >= {
            "level": "info",
            "upstream": "api.mobula.io",
            "method": "GET",
            "path": f"{DATA}//",
            "status": 404,
            "code": None,
            "attempts": 1,
            "complete": True,
        }.items()
    )
    assert (second["status"], second["code"]) == (403, "auth_path_denied")
    assert "Bitcoin" not in scan.output.getvalue()


def test_an_access_line_of_a_broken_answer_says_so() -> None:
    lines = Lines()
    AccessLog()(Fact("a", method="GET", path="/", status=200, complete=False))
    assert lines.last()["complete"] is False
