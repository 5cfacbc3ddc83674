"""The rules of `proxy.tokens.store.base`, as every store keeps them."""

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from proxy.tokens.budget import CALLS, WINDOW
from proxy.tokens.store.base import (
    BLIND_CALLS,
    CHORE_SECONDS,
    CLIENTS_A_CALL,
    DAY_SECONDS,
    PERMIT_SECONDS,
    RIGHT_COUNTS,
    RIGHTS,
    SHARER_SECONDS,
    Abandoned,
    Ending,
    Granted,
    Order,
    Permit,
    Report,
    Roll,
    Shelved,
    Store,
    Tally,
    Task,
    Wait,
)
from tokens.store.fleets import FLEETS, Fleet

LIMIT = 100
LIVES = 3600.0
ORDER = Order(count=2, limit=LIMIT, lifetime=LIVES)
IDLE = Report(rate=0.0, wants_right=False)
BLIND = [name for name, kind in FLEETS.items() if kind.blind]
BESIDE = [name for name, kind in FLEETS.items() if kind.beside]
AGES = [name for name, kind in FLEETS.items() if kind.ages]

DAY = 20_000

T, U = "token-t", "token-u"
A, B = "app.eu-west_1", "batch"


def shelved(name: str, *, free: int = LIMIT, lives: float = LIVES, age: float = 0.0) -> Shelved:
    return Shelved(
        id=name,
        sealed=b"\x00sealed " + name.encode() + b"\xff",
        key="fingerprint",
        age=age,
        lives=lives,
        limit=LIMIT,
        free=free,
        generation=0,
        revocable=True,
    )


def near(value: object, fleet: Fleet) -> Any:
    """What equals a span of the store's time, however little its own clock went on meanwhile."""
    return pytest.approx(value, abs=fleet.edge)


async def names(store: Store) -> list[str]:
    return [each.id for each in await store.load()]


async def free(store: Store, name: str = T) -> int:
    """How many requests of a token are granted to nobody; the store is asked as a sharer does."""
    return (await store.grant(name, 0)).free


async def attend(store: Store, *holds: str, rate: float = 0.0, right: bool = False) -> Roll:
    return await store.attend(replace(IDLE, rate=rate, holds=frozenset(holds), wants_right=right))


async def permitted(store: Store, order: Order = ORDER) -> Permit:
    answer = await store.permit(order)
    assert isinstance(answer, Permit), answer
    return answer


async def wait(store: Store) -> Wait:
    answer = await store.permit(ORDER)
    assert isinstance(answer, Wait), answer
    return answer


async def mint(store: Store, ending: Ending | None = None) -> None:
    """Make a creation call that ends at once."""
    await store.end(await permitted(store), ending or Ending())


async def chore(store: Store, inspect_every: float = math.inf) -> tuple[Task, str] | None:
    answer = await store.chore(inspect_every)
    return None if answer is None else (answer.task, answer.token.id)


async def spend(store: Store, requests: int, client: str = A, day: int = DAY) -> int:
    """Tell what a client has spent, and return the fleet's tally of it."""
    return (await store.tally(day, {client: Tally(requests)}))[client]


async def tally_of(store: Store, client: str = A, day: int = DAY) -> int:
    return await spend(store, 0, client, day)


def budget(fleet: Fleet) -> int:
    """Calls in any minute, as long as nobody has a right."""
    return CALLS - (BLIND_CALLS if fleet.blind else 0)


async def spend_budget(fleet: Fleet, store: Store) -> None:
    for _ in range(budget(fleet)):
        await mint(store)


# 2. A request is granted once


async def test_what_is_free_is_granted(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T, free=70)])
    assert await store.grant(T, 30) == Granted(30, 40)
    assert await store.grant(T, 30) == Granted(30, 10)


async def test_no_more_than_is_free_is_granted(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T, free=70)])
    assert await store.grant(T, 71) == Granted(70, 0)
    assert await store.grant(T, 1) == Granted(0, 0)


async def test_an_unknown_token_is_not_granted(fleet: Fleet) -> None:
    store = await fleet.member()
    assert await store.grant(T, 5) == Granted(0, 0)


async def test_a_request_is_granted_once_however_many_ask(fleet: Fleet) -> None:
    members = [await fleet.member() for _ in range(3)]
    await members[0].add([shelved(T)])
    asked = [member.grant(T, 3) for _ in range(15) for member in members]
    answers = await asyncio.gather(*asked)
    assert sum(each.count for each in answers) == LIMIT
    assert sorted({each.free for each in answers}) == [0, *range(1, LIMIT, 3)]


async def test_what_is_given_back_is_granted_again(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, LIMIT)
    await one.give_back(T, 40)
    assert await other.grant(T, 50) == Granted(40, 0)


async def test_never_more_than_the_limit_is_free(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T, free=70)])
    await store.give_back(T, 1000)
    assert await free(store) == LIMIT


async def test_a_token_that_is_there_already_stays_as_it_is(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, 30)
    await other.add([shelved(T), shelved(U)])
    assert (await free(one, T), await free(one, U)) == (70, LIMIT)


async def test_what_a_process_took_with_it_is_lost(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, 60)
    fleet.pass_time(SHARER_SECONDS)
    assert await other.grant(T, LIMIT) == Granted(40, 0)


# 3. Retired and removed tokens


async def test_a_retired_token_is_granted_no_more(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.retire(T)
    assert await other.grant(T, 5) == Granted(0, 0)
    assert T not in (await attend(other)).free


async def test_what_is_given_back_to_a_retired_token_is_lost(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T)])
    await store.grant(T, 60)
    await store.retire(T)
    await store.give_back(T, 60)
    (token,) = await store.load()
    assert (token.retired, token.free) == (True, 0)


async def test_a_removed_token_is_forgotten(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, 60)
    await other.remove(T)
    await one.give_back(T, 60)
    assert await names(one) == []
    assert await other.grant(T, 5) == Granted(0, 0)


async def test_a_token_that_is_granted_wholly_stays_while_it_is_held(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, 50)
    await other.grant(T, 50)
    await attend(one)
    assert await names(one) == [T]


async def test_it_is_removed_once_nobody_holds_it(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, 20)
    await one.grant(T, 30)
    await other.grant(T, 50)
    await attend(one)
    await attend(other)
    assert await names(one) == []


async def test_a_process_holds_what_it_says_that_it_holds(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T, free=50)])
    await attend(one, T)
    await other.grant(T, 50)
    await attend(other)
    assert await names(one) == [T]
    await attend(one)
    assert await names(one) == []


async def test_a_process_may_hold_what_is_not_on_the_shelf_yet(fleet: Fleet) -> None:
    store = await fleet.member()
    await attend(store, T)
    await store.add([shelved(T)])
    await attend(store, T)
    await store.retire(T)
    assert await chore(store) is None


async def test_it_is_removed_when_its_last_holder_is_gone(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, LIMIT)
    fleet.pass_time(SHARER_SECONDS)
    assert await names(other) == []


async def test_what_is_given_back_when_its_last_holder_is_gone_is_lost(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, LIMIT)
    fleet.pass_time(SHARER_SECONDS)
    await one.give_back(T, 5)
    assert await names(other) == []


async def test_what_has_had_its_time_is_forgotten_before_all_else(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, LIMIT)
    fleet.pass_time(SHARER_SECONDS)
    await other.retire(T)
    assert await names(other) == []


async def test_it_is_removed_when_its_last_holder_leaves(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T), shelved(U)])
    await one.grant(T, LIMIT)
    await one.grant(U, LIMIT)
    await one.leave({U: 1})
    assert await names(other) == [U]


async def test_a_token_of_which_some_is_left_stays_when_nobody_holds_it(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T)])
    await store.grant(T, LIMIT - 1)
    await attend(store)
    assert await names(store) == [T]


# What is on the shelf


async def test_tokens_are_loaded_as_they_were_added_and_grow_older(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    token = replace(shelved(T, lives=100, age=5), generation=3, revocable=False)
    await one.add([token])
    fleet.pass_time(20)
    (seen,) = await other.load()
    assert replace(seen, age=5, lives=100) == token
    assert (seen.age, seen.lives) == near((25, 80), fleet)


async def test_the_first_to_expire_is_loaded_first_retired_or_not(fleet: Fleet) -> None:
    store = await fleet.member()
    lives = {"late": 300, "b": 200, "a": 200, "early": 100}
    await store.add([shelved(name, lives=span) for name, span in lives.items()])
    await store.retire("a")
    loaded = await store.load()
    assert [(each.id, each.retired) for each in loaded] == [
        ("early", False),
        ("a", True),
        ("b", False),
        ("late", False),
    ]


async def test_an_expired_token_is_not_loaded_and_not_granted(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T, lives=100)])
    fleet.pass_time(100 - fleet.edge)
    assert await names(store) == [T]
    fleet.pass_time(fleet.edge)
    assert await names(store) == []
    assert await store.grant(T, 5) == Granted(0, 0)


async def test_the_version_changes_when_load_would_show_other_tokens(fleet: Fleet) -> None:
    store = await fleet.member()

    async def changed_by(*doing: Awaitable[object]) -> bool:
        before = (await attend(store)).version
        for each in doing:
            await each
        return (await attend(store)).version != before

    assert await changed_by(store.add([shelved(T), shelved(U, lives=100)]))
    assert not await changed_by(store.add([shelved(T)]))
    assert not await changed_by(store.grant(T, 5), store.give_back(T, 5))
    assert not await changed_by(store.report(T), store.observe(T, 20, 0), store.chore(1))
    assert not await changed_by(store.rotate())
    assert await changed_by(store.retire(T))
    assert not await changed_by(store.retire(T))
    assert not await changed_by(store.retire("unknown"))
    assert await changed_by(store.remove(T))
    assert not await changed_by(store.remove(T))
    assert await changed_by(store.grant(U, LIMIT), attend(store))


async def test_the_version_changes_when_a_token_expires(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T, lives=100)])
    before = (await attend(store)).version
    fleet.pass_time(100)
    assert (await attend(store)).version != before


async def test_what_is_free_of_every_token_stands_on_the_roll(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T), shelved(U)])
    await one.grant(T, 30)
    await one.grant(U, LIMIT)
    assert (await attend(other)).free == {T: 70, U: 0}


async def test_rotating_begins_a_generation(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    assert (await attend(one)).generation == 0
    assert await one.rotate() == 1
    assert await other.rotate() == 2
    assert (await attend(one)).generation == 2


async def test_all_see_one_epoch(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    epoch = (await attend(one)).epoch
    fleet.pass_time(10_000)
    assert epoch
    assert (await attend(other)).epoch == epoch


@pytest.mark.parametrize("new_fleet", BESIDE, indirect=True)
async def test_shelves_do_not_see_each_other(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member("other")
    await one.add([shelved(T)])
    await one.grant(T, 30)
    await other.add([shelved(T), shelved(U)])
    await one.report(T)
    await one.rotate()
    await attend(one, rate=5)
    await permitted(one)
    roll = await attend(other, rate=1)
    assert (roll.sharers, roll.rate, roll.generation, roll.minting) == (1, 1, 0, False)
    assert (roll.free, roll.reported) == ({T: LIMIT, U: LIMIT}, frozenset())
    await other.remove(T)
    await other.leave({})
    assert await names(one) == [T]
    assert (await attend(one)).sharers == 1


@pytest.mark.parametrize("new_fleet", BESIDE, indirect=True)
async def test_opening_tells_how_many_other_shelves_there_are(fleet: Fleet) -> None:
    one = await fleet.member()
    await one.add([shelved(T)])
    assert await one.open() == 0
    for name in ("second", "third"):
        await (await fleet.member(name)).add([shelved(T)])
    assert await one.open() == 2


# 7. Sharers


async def test_the_roll_tells_how_many_share_and_what_they_spend(fleet: Fleet) -> None:
    members = [await fleet.member() for _ in range(3)]
    for rate, member in enumerate(members):
        roll = await attend(member, rate=float(rate))
    assert (roll.sharers, roll.rate) == (3, 3)
    roll = await attend(members[2], rate=0.5)
    assert (roll.sharers, roll.rate) == (3, 1.5)


async def test_a_process_that_is_silent_is_no_sharer(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await attend(one, rate=4)
    fleet.pass_time(SHARER_SECONDS - fleet.edge)
    assert (await attend(other, rate=1)).sharers == 2
    fleet.pass_time(fleet.edge)
    roll = await attend(other, rate=1)
    assert (roll.sharers, roll.rate) == (1, 1)


async def test_a_process_that_is_granted_something_is_a_sharer(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await attend(one, rate=4)
    fleet.pass_time(SHARER_SECONDS - 1)
    await one.grant(T, 1)
    fleet.pass_time(SHARER_SECONDS - 1)
    roll = await attend(other)
    assert (roll.sharers, roll.rate) == (2, 4)


async def test_a_process_that_is_granted_nothing_is_none(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.grant(T, 1)
    assert (await attend(other)).sharers == 1


async def test_a_process_that_leaves_gives_back_its_shares(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T), shelved(U)])
    await one.grant(T, 60)
    await one.grant(U, 60)
    await one.leave({T: 10, U: 20, "unknown": 5})
    roll = await attend(other)
    assert roll.free == {T: 50, U: 60}
    assert roll.sharers == 1


async def test_the_last_to_leave_is_told(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await attend(one)
    await attend(other)
    assert await one.leave({}) is False
    assert await other.leave({}) is True


async def test_a_silent_process_is_not_waited_for_when_leaving(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await attend(one)
    fleet.pass_time(SHARER_SECONDS)
    assert await other.leave({}) is True


# 4. Creation calls


async def test_one_mints_at_a_time(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    permit = await permitted(one)
    fleet.pass_time(4)
    answer = await wait(other)
    assert answer.minting
    assert answer.seconds == near(PERMIT_SECONDS - 4, fleet)
    assert (await attend(other)).minting
    await one.end(permit, Ending())
    assert not (await attend(other)).minting
    await permitted(other)


async def test_one_is_permitted_however_many_ask(fleet: Fleet) -> None:
    members = [await fleet.member() for _ in range(3)]
    answers = await asyncio.gather(*(each.permit(ORDER) for each in members * 5))
    assert sum(isinstance(each, Permit) for each in answers) == 1


async def test_no_more_is_permitted_in_a_minute_than_the_budget(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    left = [(await attend(one)).permits]
    for store in (one, other, one, other, one)[: budget(fleet)]:
        await mint(store)
        left.append((await attend(one)).permits)
    assert left == list(range(budget(fleet), -1, -1))
    assert not (await wait(other)).minting


async def test_a_call_counts_until_a_minute_after_it_ended(fleet: Fleet) -> None:
    store = await fleet.member()
    permit = await permitted(store)
    fleet.pass_time(8)
    await store.end(permit, Ending())
    for _ in range(budget(fleet) - 1):
        fleet.pass_time(1)
        await mint(store)
    fleet.pass_time(WINDOW - (budget(fleet) - 1) - fleet.edge)
    assert (await wait(store)).seconds == near(0, fleet)
    assert (await attend(store)).permits == 0
    fleet.pass_time(fleet.edge)
    assert (await attend(store)).permits == 1
    await mint(store)
    assert (await wait(store)).seconds == near(1, fleet)


async def test_the_roll_tells_when_a_call_may_be_permitted(fleet: Fleet) -> None:
    store = await fleet.member()
    assert (await attend(store)).next_permit_in == 0
    await spend_budget(fleet, store)
    fleet.pass_time(20)
    assert (await attend(store)).next_permit_in == near(40, fleet)


async def test_a_call_that_is_never_said_to_have_ended_ends_by_itself(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await permitted(one)
    fleet.pass_time(PERMIT_SECONDS - fleet.edge)
    assert (await wait(other)).minting
    fleet.pass_time(fleet.edge)
    assert not (await attend(other)).minting
    await permitted(other)


async def test_it_counts_until_a_minute_after_that(fleet: Fleet) -> None:
    store = await fleet.member()
    await permitted(store)
    fleet.pass_time(PERMIT_SECONDS)
    for _ in range(budget(fleet) - 1):
        await mint(store)
    fleet.pass_time(WINDOW - fleet.edge)
    assert not (await wait(store)).minting
    fleet.pass_time(fleet.edge)
    assert (await attend(store)).permits == budget(fleet)


async def test_a_call_that_was_not_sent_does_not_count(fleet: Fleet) -> None:
    store = await fleet.member()
    await mint(store, Ending(sent=False))
    assert (await attend(store)).permits == budget(fleet)


async def test_a_call_that_ends_late_frees_nobody_elses_turn(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    late = await permitted(one)
    fleet.pass_time(PERMIT_SECONDS)
    await permitted(other)
    await one.end(late, Ending())
    assert (await wait(one)).minting


async def test_a_call_that_ends_late_counts_from_its_end(fleet: Fleet) -> None:
    store = await fleet.member()
    late = await permitted(store)
    fleet.pass_time(PERMIT_SECONDS + 30)
    await store.end(late, Ending())
    fleet.pass_time(WINDOW - fleet.edge)
    assert (await attend(store)).permits == budget(fleet) - 1
    fleet.pass_time(fleet.edge)
    assert (await attend(store)).permits == budget(fleet)


async def test_a_call_that_ends_when_it_is_forgotten_counts_from_its_end(fleet: Fleet) -> None:
    store = await fleet.member()
    late = await permitted(store, replace(ORDER, lifetime=1))
    fleet.pass_time(1000)
    assert (await attend(store)).permits == budget(fleet)
    await store.end(late, Ending())
    assert (await attend(store)).permits == budget(fleet) - 1


async def test_nobody_tries_again_while_mobula_said_so(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await mint(one, Ending(closed_for=100))
    assert await wait(other) == Wait(near(100, fleet), minting=False)
    roll = await attend(other)
    assert (roll.permits, roll.next_permit_in) == (0, near(100, fleet))
    fleet.pass_time(100 - fleet.edge)
    await wait(other)
    fleet.pass_time(fleet.edge)
    await permitted(other)


async def test_the_longest_closing_counts(fleet: Fleet) -> None:
    store = await fleet.member()
    late = await permitted(store)
    fleet.pass_time(PERMIT_SECONDS)
    await mint(store, Ending(closed_for=100))
    await store.end(late, Ending(closed_for=20))
    assert (await wait(store)).seconds == near(100, fleet)


async def test_all_learn_why_the_last_call_gave_no_token(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    assert (await attend(other)).fault == ""
    await mint(one, Ending(fault="status 503 — not now"))
    assert (await attend(other)).fault == "status 503 — not now"
    await mint(one)
    assert (await attend(other)).fault == ""


async def test_no_two_permits_have_the_same_number(fleet: Fleet) -> None:
    store = await fleet.member()
    numbers = set()
    for _ in range(12):
        permit = await permitted(store)
        await store.end(permit, Ending(sent=False))
        numbers.add(permit.number)
    assert len(numbers) == 12


# Abandoned calls


async def test_a_call_that_nobody_ended_is_abandoned(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    permit = await permitted(one)
    fleet.pass_time(PERMIT_SECONDS - fleet.edge)
    assert await other.abandoned() == []
    fleet.pass_time(fleet.edge)
    ago = near(PERMIT_SECONDS, fleet)
    assert await other.abandoned() == [Abandoned(permit.number, ORDER, ago)]


async def test_a_call_with_an_unclear_end_is_abandoned(fleet: Fleet) -> None:
    store = await fleet.member()
    permit = await permitted(store)
    await store.end(permit, Ending(unclear=True))
    assert [each.number for each in await store.abandoned()] == [permit.number]


async def test_a_call_that_was_not_sent_is_not(fleet: Fleet) -> None:
    store = await fleet.member()
    await mint(store, Ending(unclear=True, sent=False))
    assert await store.abandoned() == []


async def test_a_call_that_ends_well_is_not_even_late(fleet: Fleet) -> None:
    store = await fleet.member()
    permit = await permitted(store)
    fleet.pass_time(PERMIT_SECONDS)
    await store.end(permit, Ending())
    assert await store.abandoned() == []


async def test_an_abandoned_call_is_forgotten_when_its_tokens_are_dead(fleet: Fleet) -> None:
    store = await fleet.member()
    await permitted(store)
    fleet.pass_time(PERMIT_SECONDS + LIVES - fleet.edge)
    assert len(await store.abandoned()) == 1
    fleet.pass_time(fleet.edge)
    assert await store.abandoned() == []


async def test_an_abandoned_call_is_forgotten_when_it_is_settled(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    first = await permitted(one)
    await one.end(first, Ending(unclear=True))
    second = await permitted(one)
    await one.end(second, Ending(unclear=True))
    await other.settle_abandoned(first.number)
    await other.settle_abandoned(0)
    assert [each.number for each in await one.abandoned()] == [second.number]


async def test_a_settled_call_still_counts(fleet: Fleet) -> None:
    store = await fleet.member()
    permit = await permitted(store)
    await store.end(permit, Ending(unclear=True))
    await store.settle_abandoned(permit.number)
    assert (await attend(store)).permits == budget(fleet) - 1


# 5. Rights


async def test_a_process_that_wants_a_right_is_given_one(fleet: Fleet) -> None:
    store = await fleet.member()
    assert (await store.attend(Report(rate=1))).right
    assert (await store.attend(Report(rate=1))).right


async def test_a_right_that_is_wanted_no_more_still_counts(fleet: Fleet) -> None:
    store = await fleet.member()
    await attend(store, right=True)
    roll = await attend(store)
    assert (roll.right, roll.permits) == (False, budget(fleet) - 1)


async def test_who_does_not_want_it_is_given_none(fleet: Fleet) -> None:
    store = await fleet.member()
    assert not (await store.attend(Report(rate=1, wants_right=False))).right
    assert (await attend(store)).permits == budget(fleet)


async def test_a_right_counts_as_a_call(fleet: Fleet) -> None:
    store = await fleet.member()
    assert (await attend(store, right=True)).permits == budget(fleet) - 1
    for _ in range(budget(fleet) - 1):
        await mint(store)
    await wait(store)


async def test_no_more_than_so_many_have_a_right(fleet: Fleet) -> None:
    members = [await fleet.member() for _ in range(RIGHTS + 1)]
    rights = [(await attend(each, right=True)).right for each in members * 2]
    assert rights == [True] * RIGHTS + [False] + [True] * RIGHTS + [False]


async def test_a_right_counts_until_its_last_call_would_count_no_more(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await attend(one, right=True)
    fleet.pass_time(100)
    await attend(one, right=True)
    fleet.pass_time(RIGHT_COUNTS - fleet.edge)
    assert (await attend(other)).permits == budget(fleet) - 1
    fleet.pass_time(fleet.edge)
    assert (await attend(other)).permits == budget(fleet)


async def test_a_right_is_free_a_minute_after_its_holder_left(fleet: Fleet) -> None:
    members = [await fleet.member() for _ in range(RIGHTS + 1)]
    for each in members[:RIGHTS]:
        await attend(each, right=True)
    await members[0].leave({})
    fleet.pass_time(WINDOW - fleet.edge)
    assert not (await attend(members[-1], right=True)).right
    fleet.pass_time(fleet.edge)
    assert (await attend(members[-1], right=True)).right


async def test_no_right_is_given_while_the_calls_leave_no_room(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    for _ in range(budget(fleet) - 1):
        await mint(one)
    assert (await attend(one, right=True)).right
    assert not (await attend(other, right=True)).right
    fleet.pass_time(WINDOW)
    assert (await attend(other, right=True)).right


# 6. A new epoch


@pytest.mark.parametrize("new_fleet", BLIND, indirect=True)
async def test_a_new_epoch_permits_the_blind_calls_and_then_none_for_a_minute(
    new_epoch: Fleet,
) -> None:
    store = await new_epoch.member()
    assert (await attend(store)).permits == BLIND_CALLS
    await mint(store)
    new_epoch.pass_time(10)
    assert (await attend(store)).permits == 0
    assert await wait(store) == Wait(near(50, new_epoch), minting=False)
    new_epoch.pass_time(50)
    assert (await attend(store)).permits == CALLS - BLIND_CALLS


@pytest.mark.parametrize("new_fleet", BLIND, indirect=True)
async def test_a_new_epoch_gives_no_right_for_a_minute(new_epoch: Fleet) -> None:
    store = await new_epoch.member()
    assert not (await attend(store, right=True)).right
    new_epoch.pass_time(WINDOW - new_epoch.edge)
    assert not (await attend(store, right=True)).right
    new_epoch.pass_time(new_epoch.edge)
    assert (await attend(store, right=True)).right


@pytest.mark.parametrize("new_fleet", sorted(set(FLEETS) - set(BLIND)), indirect=True)
async def test_a_store_that_cannot_come_back_empty_needs_no_such_minute(new_epoch: Fleet) -> None:
    store = await new_epoch.member()
    assert (await attend(store)).permits == CALLS
    assert (await attend(store, right=True)).right


# Chores


async def test_nothing_is_due_when_all_is_well(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T)])
    assert await chore(store) is None
    assert (await attend(store)).chores == 0


async def test_a_reported_token_is_inspected_once(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T, free=30, age=5)])
    await one.report(T)
    await one.report("unknown")
    roll = await attend(other)
    assert (roll.reported, roll.chores) == (frozenset({T}), 1)
    taken = await other.chore(math.inf)
    assert taken is not None
    assert taken.task is Task.INSPECT
    assert replace(taken.token, age=5, lives=LIVES) == shelved(T, free=30, age=5)
    assert await chore(one) is None
    assert (await attend(one)).chores == 0


async def test_a_chore_that_was_taken_and_not_done_is_due_again(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.report(T)
    await chore(one)
    fleet.pass_time(CHORE_SECONDS - fleet.edge)
    assert await chore(other) is None
    fleet.pass_time(fleet.edge)
    assert await chore(other) == (Task.INSPECT, T)


async def test_a_token_that_was_inspected_is_reported_no_more(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.report(T)
    await chore(one)
    await one.observe(T, None, 0)
    assert (await attend(other)).reported == frozenset()
    await one.report(T)
    assert await chore(other) == (Task.INSPECT, T)


async def test_an_inspect_lowers_what_is_free(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T)])
    await store.grant(T, 30)
    await store.observe(T, 50, 30)
    assert await free(store) == 20
    await store.observe(T, 90, 30)
    assert await free(store) == 20
    await store.observe(T, None, 30)
    assert await free(store) == 20
    await store.observe(T, 10, 30)
    assert await free(store) == 0
    await store.observe("unknown", 10, 30)


async def test_a_token_is_inspected_every_so_often(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T)])
    every = replace(IDLE, inspect_every=100)
    fleet.pass_time(100 - fleet.edge)
    assert (await store.attend(every)).chores == 0
    assert await chore(store, 100) is None
    fleet.pass_time(fleet.edge)
    assert (await store.attend(every)).chores == 1
    assert (await attend(store)).chores == 0
    assert await chore(store, 100) == (Task.INSPECT, T)
    await store.observe(T, None, 0)
    fleet.pass_time(100 - fleet.edge)
    assert await chore(store, 100) is None
    fleet.pass_time(fleet.edge)
    assert await chore(store, 100) == (Task.INSPECT, T)


async def test_a_retired_token_is_revoked_once_nobody_holds_it(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, 5)
    await one.retire(T)
    assert (await attend(other)).chores == 0
    assert await chore(other) is None
    await attend(one)
    assert (await attend(other)).chores == 1
    assert await chore(other) == (Task.REVOKE, T)
    assert await chore(one) is None


async def test_it_is_revoked_when_its_holder_is_gone(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await one.add([shelved(T)])
    await one.grant(T, 5)
    await one.retire(T)
    fleet.pass_time(SHARER_SECONDS)
    assert await chore(other) == (Task.REVOKE, T)


async def test_a_retired_token_is_not_inspected(fleet: Fleet) -> None:
    store = await fleet.member()
    await store.add([shelved(T)])
    await store.report(T)
    await attend(store, T)
    await store.retire(T)
    fleet.pass_time(10)
    assert await chore(store, 10) is None


async def test_the_most_urgent_chore_comes_first(fleet: Fleet) -> None:
    store = await fleet.member()
    lives = {"late": 300, "b": 200, "a": 200, "reported": 400, "old": 500, "revoked": 600}
    await store.add([shelved(name, lives=span) for name, span in lives.items()])
    fleet.pass_time(50)
    await store.report("reported")
    await store.retire("revoked")
    taken = [await chore(store, 50) for _ in range(7)]
    assert taken == [
        (Task.INSPECT, "reported"),
        (Task.REVOKE, "revoked"),
        (Task.INSPECT, "a"),
        (Task.INSPECT, "b"),
        (Task.INSPECT, "late"),
        (Task.INSPECT, "old"),
        None,
    ]


# 9. A tally never falls


async def test_a_tally_is_what_all_have_told_together(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    assert await spend(one, 5) == 5
    assert await spend(other, 7) == 12
    assert await tally_of(one) == 12


async def test_who_has_spent_nothing_has_a_tally_of_nothing(fleet: Fleet) -> None:
    store = await fleet.member()
    assert await tally_of(store) == 0


async def test_each_client_has_a_tally_of_its_own_on_each_day(fleet: Fleet) -> None:
    store = await fleet.member()
    assert await store.tally(DAY, {A: Tally(5), B: Tally(7)}) == {A: 5, B: 7}
    assert await store.tally(DAY + 1, {B: Tally(1)}) == {B: 1}
    assert await store.tally(DAY, {B: Tally(0), A: Tally(1)}) == {A: 6, B: 7}


async def test_none_is_lost_however_many_tell_at_once(fleet: Fleet) -> None:
    members = [await fleet.member() for _ in range(3)]
    answers = await asyncio.gather(*(spend(each, 2) for _ in range(15) for each in members))
    assert sorted(answers) == list(range(2, 92, 2))


async def test_as_many_clients_as_one_call_takes(fleet: Fleet) -> None:
    store = await fleet.member()
    told = {f"{n:a<63}": Tally(n) for n in range(CLIENTS_A_CALL)}
    expected = {name: 2 * each.spent for name, each in told.items()}
    await store.tally(DAY, told)
    assert await store.tally(DAY, told) == expected


async def test_a_tally_that_the_store_forgot_goes_on_from_what_a_process_knows(
    fleet: Fleet,
) -> None:
    one, other = await fleet.member(), await fleet.member()
    assert await one.tally(DAY, {A: Tally(5, known=100)}) == {A: 105}
    assert await other.tally(DAY, {A: Tally(7, known=98)}) == {A: 112}


async def test_to_ask_is_to_say_what_one_knows(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    assert await one.tally(DAY, {A: Tally(0, known=100)}) == {A: 100}
    assert await tally_of(other) == 100


# 11. Days


@pytest.mark.parametrize("day", [0, DAY - 1, DAY + 1, DAY + 10_000])
async def test_a_process_with_another_day_takes_nothing_from_this_one(
    fleet: Fleet, day: int
) -> None:
    store, wrong = await fleet.member(), await fleet.member()
    await spend(store, 5)
    assert await spend(wrong, 7, day=day) == 7
    assert await tally_of(store) == 5


@pytest.mark.parametrize("new_fleet", AGES, indirect=True)
async def test_a_day_is_forgotten_so_long_after_a_tally_of_it_grew(fleet: Fleet) -> None:
    store = await fleet.member()
    await spend(store, 5)
    fleet.pass_time(DAY_SECONDS - fleet.edge)
    assert await spend(store, 1, B) == 1
    fleet.pass_time(DAY_SECONDS - fleet.edge)
    assert await tally_of(store) == 5
    fleet.pass_time(fleet.edge)
    assert await tally_of(store) == 0


@pytest.mark.parametrize("new_fleet", BESIDE, indirect=True)
async def test_tallies_outlive_a_change_of_the_shelf(fleet: Fleet) -> None:
    before, after = await fleet.member("old key"), await fleet.member("new key")
    await spend(before, 5)
    assert await spend(after, 7) == 12


@pytest.mark.parametrize("new_fleet", BESIDE, indirect=True)
async def test_tallies_of_another_name_are_others(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member(tallies="other")
    await spend(one, 5)
    assert await spend(other, 7) == 7


async def test_tallies_do_not_make_a_process_a_sharer(fleet: Fleet) -> None:
    one, other = await fleet.member(), await fleet.member()
    await spend(other, 5)
    assert (await attend(one)).sharers == 1
