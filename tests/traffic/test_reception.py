"""The reception: clients from a file that changes, and days that processes count together."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import SecretScan, nothing_left
from identities import digest_of
from proxy.app import App
from proxy.config import ClientSettings, ServiceAccountSettings
from proxy.errors import ClientQuotaUsedUp, ClientUnknown
from proxy.sandbox import Sandbox
from proxy.tokens.store.base import Tally
from proxy.traffic.auth import NO_EVIDENCE, Visit
from proxy.traffic.fact import Reread
from proxy.traffic.reception import FAREWELL_SECONDS, TALLY_SECONDS, Reception
from proxy.traffic.usage import DAY_SECONDS
from proxy.traffic.watched import POLL_SECONDS
from sandbox.kit import Clock
from wire import Far, between, client, is_served, refused

NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2
TOKEN, OTHER, THIRD = b"token-51fa7c02", b"token-9e0c44d1", b"token-c41be7aa"


def known_by(token: bytes, **more: Any) -> dict[str, Any]:
    return {"tokens": [digest_of(token)], **more}


class Store:
    """Counts for all; while it is away it takes nothing in, and when it is `slow` it hangs."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, str], int] = {}
        self.asked: list[Mapping[str, Tally]] = []
        self.is_away = False
        self.is_slow = False

    async def tally(self, day: int, told: Mapping[str, Tally]) -> Mapping[str, int]:
        self.asked.append(told)
        if self.is_slow:
            await asyncio.sleep(3600)
        if self.is_away:
            return {}
        for name, each in told.items():
            self.counts[day, name] = self.counts.get((day, name), 0) + each.spent
        return {name: self.counts[day, name] for name in told}


class World:
    """A reception, its file, its store, and all that it tells."""

    def __init__(self, folder: Path, **clients: dict[str, Any]) -> None:
        self.file = folder / "clients.yaml"
        self.store = Store()
        self.wall = Clock(NOON)
        self.told: list[Reread] = []
        self.clients = {
            name: ClientSettings(**{**each, "tokens": tuple(each["tokens"])})
            for name, each in clients.items()
        }

    def write(self, **clients: dict[str, Any]) -> None:
        self.file.write_text(json.dumps(clients))

    def reception(self) -> Reception:
        return Reception(
            self.clients,
            str(self.file) if self.file.exists() else None,
            ServiceAccountSettings(),
            tally=self.store.tally,
            tell=self.told.append,
            tell_reviews=lambda _: None,
            clock=asyncio.get_running_loop().time,
            wall=self.wall,
        )


def who(reception: Reception, token: bytes) -> str | None:
    """Return the name of who shows a token, None for a stranger."""
    try:
        guest = reception.auth.recognise(Visit(NO_EVIDENCE, (token,)))
    except ClientUnknown:
        return None
    assert guest is not None
    return guest.client.name


def known(reception: Reception) -> list[str | None]:
    return [who(reception, each) for each in (TOKEN, OTHER, THIRD)]


def served(reception: Reception, token: bytes, times: int = 1) -> list[bool]:
    """Send requests one after the other; tell of each whether it was let in."""
    guest = reception.auth.recognise(Visit(NO_EVIDENCE, (token,)))
    assert guest is not None
    answers = []
    for _ in range(times):
        try:
            reception.auth.admit(guest, "GET", b"/")
            answers.append(True)
        except ClientQuotaUsedUp:
            answers.append(False)
    return answers


# The file


@pytest.mark.virtual_time
async def test_clients_of_the_file_come_and_go_beside_those_of_the_settings(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, settled=known_by(TOKEN))
    world.write(guest=known_by(OTHER))
    async with world.reception() as reception:
        assert known(reception) == [
            "settled",
            "guest",
            None,
        ]
        world.write(third=known_by(THIRD))
        await asyncio.sleep(POLL_SECONDS + 0.1)
        assert known(reception) == [
            "settled",
            None,
            "third",
        ]
    assert world.told == [Reread(str(world.file))]


WRONG = {
    "not YAML": ("guest: [", "is not valid YAML"),
    "a plain token": (f"guest: {{tokens: [{OTHER.decode()}]}}", "must have sha256:"),
    "a plain token as text": (f"guest: {{tokens: {OTHER.decode()}}}", "must be a list"),
    "an unknown setting": ("guest: {uids: [1], token: [x]}", "did you mean clients.guest.tokens?"),
    "nothing": ("", "is empty; write {} where nothing is meant"),
    "no credential": ("guest: {requests_per_day: 5}", "has no credential"),
    "the name of one in the settings": (
        json.dumps({"settled": known_by(OTHER)}),
        "stands in the settings too",
    ),
    "the token of one in the settings": (
        json.dumps({"guest": known_by(TOKEN)}),
        "has one that client settled has too",
    ),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("what", WRONG)
async def test_file_that_turns_wrong_changes_nothing_and_shows_no_value(
    tmp_path: Path, what: str
) -> None:
    text, reason = WRONG[what]
    world = World(tmp_path, settled=known_by(TOKEN))
    world.write(guest=known_by(THIRD))
    async with world.reception() as reception:
        world.file.write_text(text)
        await asyncio.sleep(POLL_SECONDS + 0.1)
        assert known(reception) == [
            "settled",
            None,
            "guest",
        ]
    (told,) = world.told
    assert told.problem.startswith("clients_file has 1 problem with the settings:")
    assert reason in told.problem
    assert str(world.file) in told.problem
    for each in (TOKEN, OTHER, THIRD):
        assert each.decode() not in told.problem
        assert digest_of(each) not in told.problem


@pytest.mark.parametrize("what", WRONG)
async def test_file_that_is_wrong_at_the_start_is_refused(tmp_path: Path, what: str) -> None:
    text, reason = WRONG[what]
    world = World(tmp_path, settled=known_by(TOKEN))
    world.file.write_text(text)
    with pytest.raises(ValueError, match=r"clients_file has 1 problem") as refused:
        world.reception()
    assert reason in str(refused.value)
    assert OTHER.decode() not in str(refused.value)


# Days


@pytest.mark.virtual_time
async def test_store_is_told_every_second_what_it_was_not_told_yet(tmp_path: Path) -> None:
    world = World(tmp_path, daily=known_by(TOKEN, requests_per_day=10), free=known_by(OTHER))
    async with world.reception() as reception:
        served(reception, TOKEN, 3)
        served(reception, OTHER, 3)
        await asyncio.sleep(TALLY_SECONDS * 2.5)
        served(reception, TOKEN, 2)
        await asyncio.sleep(TALLY_SECONDS)
    assert world.store.asked == [{"daily": Tally(3, 0)}, {"daily": Tally(2, 3)}]


@pytest.mark.virtual_time
async def test_two_that_share_a_store_serve_no_more_than_a_day_holds_between_them(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, daily=known_by(TOKEN, requests_per_day=10))
    async with world.reception() as first, world.reception() as second:
        assert all(served(first, TOKEN, 6))
        assert served(second, TOKEN) == [True]
        await asyncio.sleep(TALLY_SECONDS * 2.1)
        served(first, TOKEN)
        await asyncio.sleep(TALLY_SECONDS)
        assert served(second, TOKEN, 4) == [True, True, True, False]


@pytest.mark.virtual_time
async def test_without_the_store_each_goes_by_what_it_knows_and_tells_it_later(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, daily=known_by(TOKEN, requests_per_day=5))
    world.store.is_away = True
    async with world.reception() as reception:
        served(reception, TOKEN, 2)
        await asyncio.sleep(TALLY_SECONDS * 1.5)
        assert served(reception, TOKEN, 4) == [True, True, True, False]
        world.store.is_away = False
        await asyncio.sleep(TALLY_SECONDS)
        assert served(reception, TOKEN) == [False]
    assert list(world.store.counts.values()) == [5]


@pytest.mark.virtual_time
async def test_what_was_not_told_yet_is_told_at_the_end(tmp_path: Path) -> None:
    world = World(tmp_path, daily=known_by(TOKEN, requests_per_day=5))
    async with world.reception() as reception:
        served(reception, TOKEN, 2)
    assert list(world.store.counts.values()) == [2]


@pytest.mark.virtual_time
async def test_store_that_hangs_holds_the_end_up_for_no_more_than_a_moment(tmp_path: Path) -> None:
    world = World(tmp_path, daily=known_by(TOKEN, requests_per_day=5))
    world.store.is_slow = True
    loop = asyncio.get_running_loop()
    async with nothing_left():
        async with world.reception() as reception:
            served(reception, TOKEN)
            await asyncio.sleep(TALLY_SECONDS * 1.5)
            began = loop.time()
        assert loop.time() - began <= FAREWELL_SECONDS + 0.1


@pytest.mark.virtual_time
async def test_new_day_begins_at_nought_whatever_the_store_says_of_the_old_one(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, daily=known_by(TOKEN, requests_per_day=2))
    async with world.reception() as reception:
        assert served(reception, TOKEN, 3) == [True, True, False]
        world.wall.turn(DAY_SECONDS)
        assert served(reception, TOKEN, 3) == [True, True, False]
        await asyncio.sleep(TALLY_SECONDS * 1.5)
    assert {day: count for (day, _), count in world.store.counts.items()} == {20_001: 2}


# With a store for real


@contextlib.asynccontextmanager
async def sharing(
    far: Far, sandbox: Sandbox, scan: SecretScan, folder: Path, a_day: int
) -> AsyncIterator[App]:
    """A proxy that shares a store with all others of the test."""
    scan.add(TOKEN.decode())
    sections: dict[str, Any] = {
        "listener": {"authenticate": True},
        "clients": {"daily": known_by(TOKEN, requests_per_day=a_day)},
        "store": {"url": f"sqlite:///{folder / 'tokens.db'}"},
    }
    async with between(far, sandbox, scan, **sections) as app:
        yield app


REQUEST = b"GET / HTTP/1.1\r\nHost: far.test\r\nAuthorization: " + TOKEN + b"\r\n\r\n"


async def serves(app: App, far: Far, times: int = 1) -> None:
    async with client(app) as near:
        for _ in range(times):
            await is_served(near, far, REQUEST)


async def test_two_proxies_keep_a_day_together(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    async with (
        sharing(far, sandbox, scan, tmp_path, 5) as first,
        sharing(far, sandbox, scan, tmp_path, 5) as second,
    ):
        await serves(first, far, 4)
        await asyncio.sleep(TALLY_SECONDS + 0.2)
        await serves(second, far)
        await asyncio.sleep(TALLY_SECONDS + 0.2)
        async with client(second) as near:
            near.send(REQUEST)
            assert await refused(near) == (429, "client_quota_used_up")


async def test_restart_gives_nobody_another_day(
    far: Far, sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    async with sharing(far, sandbox, scan, tmp_path, 3) as app:
        await serves(app, far, 2)
        await app.finish()
    async with sharing(far, sandbox, scan, tmp_path, 3) as app:
        await serves(app, far)
        await asyncio.sleep(TALLY_SECONDS + 0.2)
        async with client(app) as near:
            near.send(REQUEST)
            assert await refused(near) == (429, "client_quota_used_up")
