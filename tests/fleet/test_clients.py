"""What clients use is counted over a fleet of the installed command, on each kind of store."""

import asyncio
import json
import signal

from harness import SecretScan, Served, get
from identities import digest_of
from processes import DATA, WITH_KEY, Processes

TOKEN = b"a-clients-long-and-random-token"
A_DAY = 20
UNKNOWING = 5
"""Requests, of three a second, that a process may let in before it knows what others counted."""
CLIENT = {"tokens": [digest_of(TOKEN)], "requests_per_day": A_DAY}
SETTINGS = (
    f"clients={json.dumps({'daily': CLIENT})}",
    f"listeners={json.dumps([{'bind': '127.0.0.1:0', 'authenticate': True}])}",
)


async def start(fleet: Processes) -> Served:
    served = await fleet.start(*SETTINGS, environ=WITH_KEY)
    await served.ready()
    return served


async def asked(served: Served) -> int:
    """Return the status of one request of the client."""
    shown = {"Authorization": f"Bearer {TOKEN.decode()}"}
    return (await get(served.url + DATA, headers=shown))[0]


async def served_until_refused(served: Served) -> int:
    """Ask some three times a second until the day is used up; return how often that was well."""
    well = 0
    async with asyncio.timeout(20.0):
        while (status := await asked(served)) != 429:
            assert status == 200
            well += 1
            await asyncio.sleep(0.3)
    return well


async def test_a_clients_day_is_one_for_the_whole_fleet_and_outlives_its_processes(
    fleet: Processes, scan: SecretScan
) -> None:
    scan.add(TOKEN.decode())
    first, second = await start(fleet), await start(fleet)
    assert [await asked(first) for _ in range(12)] == [200] * 12
    assert await served_until_refused(second) <= A_DAY - 12 + UNKNOWING
    assert await served_until_refused(first) <= UNKNOWING
    for each in (first, second):
        each.process.signal(signal.SIGTERM)
        assert await each.ended() == 143
    assert await served_until_refused(await start(fleet)) <= UNKNOWING
