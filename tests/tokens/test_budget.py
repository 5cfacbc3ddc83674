"""At most 5 creation calls in any 60 s, whatever the network does to their timing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.tokens.budget import CALLS, MintBudget
from tokens.kit import most_in_a_minute


def called(*times: float) -> MintBudget:
    """A budget from which calls were made that took no time."""
    budget = MintBudget()
    for at in times:
        budget.start(at)
        budget.end(at)
    return budget


def test_a_new_budget_allows_five_calls_at_once() -> None:
    budget = MintBudget()
    assert budget.left(0) == 5
    assert budget.next_at(7) == 7
    assert repr(budget) == "<MintBudget 0 of 5 calls in the window>"


def test_a_call_is_charged_when_it_starts() -> None:
    budget = MintBudget()
    budget.start(0)
    assert budget.left(0) == 4


def test_a_call_leaves_the_window_a_minute_after_it_ended() -> None:
    budget = MintBudget()
    budget.start(0)
    budget.end(4)
    assert budget.left(63.9) == 4
    assert budget.left(64) == 5


def test_a_spent_budget_tells_when_the_next_call_may_start() -> None:
    budget = called(0, 1, 2, 3, 4)
    assert budget.left(5) == 0
    assert budget.next_at(5) == 60
    assert budget.left(60) == 1


def test_the_next_refill_is_when_the_oldest_call_leaves_the_window() -> None:
    assert called(10, 20).refill_at(30) == 70
    assert MintBudget().refill_at(30) == 30


def test_a_refunded_call_is_as_if_it_never_was() -> None:
    budget = called(0)
    budget.start(1)
    budget.end(2)
    budget.refund()
    assert budget.left(3) == 4
    assert budget.refill_at(3) == 60


def test_a_closed_budget_allows_nothing_until_it_opens() -> None:
    budget = MintBudget()
    budget.close(30)
    assert budget.left(29.9) == 0
    assert budget.next_at(1) == 30
    assert budget.left(30) == 5


def test_closing_earlier_does_not_open_earlier() -> None:
    budget = MintBudget()
    budget.close(30)
    budget.close(10)
    assert budget.next_at(0) == 30


def test_a_spent_budget_that_is_closed_opens_at_the_later_time() -> None:
    budget = called(0, 0, 0, 0, 0)
    budget.close(30)
    assert budget.next_at(1) == 60
    budget.close(90)
    assert budget.next_at(1) == 90


def test_the_last_word_of_the_store_holds_and_no_earlier_one() -> None:
    """A store that came back empty allows a call that it did not allow before."""
    budget = MintBudget()
    budget.heed(0, 40)
    assert (budget.left(1), budget.next_at(1)) == (0, 40)
    budget.heed(1, 2)
    assert (budget.left(2), budget.next_at(2)) == (1, 2)


def test_the_word_of_the_store_opens_no_budget_that_mobula_closed() -> None:
    budget = MintBudget()
    budget.close(30)
    budget.heed(5, 0)
    assert (budget.left(1), budget.next_at(1)) == (0, 30)


def test_a_call_that_ends_after_its_start_left_the_window_still_counts() -> None:
    budget = MintBudget()
    budget.start(0)
    assert budget.left(61) == 5
    budget.end(62)
    assert budget.left(63) == 4


@settings(deadline=None)
@pytest.mark.parametrize("arrives", [0.0, 0.5, 1.0])
@given(
    steps=st.lists(
        st.tuples(st.floats(0, 40), st.floats(0, 90)),
        min_size=10,
        max_size=40,
    )
)
def test_no_minute_sees_more_than_five_calls_wherever_between_start_and_end_they_arrive(
    arrives: float, steps: list[tuple[float, float]]
) -> None:
    budget = MintBudget()
    now = 0.0
    arrivals = []
    for pause, lasts in steps:
        now = max(now + pause, budget.next_at(now + pause))
        assert budget.left(now) > 0
        budget.start(now)
        arrivals.append(now + lasts * arrives)
        now += lasts
        budget.left(now)
        budget.end(now)
    assert most_in_a_minute(arrivals) <= CALLS
