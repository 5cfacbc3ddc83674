"""Fixtures that every test may use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from harness import SecretScan, mobula
from name_server import NameServer
from proxy.sandbox import Sandbox
from redis_server import RedisServer, running_redis
from virtual import VirtualLoop
from wire import Far

Loop = asyncio.AbstractEventLoop

pytest.register_assert_rewrite("table", "faults.world", "soak.feeds", "soak.polite", "soak.rude")

# Two busy cores make drawing slow at times, which says nothing of the code under test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], Loop]]:
    """Run the tests on the loop that the product runs on; marked ones on asyncio's own too.

    Those that live in virtual time have a loop of their own.
    """
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    factories: dict[str, Callable[[], Loop]] = {"uvloop": uvloop.new_event_loop}
    if item.get_closest_marker("both_loops"):
        factories["asyncio"] = asyncio.SelectorEventLoop
    return factories


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests in front, so that one worker begins with them and the rest goes on beside."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture
def scan() -> Iterator[SecretScan]:
    """Fail the test if a secret that it used stands in what a proxy logged or printed."""
    scan = SecretScan()
    yield scan
    assert not scan.leaks(), "a secret was logged or printed"


@pytest.fixture
async def sandbox(scan: SecretScan) -> AsyncIterator[Sandbox]:
    """An emulated Mobula that knows KEY."""
    async with mobula(scan) as sandbox:
        yield sandbox


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    """An upstream that says what the test says."""
    async with Far() as far:
        yield far


@pytest.fixture
async def way_out() -> AsyncIterator[Far]:
    """An upstream proxy that says what the test says; see `wire.let_through`."""
    async with Far() as way_out:
        yield way_out


@pytest.fixture
async def name_server() -> AsyncIterator[NameServer]:
    """A name server that says what the test says."""
    async with NameServer() as server:
        yield server


@pytest.fixture(scope="session")
def ca_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every proxy that is started with it has the same local CA."""
    return tmp_path_factory.mktemp("ca")


@pytest.fixture(scope="session")
def one_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(one_redis_server: RedisServer) -> RedisServer:
    """A Redis server that is empty; it is one for all tests."""
    one_redis_server.ask("FLUSHALL")
    return one_redis_server
