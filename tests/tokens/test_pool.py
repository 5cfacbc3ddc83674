"""The rules about tokens, as transcripts: what the pool is told at which second, and what it does.

Times are seconds; a token lives an hour unless said otherwise, so its guard is 30 s.
"""

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from proxy.tokens.events import Drifted, Quarantined, Rotated
from proxy.tokens.model import (
    Grant,
    Inspect,
    Inspection,
    Mint,
    MintFault,
    Need,
    Outcome,
    Reach,
    Reason,
    Revoke,
    Standing,
    Stocked,
    WakeAt,
)
from proxy.tokens.store.base import Wait
from tokens.kit import (
    FAILED,
    FATAL,
    LIMIT,
    REFUSED,
    SILENT,
    Member,
    Script,
    World,
    most_in_a_minute,
    only,
    token,
)


def holding(*names: str) -> Script:
    """A pool that has minted these tokens at 0."""
    script = Script(standby=len(names) - 1)
    script.mint(0, *(token(name) for name in names))
    return script


def rotations(script: Script) -> list[tuple[str, Reason]]:
    return [(each.token_id, each.reason) for each in script.told if isinstance(each, Rotated)]


# Leases


def test_a_pool_without_tokens_gives_no_lease() -> None:
    script = Script()
    assert script.pool.lease(0) is None
    assert not script.pool.usable(0)
    assert repr(script) == "<TokenPool 0 ready, 0 quarantined, 0 left>"


def test_a_lease_is_charged_before_anything_is_sent() -> None:
    script = holding("a")
    script.lease(1)
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 4999 left>"


def test_a_lease_costs_as_many_requests_as_asked() -> None:
    script = holding("a")
    assert script.lease(1, cost=7).cost == 7
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 4993 left>"


def test_a_lease_that_costs_more_than_is_left_goes_to_the_next_token() -> None:
    script = Script(standby=1)
    script.mint(0, token("a", limit=2), token("b", lives=3601))
    assert script.lease(1, cost=3).token.id == "b"


def test_a_request_that_was_not_sent_is_refunded() -> None:
    script = holding("a")
    script.pool.settle(script.lease(1, cost=3), Outcome.NOT_SENT, 1)
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 5000 left>"


@pytest.mark.parametrize("outcome", [Outcome.USED, Outcome.REJECTED, Outcome.UNKNOWN])
def test_a_request_that_may_have_been_sent_is_not_refunded(outcome: Outcome) -> None:
    script = holding("a")
    script.pool.settle(script.lease(1), outcome, 1)
    assert script.pool.snapshot(1).left == 4999


def test_a_second_settle_does_nothing() -> None:
    script = holding("a")
    lease = script.lease(1)
    script.pool.settle(lease, Outcome.NOT_SENT, 1)
    script.pool.settle(lease, Outcome.NOT_SENT, 1)
    script.pool.settle(lease, Outcome.EXHAUSTED, 1)
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 5000 left>"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_leases_of_one_token_settle_in_any_order(order: tuple[int, int]) -> None:
    script = holding("a")
    leases = (script.lease(1), script.lease(1))
    outcomes = (Outcome.USED, Outcome.NOT_SENT)
    for number in order:
        script.pool.settle(leases[number], outcomes[number], 2)
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 4999 left>"


def test_a_spent_token_is_not_leased() -> None:
    script = Script(standby=0, limit=2)
    script.mint(0, token("a", limit=2))
    assert [script.name(1), script.name(1), script.name(1)] == ["a", "a", None]


def test_a_refund_makes_a_spent_token_leasable_again() -> None:
    script = Script(standby=0, limit=1)
    script.mint(0, token("a", limit=1))
    script.pool.settle(script.lease(1), Outcome.NOT_SENT, 1)
    assert script.name(1) == "a"


def test_what_mobula_said_remained_is_all_that_is_leased() -> None:
    script = Script(standby=0)
    script.mint(0, token("a", left=1))
    assert [script.name(1), script.name(1)] == ["a", None]


def test_requests_draw_from_the_token_that_expires_first() -> None:
    script = Script(standby=2)
    script.mint(0, token("late", lives=3600), token("early", lives=1800), token("mid", lives=2700))
    assert script.name(1) == "early"
    assert script.name(1800) == "mid"
    assert script.name(2700) == "late"


@pytest.mark.parametrize(
    ("lives", "guard"), [(60.0, 3.0), (300.0, 15.0), (3600.0, 30.0), (86_400.0, 30.0), (30.0, 2.0)]
)
def test_a_token_is_not_leased_within_the_guard_of_its_expiry(lives: float, guard: float) -> None:
    script = Script(standby=0)
    script.mint(0, token("a", lives=lives))
    assert script.name(lives - guard - 0.001) == "a"
    assert script.name(lives - guard) is None
    assert script.name(lives) is None
    assert script.name(lives + 1000) is None


def test_whether_a_lease_can_be_had_is_told_without_taking_one() -> None:
    script = holding("a")
    assert script.pool.usable(1)
    assert script.pool.snapshot(1).left == 5000
    assert not script.pool.usable(3570)


# Rotation


def test_the_first_token_becomes_current_for_being_first() -> None:
    script = holding("a")
    script.name(1)
    assert rotations(script) == [("a", Reason.FIRST)]


def test_the_next_token_becomes_current_when_one_is_spent() -> None:
    script = Script(standby=1, limit=1)
    script.mint(0, token("a", limit=1), token("b", limit=1))
    script.name(1)
    script.name(1)
    assert rotations(script)[1:] == [("b", Reason.EXHAUSTED)]


def test_the_next_token_becomes_current_when_one_is_about_to_expire() -> None:
    script = Script(standby=1)
    script.mint(0, token("a", lives=1800), token("b"))
    script.name(1)
    script.name(1790)
    assert rotations(script)[1:] == [("b", Reason.EXPIRY)]


def test_the_next_token_becomes_current_when_one_is_refused() -> None:
    script = holding("a", "b")
    script.reject(1)
    script.name(1)
    assert rotations(script)[1:] == [("b", Reason.REJECTED)]


# Stock


@pytest.mark.parametrize("standby", [0, 1, 4, 24])
def test_the_whole_stock_is_minted_in_one_call_at_first(standby: int) -> None:
    script = Script(standby=standby)
    assert script.pool.plan(0) == [Mint(1 + standby, 0)]


def test_planning_twice_at_one_instant_asks_for_nothing_new() -> None:
    script = Script()
    script.mint_asked(0)
    assert script.pool.plan(0) == []


def test_planning_twice_at_one_instant_inspects_and_revokes_nothing_twice() -> None:
    script = holding("a", "b")
    script.pool.replace(Reason.REQUESTED, 1)
    request = script.mint_asked(1)
    script.pool.minted(request, [token("c", 1), token("d", 1)], 1)
    script.reject(1)
    first, second = script.pool.plan(1), script.pool.plan(1)
    assert [type(each) for each in first] == [Revoke, Revoke, Inspect, WakeAt]
    assert [type(each) for each in second] == [WakeAt]


def test_a_full_stock_asks_only_to_be_woken_at_two_thirds_of_the_lifetime() -> None:
    script = Script(chance=lambda: 0.5)
    script.mint(0, token("a"), token("b"))
    assert script.pool.plan(1) == [WakeAt(0.625 * 3600)]


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.60), (0.5, 0.625), (0.999, 0.64995)])
def test_the_successor_is_minted_from_three_fifths_of_the_lifetime_on(
    chance: float, share: float
) -> None:
    script = Script(standby=0, chance=lambda: chance)
    script.mint(0, token("a"))
    assert script.mints(share * 3600 - 1) == []
    (request,) = script.mints(share * 3600)
    assert (request.count, request.need) == (1, Need.EXPIRY)


def test_the_old_token_is_drawn_from_after_its_successor_came() -> None:
    script = holding("a")
    script.mint(2400, token("b", 2400))
    assert script.name(2401) == "a"
    assert script.name(3569) == "a"
    assert script.name(3570) == "b"


def test_a_spent_token_is_replaced_at_once() -> None:
    script = Script(standby=1, limit=10)
    script.mint(0, token("a", limit=10), token("b", limit=10))
    script.use(1000, 10)
    (request,) = script.mints(1000)
    assert (request.count, request.need) == (1, Need.STOCK)


def test_the_pool_wants_to_plan_again_when_a_token_is_spent() -> None:
    script = Script(standby=1, limit=2)
    script.mint(0, token("a", limit=2), token("b", limit=2))
    script.pool.plan(1)
    assert not script.pool.wants_plan
    script.lease(1, cost=2)
    assert script.pool.wants_plan


def test_the_pool_wants_to_plan_again_when_nobody_can_be_served() -> None:
    script = Script()
    script.mint_asked(0)
    script.pool.lease(0)
    assert script.pool.wants_plan


def spend(script: Script, rate: int, seconds: int, start: float) -> list[Mint]:
    """Send `rate` requests a second in tenths; return the creation calls asked for."""
    asked: list[Mint] = []
    for tenth in range(seconds * 10):
        now = start + tenth / 10
        script.use(now, rate // 10)
        asked += script.mints(now)
    return asked


def test_a_high_rate_mints_ahead_before_the_tokens_are_spent() -> None:
    script = holding("a", "b")
    (request,) = spend(script, 500, 11, 1)
    assert (request.count > 1, request.need) == (True, Need.DEMAND)
    assert script.pool.snapshot(12).left > 500 * 5


def test_what_is_minted_ahead_covers_the_rate_for_a_while() -> None:
    script = holding("a", "b")
    (request,) = spend(script, 500, 11, 1)
    assert request.count * LIMIT + script.pool.snapshot(12).left > 500 * 20


def test_a_low_rate_mints_nothing_ahead() -> None:
    script = holding("a", "b")
    assert spend(script, 100, 10, 1) == []


def test_no_call_asks_for_more_than_25_tokens() -> None:
    script = Script(standby=0, limit=10)
    script.mint(0, token("a", limit=1000))
    (request,) = spend(script, 100, 9, 1)
    assert request.count == 25


def test_the_last_call_that_the_budget_allows_asks_for_all_it_can_have() -> None:
    """The rate may be on its way up, and no call can follow for a minute."""
    script = holding("a", "b")
    for _ in range(3):
        script.pool.replace(Reason.REQUESTED, 1)
        script.mint(1, *(token(f"{script.pool.snapshot(1).permits}{each}") for each in "ab"))
    assert script.pool.snapshot(1).permits == 1
    (request,) = spend(script, 500, 20, 1)
    assert (request.count, request.need) == (25, Need.DEMAND)


def test_a_call_is_made_only_if_it_is_still_wanted_after_another_look() -> None:
    """Another process may have made it; what it costs of the budget is then given back."""
    script = holding("a", "b")
    assert len(spend(script, 500, 11, 1)) == 1
    permits = script.pool.snapshot(12).permits
    assert script.pool.reconsider(12) is not None
    script.pool.stocked([Stocked(token("c"), LIMIT, current=True)], 12)
    script.pool.stocked([Stocked(token("d"), LIMIT, current=True)], 12)
    assert script.pool.reconsider(12) is None
    assert not script.pool.minting
    assert script.pool.snapshot(12).permits == permits + 1


def test_the_rate_is_forgotten_when_requests_cease() -> None:
    script = holding("a", "b")
    spend(script, 100, 5, 1)
    assert script.pool.snapshot(6).rate == pytest.approx(100, rel=0.1)
    script.pool.plan(126)
    assert script.pool.snapshot(126).rate < 1


def test_a_request_that_was_not_sent_does_not_raise_the_rate() -> None:
    script = holding("a")
    for tenth in range(10):
        now = 1 + tenth / 10
        script.pool.settle(script.lease(now, cost=100), Outcome.NOT_SENT, now)
        script.pool.plan(now)
    assert script.pool.snapshot(2).rate == 0


def test_one_creation_call_is_under_way_at_a_time() -> None:
    script = Script()
    script.mint_asked(0)
    assert script.mints(30) == []
    assert script.pool.snapshot(30).minting


def test_tokens_that_expired_on_their_way_are_a_failure() -> None:
    script = Script()
    request = script.mint_asked(0)
    fault = script.pool.minted(request, [token("a", lives=60)], 58)
    assert fault is not None
    assert fault.kind == "useless"
    assert script.pool.snapshot(58).fault == fault


def test_a_token_that_was_given_before_is_not_taken_twice() -> None:
    script = holding("a")
    request = script.mint_asked(2400)
    fault = script.pool.minted(request, [token("a")], 2400)
    assert fault is not None
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 5000 left>"


def test_a_token_that_one_answer_holds_twice_is_taken_once() -> None:
    script = holding("a", "a")
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 5000 left>"


def test_a_spent_token_that_is_given_again_is_not_taken() -> None:
    script = Script(standby=0, limit=1)
    script.mint(0, token("a", limit=1))
    script.name(1)
    request = script.mint_asked(1)
    assert script.pool.minted(request, [token("a", limit=1)], 1) is not None
    assert script.name(1) is None


def test_a_token_that_comes_used_up_is_a_failure() -> None:
    script = Script(standby=0)
    request = script.mint_asked(0)
    assert script.pool.minted(request, [token("a", left=0)], 0) is not None
    assert script.mints(0) == []


# The mint budget


def test_the_sixth_call_in_a_minute_waits_for_the_first_to_leave_the_window() -> None:
    script = Script(standby=0, chance=lambda: 0.0)
    at = 0.0
    for _ in range(5):
        script.fail(at)
        at = script.next_wake(at)
    assert at == 60
    assert script.mints(59.9) == []
    assert len(script.mints(60)) == 1


def test_the_last_call_of_the_budget_is_kept_in_reserve() -> None:
    script = holding("a", "b")
    for now in (1, 2, 3):
        script.exhaust(now)
        script.mint(now, token(f"t{now}", now))
    script.exhaust(4)
    assert script.pool.snapshot(4).permits == 1
    assert script.mints(4) == []
    assert script.next_wake(4) == 60
    assert len(script.mints(60)) == 1


def test_the_reserve_is_used_when_the_stock_would_run_out_first() -> None:
    script = Script(standby=0)
    script.mint(0, token("a", lives=60))
    at = 37.5
    for _ in range(3):
        script.fail(at)
        at = script.next_wake(at)
    assert script.pool.snapshot(at).permits == 1
    assert at < 57
    assert len(script.mints(at)) == 1


def test_a_call_that_was_not_sent_is_refunded() -> None:
    script = Script(standby=0)
    script.fail(0, REFUSED)
    assert script.pool.snapshot(1).permits == 5


def test_a_call_that_may_have_been_sent_is_not_refunded() -> None:
    script = Script(standby=0)
    script.fail(0, SILENT)
    assert script.pool.snapshot(1).permits == 4


def test_a_429_closes_the_budget_for_as_long_as_mobula_says() -> None:
    script = Script(standby=0)
    script.fail(0, MintFault("429", "status 429", retry_after=17.0))
    assert script.pool.snapshot(1).permits == 0
    assert script.mints(16.9) == []
    assert len(script.mints(17)) == 1


# Failures


def test_a_fatal_fault_is_retried_slowly() -> None:
    script = Script(standby=0, chance=lambda: 0.5)
    script.fail(0, FATAL)
    assert script.pool.fault == FATAL
    assert script.next_wake(0) == 60


def test_a_fatal_fault_is_forgotten_when_a_call_succeeds() -> None:
    script = Script(standby=0)
    script.fail(0, FATAL)
    script.mint(60, token("a", 60))
    assert script.pool.fault is None


def test_calls_that_are_not_sent_are_repeated_within_five_seconds() -> None:
    script = Script(standby=0, chance=lambda: 0.999)
    at = 0.0
    for _ in range(30):
        script.fail(at, REFUSED)
        wait = script.next_wake(at) - at
        assert 0.1 <= wait <= 5
        at += wait


def test_while_tokens_are_in_hand_the_last_try_comes_just_before_their_end() -> None:
    script = Script(standby=0, chance=lambda: 0.5)
    script.mint(0, token("a", lives=60))
    tries = []
    at = 37.5
    while at < 57:
        script.fail(at)
        tries.append(at)
        at = script.next_wake(at)
    assert len(tries) == 4
    assert tries[-1] == pytest.approx(57 - 1.2)


def test_a_try_that_could_hang_over_the_end_of_the_stock_waits_for_the_last_moment() -> None:
    script = Script(standby=0, chance=lambda: 0.0)
    script.mint(0, token("a", lives=60))
    request = script.mint_asked(46)
    script.pool.mint_failed(request, SILENT, 51)
    assert script.next_wake(51) == pytest.approx(57 - 1.2)


def test_a_try_that_was_not_sent_is_repeated_just_before_the_stock_ends() -> None:
    script = Script(standby=0, chance=lambda: 0.999)
    script.mint(0, token("a", lives=60))
    at = 39.0
    while (last := at) < 55.8:
        script.fail(at, REFUSED)
        at = script.next_wake(at)
    assert last == pytest.approx(57 - 1.2)


def test_without_a_token_early_tries_are_close_and_later_ones_wide() -> None:
    script = Script(standby=0, chance=lambda: 0.0)
    tries = []
    at = 0.0
    for _ in range(5):
        script.fail(at)
        tries.append(at)
        at = script.next_wake(at)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 2 < 10 < pauses[-1]


OUTAGES: dict[str, tuple[MintFault, float]] = {
    "not sent at once": (REFUSED, 0.0),
    "503 at once": (FAILED, 0.05),
    "5 s timeouts": (SILENT, 5.0),
}
CHANCES: dict[str, Callable[[], Callable[[], float]]] = {
    "least": lambda: lambda: 0.0,
    "most": lambda: lambda: 0.999,
    "any": lambda: random.Random(4).random,  # noqa: S311 - jitter
}


def outages(kind: str, chance: str, *, lasts: float, lifetime: float = 60.0) -> Iterator[World]:
    """Worlds with 100 requests/s and an outage in every half second of the first lifetime."""
    jitter = CHANCES[chance]()
    for half in range(121):
        world = World(rate=100, lifetime=lifetime, limit=5000, chance=jitter)
        start = world.LATENCY + half / 2
        world.break_down(start, lasts, *OUTAGES[kind])
        world.run(start + 60)
        yield world


# Mobula counts in whole seconds and so do we when we read its clock: 60 s may be 58 to us.
@pytest.mark.parametrize("lifetime", [60.0, 58.0])
@pytest.mark.parametrize("chance", CHANCES)
@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_of_15_s_at_any_moment_of_a_60_s_lifetime_delays_no_request(
    kind: str, chance: str, lifetime: float
) -> None:
    assert [
        str(each) for each in outages(kind, chance, lasts=15, lifetime=lifetime) if each.dry
    ] == []


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_never_leads_to_more_than_five_calls_in_a_minute(kind: str) -> None:
    assert max(most_in_a_minute(each.calls) for each in outages(kind, "any", lasts=40)) <= 5


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_of_20_s_delays_a_request_by_less_than_it_may_wait(kind: str) -> None:
    assert max(each.longest_gap() for each in outages(kind, "any", lasts=20)) < 10


# Trust


def test_a_refused_token_is_set_aside_and_inspected() -> None:
    script = holding("a", "b")
    assert script.reject(1) == "a"
    assert script.name(1) == "b"
    assert script.inspects(1) == ["a"]
    assert [each.state for each in script.pool.snapshot(1).tokens] == ["set_aside", "current"]


def test_one_inspect_is_under_way_at_a_time() -> None:
    script = holding("a", "b")
    script.reject(1)
    script.reject(1)
    assert script.inspects(1) == ["a"]
    assert script.inspects(2) == []
    script.pool.inspected("a", Inspection(Standing.ALIVE, 4000), 2)
    assert script.inspects(2) == ["b"]


def test_many_refusals_of_one_token_make_one_inspect() -> None:
    script = holding("a")
    leases = [script.lease(1) for _ in range(10)]
    for lease in leases:
        script.pool.settle(lease, Outcome.REJECTED, 1)
        assert script.inspects(1) in (["a"], [])
    script.pool.inspected("a", Inspection(Standing.ALIVE, 4000), 2)
    assert script.inspects(2) == []


def test_a_token_set_aside_is_leased_when_there_is_no_other() -> None:
    script = holding("a")
    script.reject(1)
    assert script.name(1) == "a"


def test_a_request_is_never_sent_again_with_the_token_that_it_was_refused_for() -> None:
    script = holding("a", "b")
    assert script.name(1, refused=["a"]) == "b"
    assert script.name(1, refused=["a", "b"]) is None
    assert not script.pool.usable(1, ["a", "b"])


def test_a_refused_request_gets_no_other_token_that_is_set_aside() -> None:
    script = holding("a", "b")
    script.reject(1)
    script.reject(1)
    assert script.name(1, refused=["a"]) is None


def test_a_refused_request_with_another_token_leaves_the_current_one_current() -> None:
    script = holding("a", "b")
    script.name(1)
    script.name(1, refused=["a"])
    assert script.name(1) == "a"
    assert rotations(script) == [("a", Reason.FIRST)]


@pytest.mark.parametrize("standing", [Standing.GONE, Standing.EXHAUSTED])
def test_a_token_that_is_gone_or_used_up_is_never_leased_again(standing: Standing) -> None:
    script = holding("a")
    script.reject(1)
    script.inspected(1, "a", standing)
    assert script.name(2) is None
    assert repr(script) == "<TokenPool 0 ready, 1 quarantined, 0 left>"
    assert Quarantined("a", standing) in script.told


def test_a_quarantined_token_is_forgotten_when_it_has_expired() -> None:
    script = holding("a")
    script.reject(1)
    script.inspected(1, "a", Standing.GONE)
    script.pool.plan(3600)
    assert repr(script) == "<TokenPool 0 ready, 0 quarantined, 0 left>"


def test_a_token_that_mobula_calls_used_up_is_quarantined_without_an_inspect() -> None:
    script = holding("a", "b")
    script.exhaust(1)
    assert script.name(1) == "b"
    assert script.inspects(1) == []
    assert repr(script) == "<TokenPool 1 ready, 1 quarantined, 4999 left>"


def test_a_token_that_is_used_up_casts_no_doubt_on_the_others() -> None:
    script = holding("a", "b", "c")
    script.exhaust(1)
    script.reject(1)
    script.inspected(1, "b", Standing.EXHAUSTED)
    assert [each.state for each in script.pool.snapshot(1).tokens] == ["standby"]


def test_once_a_token_is_gone_all_others_are_doubted_and_do_not_count_as_stock() -> None:
    script = holding("a", "b", "c")
    script.reject(1)
    script.inspected(1, "a", Standing.GONE)
    assert [each.state for each in script.pool.snapshot(1).tokens] == ["set_aside", "set_aside"]
    assert only(script.pool.plan(1), Mint) == [Mint(3, 0)]


def test_doubted_tokens_are_inspected_one_after_the_other() -> None:
    script = holding("a", "b", "c")
    script.reject(1)
    script.inspected(1, "a", Standing.GONE)
    script.inspected(1, "b", Standing.ALIVE, 5000)
    script.inspected(2, "c", Standing.GONE)
    assert repr(script) == "<TokenPool 0 ready, 2 quarantined, 5000 left>"


def test_tokens_that_came_after_the_suspicion_are_not_doubted_with_the_others() -> None:
    """All of a stock being revoked costs one creation call, not one for each token."""
    script = holding("a", "b", "c")
    script.reject(1)
    script.inspected(1, "a", Standing.GONE)
    script.mint(1, token("d"), token("e"), token("f"))  # "b" is being inspected meanwhile
    script.pool.inspected("b", Inspection(Standing.GONE), 1)
    script.inspected(1, "c", Standing.GONE)
    assert repr(script) == "<TokenPool 3 ready, 3 quarantined, 15000 left>"
    assert script.mints(1) == []


def test_a_token_that_expired_under_its_inspect_casts_no_doubt_on_the_others() -> None:
    script = Script(standby=1)
    script.mint(0, token("a", lives=60), token("b"))
    script.reject(56)
    assert script.inspects(56) == ["a"]
    script.pool.inspected("a", Inspection(Standing.GONE), 60)
    assert [each.state for each in script.pool.snapshot(60).tokens] == ["standby"]


def test_a_token_that_is_alive_is_in_good_standing_again() -> None:
    script = holding("a", "b")
    script.reject(1)
    script.inspected(1, "a", Standing.ALIVE, 4999)
    assert repr(script) == "<TokenPool 2 ready, 0 quarantined, 9999 left>"


def test_a_request_served_with_a_later_lease_restores_the_token() -> None:
    script = holding("a")
    script.reject(1)
    script.pool.settle(script.lease(2), Outcome.USED, 2)
    assert repr(script) == "<TokenPool 1 ready, 0 quarantined, 4998 left>"
    assert script.inspects(2) == []


def test_a_request_served_with_an_earlier_lease_does_not_restore_the_token() -> None:
    script = holding("a")
    earlier = script.lease(1)
    script.reject(1)
    script.pool.settle(earlier, Outcome.USED, 2)
    assert repr(script) == "<TokenPool 0 ready, 0 quarantined, 4998 left>"


def test_a_token_without_a_clear_word_stays_aside_and_is_asked_about_again_after_5_s() -> None:
    script = holding("a", "b")
    script.reject(1)
    script.inspected(1, "a", Standing.UNKNOWN)
    assert script.name(1) == "b"
    assert script.inspects(5.9) == []
    assert script.next_wake(5.9) == 6
    assert script.inspects(6) == ["a"]


def test_a_token_without_a_clear_word_does_not_count_as_stock() -> None:
    script = holding("a", "b")
    script.reject(1)
    assert script.mints(1) == []
    script.pool.inspected("a", Inspection(Standing.UNKNOWN), 1)
    assert script.mints(1) == [Mint(1, 0)]


def test_a_question_about_a_token_in_good_standing_does_not_set_it_aside() -> None:
    script = holding("a")
    assert script.pool.ask("a", 1)
    assert script.inspects(1) == ["a"]
    script.pool.inspected("a", Inspection(Standing.UNKNOWN), 1)
    assert script.pool.snapshot(1).tokens[0].state == "standby"


def test_a_question_about_a_token_that_the_pool_lacks_is_refused() -> None:
    assert not holding("a").pool.ask("b", 1)


def test_a_lower_count_of_mobula_wins_and_is_drift() -> None:
    script = holding("a")
    script.pool.ask("a", 1)
    script.inspected(1, "a", Standing.ALIVE, 4900)
    assert script.pool.snapshot(1).left == 4900
    assert script.pool.snapshot(1).drift == 100
    assert Drifted("a", 100) in script.told


def test_a_higher_count_of_mobula_changes_nothing() -> None:
    script = holding("a")
    script.use(1, 10)
    script.pool.ask("a", 1)
    script.inspected(1, "a", Standing.ALIVE, 5000)
    assert script.pool.snapshot(1).left == 4990
    assert script.pool.snapshot(1).drift == 0


def test_requests_in_flight_are_taken_off_a_lower_count_since_they_may_not_have_arrived() -> None:
    script = holding("a")
    lease = script.lease(1, cost=7)
    script.pool.ask("a", 1)
    script.inspected(1, "a", Standing.ALIVE, 100)
    assert script.pool.snapshot(1).left == 93
    script.pool.settle(lease, Outcome.NOT_SENT, 2)
    assert script.pool.snapshot(2).left == 100


def test_a_refund_never_lifts_a_token_above_the_count_of_mobula() -> None:
    script = holding("a")
    lease = script.lease(1, cost=7)
    script.pool.ask("a", 1)
    script.inspected(1, "a", Standing.ALIVE, 3)
    assert script.pool.snapshot(1).left == 0
    script.pool.settle(lease, Outcome.NOT_SENT, 2)
    assert script.pool.snapshot(2).left == 3


# Replacing


def test_tokens_that_are_to_be_replaced_serve_until_their_successors_are_there() -> None:
    script = holding("a", "b")
    script.pool.replace(Reason.KEY_CHANGED, 1)
    request = script.mint_asked(1)
    assert (request, request.need) == (Mint(2, 1), Need.STOCK)
    assert script.name(2) == "a"
    script.pool.minted(request, [token("c", 2), token("d", 2)], 2)
    assert script.name(2) == "c"
    assert repr(script) == "<TokenPool 2 ready, 0 quarantined, 9999 left>"


def test_one_call_replaces_as_many_tokens_as_the_rate_needs() -> None:
    script = Script(standby=0, limit=500)
    script.mint(0, token("a", limit=100_000))
    spend(script, 100, 9, 1)
    script.pool.replace(Reason.REQUESTED, 10)
    successors = [token(name, 10, limit=500) for name in "bcdefgh"]
    assert script.mint(10, *successors).count == len(successors)
    assert script.mints(10) == []


@pytest.mark.parametrize("reason", [Reason.KEY_CHANGED, Reason.REQUESTED])
def test_the_reason_of_a_replacement_is_told(reason: Reason) -> None:
    script = holding("a")
    script.name(1)
    script.pool.replace(reason, 1)
    script.mint(1, token("b", 1))
    script.name(1)
    assert rotations(script)[1:] == [("b", reason)]


def test_a_token_spent_meanwhile_does_not_hide_the_reason_of_a_replacement() -> None:
    script = Script(standby=1, limit=1)
    script.mint(0, token("a", limit=1), token("b", limit=2))
    script.pool.replace(Reason.KEY_CHANGED, 1)
    request = script.mint_asked(1)
    script.name(1)
    script.name(1)
    script.pool.minted(request, [token("c", 2)], 2)
    script.name(2)
    assert rotations(script)[1:] == [("b", Reason.EXHAUSTED), ("c", Reason.KEY_CHANGED)]


def test_replaced_tokens_are_revoked_when_their_last_lease_is_settled() -> None:
    script = holding("a")
    first, last = script.lease(1), script.lease(1)
    script.pool.replace(Reason.REQUESTED, 1)
    script.mint(1, token("b", 1))
    script.pool.settle(first, Outcome.USED, 2)
    assert script.revokes(2) == []
    script.pool.settle(last, Outcome.USED, 3)
    assert script.pool.wants_plan
    assert script.revokes(3) == ["a"]
    assert script.revokes(3) == []


def test_a_replaced_token_that_expired_meanwhile_is_not_revoked() -> None:
    script = holding("a")
    lease = script.lease(1)
    script.pool.replace(Reason.REQUESTED, 1)
    script.mint(1, token("b", 1))
    script.pool.settle(lease, Outcome.USED, 3600)
    assert script.revokes(3600) == []


def test_a_replaced_token_is_live_until_it_is_revoked() -> None:
    script = holding("a")
    lease = script.lease(1)
    script.pool.replace(Reason.REQUESTED, 1)
    script.mint(1, token("b", 1))
    assert [each.id for each in script.pool.live_tokens(shared=True)] == ["b", "a"]
    script.pool.settle(lease, Outcome.USED, 2)
    script.pool.plan(2)
    assert [each.id for each in script.pool.live_tokens(shared=True)] == ["b"]


def test_tokens_of_a_call_that_was_under_way_at_a_change_serve_but_are_not_fresh() -> None:
    script = Script()
    request = script.mint_asked(0)
    script.pool.replace(Reason.KEY_CHANGED, 1)
    assert script.mints(1) == []
    assert script.pool.minted(request, [token("old"), token("older")], 2) is None
    assert script.name(2) == "old"
    assert script.mints(2) == [Mint(2, 1)]


def test_a_failure_of_a_call_that_was_under_way_at_the_change_does_not_slow_the_next() -> None:
    script = Script()
    request = script.mint_asked(0)
    script.pool.replace(Reason.KEY_CHANGED, 1)
    script.pool.mint_failed(request, FATAL, 2)
    assert script.pool.fault is None
    assert script.mints(2) == [Mint(2, 1)]


def test_useless_tokens_of_a_call_that_was_under_way_at_the_change_do_not_slow_the_next() -> None:
    script = Script()
    request = script.mint_asked(0)
    script.pool.replace(Reason.KEY_CHANGED, 1)
    assert script.pool.minted(request, [token("a", lives=1)], 2) is not None
    assert script.mints(2) == [Mint(2, 1)]


def test_a_change_of_key_ends_the_slow_retry_after_a_fatal_fault() -> None:
    script = Script()
    script.fail(0, FATAL)
    script.pool.replace(Reason.KEY_CHANGED, 1)
    assert script.pool.fault is None
    assert script.mints(1) == [Mint(2, 1)]


# What the fleet shares


def shelved(name: str, *, free: int = LIMIT, current: bool = True) -> Stocked:
    return Stocked(token(name), free, current)


def sharing(name: str, left: int, *, free: int = 1000) -> Member:
    """A pool that has a share of one token."""
    member = Member(standby=0)
    member.attend(0, shelved(name, free=left + free))
    member.take(0, name, left, free)
    return member


def test_a_token_on_the_shelf_serves_once_a_share_of_it_is_granted() -> None:
    member = Member(standby=0)
    member.attend(0, shelved("a"))
    assert member.pool.lease(0) is None
    assert member.grants(0) == {"a": 500}
    member.take(1, "a", 500, 4500)
    assert member.name(1) == "a"
    assert member.pool.snapshot(1).left == 499


def test_a_token_on_the_shelf_counts_as_stock_before_a_share_is_granted() -> None:
    member = Member(standby=0)
    member.attend(0, shelved("a"))
    assert member.mints(0) == []
    assert member.pool.in_stock
    assert member.pool.hopeful


def test_one_share_is_asked_for_at_a_time_and_again_once_it_was_answered() -> None:
    member = Member(standby=0)
    member.attend(0, shelved("a"))
    assert member.grants(0)
    member.attend(1, shelved("a"))
    assert member.grants(1) == {}
    member.take(2, "a", 0, 3)
    assert member.grants(2) == {"a": 1}


def test_a_share_of_a_token_that_was_let_go_of_meanwhile_is_lost() -> None:
    member = sharing("a", 1)
    member.exhaust(1)
    member.take(2, "a", 10)
    assert member.pool.lease(2) is None


def test_a_share_that_comes_after_the_shelf_was_lost_is_not_spent() -> None:
    member = sharing("a", 1)
    member.attend(1, emptied=True)
    member.take(2, "a", 10)
    assert member.pool.snapshot(2).left == 1


def test_a_token_that_is_no_longer_on_the_shelf_is_let_go_of() -> None:
    member = sharing("a", 10)
    member.attend(1)
    assert member.pool.lease(1) is None
    assert Quarantined("a", Standing.GONE) in member.told


def test_a_token_of_which_all_is_spent_leaves_the_shelf_as_one_used_up() -> None:
    member = sharing("a", 1, free=0)
    member.use(1, 1)
    member.attend(1)
    assert Quarantined("a", Standing.EXHAUSTED) in member.told


def test_a_quarantined_token_does_not_come_back_from_the_shelf() -> None:
    member = sharing("a", 10)
    member.exhaust(1)
    member.attend(2, shelved("a"))
    assert member.pool.snapshot(2).tokens == ()


def test_what_is_minted_for_the_fleet_is_nobodys_until_it_is_granted() -> None:
    member = Member(standby=0)
    assert member.pool.minted(member.mint_asked(0), [token("a")], 0, shelved=True) is None
    assert member.pool.lease(0) is None
    assert member.grants(0) == {"a": 500}


def test_a_rotation_replaces_what_is_on_the_shelf_once_there_is_a_share_of_its_successor() -> None:
    member = sharing("a", 10)
    member.pool.replace(Reason.REQUESTED, 1)
    member.attend(1, shelved("a", current=False), shelved("b"))
    assert member.name(1) == "a"
    assert list(member.grants(1)) == ["b"]
    member.take(2, "b", 5)
    assert member.name(2) == "b"
    assert only(member.pool.plan(2), Revoke) == [Revoke(token("a"), shared=True)]


def test_while_another_process_mints_this_one_does_not() -> None:
    member = Member()
    member.attend(0, minting=True)
    assert member.mints(0) == []
    assert member.pool.hopeful
    member.attend(1)
    assert member.mints(1) == [Mint(2, 0)]


def test_no_more_is_asked_of_the_store_than_it_last_permitted() -> None:
    member = Member()
    member.attend(0, permits=0, next_permit_in=7.0)
    assert member.mints(0) == []
    assert member.next_wake(0) == 7.0
    assert len(member.mints(7)) == 1


def test_a_call_that_the_store_refuses_is_asked_for_again_when_it_says() -> None:
    member = Member()
    member.mint_asked(0)
    member.pool.mint_refused(Wait(9.0, minting=False), 0)
    assert not member.pool.minting
    assert member.next_wake(0) == 9.0
    assert len(member.mints(9)) == 1


def test_a_call_that_the_store_refuses_for_anothers_waits_for_news_of_that() -> None:
    member = Member()
    member.mint_asked(0)
    member.pool.mint_refused(Wait(9.0, minting=True), 0)
    assert member.mints(9) == []
    member.attend(9)
    assert member.mints(9) == [Mint(2, 0)]


def test_a_call_that_the_store_refuses_is_not_charged() -> None:
    member = Member()
    for second in range(10):
        member.mint_asked(second)
        member.pool.mint_refused(Wait(0.0, minting=True), second)
        member.attend(second)
    assert member.pool.snapshot(10).permits == 4


def test_the_fault_of_anothers_call_is_the_fleets() -> None:
    member = Member()
    member.attend(0, fault="status 403")
    assert member.pool.fault is not None
    assert (member.pool.fault.detail, member.pool.fault.fatal) == ("status 403", False)
    member.attend(1)
    assert member.pool.fault is None


def test_a_young_epochs_only_call_asks_for_all_it_can_have() -> None:
    member = Member()
    member.attend(0, blind=True)
    assert member.mints(0) == [Mint(25, 0)]


def test_the_stock_must_last_at_the_rate_of_all() -> None:
    member = sharing("a", 100, free=1000)
    assert member.mints(0) == []
    member.attend(1, shelved("a", free=1000), sharers=9, rate=500.0)
    assert [each.need for each in member.mints(1)] == [Need.DEMAND]


def test_a_process_without_a_key_never_mints_and_is_always_hopeful() -> None:
    member = Member(mints=False)
    assert member.mints(0) == []
    assert member.pool.hopeful
    assert member.pool.snapshot(0).next_mint_in is None


# Without the store


def test_cut_off_a_process_spends_its_shares_and_asks_for_nothing() -> None:
    member = sharing("a", 1)
    member.pool.reached(Reach.CUT)
    assert member.name(1) == "a"
    assert member.name(1) is None
    assert not any(isinstance(each, Grant | Mint) for each in member.pool.plan(1))
    assert not member.pool.hopeful


def test_a_process_that_may_mints_for_itself_once_a_minute_when_its_shares_run_out() -> None:
    member = sharing("a", 1)
    member.pool.reached(Reach.LOCAL)
    assert member.mints(1) == []
    member.use(1, 1)
    member.mint(1, token("b", limit=1))
    assert member.name(1) == "b"
    assert member.mints(60.9) == []
    assert member.mints(61) == [Mint(1, 0, alone=True)]


def test_a_grant_whose_answer_was_lost_is_asked_for_again_once_the_store_is_back() -> None:
    member = Member(standby=0)
    member.attend(0, shelved("a"))
    assert member.grants(0)
    member.pool.reached(Reach.CUT)
    member.pool.reached(Reach.JOINED)
    member.attend(1, shelved("a", free=4500))
    assert member.grants(1) == {"a": 500}
    assert member.pool.snapshot(1).left == 0


def test_what_the_store_has_is_not_relied_on_until_it_is_heard_again() -> None:
    member = sharing("a", 10)
    member.pool.reached(Reach.CUT)
    assert member.pool.snapshot(1).tokens[0].free == 0
    member.pool.reached(Reach.JOINED)
    assert member.pool.snapshot(1).tokens[0].free == 0
    member.attend(2, shelved("a", free=7))
    assert member.pool.snapshot(2).tokens[0].free == 7


def test_half_of_what_was_minted_alone_is_offered_to_the_fleet_once() -> None:
    member = Member(standby=0)
    member.pool.reached(Reach.LOCAL)
    member.mint(0, token("b"))
    member.use(0, 1000)
    member.pool.reached(Reach.JOINED)
    assert member.pool.offer(1) == [(token("b"), 2000)]
    assert member.pool.snapshot(1).left == 2000
    assert member.pool.offer(1) == []


def test_a_token_that_others_have_a_share_of_is_not_offered() -> None:
    member = sharing("a", 10)
    assert member.pool.offer(1) == []
    member.attend(1, emptied=True)
    assert member.pool.offer(2) == []


def test_what_is_in_hand_of_a_lost_shelf_is_spent_but_not_relied_on() -> None:
    member = sharing("a", 10)
    member.attend(1, emptied=True)
    assert member.name(1) == "a"
    assert member.mints(1) == [Mint(1, 0)]


def test_tokens_that_are_on_the_shelf_that_came_in_place_of_a_lost_one_stay_shared() -> None:
    member = Member(standby=0)
    member.pool.minted(member.mint_asked(0), [token("a")], 0, shelved=True)
    member.attend(1, shelved("a"), emptied=True)
    assert member.grants(1) == {"a": 500}


# What a process tells, and leaves


def test_a_process_reports_what_it_has_a_share_of_or_under_way() -> None:
    member = sharing("a", 1)
    member.attend(0, shelved("a"), shelved("b"))
    assert member.pool.report(1).holds == {"a"}
    lease = member.lease(1)
    assert member.pool.report(1).holds == {"a"}
    member.pool.settle(lease, Outcome.USED, 1)
    assert member.pool.report(1).holds == set()


def test_a_process_reports_a_replaced_token_until_its_last_request_has_ended() -> None:
    member = sharing("a", 1)
    lease = member.lease(1)
    member.pool.replace(Reason.REQUESTED, 1)
    member.attend(1, shelved("a", current=False), shelved("b"))
    member.take(1, "b", 5)
    assert member.pool.report(1).holds == {"a", "b"}
    member.pool.settle(lease, Outcome.USED, 2)
    member.pool.plan(2)
    assert member.pool.report(2).holds == {"b"}


def test_a_process_reports_its_own_rate() -> None:
    member = sharing("a", 1000)
    spend(member, 100, 9, 1)
    member.attend(9, shelved("a"), rate=1000.0)
    assert 90 <= member.pool.report(10).rate <= 110


def test_who_leaves_gives_back_all_that_is_not_under_way() -> None:
    member = sharing("a", 10)
    lease = member.lease(1)
    assert member.pool.give_all_back() == {"a": 9}
    assert member.pool.lease(1) is None
    assert member.pool.give_all_back() == {}
    member.pool.settle(lease, Outcome.USED, 2)
    assert member.pool.in_hand("a") == 0


def test_what_is_all_ours_is_not_given_back() -> None:
    assert holding("a").pool.give_all_back() == {}
