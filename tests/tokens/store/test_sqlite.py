"""The file of the SQLite store: who may read it, what becomes of it, and of those who share it."""

import asyncio
import math
import os
import signal
import sqlite3
import sys
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from proxy.tokens.budget import CALLS, WINDOW
from proxy.tokens.model import Secret
from proxy.tokens.store import file
from proxy.tokens.store.base import (
    DAY_SECONDS,
    PERMIT_SECONDS,
    Abandoned,
    Ending,
    Granted,
    Order,
    Permit,
    Report,
    Shelved,
    StoreError,
    StoreRefused,
    Tally,
    Wait,
)
from proxy.tokens.store.seal import Seal
from proxy.tokens.store.sqlite import CREATE, VERSION, SqliteStore, decode, decode_days, encode
from tokens.store.hammer import CLIENT, DAY

HAMMER = Path(__file__).with_name("hammer.py")
ORDER = Order(count=1, limit=100, lifetime=3600.0)
REPORT = Report(rate=1.0)
T = "token-t"
BOOK = b64decode(
    "jKVlcG9jaKhhbiBlcG9jaKZudW1iZXIHp3JlYWRfYXTLQCkAAAAAAACrYmxpbmRfdW50aWzL//AAAAAAAACsY2xv"
    "c2VkX3VudGlsy0A0gAAAAAAAp2VudHJpZXOBp3Rva2VuLXSIpXRva2VuiqJpZKd0b2tlbi10pnNlYWxlZMQGc2Vh"
    "bGVko2tleatmaW5nZXJwcmludKNhZ2XLP/gAAAAAAAClbGl2ZXPLQKwgAAAAAAClbGltaXRkpGZyZWVGqmdlbmVy"
    "YXRpb24CqXJldm9jYWJsZcOncmV0aXJlZMKoYWRkZWRfYXTLQCUAAAAAAACkZnJlZUaqY2hlY2tlZF9hdMtAJwAA"
    "AAAAAKdyZXRpcmVkw6hyZXBvcnRlZMOnaG9sZGVycwGrdGFrZW5fdW50aWzLQDqAAAAAAACnc2hhcmVyc4Gmc2hh"
    "cmVyg6dzZWVuX2F0y0ApAAAAAAAApHJhdGXLQAwAAAAAAAClaG9sZHORp3Rva2VuLXSmcmlnaHRzgaZzaGFyZXLL"
    "QKw5AAAAAAClY2FsbHOBB4Slb3JkZXKDpWNvdW50AqVsaW1pdGSobGlmZXRpbWXLQKwgAAAAAACqc3RhcnRlZF9h"
    "dMtAKQAAAAAAAKdlbmRzX2F0y0A2gAAAAAAAp3VuY2xlYXLDqmdlbmVyYXRpb24Cp3ZlcnNpb24DpWZhdWx0qnN0"
    "YXR1cyA1MDM="
)
"""A book that has something of everything, as VERSION 1 writes it."""
DAYS = b64decode(
    "gs1OIIKnZ3Jld19hdMtAKQAAAAAAAKZjb3VudHOBpWJhdGNoB81OIYKnZ3Jld19hdMtA9RgAAAAAAKZjb3VudHOCrWFw"
    "cC5ldS13ZXN0XzHOAAERcKViYXRjaAE="
)
"""Tallies of two days, as VERSION 1 writes them."""

Open = Callable[..., SqliteStore]


def shelved(name: str = T, *, sealed: bytes = b"sealed", limit: int = 100) -> Shelved:
    return Shelved(name, sealed, "fingerprint", 0.0, 3600.0, limit, limit, 0, True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "store.db"


@pytest.fixture
async def at(path: Path) -> AsyncIterator[Open]:
    """Make stores in the file; `boot` is when the machine was started, and `now` since then."""
    async with AsyncExitStack() as stack:

        def make(boot: str = "a boot", now: float = 0.0, busy_seconds: float = 2.0) -> SqliteStore:
            store = SqliteStore(
                path, "shelf", clock=lambda: now, boot=lambda: boot, busy_seconds=busy_seconds
            )
            stack.push_async_callback(store.close)
            return store

        yield make


async def opened(store: SqliteStore) -> SqliteStore:
    await store.open()
    return store


async def permitted(store: SqliteStore) -> Permit:
    answer = await store.permit(ORDER)
    assert isinstance(answer, Permit)
    return answer


async def tally_of(store: SqliteStore) -> int:
    return (await store.tally(DAY, {CLIENT: Tally(0)}))[CLIENT]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(0o700, exist_ok=True)
    path.write_bytes(content)


def link(path: Path, *, to: Path) -> None:
    to.touch()
    path.symlink_to(to)


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def remove(path: Path) -> None:
    path.unlink()


def spoil(path: Path) -> None:
    """Leave only the first page of a database as it is."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\x55" * (len(whole) - 4096))


async def leave_tokens(store: SqliteStore) -> None:
    """Fill a file and let go of it."""
    await store.open()
    await store.add([shelved(f"token-{n}", sealed=b"x" * 500) for n in range(50)])
    await store.close()


# Who may read and replace it


async def test_nobody_else_may_read_the_files_or_enter_the_folder(at: Open, path: Path) -> None:
    mask = os.umask(0)
    try:
        store = await opened(at())
        await store.add([shelved()])
    finally:
        os.umask(mask)
    names = {each.name for each in path.parent.iterdir()}
    assert names == {"store.db", "store.db-wal", "store.db-shm"}
    assert {mode(each) for each in path.parent.iterdir()} == {0o600}
    assert mode(path.parent) == 0o700


async def test_the_folders_above_are_made_too(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "above" / "folder" / "store.db", "shelf")
    await store.open()
    await store.close()
    assert mode(tmp_path / "above" / "folder") == 0o700


async def test_a_store_says_where_it_is(at: Open, path: Path) -> None:
    store = at()
    assert (store.place, store.private) == (f"sqlite file {path}", False)
    assert repr(store) == f"<SqliteStore of <shelf shelf in {path}>>"


async def test_files_that_others_could_read_are_hidden_from_them(at: Open, path: Path) -> None:
    first = await opened(at())
    await first.add([shelved()])
    for each in path.parent.iterdir():
        each.chmod(0o644)
    await opened(at())
    assert {mode(each) for each in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("writable", [0o770, 0o702, 0o1777])
async def test_a_folder_that_others_can_write_to_is_refused(
    at: Open, path: Path, writable: int
) -> None:
    path.parent.mkdir()
    path.parent.chmod(writable)
    with pytest.raises(StoreRefused, match=f"run `chmod 700 {path.parent}`, or name a folder"):
        await at().open()
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_a_folder_of_another_user_is_refused(at: Open, path: Path) -> None:
    path.parent.mkdir(0o700)
    os.chown(path.parent, 12345, 12345)
    with pytest.raises(StoreRefused, match="belongs to user 12345, who could replace the store"):
        await at().open()


async def test_a_link_is_refused(at: Open, path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(0o700)
    link(path, to=tmp_path / "target")
    with pytest.raises(StoreRefused, match="is not a file of this process's own user"):
        await at().open()


async def test_no_secret_stands_in_the_files(path: Path) -> None:
    key, value = Secret("static-key-0123456789"), Secret("eyJhbGciOiJIUzI1NiJ9.payload.signature")
    seal = Seal(key)
    store = SqliteStore(path, seal.shelf)
    await store.open()
    await store.add([shelved(sealed=seal.close(T, value))])
    await store.attend(REPORT)
    written = b"".join(each.read_bytes() for each in path.parent.iterdir())
    (token,) = await store.load()
    await store.close()
    assert T.encode() in written
    assert seal.open(T, token.sealed) == value
    for secret in (key.reveal(), *value.reveal().split(".")):
        assert secret.encode() not in written


# What is no store


async def test_a_file_that_is_no_database_is_refused_until_it_is_gone(at: Open, path: Path) -> None:
    diary = b"Dear diary, " * 100
    put(path, diary)
    store = at()
    with pytest.raises(StoreRefused, match=f"{path} is no store of ours, or damaged"):
        await store.open()
    assert content_of(path) == diary
    remove(path)
    await store.attend(REPORT)


async def test_the_database_of_another_program_is_refused(at: Open, path: Path) -> None:
    path.parent.mkdir(0o700)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE diary (entry TEXT)")
    with pytest.raises(StoreRefused, match=f"{path} belongs to another program"):
        await at().open()


async def test_a_file_of_another_version_is_refused(at: Open, path: Path) -> None:
    await (await opened(at())).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StoreRefused, match=f"has the format {VERSION + 1} of another version"):
        await at().open()


@pytest.mark.parametrize("days", [b"", b"\xff", b"\x81\x01\x07"])
async def test_damaged_tallies_are_refused(at: Open, path: Path, days: bytes) -> None:
    store = await opened(at())
    await store.tally(DAY, {CLIENT: Tally(5)})
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE tallies SET book = ?", (days,))
    with pytest.raises(StoreRefused, match="or damaged"):
        await tally_of(store)


@pytest.mark.parametrize("book", [b"", b"\xff", b"\x81\xa5epoch\x07"])
async def test_a_damaged_book_is_refused(at: Open, path: Path, book: bytes) -> None:
    store = await opened(at())
    await store.attend(REPORT)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE shelf SET book = ?", (book,))
    with pytest.raises(StoreRefused, match="or damaged"):
        await store.attend(REPORT)


async def test_a_damaged_database_is_refused(at: Open, path: Path) -> None:
    await leave_tokens(at())
    spoil(path)
    with pytest.raises(StoreRefused, match="or damaged"):
        await at().open()


def test_a_book_of_this_version_is_written_as_it_always_was() -> None:
    """Whoever changes what a book is made of gives it a new version, and writes this one anew."""
    assert VERSION == 1
    assert encode(decode(BOOK)) == BOOK
    assert encode(decode_days(DAYS)) == DAYS


async def test_a_file_from_before_there_were_tallies_gets_some(at: Open, path: Path) -> None:
    path.parent.mkdir(0o700)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in CREATE:
            db.execute(statement)
        db.execute("INSERT INTO shelf VALUES ('shelf', 'a boot', ?)", (BOOK,))
    store = await opened(at(now=13))
    assert [each.id for each in await store.load()] == [T]
    assert await store.tally(DAY, {CLIENT: Tally(5)}) == {CLIENT: 5}


async def test_a_file_with_tallies_is_one_to_those_who_know_of_none(at: Open, path: Path) -> None:
    """They run beside each other while a fleet is brought up to date, or back."""
    store = await opened(at())
    await store.tally(DAY, {CLIENT: Tally(5)})
    await store.add([shelved()])
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        ((name, boot, book),) = db.execute("SELECT * FROM shelf")
    assert (name, boot, [*decode(book).entries]) == ("shelf", "a boot", [T])


# Restarts


async def test_tokens_survive_the_processes(at: Open) -> None:
    first = await opened(at(now=100))
    await first.add([shelved()])
    await first.grant(T, 30)
    epoch = (await first.attend(REPORT)).epoch
    await first.close()
    second = await opened(at(now=130))
    assert (await second.attend(REPORT)).epoch == epoch
    (token,) = await second.load()
    assert (token.id, token.free, token.lives) == (T, 70, 3570)


async def test_another_boot_begins_a_new_epoch_with_an_empty_shelf(at: Open) -> None:
    before = await opened(at("one boot", 5000))
    await before.add([shelved()])
    old = await before.attend(REPORT)
    after = await opened(at("another boot", 20))
    new = await after.attend(REPORT)
    assert new.epoch != old.epoch
    assert (new.sharers, new.free) == (1, {})
    assert await after.load() == []


async def test_calls_before_the_boot_count_as_if_no_time_had_passed(at: Open) -> None:
    before = await opened(at("one boot", 5000))
    for _ in range(CALLS):
        await before.end(await permitted(before), Ending())
    await (await opened(at("one boot", 5040))).attend(Report(0.0, wants_right=False))
    after = await opened(at("another boot", 7))
    assert await after.permit(ORDER) == Wait(WINDOW - 40, minting=False)
    later = await opened(at("another boot", 7 + WINDOW - 40))
    assert (await later.attend(Report(0.0, wants_right=False))).permits == CALLS


async def test_a_call_that_the_boot_broke_off_is_abandoned(at: Open) -> None:
    before = await opened(at("one boot", 5000))
    permit = await permitted(before)
    await (await opened(at("one boot", 5004))).load()
    after = await opened(at("another boot", 7))
    roll = await after.attend(Report(0.0, wants_right=False))
    assert (roll.minting, roll.permits) == (False, CALLS - 1)
    assert await after.abandoned() == [Abandoned(permit.number, ORDER, ago=4)]


async def test_what_rights_allowed_before_the_boot_counts_for_a_minute(at: Open) -> None:
    idle = Report(0.0, wants_right=False)
    before = await opened(at("one boot", 5000))
    assert (await before.attend(REPORT)).right
    after = await opened(at("another boot", 7))
    assert (await after.attend(idle)).permits == CALLS - 1
    later = await opened(at("another boot", 7 + WINDOW))
    assert (await later.attend(idle)).permits == CALLS


async def test_what_mobula_closed_before_the_boot_stays_closed(at: Open) -> None:
    before = await opened(at("one boot", 5000))
    await before.end(await permitted(before), Ending(closed_for=300))
    after = await opened(at("another boot", 7))
    assert await after.permit(ORDER) == Wait(300, minting=False)


async def test_tallies_survive_the_processes_and_the_boot(at: Open) -> None:
    before = await opened(at("one boot", 500_000))
    await before.tally(DAY, {CLIENT: Tally(5)})
    after = await opened(at("another boot", 20))
    assert await tally_of(after) == 5
    later = await opened(at("another boot", 20 + DAY_SECONDS))
    assert await tally_of(later) == 0


def test_the_boot_is_told_by_the_kernel(tmp_path: Path) -> None:
    assert file.boot() == file.boot() != ""
    with pytest.raises(StoreRefused, match="needs Linux"):
        file.boot(tmp_path / "missing")


# A file that is removed


@pytest.mark.parametrize("replace", [False, True], ids=["removed", "replaced"])
async def test_a_file_that_is_removed_is_an_error_and_then_a_new_epoch(
    at: Open, path: Path, replace: bool
) -> None:
    store = await opened(at())
    await store.add([shelved()])
    old = await store.attend(REPORT)
    remove(path)
    if replace:
        put(path, b"")
    with pytest.raises(StoreError, match="was removed or replaced"):
        await store.grant(T, 5)
    new = await store.attend(REPORT)
    assert new.epoch != old.epoch
    assert await store.load() == []


async def test_after_that_no_call_is_permitted_for_a_minute(path: Path) -> None:
    """Nobody knows what calls stood in the file."""
    now = 100.0
    store = SqliteStore(path, "shelf", clock=lambda: now)
    await store.open()
    remove(path)
    with pytest.raises(StoreError):
        await store.attend(REPORT)
    assert await store.permit(ORDER) == Wait(WINDOW, minting=False)
    now += WINDOW
    await permitted(store)
    await store.close()


async def test_all_meet_in_the_new_file(at: Open, path: Path) -> None:
    stores = [await opened(at()) for _ in range(3)]
    for each in stores:
        await each.attend(REPORT)
    remove(path)
    for each in stores:
        with pytest.raises(StoreError):
            await each.attend(REPORT)
        await each.attend(REPORT)
    await stores[0].add([shelved()])
    assert (await stores[2].attend(REPORT)).sharers == 3
    assert await stores[1].grant(T, 1000) == Granted(100, 0)


async def test_a_permit_of_the_file_before_ends_nobody_elses_call(at: Open, path: Path) -> None:
    store = await opened(at())
    late = await permitted(store)
    await store.close()
    remove(path)
    await store.open()
    await permitted(store)
    await store.end(late, Ending())
    assert await store.permit(ORDER) == Wait(PERMIT_SECONDS, minting=True)


# Others that use it at the same time


async def test_a_locked_file_is_an_error_after_a_while_and_then_works_again(
    at: Open, path: Path
) -> None:
    store = await opened(at(busy_seconds=0.2))
    await store.add([shelved()])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreError, match="SQLite: database is locked"):
            await store.grant(T, 5)
        assert 0.2 <= time.monotonic() - began < 2
    assert await store.grant(T, 5) == Granted(5, 95)


async def test_who_cannot_open_the_file_in_time_gets_an_error(at: Open, path: Path) -> None:
    store = at(busy_seconds=0.1)
    began = time.monotonic()
    with file.guarded(path, 1.0), pytest.raises(StoreError, match="keep the SQLite store from"):
        await store.open()
    assert 0.1 <= time.monotonic() - began < 2
    await store.open()


@pytest.mark.parametrize("path", ["file/store.db", "file/folder/store.db"])
async def test_a_folder_that_can_never_be_made_is_refused(tmp_path: Path, path: str) -> None:
    put(tmp_path / "file", b"")
    store = SqliteStore(tmp_path / path, "shelf")
    with pytest.raises(StoreRefused, match=f"{tmp_path / 'file'}.*: (Not a directory|File exists)"):
        await store.open()
    await store.close()


async def test_the_loop_does_not_wait_for_the_file(at: Open) -> None:
    with blockbuster_ctx():
        store = await opened(at())
        await store.attend(REPORT)
        await store.close()


async def test_a_closed_store_is_an_error_until_it_is_opened(at: Open) -> None:
    store = await opened(at())
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.attend(REPORT)
    await store.open()
    await store.attend(REPORT)


class Hammer:
    """A process that takes requests one by one, as fast as it can, until none is left."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.granted = 0
        self.permits = 0

    @classmethod
    async def start(cls, path: Path) -> "Hammer":
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, HAMMER, path, T, stdout=asyncio.subprocess.PIPE
            )
        )

    async def work(self, rounds: float = math.inf, ends: int = 0) -> None:
        """Read what it did in so many rounds, or in all until it `ends`."""
        assert self._process.stdout is not None
        while rounds > 0:
            line = await self._process.stdout.readline()
            if not line.endswith(b"\n"):
                assert await self._process.wait() == ends
                return
            granted, permits = line.split()
            self.granted += int(granted)
            self.permits += int(permits)
            rounds -= 1

    async def kill(self) -> None:
        """Kill it, whatever it is at, and read what it told before."""
        self._process.kill()
        await self.work(ends=-signal.SIGKILL)


async def test_processes_are_never_granted_a_request_twice(path: Path) -> None:
    store = SqliteStore(path, "shelf")
    await store.open()
    await store.add([shelved(limit=1500)])
    hammers = [await Hammer.start(path) for _ in range(3)]
    await asyncio.gather(*(each.work() for each in hammers))
    assert sum(each.granted for each in hammers) == 1500
    assert sum(each.permits for each in hammers) == CALLS
    assert await tally_of(store) == 1500
    assert await store.grant(T, 1) == Granted(0, 0)
    await store.close()


async def test_a_process_that_is_killed_leaves_the_shelf_whole(path: Path) -> None:
    store = SqliteStore(path, "shelf")
    await store.open()
    await store.add([shelved(limit=100_000)])
    told = 0
    for killed in range(1, 6):
        hammer = await Hammer.start(path)
        await hammer.work(rounds=20)
        await hammer.kill()
        told += hammer.granted
        granted = 100_000 - (await store.grant(T, 0)).free
        assert told <= await tally_of(store) <= granted
        assert granted <= told + killed  # each was killed in one round at most
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    await store.close()
