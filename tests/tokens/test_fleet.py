"""Processes that share a shelf: what each sees of the others, of outages and of crashes."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faults.world import NEW_KEY
from proxy.errors import TokenUnavailable
from proxy.sandbox import Fault
from proxy.tokens.events import OrphanFound, Quarantined, StoreFound, StoreLost, StrangeShelves
from proxy.tokens.model import Lease, Outcome, Reach, Secret, Standing
from proxy.tokens.store.base import CLIENTS_A_CALL, RIGHT_SECONDS, Tally
from tokens.fleet_kit import SECRET, Fleet, Proxy, fleet_in_virtual_time, until

pytestmark = pytest.mark.virtual_time

LIMIT = 1000
CLIENT = "client"
DAY = 20_000
MINT = "/api/2/auth/tokens"
BLIND = 61.0
"""Seconds after which a new store permits more than one creation call."""


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with fleet_in_virtual_time() as fleet:
        yield fleet


async def settled(fleet: Fleet, *, limit: int = LIMIT, **settings: Any) -> Proxy:
    """A process whose store is no more new; it stands by for whatever the test is about."""
    proxy = await fleet.proxy(request_limit=limit, **settings)
    await proxy.serve()
    await asyncio.sleep(BLIND)
    return proxy


async def serve_at(rate: int, proxy: Proxy, seconds: float) -> None:
    """Serve `rate` requests a second."""
    for _ in range(round(seconds * 10)):
        await proxy.serve(rate // 10)
        await asyncio.sleep(0.1)


async def leased(proxy: Proxy) -> Lease:
    await proxy.serve()
    lease = proxy.keeper.lease()
    assert lease is not None
    return lease


# Sharing


async def test_a_second_process_is_served_from_the_store(fleet: Fleet) -> None:
    await (await fleet.proxy()).serve()
    await (await fleet.proxy()).serve()
    assert fleet.mints == 1


async def test_processes_that_start_at_once_mint_once(fleet: Fleet) -> None:
    proxies = [await fleet.proxy() for _ in range(8)]
    await asyncio.gather(*(each.serve() for each in proxies))
    assert fleet.mints == 1


async def test_what_one_is_granted_no_other_is(fleet: Fleet) -> None:
    proxies = [await fleet.proxy(request_limit=100) for _ in range(4)]
    await asyncio.gather(*(each.serve(500) for each in proxies))
    assert fleet.report("data_requests") == 0  # sent past the data endpoint: by the ledger alone
    assert fleet.mints == 1


async def test_all_draw_from_the_same_token_first(fleet: Fleet) -> None:
    one, other = await fleet.proxy(), await fleet.proxy()
    assert (await one.serve()).id == (await other.serve()).id


async def test_stock_is_minted_at_the_rate_of_all(fleet: Fleet) -> None:
    proxies = [await settled(fleet) for _ in range(4)]
    for _ in range(90):
        await asyncio.gather(*(each.serve(60) for each in proxies))
        await asyncio.sleep(1.0)
    assert sum(len(each.events(StoreLost)) for each in proxies) == 0


async def test_a_rotation_on_one_replaces_the_tokens_of_all(fleet: Fleet) -> None:
    one, other = await settled(fleet), await fleet.proxy(request_limit=LIMIT)
    old = {(await one.serve()).id, (await other.serve()).id}
    one.keeper.rotate()
    await until(lambda: not old & fleet.alive())
    assert (await one.serve()).id not in old
    assert (await other.serve()).id not in old


async def test_a_replaced_token_is_not_revoked_while_a_request_is_under_way_with_it(
    fleet: Fleet,
) -> None:
    one, other = await settled(fleet), await fleet.proxy(request_limit=LIMIT)
    await other.serve()
    lease = other.keeper.lease()
    assert lease is not None
    one.keeper.rotate()
    await asyncio.sleep(120.0)
    assert lease.token.id in fleet.alive()
    other.keeper.settle(lease, Outcome.USED)
    await until(lambda: lease.token.id not in fleet.alive())


# Ends


async def test_a_crash_loses_a_share_and_mints_nothing(fleet: Fleet) -> None:
    async with fleet.running() as crashed:
        await crashed.serve(3)
        lost = crashed.left
    again = await fleet.proxy()
    await again.serve()
    assert fleet.mints == 1
    await asyncio.sleep(2.0)
    free = sum(each.free + each.left for each in again.keeper.snapshot().tokens)
    assert free == 25 * 5000 - 3 - lost - 1


async def test_who_leaves_gives_its_shares_back(fleet: Fleet) -> None:
    async with fleet.running() as leaving:
        await leaving.serve(3)
        await leaving.keeper.retire(1.0, revoke=False)
    again = await fleet.proxy()
    await again.serve()
    await asyncio.sleep(2.0)
    free = sum(each.free + each.left for each in again.keeper.snapshot().tokens)
    assert free == 25 * 5000 - 3 - 1


async def test_who_leaves_others_behind_revokes_nothing(fleet: Fleet) -> None:
    stays = await fleet.proxy()
    async with fleet.running() as leaving:
        await leaving.serve()
        await leaving.keeper.retire(3.0, revoke=True)
    assert len(fleet.alive()) == 25
    await stays.serve()


async def test_the_last_to_leave_revokes_everything(fleet: Fleet) -> None:
    async with fleet.running() as one, fleet.running() as other:
        await one.serve()
        await other.serve()
        await one.keeper.retire(3.0, revoke=True)
        await other.keeper.retire(3.0, revoke=True)
    assert fleet.alive() == set()


async def test_tokens_that_a_broken_creation_call_left_behind_are_revoked(fleet: Fleet) -> None:
    fleet.sandbox.faults.add(Fault(MINT, method="POST", drop="body", times=1))
    one = await fleet.proxy(request_limit=LIMIT)
    await asyncio.sleep(700.0)
    await one.serve()
    orphans = {each.token_id for each in one.events(OrphanFound)}
    assert orphans
    assert not orphans & fleet.alive()
    assert all(each.revoked for each in one.events(OrphanFound))


async def test_orphans_are_kept_where_that_is_set(fleet: Fleet) -> None:
    fleet.sandbox.faults.add(Fault(MINT, method="POST", drop="body", times=1))
    one = await fleet.proxy(request_limit=LIMIT, orphans="keep")
    await asyncio.sleep(700.0)
    assert one.events(OrphanFound) == []


# Creation calls


async def test_a_creation_call_that_failed_is_not_repeated_by_others_at_once(fleet: Fleet) -> None:
    fleet.sandbox.faults.add(Fault(MINT, method="POST", status=500))
    for _ in range(8):
        await fleet.proxy()
    await asyncio.sleep(BLIND)
    assert fleet.mints <= 2
    await asyncio.sleep(240.0)
    assert fleet.mints <= 2 + 4 * 5


async def test_the_reason_why_there_is_no_token_is_known_to_all(fleet: Fleet) -> None:
    fleet.sandbox.faults.add(Fault(MINT, method="POST", status=403))
    await fleet.proxy(role="minter", secret=SECRET)
    member = await fleet.proxy(role="member", secret=SECRET)
    with pytest.raises(TokenUnavailable, match="plan has no short-lived tokens"):
        await member.serve()


async def test_a_permit_that_came_too_late_is_not_used(fleet: Fleet) -> None:
    fleet.place.seconds = 4.0
    await fleet.proxy()
    await asyncio.sleep(30.0)
    assert fleet.mints == 0
    fleet.place.seconds = 0.0
    await asyncio.sleep(30.0)
    assert fleet.mints == 1


# Keyless members


async def test_a_member_lives_on_what_a_minter_mints(fleet: Fleet) -> None:
    member = await fleet.proxy(role="member", secret=SECRET)
    await fleet.proxy(role="minter", secret=SECRET)
    await member.serve(2000)
    assert fleet.mints == 1


async def test_a_member_lives_on_the_stock_while_there_is_no_minter(fleet: Fleet) -> None:
    member = await fleet.proxy(role="member", secret=SECRET, request_limit=100)
    async with fleet.running(role="minter", secret=SECRET, request_limit=100):
        await member.serve()
    served, reason = await member.serve_until_dry()
    assert served >= 25 * 100 - 100
    assert "Mobula has not given one in time" in reason
    await asyncio.sleep(BLIND)
    await fleet.proxy(role="minter", secret=SECRET, request_limit=100)
    await member.serve(50)


async def test_a_token_that_is_refused_to_a_member_is_inspected_by_the_minter(fleet: Fleet) -> None:
    await fleet.proxy(role="minter", secret=SECRET)
    member = await fleet.proxy(role="member", secret=SECRET)
    bad = (await member.serve()).id
    fleet.sandbox.ledger.revoke(bad)
    lease = member.keeper.lease()
    assert lease is not None
    assert lease.token.id == bad
    member.keeper.refuse(lease, 401)
    assert await member.keeper.verdict(lease.token, 401, 10.0) is Standing.GONE
    assert (await member.serve()).id != bad


async def test_news_from_before_a_token_was_refused_does_not_acquit_it(fleet: Fleet) -> None:
    await fleet.proxy(role="minter", secret=SECRET)
    member = await fleet.proxy(role="member", secret=SECRET)
    lease = await leased(member)
    fleet.sandbox.ledger.revoke(lease.token.id)
    fleet.place.seconds = 1.0
    await asyncio.sleep(1.0)
    member.keeper.refuse(lease, 401)
    assert await member.keeper.verdict(lease.token, 401, 20.0) is Standing.GONE


async def test_a_token_that_nobody_could_be_asked_about_is_not_acquitted(fleet: Fleet) -> None:
    await fleet.proxy(role="minter", secret=SECRET)
    member = await fleet.proxy(role="member", secret=SECRET)
    lease = await leased(member)
    fleet.sandbox.ledger.revoke(lease.token.id)
    fleet.place.down = True
    member.keeper.refuse(lease, 401)
    assert await member.keeper.verdict(lease.token, 401, 2.0) is Standing.UNKNOWN
    fleet.place.down = False
    await asyncio.sleep(2.0)
    assert (await member.serve()).id != lease.token.id


async def test_a_token_that_is_not_to_blame_serves_a_member_again(fleet: Fleet) -> None:
    await fleet.proxy(role="minter", secret=SECRET)
    member = await fleet.proxy(role="member", secret=SECRET)
    good = (await member.serve()).id
    lease = member.keeper.lease()
    assert lease is not None
    member.keeper.refuse(lease, 403)
    assert await member.keeper.verdict(lease.token, 403, 10.0) is Standing.ALIVE
    assert (await member.serve()).id == good


async def test_nobody_to_inspect_leaves_a_token_in_doubt(fleet: Fleet) -> None:
    member = await fleet.proxy(role="member", secret=SECRET)
    async with fleet.running(role="minter", secret=SECRET):
        await member.serve()
    lease = member.keeper.lease()
    assert lease is not None
    member.keeper.refuse(lease, 403)
    assert await member.keeper.verdict(lease.token, 403, 10.0) is Standing.UNKNOWN
    assert (await member.serve()).id != lease.token.id


async def test_a_minter_takes_no_share(fleet: Fleet) -> None:
    minter = await fleet.proxy(role="minter", secret=SECRET)
    await until(minter.keeper.ready)
    assert minter.left == 0


# What others find out


async def test_a_token_that_one_finds_dead_is_used_by_no_other(fleet: Fleet) -> None:
    one, other = await fleet.proxy(), await fleet.proxy()
    bad = (await one.serve()).id
    assert (await other.serve()).id == bad
    fleet.sandbox.ledger.revoke(bad)
    lease = one.keeper.lease()
    assert lease is not None
    one.keeper.refuse(lease, 401)
    assert await one.keeper.verdict(lease.token, 401, 10.0) is Standing.GONE
    await asyncio.sleep(3.0)
    assert (await other.serve()).id != bad
    assert [each.token_id for each in other.events(Quarantined)] == [bad]


async def test_each_token_is_inspected_now_and_then_and_by_one_process_only(fleet: Fleet) -> None:
    for _ in range(4):
        await fleet.proxy(inspect_every=600.0)
    await asyncio.sleep(650.0)
    assert fleet.report("inspects") == 25


async def test_a_process_that_shares_with_nobody_has_its_tokens_inspected_too(fleet: Fleet) -> None:
    await fleet.proxy(private=True, inspect_every=600.0)
    await asyncio.sleep(700.0)
    assert fleet.report("inspects") == 2


# Outages


async def test_an_outage_as_long_as_the_shares_goes_unnoticed(fleet: Fleet) -> None:
    proxies = [await settled(fleet) for _ in range(4)]
    for second in range(30):
        fleet.place.down = 10 <= second < 15
        await asyncio.gather(*(each.serve(5) for each in proxies))
        await asyncio.sleep(1.0)
    for each in proxies:
        assert len(each.events(StoreLost)) == 1
        assert not each.events(StoreFound)[-1].emptied
    assert fleet.mints == 1


async def test_in_an_outage_who_has_a_right_mints_for_itself_once_a_minute(fleet: Fleet) -> None:
    proxy = await fleet.proxy(request_limit=100)
    await proxy.serve()
    await asyncio.sleep(BLIND)
    fleet.place.down = True
    for _ in range(500):
        await proxy.serve(10)
        await asyncio.sleep(0.6)
    assert proxy.sharing.snapshot().reach == Reach.LOCAL.value
    calls = [each["at"] for each in fleet.sandbox.ledger.report()["mints"]]
    assert len(calls) >= 4
    assert all(later - earlier >= 60.0 for earlier, later in itertools.pairwise(calls))


async def test_without_a_right_a_process_lives_on_its_shares_alone(fleet: Fleet) -> None:
    proxies = [await settled(fleet) for _ in range(3)]
    fleet.place.down = True
    await asyncio.sleep(2.0)
    reaches = [each.sharing.snapshot().reach for each in proxies]
    assert sorted(reaches) == [Reach.CUT.value, Reach.LOCAL.value, Reach.LOCAL.value]
    (cut,) = [each for each in proxies if each.sharing.snapshot().reach == Reach.CUT.value]
    left = cut.left
    served, reason = await cut.serve_until_dry()
    assert served == left
    assert "the token store cannot be reached: nobody answers there" in reason


async def test_where_outages_stop_all_the_shares_are_spent_and_no_more(fleet: Fleet) -> None:
    proxy = await settled(fleet, on_outage="stop")
    fleet.place.down = True
    await asyncio.sleep(2.0)
    left, before = proxy.left, fleet.mints
    served, reason = await proxy.serve_until_dry()
    assert (served, fleet.mints) == (left, before)
    assert "the token store cannot be reached" in reason


async def test_a_right_is_one_call_a_minute_over_outages_that_follow_each_other(
    fleet: Fleet,
) -> None:
    proxy = await settled(fleet, limit=100)
    fleet.place.down = True
    with contextlib.suppress(TokenUnavailable):
        await serve_at(250, proxy, 10.0)
    fleet.place.down = False
    await until(lambda: proxy.sharing.contact.joined)
    await asyncio.sleep(1.0)
    assert fleet.mints == 3
    fleet.place.down = True
    with contextlib.suppress(TokenUnavailable):
        await serve_at(250, proxy, 10.0)
    assert fleet.mints == 3


async def test_an_outage_that_takes_what_was_minted_does_not_keep_a_right_from_use(
    fleet: Fleet,
) -> None:
    proxy = await settled(fleet, limit=100)
    fleet.sandbox.faults.add(Fault(MINT, method="POST", delay=1.0))
    while not proxy.keeper.snapshot().minting:
        await serve_at(100, proxy, 0.1)
    fleet.place.down = True
    await serve_at(10, proxy, 120.0)


async def test_a_request_waits_for_the_end_of_a_young_outage(fleet: Fleet) -> None:
    proxies = [await settled(fleet) for _ in range(3)]
    fleet.place.down = True
    await asyncio.sleep(2.0)
    (cut,) = [each for each in proxies if each.sharing.snapshot().reach == Reach.CUT.value]
    while cut.keeper.lease() is not None:
        pass
    waiting = asyncio.create_task(cut.serve())
    await asyncio.sleep(2.0)
    fleet.place.down = False
    await waiting


async def test_what_was_minted_in_an_outage_is_shared_after_it(fleet: Fleet) -> None:
    alone = await settled(fleet)
    fleet.place.down = True
    await asyncio.sleep(2.0)
    await alone.serve(alone.left + 1)
    fleet.place.down = False
    await until(lambda: alone.sharing.contact.joined)
    other = await fleet.proxy(request_limit=LIMIT)
    await asyncio.sleep(2.0)
    mine, theirs = alone.keeper.snapshot().tokens, other.keeper.snapshot().tokens
    assert {each.id for each in mine} <= {each.id for each in theirs} | {""}


async def test_a_store_that_comes_back_empty_costs_one_creation_call(fleet: Fleet) -> None:
    proxies = [await settled(fleet) for _ in range(4)]
    before = fleet.mints
    for second in range(90):
        if second in (10, 15):
            fleet.place.down = second == 10
            fleet.place.empty()
        await asyncio.gather(*(each.serve(5) for each in proxies))
        await asyncio.sleep(1.0)
    assert all(each.events(StoreFound)[-1].emptied for each in proxies)
    assert fleet.mints == before + 1


async def test_a_store_that_is_out_of_reach_at_start_is_waited_for(fleet: Fleet) -> None:
    fleet.place.down = True
    proxy = await fleet.proxy()
    waiting = asyncio.create_task(proxy.serve())
    await asyncio.sleep(3.0)
    fleet.place.down = False
    await waiting
    assert fleet.mints == 1


# Clients


async def tally(proxy: Proxy, spent: int) -> int | None:
    """Tell what a client has spent; return its tally, or None if the store was not told."""
    return (await proxy.sharing.tally(DAY, {CLIENT: Tally(spent)})).get(CLIENT)


async def test_what_a_client_spent_is_counted_over_all_processes(fleet: Fleet) -> None:
    one, other = await settled(fleet), await settled(fleet)
    assert await tally(one, 5) == 5
    assert await tally(other, 7) == 12


async def test_a_process_that_shares_with_nobody_counts_for_itself(fleet: Fleet) -> None:
    one, other = await fleet.proxy(private=True), await fleet.proxy(private=True)
    assert await tally(one, 5) == 5
    assert await tally(other, 7) == 7


async def test_a_store_that_was_out_of_reach_is_told_once_it_is_known_to_be_back(
    fleet: Fleet,
) -> None:
    one = await settled(fleet)
    fleet.place.down = True
    assert await tally(one, 5) is None
    fleet.place.down = False
    assert await tally(one, 5) is None
    await until(lambda: one.sharing.contact.joined)
    assert await tally(one, 5) == 5


async def test_many_clients_are_told_of_in_parts_each_of_which_may_fail(fleet: Fleet) -> None:
    one = await settled(fleet)
    told = {f"client-{number}": Tally(1) for number in range(2 * CLIENTS_A_CALL + 1)}
    fleet.place.seconds = 1.0
    telling = asyncio.create_task(one.sharing.tally(DAY, told))
    await asyncio.sleep(1.5)
    fleet.place.down = True
    answered = await telling
    assert answered == dict.fromkeys(list(told)[: 2 * CLIENTS_A_CALL], 1)
    fleet.place.down = False
    await until(lambda: one.sharing.contact.joined)
    rest = {name: each for name, each in told.items() if name not in answered}
    assert await one.sharing.tally(DAY, rest) == dict.fromkeys(rest, 1)


# Secrets


async def test_another_secret_finds_an_empty_shelf_and_is_told(fleet: Fleet) -> None:
    one = await fleet.proxy(secret=SECRET)
    await one.serve()
    other = await fleet.proxy()
    await other.serve()
    assert one.events(StrangeShelves) == []
    assert [each.count for each in other.events(StrangeShelves)] == [1]
    assert fleet.mints == 2


async def test_a_new_static_key_leads_to_another_shelf_without_a_gap(fleet: Fleet) -> None:
    one = await settled(fleet)
    old = (await one.serve()).id
    one.keys.change(NEW_KEY)
    for _ in range(50):
        await one.serve()
        await asyncio.sleep(0.1)
    assert (await one.serve()).id != old
    await until(lambda: old not in fleet.alive())


async def test_the_last_to_go_from_a_shelf_to_that_of_a_new_key_revokes_all_that_is_on_it(
    fleet: Fleet,
) -> None:
    one, other = await settled(fleet), await fleet.proxy(request_limit=LIMIT)
    await other.serve()
    old = fleet.alive()
    for each in (one, other):
        each.keys.change(NEW_KEY)
        await each.serve()
    await until(lambda: not old & fleet.alive())


async def test_a_new_static_key_below_a_store_secret_costs_one_creation_call_for_all(
    fleet: Fleet,
) -> None:
    proxies = [await settled(fleet, secret=SECRET) for _ in range(4)]
    old, before = (await proxies[0].serve()).key, fleet.mints
    for each in proxies:
        each.keys.change(NEW_KEY)
        for _ in range(20):
            await asyncio.gather(*(every.serve() for every in proxies))
            await asyncio.sleep(0.5)
    assert fleet.mints == before + 1
    assert old not in [(await each.serve()).key for each in proxies]


async def test_a_rotation_is_refused_while_the_store_cannot_be_reached(fleet: Fleet) -> None:
    proxy = await settled(fleet)
    fleet.place.down = True
    await asyncio.sleep(2.0)
    assert not proxy.keeper.rotate()


@pytest.mark.parametrize("secret", [SECRET, None], ids=["same shelf", "another shelf"])
async def test_what_the_old_key_was_minting_when_a_new_one_came_is_replaced_and_revoked(
    fleet: Fleet, secret: Secret | None
) -> None:
    fleet.sandbox.faults.add(Fault(MINT, method="POST", delay=1.0, times=1))
    one = await fleet.proxy(secret=secret)
    await asyncio.sleep(0.5)
    one.keys.change(NEW_KEY)
    await one.serve()
    old = fleet.alive()
    assert len(old) == 25
    await until(lambda: not old & fleet.alive(), 120.0)
    await one.serve()


async def test_a_right_ends_with_the_key_that_it_was_given_for(fleet: Fleet) -> None:
    one = await settled(fleet)
    fleet.place.down = True
    await until(lambda: one.sharing.contact.reach is Reach.LOCAL)
    one.keys.change(NEW_KEY)
    await until(lambda: one.sharing.contact.reach is Reach.CUT)


async def test_a_token_that_an_emptied_store_forgot_is_not_taken_for_gone(fleet: Fleet) -> None:
    async with fleet.running(role="minter", secret=SECRET):
        member = await fleet.proxy(role="member", secret=SECRET)
        lease = await leased(member)
    fleet.place.empty()
    await asyncio.sleep(2.0)
    member.keeper.refuse(lease, 403)
    assert await member.keeper.verdict(lease.token, 403, 10.0) is Standing.UNKNOWN
    assert (await member.serve()).id != lease.token.id


async def test_an_outage_is_told_once_however_many_ways_it_shows(fleet: Fleet) -> None:
    proxy = await settled(fleet)
    fleet.place.down = True
    for number in range(20):
        fleet.place.says = f"nobody answers there, attempt {number}"
        await asyncio.sleep(1.0)
    assert len(proxy.events(StoreLost)) == 1
    assert "attempt 19" in proxy.keeper.why_none()


async def test_the_end_of_a_right_is_told(fleet: Fleet) -> None:
    proxy = await settled(fleet)
    fleet.place.down = True
    await asyncio.sleep(RIGHT_SECONDS + 5.0)
    assert [each.reach for each in proxy.events(StoreLost)] == [Reach.LOCAL, Reach.CUT]


async def test_a_change_of_key_is_no_strange_shelf(fleet: Fleet) -> None:
    proxy = await settled(fleet)
    proxy.keys.change(NEW_KEY)
    await asyncio.sleep(5.0)
    assert proxy.events(StrangeShelves) == []
