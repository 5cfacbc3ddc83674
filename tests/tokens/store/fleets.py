"""Fleets: processes that share a shelf, one kind for each kind of store."""

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

from proxy.tokens.store.base import COMMON, Store
from proxy.tokens.store.memory import MemoryStore
from proxy.tokens.store.redis import RedisStore
from proxy.tokens.store.shelf import Shelf
from proxy.tokens.store.sqlite import SqliteStore
from proxy.tokens.store.tallies import Tallies
from redis_server import RedisServer

SHELF = "shelf"


class Fleet(ABC):
    """Processes that share one store; tests let the store's time pass."""

    blind: bool
    """Whether the store may come back empty by itself."""
    beside: bool
    """Whether several shelves may lie in it."""
    ages: bool
    """Whether a day's tallies age by the fleet's clock; a server's keys do by its own."""
    edge: float
    """How close to an instant a test can get, in seconds: a server's own clock goes on meanwhile.

    At most half a second: the tests that leap by whole seconds rely on it.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Fixtures that are handed to it, after the folder."""

    def __init__(self, folder: Path, *_: Any) -> None:
        """`folder` is this fleet's own, and not there yet."""
        self.folder = folder
        self.passed = 0.0
        """How far time was put on, in seconds."""
        self._open = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.passed:.1f} s on>"

    async def member(self, shelf: str = SHELF, tallies: str = COMMON) -> Store:
        """Another process, which has opened the store."""
        store = self._store(shelf, tallies)
        self._open.push_async_callback(store.close)
        await store.open()
        return store

    def pass_time(self, seconds: float) -> None:
        self.passed += seconds

    async def close(self) -> None:
        await self._open.aclose()

    @abstractmethod
    def _store(self, shelf: str, tallies: str) -> Store: ...


class MemoryFleet(Fleet):
    """What a store that may come back empty does, in memory."""

    blind = True
    beside = False
    ages = True
    edge = 2.0**-10

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._shelf = Shelf(lambda: self.passed, lasting=True, blind=self.blind)
        self._tallies = Tallies(lambda: self.passed)

    def _store(self, shelf: str, tallies: str) -> Store:
        assert (shelf, tallies) == (SHELF, COMMON)
        return MemoryStore(self._shelf, tallies=self._tallies)


class FaithfulMemoryFleet(MemoryFleet):
    """What a store that cannot come back empty does, in memory."""

    blind = False


class SqliteFleet(Fleet):
    blind = False
    beside = True
    ages = True
    edge = 2.0**-10

    def _store(self, shelf: str, tallies: str) -> Store:
        return SqliteStore(
            self.folder / "store.db",
            shelf,
            clock=lambda: self.passed,
            boot=lambda: "a boot",
            tallies=tallies,
        )


class RedisFleet(Fleet):
    """Processes that share a Redis server, which is empty at first."""

    blind = True
    beside = True
    ages = False
    edge = 0.5
    needs = ("redis_server",)

    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder)
        server.ask("FLUSHALL")
        self._url = server.url

    def _store(self, shelf: str, tallies: str) -> Store:
        return RedisStore(self._url, shelf, tallies=tallies, skew=lambda: self.passed)


FLEETS: dict[str, type[Fleet]] = {
    "memory": MemoryFleet,
    "faithful memory": FaithfulMemoryFleet,
    "sqlite": SqliteFleet,
    "redis": RedisFleet,
}


def model_of(fleet: Fleet) -> Fleet:
    """Return a fleet in memory that must answer as this one does."""
    return (MemoryFleet if fleet.blind else FaithfulMemoryFleet)(fleet.folder)
