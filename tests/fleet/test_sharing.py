"""What the processes of a fleet do for each other, as the installed command, on each kind of store.

Processes with the static key mint; members have only the secret of the store.
"""

import asyncio
import signal

from harness import KEY, SecretScan, Served, get, until
from load import load_all
from places import Place
from processes import (
    DATA,
    WITH_KEY,
    WITHOUT_KEY,
    Processes,
    ask,
    come_to,
    environment,
    post,
    status,
)

MEMBER = "role=member"
MINTER = "role=minter"


async def ended_well(served: Served) -> None:
    served.process.signal(signal.SIGTERM)
    assert await served.ended() == 143


def alive_tokens(fleet: Processes) -> set[str]:
    """Ids of the tokens that Mobula honours."""
    return {each["id"] for each in fleet.sandbox.ledger.report()["tokens"] if not each["revoked"]}


async def in_hand(served: Served) -> str:
    """Return the id of the token that a process drew from for its last request."""
    tokens: list[dict[str, str]] = (await status(served))["tokens"]["tokens"]
    return next(each["id"] for each in tokens if each["state"] == "current")


async def stock(served: Served) -> int:
    """Return how many requests can still be sent, as a process knows it."""
    return sum(each["free"] + each["left"] for each in (await status(served))["tokens"]["tokens"])


async def is_well_stocked(served: Served) -> bool:
    return await stock(served) > 100


# The end of a process


async def test_a_process_that_was_killed_and_started_again_serves_without_a_mint(
    fleet: Processes,
) -> None:
    killed = await fleet.start(environ=WITH_KEY)
    assert await ask(killed) == 200
    calls = fleet.mint_calls
    await fleet.kill(killed)
    again = await fleet.start(environ=WITH_KEY)
    assert await ask(again) == 200
    assert fleet.mint_calls == calls


async def test_only_the_last_to_end_revokes_the_tokens(fleet: Processes) -> None:
    first, last = await fleet.start_many(2, environ=WITH_KEY)
    assert [await ask(first), await ask(last)] == [200, 200]
    tokens = alive_tokens(fleet)
    await ended_well(first)
    assert alive_tokens(fleet) == tokens
    assert await ask(last) == 200
    await ended_well(last)
    assert alive_tokens(fleet) == set()


# Members, which have no static key


async def test_members_without_the_static_key_serve_with_what_a_minter_mints(
    fleet: Processes,
) -> None:
    minter = await fleet.start(MINTER, environ=WITH_KEY)
    members = [await fleet.start(MEMBER, environ=WITHOUT_KEY) for _ in range(2)]
    assert [await ask(each) for each in members] == [200, 200]
    assert minter.url == ""
    for each in members:
        assert KEY.encode() not in environment(each)
        assert "tokens minted" not in each.process.err


async def test_members_live_on_the_stock_while_there_is_no_minter_which_fills_it_up_again(
    fleet: Processes,
) -> None:
    limit = "token.request_limit=100"
    minter = await fleet.start(MINTER, limit, environ=WITH_KEY)
    member = await fleet.start(MEMBER, limit, environ=WITHOUT_KEY)
    await member.ready()
    await fleet.kill(minter)
    result = await load_all(fleet.urls, requests=180, connections=1)
    assert (result.failed, await stock(member), fleet.mint_calls) == (0, 20, 1)
    await fleet.start(MINTER, limit, environ=WITH_KEY)
    await come_to(is_well_stocked, [member])


async def test_a_token_refused_to_a_member_is_inspected_by_the_minter_and_no_client_notices(
    fleet: Processes,
) -> None:
    minter = await fleet.start(MINTER, environ=WITH_KEY)
    member = await fleet.start(MEMBER, environ=WITHOUT_KEY)
    assert await ask(member) == 200
    refused = await in_hand(member)
    fleet.sandbox.ledger.revoke(refused)
    assert await ask(member) == 200
    quarantined = await minter.said("token quarantined")
    assert (quarantined["token_id"], quarantined["standing"]) == (refused, "gone")
    assert fleet.sandbox.ledger.report()["after_revocation"] == 1


# Rotation


async def test_a_rotation_asked_of_one_process_replaces_the_tokens_of_all_and_fails_no_request(
    fleet: Processes,
) -> None:
    processes = await fleet.start_many(3, environ=WITH_KEY)
    old = alive_tokens(fleet)
    loading = asyncio.create_task(load_all(fleet.urls, requests=600, connections=4, rate=400))
    assert await post(processes[0].admin + "/rotate") == 202
    result = await loading
    assert result.misses == []

    async def drew_anew(served: Served) -> bool:
        assert await ask(served) == 200
        return await in_hand(served) not in old

    await come_to(drew_anew, processes)
    await until(lambda: not old & alive_tokens(fleet), 20.0)
    assert fleet.sandbox.ledger.report()["after_revocation"] == 0


# Secrets


async def test_another_store_secret_is_warned_of_and_finds_nothing_and_changes_nothing(
    fleet: Processes, scan: SecretScan
) -> None:
    other_secret = "another-secret-of-the-tests-0123456789"
    scan.add(other_secret)
    rightful = await fleet.start(environ=WITH_KEY)
    assert await ask(rightful) == 200
    calls, tokens = fleet.mint_calls, alive_tokens(fleet)
    mistaken = await fleet.start(environ=WITH_KEY | {"MOBULA_STORE_SECRET": other_secret})
    warning = await mistaken.said(
        "the store has tokens that are sealed with another key or secret; they are left alone, "
        "and it is taken to be empty"
    )
    assert (warning["level"], warning["shelves"]) == ("warning", 1)
    assert await ask(mistaken) == 200
    assert fleet.mint_calls == calls + 1
    await ended_well(mistaken)
    assert alive_tokens(fleet) == tokens
    assert await ask(rightful) == 200


async def test_neither_the_static_key_nor_a_secret_nor_a_token_can_be_read_in_the_store(
    fleet: Processes, place: Place, scan: SecretScan
) -> None:
    assert await ask(await fleet.start(environ=WITH_KEY)) == 200
    contents = place.contents().decode("latin-1")
    assert all(token_id in contents for token_id in alive_tokens(fleet))
    scan.output.write(contents)
    assert scan.leaks() == []


# Outages


async def test_where_outages_stop_the_fleet_requests_are_refused_once_the_shares_are_spent(
    fleet: Processes, place: Place
) -> None:
    """Nothing is minted meanwhile, and the answer says what is wrong."""
    stops = await fleet.start("store.on_outage=stop", "token.request_limit=100", environ=WITH_KEY)
    assert await ask(stops) == 200
    calls = fleet.mint_calls
    with place.lost():
        statuses = [await ask(stops) for _ in range(300)]
        refused = statuses.index(503)
        assert 0 < refused <= 200
        assert set(statuses[:refused]) == {200}
        assert set(statuses[refused:]) == {503}
        _, headers, body = await get(stops.url + DATA)
    assert headers["X-Mobula-Proxy-Error"] == "token_unavailable"
    assert b"the token store cannot be reached" in body
    assert fleet.mint_calls == calls
