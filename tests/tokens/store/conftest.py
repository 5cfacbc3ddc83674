"""Every test of a fleet runs once for each kind of store."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.tokens.budget import WINDOW
from proxy.tokens.store.base import Report
from tokens.store.fleets import FLEETS, Fleet


@pytest.fixture(params=FLEETS)
async def new_fleet(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[], Fleet]]:
    """Make fleets, each with a store of its own."""
    kind = FLEETS[request.param]
    needed = [request.getfixturevalue(name) for name in kind.needs]
    async with AsyncExitStack() as stack:
        made = 0

        def make() -> Fleet:
            nonlocal made
            made += 1
            fleet = kind(tmp_path / str(made), *needed)
            stack.push_async_callback(fleet.close)
            return fleet

        yield make


@pytest.fixture
def new_epoch(new_fleet: Callable[[], Fleet]) -> Fleet:
    """A fleet whose store knows nothing yet."""
    return new_fleet()


@pytest.fixture
async def fleet(new_epoch: Fleet) -> Fleet:
    """A fleet whose store is a minute old, and has no sharer."""
    await (await new_epoch.member()).attend(Report(rate=0.0, wants_right=False))
    new_epoch.pass_time(WINDOW)
    return new_epoch
