"""Fleets of several sizes under steady load, in virtual time; docs/scaling.md has many more."""

import pytest

from fleet import Row, run


@pytest.fixture(
    params=[(1, 100, 5000, 150), (8, 1000, 5000, 150), (100, 1000, 100_000, 60)],
    ids=lambda fleet: "{} processes, {} requests a second".format(*fleet),
    scope="module",
)
def row(request: pytest.FixtureRequest) -> Row:
    processes, rate, limit, seconds = request.param
    return run(processes, rate, limit, seconds)


def test_no_request_fails_or_waits(row: Row) -> None:
    assert row.requests >= 50 * row.rate
    assert (row.failed, row.waited) == (0, 0)


def test_no_token_is_sent_more_often_than_its_limit(row: Row) -> None:
    assert row.over_limit == 0


def test_two_creation_calls_a_minute_are_enough(row: Row) -> None:
    assert row.most_in_a_minute <= 2


def test_the_end_of_a_token_strands_two_percent_at_most(row: Row) -> None:
    assert row.stranded <= 0.02


def test_a_process_calls_the_store_a_few_times_a_second_at_most(row: Row) -> None:
    assert row.calls <= 3.0
