"""Stores that whole fleets share, and how they are lost for a while."""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

from redis_server import RedisServer


class Place(Protocol):
    """A store that processes of the installed command share."""

    setting: str
    """Names it, as for `--set`."""

    def lost(self) -> AbstractContextManager[None]:
        """Let nobody reach it during the block."""
        ...

    def contents(self) -> bytes:
        """Return all that it keeps, as it lies there."""
        ...


class SqlitePlace:
    """A file, once a process has made it."""

    def __init__(self, folder: Path) -> None:
        self.setting = f"state_dir={folder}"
        self._folder = folder

    def __repr__(self) -> str:
        return f"<SqlitePlace {self._folder}>"

    @contextmanager
    def lost(self) -> Iterator[None]:
        """Another connection has the file for itself."""
        with closing(sqlite3.connect(self._folder / "tokens.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
            other.execute("ROLLBACK")

    def contents(self) -> bytes:
        return b"".join(each.read_bytes() for each in self._folder.iterdir())


class RedisPlace:
    """A server; it comes back empty."""

    def __init__(self, server: RedisServer) -> None:
        self.setting = f"store.url={server.url}"
        self._server = server

    def __repr__(self) -> str:
        return f"<RedisPlace at {self._server!r}>"

    @contextmanager
    def lost(self) -> Iterator[None]:
        self._server.kill()
        yield
        self._server.start()

    def contents(self) -> bytes:
        self._server.ask("CONFIG", "SET", "rdbcompression", "no")
        keys: list[bytes] = self._server.ask("KEYS", "*")
        return b"".join(self._server.ask("DUMP", key) for key in keys)
