"""What clients use: a bucket a second, a count a day, and what the fleet learns of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ClientQuotaUsedUp, ClientRateLimited
from proxy.tokens.store.base import Tally
from proxy.traffic.clients import Client
from proxy.traffic.usage import DAY_SECONDS, Usage

NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2
FAST = Client("fast", rate=10.0)
SLOW = Client("slow", rate=0.1)
DAILY = Client("daily", a_day=3)


def served(usage: Usage, client: Client, now: float = 0.0, wall: float = NOON) -> bool:
    try:
        usage.charge(client, now, wall)
    except (ClientRateLimited, ClientQuotaUsedUp):
        return False
    return True


def test_second_of_requests_may_come_at_once_and_no_more() -> None:
    usage = Usage()
    assert [served(usage, FAST) for _ in range(12)] == [True] * 10 + [False] * 2


def test_who_is_refused_is_told_when_there_is_room_again() -> None:
    usage = Usage()
    usage.charge(SLOW, 0.0, NOON)
    with pytest.raises(ClientRateLimited, match=r"Client slow may send 0\.1 requests") as refused:
        usage.charge(SLOW, 2.0, NOON)
    assert refused.value.retry_after == 8
    assert not served(usage, SLOW, now=9.9)
    assert served(usage, SLOW, now=10.0)


@given(st.lists(st.floats(0.0, 0.5), max_size=200))
def test_no_span_has_more_than_its_seconds_and_one_allow(gaps: list[float]) -> None:
    usage, now, times = Usage(), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if served(usage, FAST, now=now):
            times.append(now)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= 10.0 * (times[last] - times[first]) + 10.0 + 1e-6


def test_clients_do_not_share_a_bucket() -> None:
    usage = Usage()
    assert served(usage, SLOW)
    assert not served(usage, SLOW)
    assert served(usage, Client("other", rate=0.1))


def test_day_ends_at_midnight_utc() -> None:
    usage = Usage()
    assert [served(usage, DAILY) for _ in range(4)] == [True, True, True, False]
    with pytest.raises(ClientQuotaUsedUp, match=r"3 requests a day \(UTC\)") as refused:
        usage.charge(DAILY, 0.0, NOON + 3600)
    assert refused.value.retry_after == 11 * 3600
    assert served(usage, DAILY, wall=NOON + DAY_SECONDS / 2)


def test_request_that_is_refused_for_one_limit_does_not_count_for_the_other() -> None:
    usage, both = Usage(), Client("both", rate=1.0, a_day=2)
    assert served(usage, both)
    assert not served(usage, both)
    assert served(usage, both, now=1.0)
    assert not served(usage, both, now=2.0)
    assert served(usage, both, now=2.0, wall=NOON + DAY_SECONDS)


def test_client_without_limits_leaves_nothing_behind() -> None:
    usage = Usage()
    assert all(served(usage, Client("free")) for _ in range(3))
    assert repr(usage) == "<Usage day 0, 0 clients>"


def test_what_is_counted_while_the_store_is_told_is_told_next() -> None:
    usage = Usage()
    served(usage, DAILY)
    day, told = usage.untold(NOON)
    served(usage, DAILY)
    usage.told(day, {DAILY.name: 1})
    assert [each.spent for each in told.values()] == [1]
    assert usage.untold(NOON) == (day, {DAILY.name: Tally(spent=1, known=1)})
    assert [served(usage, DAILY) for _ in range(2)] == [True, False]
