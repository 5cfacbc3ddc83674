"""Whole fleets under load, while some of their processes are killed, and the store is lost.

No request may fail. One whose process was killed under it is sent again by its client, to another
one. Without the store each process lives on its shares, which last for five seconds; what comes
after them waits until the store is back.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import SecretScan, Served
from load import Result, load_all
from places import Place, RedisPlace, SqlitePlace
from processes import Processes, ask, come_to, reach
from proxy.sandbox import Sandbox
from redis_server import running_redis

CONNECTIONS = 16
"""To each process."""
CALM_SECONDS = 3.0
OUTAGE_SECONDS = 5.0
KILLED = 2


@pytest.mark.long
async def test_redis_lost_and_back_empty_and_two_of_eight_processes_killed_fail_no_request(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    with running_redis(tmp_path / "redis") as redis:
        place = RedisPlace(redis)
        async with Processes(sandbox, scan, place.setting, "token.request_limit=2500") as fleet:
            alive = await fleet.start_many(8)
            loading = begin_load(fleet, requests=50_000, rate=2_000)
            await replace_killed(fleet, alive)
            await live_through(place, alive)
            assert_all_served(await loading, 50_000)
    assert_tokens_were_well_used(sandbox)


@pytest.mark.long
async def test_a_sqlite_file_locked_and_two_of_four_processes_killed_fail_no_request(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    place = SqlitePlace(tmp_path / "state")
    async with Processes(sandbox, scan, place.setting, "token.request_limit=1000") as fleet:
        alive = await fleet.start_many(4)
        loading = begin_load(fleet, requests=20_000, rate=1_000)
        await replace_killed(fleet, alive)
        await live_through(place, alive)
        assert_all_served(await loading, 20_000)
    assert_tokens_were_well_used(sandbox)


def begin_load(fleet: Processes, *, requests: int, rate: float) -> asyncio.Task[Result]:
    load = load_all(fleet.urls, requests=requests, connections=CONNECTIONS, rate=rate, resend=True)
    return asyncio.create_task(load)


async def replace_killed(fleet: Processes, alive: list[Served]) -> None:
    """Kill some in mid-load; those started in their place find all they need in the store."""
    await asyncio.sleep(CALM_SECONDS)
    for each in alive[:KILLED]:
        await fleet.kill(each)
    alive[:KILLED] = [await fleet.start() for _ in range(KILLED)]
    assert [await ask(each) for each in alive[:KILLED]] == [200] * KILLED
    assert not any("tokens minted" in each.process.err for each in alive[:KILLED])
    await asyncio.sleep(CALM_SECONDS)


async def live_through(place: Place, alive: Sequence[Served]) -> None:
    """Lose the store; return once every process has told of the outage, and that it is over."""
    with place.lost():
        began = time.monotonic()
        await come_to(lost, alive)
        await asyncio.sleep(began + OUTAGE_SECONDS - time.monotonic())
    await come_to(joined, alive)


async def lost(served: Served) -> bool:
    return await reach(served) in {"cut", "local"}


async def joined(served: Served) -> bool:
    return await reach(served) == "joined"


def assert_all_served(result: Result, requests: int) -> None:
    """Only on connections to those that were killed may a request have broken, and on each once.

    None waited for as long as the outage lasted.
    """
    assert result.misses == []
    assert result.statuses[200] == requests
    assert result.statuses[0] <= KILLED * CONNECTIONS
    assert max(result.seconds) < OUTAGE_SECONDS


def assert_tokens_were_well_used(sandbox: Sandbox) -> None:
    """Many of them to the last request, and none beyond it."""
    report = sandbox.ledger.report()
    assert report["over_limit"] == report["after_expiry"] == report["after_revocation"] == 0
    assert report["max_mint_calls_per_minute"] <= 5
    assert sum(each["used"] == each["limit"] for each in report["tokens"]) >= 6
