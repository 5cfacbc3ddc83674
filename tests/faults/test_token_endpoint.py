"""Every way in which a mint can fail, in every situation; docs/token-fault-matrix.md has the table.

Time is virtual. Chance stands at a half, so tokens, which live for an hour, are refreshed just
after REFRESH.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from faults.world import (
    EPOCH,
    LIFETIME,
    NEW_KEY,
    Endpoint,
    Failure,
    Seen,
    World,
    now,
    world_of,
)
from harness import SecretScan
from table import Table

pytestmark = pytest.mark.virtual_time

REFRESH = 2249.1
CROWD = 20
"""Clients that ask at once in a storm."""
GIVEN = 5
"""Creation calls for which tokens are laid out; no situation makes so many that succeed."""
HTML = "<html><title>502 Bad Gateway</title><body><h1>Bad Gateway</h1></body></html>"


# Failures


def answer(**effects: Any) -> Failure:
    return lambda endpoint: endpoint.strike(**effects)


def no_answer(endpoint: Endpoint) -> None:
    endpoint.strike("/api/2/auth/*", method=None, delay=3600.0)


def one_unreadable(endpoint: Endpoint) -> None:
    for _ in range(GIVEN):
        endpoint.give(endpoint.token(), {"id": "a"}, times=1)


def control_characters(endpoint: Endpoint) -> None:
    endpoint.give(endpoint.token() | {"token": "a.b.c\r\nX-Injected: 1"})


def expired_already(endpoint: Endpoint) -> None:
    claims = {"exp": EPOCH + now() - 1.0}
    endpoint.give(endpoint.token() | {"token": jwt.encode(claims, "s" * 32)})


def no_exp(endpoint: Endpoint) -> None:
    for _ in range(GIVEN):
        endpoint.give(endpoint.token(exp=False), endpoint.token(exp=False), times=1)


def no_expiry(endpoint: Endpoint) -> None:
    endpoint.give(endpoint.token(exp=False) | {"expiresTimeString": "soon"})


def fewer(endpoint: Endpoint) -> None:
    for _ in range(GIVEN):
        endpoint.give(endpoint.token(), times=1)


FAILURES: dict[str, Failure] = {
    "connection refused": lambda endpoint: endpoint.door.shut(),
    "no connection": lambda endpoint: endpoint.door.crowd(),
    "no answer": no_answer,
    "an answer after 30 s": answer(delay=30.0),
    "connection lost": answer(drop="head"),
    "answer cut short": answer(drop="body"),
    "302": answer(status=302, headers={"Location": "/login"}),
    "400": answer(status=400),
    "401": answer(status=401),
    "402": answer(status=402),
    "403": answer(status=403),
    "404": answer(status=404),
    "429": answer(status=429),
    "429, `Retry-After: 20`": answer(status=429, headers={"Retry-After": "20"}),
    "500": answer(status=500),
    "502, an HTML page": answer(status=502, body=HTML, headers={"Content-Type": "text/html"}),
    "200, not JSON": answer(body=HTML),
    "200, empty": answer(body=""),
    "200, no token": answer(body='{"createApiTokens": []}'),
    "200, one token of two unreadable": one_unreadable,
    "200, control characters in the token": control_characters,
    "200, token expired already": expired_already,
    "200, no `exp` in the tokens": no_exp,
    "200, no expiry at all": no_expiry,
    "200, fewer tokens than asked": fewer,
}


# Situations


@dataclass(frozen=True)
class Cell:
    """How a failure is met, and the reason that was given for it, if any was."""

    text: str
    reason: str


def _some(calls: int) -> str:
    """Round a large count: the last digit depends on the order in which Python runs tasks."""
    return str(calls) if calls <= 20 else f"some {round(calls / 10) * 10}"


async def cell(world: World, seen: Seen, calls: int, before: str = "") -> Cell:
    """Take down what a client saw; /readyz must agree with it."""
    reason = await world.why_not_ready()
    assert reason == seen.reason
    ready = "not ready" if reason else "ready"
    made = "1 call" if calls == 1 else f"{_some(calls)} calls"
    return Cell(f"{before}{seen} · {ready} · {made}", reason)


async def first_token(failure: Failure, scan: SecretScan) -> Cell:
    """A request comes while the proxy starts."""
    async with world_of(scan, failure) as world:
        seen = await world.ask()
        found = await cell(world, seen, await world.calls())
        if world.fatal:
            await world.endpoint.heal()
            world.keys.change(NEW_KEY)
            await world.served()
        else:
            await world.recovers(seen)
        return found


async def time_left(failure: Failure, scan: SecretScan) -> Cell:
    """Mints fail for five minutes from the refresh on; tokens in hand are good for twenty."""
    async with world_of(scan) as world:
        await world.until(REFRESH)
        failure(world.endpoint)
        before = await world.calls()
        while world.age < REFRESH + 300:
            await world.served()
            await asyncio.sleep(20.0)
        found = await cell(world, Seen(200), await world.calls() - before)
        await world.endpoint.heal()
        await asyncio.sleep(75.0)
        assert max(each.expires_in for each in world.app.status().tokens.tokens) > LIFETIME / 2
        return found


async def at_the_edge(failure: Failure, scan: SecretScan) -> Cell:
    """Mints fail from the refresh on until the tokens in hand have come to their end."""
    async with world_of(scan) as world:
        await world.until(REFRESH)
        failure(world.endpoint)
        before = await world.calls()
        while world.app.status().ready and world.age < LIFETIME:
            await world.served()
            await asyncio.sleep(50.0)
        seen = await world.ask()
        calls = await world.calls() - before
        found = await cell(world, seen, calls, "" if seen.status == 200 else "200, then ")
        await world.recovers(seen)
        return found


async def storm(failure: Failure, scan: SecretScan) -> Cell:
    """All tokens are revoked, and mints fail for two minutes while crowds of clients ask."""
    async with world_of(scan) as world:
        ledger = world.endpoint.ledger
        await world.until(60.0)
        ledger.revoke_all()
        failure(world.endpoint)
        before = await world.calls()
        first = seen = await crowd(world)
        refused = ledger.report()["after_revocation"]
        assert refused <= 2 * CROWD, "each client's request goes with two tokens at the most"
        while world.age < 180:
            await asyncio.sleep(9.7)
            seen = await crowd(world)
        found = await cell(world, first, await world.calls() - before)
        if first.status != 401:
            assert ledger.report()["after_revocation"] == refused, "a dead token is never sent"
            assert ledger.report()["inspects"] == 2
        await world.recovers(seen)
        return found


async def crowd(world: World) -> Seen:
    """Return what every client of a crowd sees."""
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(world.ask()) for _ in range(CROWD)]
    seen = {client.result() for client in clients}
    assert len(seen) == 1
    return seen.pop()


SITUATIONS: dict[str, Callable[[Failure, SecretScan], Awaitable[Cell]]] = {
    "First token": first_token,
    "Refresh with time left": time_left,
    "Refresh at the edge": at_the_edge,
    "Storm of rejections": storm,
}


# The table


TABLE = Table("token-fault-matrix.md", ["A mint meets", "Reason given", *SITUATIONS], [*FAILURES])


@pytest.mark.parametrize("name", FAILURES)
async def test_a_mint_failure_is_met_as_the_table_says(name: str, scan: SecretScan) -> None:
    row = [await situation(FAILURES[name], scan) for situation in SITUATIONS.values()]
    reasons = {each.reason for each in row if each.reason} or {"none"}
    assert len(reasons) == 1, "a failure has one name in all situations"
    TABLE.check(name, *reasons, *(each.text for each in row))


def test_the_table_has_a_row_for_every_mint_failure_and_no_other() -> None:
    TABLE.check_names()
