"""Connections to upstreams: what is said of each way in which they come about, or do not."""

import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from connect_proxy import ConnectProxy
from proxy.config import ProxyUrl, UpstreamSettings
from proxy.launch.checks.destination import Destination, destinations
from proxy.launch.checks.handshakes import Handshake, judge, shake_hands
from proxy.launch.report import Line, fail, ok, warn
from proxy.network.dialer import Dialer
from tls import serving
from wire import OK, Far

pytestmark = pytest.mark.both_loops


def judged(*handshakes: Handshake, ca_file: str | None = None, **options: bool) -> list[Line]:
    ca_files = {each.name: ca_file for each in handshakes}
    return list(judge(handshakes, ca_files, goes_direct=options.get("goes_direct", False)))


# What is said


def test_one_that_is_well_is_told_with_the_end_of_its_certificate() -> None:
    assert judged(Handshake("api.test", 60.9, "TLSv1.3")) == [
        ok("tls", "api.test", "TLSv1.3; its certificate ends in 60 days")
    ]


def test_several_that_are_well_are_one_line_with_the_first_end() -> None:
    assert judged(Handshake("a", 60.0, "TLSv1.3"), Handshake("b", 30.0, "TLSv1.2")) == [
        ok(
            "tls",
            "2 upstreams",
            "TLSv1.2, TLSv1.3; the first of their certificates ends in 30 days",
        )
    ]


@pytest.mark.parametrize(
    ("days", "words"), [(6.9, "6 days"), (1.5, "1 day"), (0.3, "less than a day")]
)
def test_a_certificate_that_nobody_has_renewed_is_warned_of(days: float, words: str) -> None:
    step = "tell those who run it, if it is not renewed"
    assert judged(Handshake("a", days, "TLSv1.3"), Handshake("b", 60.0, "TLSv1.3")) == [
        ok("tls", "b", "TLSv1.3; its certificate ends in 60 days"),
        warn("tls", "a", f"TLSv1.3; its certificate ends in {words}", step=step),
    ]


def test_plain_http_is_warned_of() -> None:
    (line,) = judged(Handshake("a"))
    assert line.grade.value == "warn"
    assert line.found == "plain http: tokens, and the static key, travel in clear"


REFUSED = Handshake("a", trouble="connection", why="connection refused")
UNTRUSTED = Handshake("a", trouble="trust", why="its certificate was not accepted: unknown")
EXPIRED = Handshake("a", trouble="trust", why="not accepted: certificate has expired")
EARLY = Handshake("a", trouble="trust", why="not accepted: certificate is not yet valid")
BROKEN = Handshake("a", trouble="tls", why="TLS failed: WRONG_VERSION_NUMBER")
PROXIED = Handshake("a", trouble="upstream proxy", why="the upstream proxy answered 407: …")
UNREAD = Handshake("a", trouble="authorities", why="no such file or directory")

STEPS = {
    "refused": (REFUSED, {}, "let this machine out to it, or set upstream_proxy if"),
    "direct": (REFUSED, {"goes_direct": True}, "set upstream_proxy, as HTTPS_PROXY is set here"),
    "untrusted": (UNTRUSTED, {}, "if this network inspects TLS, name its authority in ca_file"),
    "of the wrong file": (
        UNTRUSTED,
        {"ca_file": "a.pem"},
        "put the authority that signed it into a",
    ),
    "expired": (EXPIRED, {}, "see by `date -u` whether this clock is right"),
    "early": (EARLY, {"ca_file": "a.pem"}, "see by `date -u` whether this clock is right"),
    "broken": (BROKEN, {}, "see what answers there"),
    "proxied": (PROXIED, {}, "correct upstream_proxy"),
    "unread": (UNREAD, {}, "name a file with certificates in PEM in its ca_file"),
}


@pytest.mark.parametrize(("handshake", "options", "step"), STEPS.values(), ids=STEPS)
def test_one_that_failed_is_told_with_the_next_step(
    handshake: Handshake, options: dict[str, Any], step: str
) -> None:
    (line,) = judged(handshake, **options)
    assert line == fail("tls", "a", handshake.why, step=line.step)
    assert line.step.startswith(step)


# What is connected to


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


def context(authority: trustme.CA, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "api.test", **options).configure_cert(context)
    return context


def destination(url: str, **upstream: Any) -> Destination:
    (found,) = destinations({"api.test": UpstreamSettings(url=url, **upstream)})
    return found


async def shaken(url: str, **upstream: Any) -> Handshake:
    return await shake_hands(destination(url, **upstream), Dialer())


async def test_it_goes_as_far_as_the_handshake(authority: trustme.CA, tmp_path: Path) -> None:
    ends = datetime.now(UTC) + timedelta(days=40)
    async with serving(context(authority, not_after=ends)) as port:
        found = await shaken(f"https://localhost:{port}", ca_file=str(tmp_path / "ca.pem"))
    assert (found.version, found.trouble) == ("TLSv1.3", None)
    assert found.days == pytest.approx(40, abs=0.1)


async def test_an_authority_that_nobody_trusts_is_told(authority: trustme.CA) -> None:
    async with serving(context(authority)) as port:
        found = await shaken(f"https://localhost:{port}")
    assert found.trouble == "trust"
    assert found.why.startswith("its certificate was not accepted: ")


async def test_a_certificate_whose_time_is_over_is_told(
    authority: trustme.CA, tmp_path: Path
) -> None:
    over = datetime.now(UTC) - timedelta(days=1)
    async with serving(context(authority, not_after=over)) as port:
        found = await shaken(f"https://localhost:{port}", ca_file=str(tmp_path / "ca.pem"))
    assert (found.trouble, "expired" in found.why) == ("trust", True)


async def test_where_no_tls_is_spoken_that_is_told(far: Far) -> None:
    shaking = asyncio.create_task(shaken(f"https://{far.authority}"))
    (await far.wire()).send(OK)
    assert (await shaking).trouble == "tls"


async def test_nobody_there_is_told() -> None:
    found = await shaken("https://127.0.0.1:1")
    assert found == Handshake("api.test", trouble="connection", why="connection refused")


async def test_who_does_not_answer_is_not_waited_for_longer_than_the_proxy_would(far: Far) -> None:
    started = time.monotonic()
    found = await shaken(f"https://{far.authority}", connect_timeout=0.2)
    assert time.monotonic() - started < 2
    assert found.why == "no connection came about within 0.2 s"


async def test_in_plain_http_it_goes_as_far_as_the_connection(far: Far) -> None:
    assert await shaken(f"http://{far.authority}") == Handshake("api.test")


async def test_authorities_that_cannot_be_read_are_told() -> None:
    found = await shaken("https://localhost:1", ca_file="/nowhere.pem")
    assert found == Handshake("api.test", trouble="authorities", why="no such file or directory")


async def test_it_takes_the_upstream_proxy(authority: trustme.CA, tmp_path: Path) -> None:
    authority_file = str(tmp_path / "ca.pem")
    async with serving(context(authority)) as port, ConnectProxy("user", "pass4711") as proxy:
        place = destination(f"https://api.test:{port}", ca_file=authority_file)
        let_in = await shake_hands(place, Dialer(upstream_proxy=ProxyUrl.parse(proxy.url)))
        stranger = ProxyUrl.parse(f"http://{proxy.place}")
        kept_out = await shake_hands(place, Dialer(upstream_proxy=stranger))
    assert let_in.trouble is None
    assert (kept_out.trouble, "407" in kept_out.why) == ("upstream proxy", True)
