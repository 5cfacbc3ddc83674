"""How large a share a process takes, when it asks for one, and when it gives one back."""

import math

from hypothesis import given
from hypothesis import strategies as st

from proxy.tokens.holding import Holding, hold
from proxy.tokens.model import GiveBack, Grant
from proxy.tokens.shares import HORIZON, LEAST, PLENTY, Shares
from tokens.kit import LIFETIME, token


def shelved(
    name: str, *, free: int, left: int = 0, limit: int = 5000, generation: int = 0
) -> Holding:
    """What a process has of a token on the shelf; names are by expiry."""
    holding = hold(token(name, float(ord(name[0])), limit=limit), generation, 0.5)
    holding.shared, holding.remaining, holding.free = True, left, free
    return holding


def plan(
    *held: Holding, rate: float = 0.0, sharers: int = 1, takes: bool = True
) -> list[Grant | GiveBack]:
    shares = Shares(takes=takes)
    shares.sharers = sharers
    return list(shares.plan(held, rate, now=200.0))


def asked(*held: Holding, rate: float = 0.0, sharers: int = 1) -> tuple[str, int] | None:
    """The token and the count that are asked for."""
    for action in plan(*held, rate=rate, sharers=sharers):
        if isinstance(action, Grant):
            return action.token.id, action.count
    return None


def given_back(*held: Holding, rate: float = 0.0, sharers: int = 2) -> dict[str, int]:
    actions = plan(*held, rate=rate, sharers=sharers)
    return {each.token.id: each.count for each in actions if isinstance(each, GiveBack)}


def test_a_process_that_spends_nothing_takes_a_tenth() -> None:
    assert asked(shelved("a", free=5000)) == ("a", 500)


def test_idle_processes_leave_three_quarters_to_those_who_spend() -> None:
    assert asked(shelved("a", free=5000), sharers=100) == ("a", 5000 // 400)


def test_a_process_takes_what_it_spends_until_the_horizon() -> None:
    assert asked(shelved("a", free=100_000, limit=100_000), rate=3000, sharers=1) == ("a", 30_000)


def test_no_process_takes_more_than_its_part_of_half_of_what_is_left() -> None:
    assert asked(shelved("a", free=8000, limit=10_000), rate=100, sharers=8) == ("a", 500)


def test_near_the_end_a_share_still_lasts_for_a_while_so_that_calls_stay_few() -> None:
    assert asked(shelved("a", free=200), rate=100, sharers=8) == ("a", 100 * LEAST)


def test_the_last_requests_are_taken_whole() -> None:
    assert asked(shelved("a", free=3), rate=100, sharers=8) == ("a", 3)


def test_more_is_asked_for_once_half_of_what_is_wanted_is_spent() -> None:
    wanted = int(100 * HORIZON)
    assert asked(shelved("a", free=4000, left=wanted // 2 + 1), rate=100) is None
    assert asked(shelved("a", free=4000, left=wanted // 2), rate=100) == ("a", wanted)


def test_the_next_token_is_taken_of_when_the_first_has_nothing_left_to_give() -> None:
    first, second = shelved("a", free=0, left=10), shelved("b", free=5000)
    assert asked(first, second, rate=100) == ("b", 1000)


def test_a_share_of_a_second_token_is_held_in_case_the_first_is_refused() -> None:
    first, second = shelved("a", free=4500, left=500), shelved("b", free=5000)
    assert asked(first, second) == ("b", 500)
    assert asked(first, shelved("b", free=4500, left=500)) is None


def test_no_second_token_is_held_when_there_would_not_be_enough_for_all() -> None:
    first, second = shelved("a", free=4500, left=500), shelved("b", free=399)
    assert asked(first, second, sharers=100) is None


def test_tokens_that_expire_soon_are_no_second_ones_for_each_other() -> None:
    """Minted together, they expire together."""
    first, second = shelved("a", free=4500, left=500), shelved("b", free=4500, left=500)
    for each in (first, second):
        each.usable_until = 205.0
    assert asked(first, second, shelved("c", free=5000)) == ("c", 500)


def test_one_grant_is_asked_for_at_a_time() -> None:
    shares = Shares(takes=True)
    held = [shelved("a", free=5000)]
    assert len(list(shares.plan(held, 0.0, now=200.0))) == 1
    assert list(shares.plan(held, 0.0, now=200.0)) == []
    shares.asking = False
    assert len(list(shares.plan(held, 0.0, now=200.0))) == 1


def test_a_process_that_serves_no_requests_takes_nothing() -> None:
    assert plan(shelved("a", free=5000), takes=False) == []


def test_nothing_is_taken_of_a_token_that_is_set_aside() -> None:
    aside = shelved("a", free=5000)
    aside.suspect_from = 1
    assert asked(aside, shelved("b", free=5000)) == ("b", 500)


def test_nothing_is_taken_of_a_token_about_to_expire() -> None:
    ends = shelved("a", free=5000)
    ends.usable_until = 200.0
    assert asked(ends, shelved("b", free=5000)) == ("b", 500)
    assert ends.token.expires_at < 200.0 + LIFETIME


def test_once_tokens_are_replaced_their_successors_are_taken_of_at_once() -> None:
    old, new = shelved("a", free=4500, left=500), shelved("b", free=5000, generation=1)
    assert asked(old, new) == ("b", 500)


def test_tokens_that_are_replaced_are_taken_of_until_there_are_successors() -> None:
    assert asked(shelved("a", free=4500, generation=-1)) == ("a", 500)


def test_what_is_far_more_than_wanted_is_given_back() -> None:
    wanted = int(20 * HORIZON)
    holding = shelved("a", free=0, left=1000)
    assert given_back(holding, rate=20) == {"a": 1000 - int(PLENTY / 2 * wanted)}
    assert holding.left == PLENTY / 2 * wanted


def test_what_is_not_far_more_than_wanted_is_kept() -> None:
    assert given_back(shelved("a", free=0, left=int(20 * HORIZON * PLENTY)), rate=20) == {}


def test_what_is_under_way_is_not_given_back() -> None:
    holding = shelved("a", free=0, left=1000)
    holding.open = 990
    assert sum(given_back(holding, rate=0).values()) <= 10


def test_a_process_alone_gives_nothing_back() -> None:
    assert given_back(shelved("a", free=0, left=1000), sharers=1) == {}


def test_what_is_all_ours_is_not_given_back() -> None:
    ours = shelved("a", free=0, left=1000)
    ours.shared = False
    assert given_back(ours) == {}


@given(
    free=st.integers(0, 1_000_000),
    left=st.integers(0, 1_000_000),
    rate=st.floats(0, 50_000),
    sharers=st.integers(1, 1000),
)
def test_a_share_is_never_more_than_there_is_and_giving_back_leads_to_no_new_asking(
    free: int, left: int, rate: float, sharers: int
) -> None:
    holding = shelved("a", free=free, left=left, limit=1_000_000)
    for action in plan(holding, rate=rate, sharers=sharers):
        if isinstance(action, Grant):
            assert 1 <= action.count <= free
        else:
            assert 1 <= action.count <= left
            assert holding.left == left - action.count
            holding.free += action.count
            assert asked(holding, rate=rate, sharers=sharers) is None
    assert math.isfinite(holding.left)


def test_a_share_held_in_case_is_not_given_back_only_to_be_taken_again() -> None:
    first, second = shelved("a", free=2500, left=2000), shelved("b", free=4500, left=500)
    assert given_back(first, second) == {"a": 1251, "b": 249}
    first.free, second.free = first.free + 1251, second.free + 249
    assert plan(first, second, sharers=2) == []


def test_nothing_is_given_back_of_a_token_of_which_nothing_is_in_hand() -> None:
    first, second = shelved("a", free=0, left=5000), shelved("b", free=5000)
    assert "b" not in given_back(first, second)


@given(
    tokens=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=4),
    limit=st.sampled_from([12, 100, 5000]),
    rate=st.one_of(st.just(0.0), st.floats(0, 1000)),
    sharers=st.integers(2, 100),
)
def test_what_a_process_has_is_soon_what_it_wants(
    tokens: list[tuple[int, int]], limit: int, rate: float, sharers: int
) -> None:
    held = [
        shelved(name, free=min(free, limit - min(left, limit)), left=min(left, limit), limit=limit)
        for name, (free, left) in zip("abcd", tokens, strict=False)
    ]
    for _ in range(12):
        if not carried_out(held, plan(*held, rate=rate, sharers=sharers)):
            return
    raise AssertionError("it takes and gives back for ever")


def carried_out(held: list[Holding], actions: list[Grant | GiveBack]) -> bool:
    """Have the store do as asked; tell whether anything was."""
    by_name = {each.token.id: each for each in held}
    for action in actions:
        holding = by_name[action.token.id]
        holding.free += action.count if isinstance(action, GiveBack) else -action.count
        holding.remaining += action.count if isinstance(action, Grant) else 0
    return bool(actions)
