"""Stores: whether they can be had, and whose they are."""

from pathlib import Path

import pytest

from places import RedisPlace
from proxy.config import StoreUrl
from proxy.launch.checks.store import Shelves, examine, failed, judge
from proxy.launch.report import Line, fail, ok, skip
from proxy.tokens.model import Secret
from proxy.tokens.store.base import Shelved, StoreError, StoreRefused
from proxy.tokens.store.choose import make_seal, make_store
from redis_server import RedisServer

SEAL = Secret("5e" * 32)
MEMORY = StoreUrl.parse("memory://")
REDIS = StoreUrl.parse("redis://:pass4711@redis:6379/0")


async def put(url: StoreUrl, secret: Secret) -> None:
    """Put a token on the shelf of those who share a secret."""
    seal = make_seal(secret)
    store = make_store(url, seal.shelf)
    await store.open()
    sealed = seal.close("id", Secret("a token"))
    token = Shelved("id", sealed, "print", 0.0, 3600.0, 10, 10, generation=0, revocable=True)
    await store.add([token])
    await store.close()


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


# What is said


@pytest.mark.parametrize(
    ("shelves", "found"),
    [
        (Shelves(0, 0), "opened; tokens of ours in it: 0"),
        (Shelves(2, 1), "opened; tokens of ours in it: 2, shelves of others: 1"),
    ],
)
def test_one_that_has_our_tokens_or_none_at_all_is_well(shelves: Shelves, found: str) -> None:
    assert judge(REDIS, shelves) == ok("store", "redis://***@redis:6379/0", found)


def test_one_that_has_only_those_of_others_is_warned_of() -> None:
    line = judge(REDIS, Shelves(0, 2))
    assert line.grade.value == "warn"
    assert line.found == "it has no token of ours, but those of 2 with another key or secret"


@pytest.mark.parametrize(
    ("url", "error", "found", "step"),
    [
        (REDIS, StoreError("the store is down"), "the store is down", "see that the server of"),
        (
            StoreUrl.parse("sqlite:///x.db"),
            StoreRefused("x.db: Permission denied"),
            "x.db: Permission denied",
            "run doctor as the proxy's own user",
        ),
        (
            StoreUrl.parse("sqlite:///x.db"),
            StoreRefused("others can write to x: run `chmod 700 x`"),
            "others can write to x",
            "run `chmod 700 x`",
        ),
    ],
)
def test_one_that_cannot_be_opened_is_told_with_the_next_step(
    url: StoreUrl, error: StoreError, found: str, step: str
) -> None:
    line = failed(url, error)
    assert line == fail("store", str(url), found, step=line.step)
    assert line.step.startswith(step)


# What is looked at


async def test_memory_is_well_by_itself() -> None:
    assert (await examine(MEMORY, None)).grade.value == "ok"


async def test_without_a_secret_nothing_is_opened() -> None:
    why = "not opened, because there is nothing to unseal it with"
    assert await examine(REDIS, None) == skip("store", "redis://***@redis:6379/0", why)


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    url = StoreUrl.of_file(str(tmp_path / "state" / "tokens.db"))
    line = await examine(url, SEAL)
    assert line == ok("store", str(url), "not there yet; the first start makes it")
    assert names_in(tmp_path) == []


async def test_a_file_that_can_never_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    line = await examine(StoreUrl.of_file(str(tmp_path / "state" / "tokens.db")), SEAL)
    assert line.grade.value == "fail"
    assert line.found == f"it cannot be made: {tmp_path / 'state'} is no folder"


async def test_a_file_that_this_user_cannot_see_is_told(closed_folder: Path) -> None:
    line = await examine(StoreUrl.of_file(str(closed_folder / "tokens.db")), SEAL)
    assert line.grade.value == "fail"
    assert line.found == f"it cannot be made: this user may not write to {closed_folder}"


async def test_a_file_is_opened_and_its_tokens_are_counted(tmp_path: Path) -> None:
    url = StoreUrl.of_file(str(tmp_path / "tokens.db"))
    await put(url, SEAL)
    assert (await examine(url, SEAL)).found == "opened; tokens of ours in it: 1"


async def test_a_file_of_another_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokens.db").write_text("a diary")
    line = await examine(StoreUrl.of_file(str(tmp_path / "tokens.db")), SEAL)
    assert (line.grade.value, line.step) == ("fail", "remove it, or name another file")


async def test_a_server_with_another_fleet_only_is_warned_of(redis_server: RedisServer) -> None:
    url = StoreUrl.parse(RedisPlace(redis_server).setting.removeprefix("store.url="))
    await put(url, Secret("another" * 10))
    line: Line = await examine(url, SEAL)
    assert (line.grade.value, "those of 1 with" in line.found) == ("warn", True)


async def test_a_server_that_is_not_there_is_told() -> None:
    line = await examine(StoreUrl.parse("redis://:pass4711@127.0.0.1:1/0"), SEAL)
    assert line.grade.value == "fail"
    assert line.step.startswith("see that the server of store.url runs")
