"""Which tokens are taken for those that a broken creation call left behind, and which never."""

import pytest

from proxy.tokens.mobula import TIMEOUT_SECONDS, Listed
from proxy.tokens.orphans import SETTLED_SECONDS, SLACK_SECONDS, find_orphans
from proxy.tokens.store.base import Abandoned, Order

AGO = 600.0
CALL = Abandoned(7, Order(count=2, limit=5000, lifetime=3600.0), AGO)


def listed(
    name: str = "a",
    *,
    after: float = 1.0,
    limit: int | None = 5000,
    remaining: int | None = 5000,
) -> Listed:
    """A token that was made `after` so many seconds from the call's permit on."""
    return Listed(name, limit, remaining, 3600.0 - AGO + after)


def found(*tokens: Listed, known: frozenset[str] = frozenset()) -> list[str]:
    ((number, ids),) = find_orphans([CALL], tokens, known)
    assert number == CALL.number
    return ids


def test_what_was_made_while_the_call_was_under_way_and_never_used_is_an_orphan() -> None:
    assert found(listed("a"), listed("b", after=3.0)) == ["a", "b"]


def test_a_token_on_a_shelf_is_no_orphan() -> None:
    assert found(listed("a"), listed("b"), known=frozenset({"a"})) == ["b"]


@pytest.mark.parametrize(
    "token",
    [
        listed(after=-SLACK_SECONDS - 0.1),
        listed(after=TIMEOUT_SECONDS + SLACK_SECONDS + 0.1),
        listed(limit=4999, remaining=4999),
        listed(remaining=4999),
        listed(limit=None),
        listed(remaining=None),
        Listed("a", 5000, 5000, None),
    ],
    ids=["before", "after", "limit", "used", "no limit", "no remaining", "no expiry"],
)
def test_a_token_that_is_not_just_as_it_was_ordered_is_left_alone(token: Listed) -> None:
    assert found(token) == []


def test_no_more_are_taken_than_were_ordered() -> None:
    assert len(found(*map(listed, "abcdef"))) == 2


def test_a_token_is_the_orphan_of_one_call_only() -> None:
    twin = Abandoned(8, CALL.order, AGO)
    tokens = [listed(name) for name in "abc"]
    assert dict(find_orphans([CALL, twin], tokens, frozenset())) == {7: ["a", "b"], 8: ["c"]}


def test_a_call_is_not_judged_while_its_process_may_still_take_its_tokens_in() -> None:
    young = Abandoned(7, CALL.order, SETTLED_SECONDS - 0.1)
    assert list(find_orphans([young], [listed()], frozenset())) == []
