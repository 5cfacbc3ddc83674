"""Where the fleets of these tests have their store: each test runs once for each kind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import SecretScan
from places import Place, RedisPlace, SqlitePlace
from processes import Processes, let_a_minute_pass
from proxy.sandbox import Sandbox
from redis_server import RedisServer


@pytest.fixture(params=["sqlite", "redis"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store that is empty, but not so new that it permits but one creation call."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "state")
    server: RedisServer = request.getfixturevalue("redis_server")
    await let_a_minute_pass(server.url)
    return RedisPlace(server)


@pytest.fixture
async def fleet(place: Place, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[Processes]:
    """Processes to be started, which share that store."""
    async with Processes(sandbox, scan, place.setting) as fleet:
        yield fleet
