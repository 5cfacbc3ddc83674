"""When creation calls may start, after successes and failures."""

import itertools

from proxy.tokens.budget import MintBudget
from proxy.tokens.model import MintFault
from proxy.tokens.pace import LAST_TRY, Pace

REFUSED = MintFault("connect", "refused", sent=False)
BROKEN = MintFault("503", "status 503")
PUT_OFF = MintFault("429", "status 429", retry_after=1.0)


def pace(*, chance: float = 0.0) -> Pace:
    return Pace(MintBudget(), lambda: chance)


def call(paced: Pace, now: float, fault: MintFault | None = None, *, lasts: float = 0.0) -> None:
    paced.start(now)
    paced.end(now, sent=fault is None or fault.sent)
    if fault is None:
        paced.forgive()
    else:
        paced.fail(fault, lasts, now)


def test_a_call_may_start_at_once_while_the_budget_has_some() -> None:
    paced = pace()
    for now in range(4):
        assert paced.next_at(0.0, now) == now
        call(paced, now)
    assert paced.permits(4) == 1


def test_the_last_call_waits_while_the_stock_outlasts_the_next() -> None:
    paced = pace()
    for now in range(4):
        call(paced, now)
    assert paced.next_at(100.0, 4) == 60
    assert paced.next_at(30.0, 4) == 4


def test_a_call_that_was_not_sent_is_tried_again_soon_and_not_charged() -> None:
    paced = pace()
    call(paced, 0, REFUSED)
    assert (paced.permits(0), paced.next_at(0.0, 0)) == (5, 0.1)


def test_a_call_that_was_not_sent_is_not_tried_again_soon_while_the_stock_lasts() -> None:
    paced = pace()
    call(paced, 0, REFUSED, lasts=1000.0)
    assert paced.next_at(1000.0, 0) == 15


def test_failed_calls_are_spread_over_the_time_that_the_stock_lasts() -> None:
    paced = pace(chance=1.0)
    tries = [0.0]
    while len(tries) < 5:
        call(paced, tries[-1], BROKEN, lasts=20 - tries[-1])
        tries.append(paced.next_at(20 - tries[-1], tries[-1]))
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert max(gaps) - min(gaps) < 0.001
    assert tries[-1] == 20 - LAST_TRY


def test_calls_that_mobula_puts_off_for_moments_only_are_spread_like_others() -> None:
    paced = pace(chance=1.0)
    tries = [0.0]
    while tries[-1] < 20 - LAST_TRY:
        call(paced, tries[-1], PUT_OFF, lasts=20 - tries[-1])
        tries.append(paced.next_at(20 - tries[-1], tries[-1]))
    assert len(tries) == 5
    assert tries[-1] == 20 - LAST_TRY


def test_a_call_during_which_the_process_stood_still_puts_off_none_until_the_stock_ends() -> None:
    paced = pace()
    paced.start(0)
    paced.end(1800)
    paced.fail(BROKEN, lasts=1700, now=1800)
    assert paced.next_at(0.0, 1800) <= 1815


def test_no_call_is_made_before_mobula_allows_it() -> None:
    paced = pace()
    call(paced, 0, MintFault("429", "status 429", retry_after=30.0), lasts=20)
    assert paced.next_at(20, 0) == 30


def test_a_success_forgets_the_failures() -> None:
    paced = pace(chance=1.0)
    call(paced, 0, BROKEN)
    assert paced.next_at(0.0, 0) > 0
    call(paced, 50)
    assert not paced.fault
    assert paced.next_at(0.0, 50) == 50


def test_a_call_that_ends_under_another_budget_is_taken_off_its_own() -> None:
    own, other = MintBudget(), MintBudget()
    paced = Pace(own, lambda: 0.0)
    for budget in (other, own):
        paced.use(budget)
        paced.start(0)
        paced.end(0)
    paced.start(1)
    paced.use(other)
    paced.end(1, sent=False)
    assert (own.left(1), other.left(1)) == (4, 4)
