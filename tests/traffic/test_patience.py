"""Patience with a slow client, second by second."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.traffic.patience import Patience


def test_a_client_may_stand_still_for_so_long_and_no_longer() -> None:
    patience = Patience(seconds=30, rate=100)
    assert patience.left == 30
    patience.waited = 30
    assert patience.left == 0


def test_a_client_that_keeps_the_rate_has_all_of_its_time_for_ever() -> None:
    assert Patience(seconds=30, rate=100, moved=100_000, waited=1000).left == 30


def test_a_client_that_was_fast_may_not_stand_still_any_longer() -> None:
    assert Patience(seconds=30, rate=100, moved=10**9, waited=1).left == 30


def test_a_byte_now_and_then_buys_no_more_than_its_own_time() -> None:
    patience = Patience(seconds=30, rate=100)
    for _ in range(3):
        patience.waited += 10
        patience.moved += 1
    assert patience.left == pytest.approx(0.03)


@given(rate=st.floats(1, 1e9), pace=st.floats(0, 0.5), seconds=st.floats(0.01, 1e4))
def test_a_client_below_half_of_the_rate_is_let_go_within_twice_its_time(
    rate: float, pace: float, seconds: float
) -> None:
    patience = Patience(seconds, rate)
    patience.waited = 2 * seconds
    patience.moved = math.floor(rate * pace * patience.waited)
    assert patience.left <= 1e-6 * seconds
