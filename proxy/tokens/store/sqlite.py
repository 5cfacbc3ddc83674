"""The store in a SQLite file: shared by the processes of one machine, kept over their restarts.

The rules are those of `Shelf` and `Tallies`: each call is one transaction, which reads the book of
one of them, asks, and writes it back. So it is atomic, also for a process that is killed, and only
the file is SQLite's.

Time is the steady clock of the machine, which all its processes share until it starts again. What
was written before that cannot be dated any more, so the shelf then begins a new epoch, and the
tallies begin to age anew.
"""

import asyncio
import contextlib
import errno
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from proxy import private
from proxy.tokens.budget import WINDOW
from proxy.tokens.clock import steady
from proxy.tokens.store import file
from proxy.tokens.store.base import COMMON, StoreError, StoreRefused
from proxy.tokens.store.member import Member
from proxy.tokens.store.shelf import Book, Shelf
from proxy.tokens.store.tallies import Day, Tallies

T = TypeVar("T")

BUSY_SECONDS = 2.0
"""How long a call waits for those of other processes."""
APPLICATION = 0x6D6F6270
"""Marks the file as ours, for SQLite and for `file`."""
VERSION = 1
"""Of the tables and of the books in them."""
CREATE = (
    "BEGIN IMMEDIATE",
    "CREATE TABLE shelf (name TEXT PRIMARY KEY, boot TEXT NOT NULL, book BLOB NOT NULL)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
    "COMMIT",
)
ADD = (
    "CREATE TABLE IF NOT EXISTS tallies "
    "(name TEXT PRIMARY KEY, boot TEXT NOT NULL, book BLOB NOT NULL)"
)
"""What the first files of this version do not have; a proxy that does not know it leaves it be."""
UNREADABLE = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
HOPELESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG}
"""What waiting does not heal: the path is wrong, or not for us."""

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Book).decode
decode_days = msgspec.msgpack.Decoder(dict[int, Day]).decode


class SqliteStore(Member):
    """A shelf and tallies in a SQLite file, as one process uses them."""

    private = False

    def __init__(
        self,
        path: Path,
        shelf: str,
        *,
        clock: Callable[[], float] = steady,
        boot: Callable[[], str] = file.boot,
        busy_seconds: float = BUSY_SECONDS,
        tallies: str = COMMON,
    ) -> None:
        super().__init__()
        self.place = f"sqlite file {path}"
        self._shelves = _Shelves(path, shelf, tallies, clock, boot, busy_seconds)
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"<SqliteStore of {self._shelves!r}>"

    async def open(self) -> int:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sqlite")
        return await self._call(self._shelves.others)

    async def close(self) -> None:
        if self._thread is not None:
            thread, self._thread = self._thread, None
            try:
                await asyncio.get_running_loop().run_in_executor(thread, self._shelves.close)
            finally:
                thread.shutdown(wait=False)

    async def _ask(self, question: Callable[[Shelf], T], *, durable: bool = False) -> T:
        return await self._call(partial(self._shelves.ask, question, durable=durable))

    async def _count(self, question: Callable[[Tallies], T]) -> T:
        return await self._call(partial(self._shelves.count, question))

    async def _call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise StoreError("the SQLite store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Shelves:
    """The file, as one thread uses it; it is opened when it is needed, and anew after an error."""

    def __init__(
        self,
        path: Path,
        shelf: str,
        tallies: str,
        clock: Callable[[], float],
        boot: Callable[[], str],
        busy_seconds: float,
    ) -> None:
        self._path = path
        self._shelf = shelf
        self._tallies = tallies
        self._clock = clock
        self._boot = boot
        self._busy_seconds = busy_seconds
        self._db: sqlite3.Connection | None = None
        self._booted = ""
        self._identity: file.Identity | None = None
        self._lost = False
        """Whether the file was replaced, and what was in it has not been accounted for."""

    def __repr__(self) -> str:
        return f"<shelf {self._shelf} in {self._path}>"

    def ask(self, question: Callable[[Shelf], T], *, durable: bool) -> T:
        with _plain_errors(self._path), self._transaction(durable=durable) as db:
            shelf = self._read(db)
            answer = question(shelf)
            db.execute(
                "INSERT OR REPLACE INTO shelf (name, boot, book) VALUES (?, ?, ?)",
                (self._shelf, self._booted, encode(shelf.book)),
            )
        self._lost = False
        return answer

    def count(self, question: Callable[[Tallies], T]) -> T:
        with _plain_errors(self._path), self._transaction() as db:
            tallies = self._read_tallies(db)
            answer = question(tallies)
            db.execute(
                "INSERT OR REPLACE INTO tallies (name, boot, book) VALUES (?, ?, ?)",
                (self._tallies, self._booted, encode(tallies.days)),
            )
        return answer

    def others(self) -> int:
        """Return how many other shelves have tokens that live."""
        with _plain_errors(self._path), self._transaction() as db:
            books = db.execute(
                "SELECT book FROM shelf WHERE name != ? AND boot = ?", (self._shelf, self._booted)
            ).fetchall()
            return sum(1 for (book,) in books if self._shelf_of(book).load())

    def close(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _read(self, db: sqlite3.Connection) -> Shelf:
        row = db.execute("SELECT boot, book FROM shelf WHERE name = ?", (self._shelf,)).fetchone()
        shelf = self._shelf_of(row[1] if row else None)
        if row and row[0] != self._booted:
            shelf.begin_anew()
        if self._lost:
            shelf.close_for(WINDOW)
        return shelf

    def _read_tallies(self, db: sqlite3.Connection) -> Tallies:
        wanted = "SELECT boot, book FROM tallies WHERE name = ?"
        row = db.execute(wanted, (self._tallies,)).fetchone()
        tallies = Tallies(self._clock, decode_days(row[1]) if row else None)
        if row and row[0] != self._booted:
            tallies.date_anew()
        return tallies

    def _shelf_of(self, book: bytes | None) -> Shelf:
        read = None if book is None else decode(book)
        return Shelf(self._clock, lasting=True, blind=False, book=read)

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            db = self._db = self._db or self._connect()
            # In WAL mode a full commit makes those before it last, too.
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            self._notice_loss()
            yield db
            db.execute("COMMIT")
        except BaseException:
            self.close()
            raise

    def _notice_loss(self) -> None:
        if file.identity(self._path) != self._identity:
            self._lost = True
            raise StoreError("the file of the SQLite store was removed or replaced")

    def _connect(self) -> sqlite3.Connection:
        with file.guarded(self._path, self._busy_seconds):
            self._booted = self._boot()
            self._identity = file.identity(self._path)
            db = sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)
            try:
                _prepare(db, self._path)
            except BaseException:
                db.close()
                raise
        return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables where there are none; refuse what is not ours."""
    application, version = (_number(db, name) for name in ("application_id", "user_version"))
    if (application, version) == (0, 0) and not _number(db, "schema_version"):
        db.execute("PRAGMA journal_mode = WAL")
        for statement in CREATE:
            db.execute(statement)
    elif application != APPLICATION:
        raise StoreRefused(f"{path} belongs to another program: name another file")
    elif version != VERSION:
        raise StoreRefused(
            f"{path} has the format {version} of another version of mobula-proxy, this one has "
            f"{VERSION}: name another file, or remove it once no proxy uses it"
        )
    db.execute(ADD)


def _number(db: sqlite3.Connection, pragma: str) -> int:
    (number,) = db.execute(f"PRAGMA {pragma}").fetchone()
    return int(number)


@contextlib.contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Turn what went wrong into a StoreError, whose text clients may see."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith(UNREADABLE):
            raise _unreadable(path, error) from error
        raise StoreError(f"SQLite: {error}") from error
    except msgspec.MsgspecError as error:
        raise _unreadable(path, error) from error
    except private.RefusedError as error:
        raise StoreRefused(str(error)) from error
    except private.BusyError as error:
        raise StoreError("other processes keep the SQLite store from being opened") from error
    except OSError as error:
        if error.errno in HOPELESS:
            raise StoreRefused(f"{error.filename or path}: {error.strerror}") from error
        raise StoreError(f"SQLite: {error.strerror or 'input or output failed'}") from error


def _unreadable(path: Path, error: Exception) -> StoreRefused:
    return StoreRefused(
        f"{path} is no store of ours, or damaged ({error}): remove it, or name another file"
    )
