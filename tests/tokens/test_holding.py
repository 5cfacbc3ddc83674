"""The ledger of one token, and how long a stock lasts."""

import math

import pytest

from proxy.tokens.holding import Holding, endurance, hold
from tokens.kit import token


def holding(name: str = "a", *, lifetime: float = 3600.0, limit: int = 100) -> Holding:
    return hold(token(name, lives=lifetime, limit=limit), 0, 0.0)


@pytest.mark.parametrize(("lifetime", "guard"), [(20.0, 2.0), (60.0, 3.0), (3600.0, 30.0)])
def test_a_token_is_not_leased_shortly_before_it_expires(lifetime: float, guard: float) -> None:
    assert holding(lifetime=lifetime).usable_until == lifetime - guard


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.60), (1.0, 0.65)])
def test_its_successor_is_due_within_the_second_third(chance: float, share: float) -> None:
    assert hold(token("a"), 0, chance).refresh_at == share * 3600


def test_requests_under_way_are_not_leased_twice() -> None:
    one = holding(limit=2)
    one.open = 2
    assert (one.left, one.can_serve(0, 1)) == (0, False)


def test_a_stock_without_load_lasts_until_its_last_token_expires() -> None:
    assert endurance([holding()], 0.0, 0.0) == 3570


def test_a_stock_under_load_lasts_until_it_is_spent_or_expired() -> None:
    stock = [holding("a", lifetime=60, limit=100), holding("b", lifetime=60, limit=1000)]
    assert endurance(stock, 10.0, 0.0) == 57
    assert endurance(stock, 100.0, 0.0) == 11


def test_a_token_in_doubt_is_no_stock() -> None:
    doubted = holding()
    doubted.counts = False
    assert endurance([doubted], 1.0, 0.0) == 0
    assert endurance([], math.inf, 0.0) == 0
