"""The wall clock beside Mobula's."""

import asyncio

import pytest

from connect_proxy import ConnectProxy
from proxy.config import ProxyUrl, UpstreamSettings
from proxy.launch.checks.clock import Comparison, compare, judge
from proxy.launch.checks.destination import Destination, destinations
from proxy.launch.report import ok, skip
from proxy.network.dialer import Dialer
from proxy.sandbox import Sandbox
from wire import Far, fields_of

MIND = "tokens do not mind, but certificates of the local CA and times in the log do"


@pytest.mark.parametrize(
    ("ahead", "found"),
    [
        (0.4, "the same as its clock"),
        (7.0, "7s ahead of its clock"),
        (-59.4, "59s behind its clock"),
    ],
)
def test_a_clock_that_is_about_right_is_well(ahead: float, found: str) -> None:
    assert judge("api.test", Comparison(answered=True, ahead=ahead)) == ok(
        "clock", "api.test", found
    )


@pytest.mark.parametrize(
    ("ahead", "found"),
    [(60.0, f"1m ahead of its clock: {MIND}"), (-5400.0, f"1h30m behind its clock: {MIND}")],
)
def test_a_clock_that_is_off_is_warned_of_with_what_minds(ahead: float, found: str) -> None:
    line = judge("api.test", Comparison(answered=True, ahead=ahead))
    assert (line.grade.value, line.found) == ("warn", found)


def test_answers_without_a_date_are_warned_of() -> None:
    line = judge("api.test", Comparison(answered=True))
    assert line.grade.value == "warn"
    assert line.found.startswith("its answers have no Date")


def test_without_an_answer_there_is_nothing_to_say() -> None:
    why = "not compared, because it did not answer a HEAD"
    assert judge("api.test", Comparison(answered=False)) == skip("clock", "api.test", why)


def destination(url: str) -> Destination:
    (found,) = destinations({"api.test": UpstreamSettings(url=url)})
    return found


@pytest.mark.parametrize("skew", [0.0, 3600.0, -90.0])
async def test_how_far_apart_they_are_is_known_to_a_second(sandbox: Sandbox, skew: float) -> None:
    sandbox.skew = skew
    found = await compare(destination(sandbox.url), Dialer())
    assert found.ahead == pytest.approx(-skew, abs=1.0)


async def test_time_is_asked_for_without_any_credential(far: Far) -> None:
    comparing = asyncio.create_task(compare(destination(f"http://{far.authority}/v1"), Dialer()))
    wire = await far.wire()
    head = await wire.head()
    wire.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    assert await comparing == Comparison(answered=True)
    assert head.startswith(b"HEAD /v1/ HTTP/1.1\r\n")
    assert {"authorization", "x-api-key", "cookie"}.isdisjoint(fields_of(head))


async def test_who_breaks_the_connection_has_not_answered(far: Far) -> None:
    comparing = asyncio.create_task(compare(destination(f"http://{far.authority}"), Dialer()))
    wire = await far.wire()
    far.refuse()  # aiohttp asks once more
    wire.close()
    assert await comparing == Comparison(answered=False)


async def test_it_takes_the_upstream_proxy(sandbox: Sandbox) -> None:
    async with ConnectProxy("user", "pass4711") as proxy:
        dialer = Dialer(upstream_proxy=ProxyUrl.parse(proxy.url))
        port = sandbox.url.rpartition(":")[2]
        found = await compare(destination(f"http://api.test:{port}"), dialer)
    assert found.ahead == pytest.approx(0.0, abs=1.0)
    assert proxy.asked == [f"HEAD http://api.test:{port}/ HTTP/1.1"]
