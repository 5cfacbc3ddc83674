"""The stage of each listener mode: a client's way in, a proxy, and a scripted upstream."""

from collections.abc import AsyncIterator

import pytest

from conformance.doors import DOORS, Enter
from conformance.exchange import Stage
from harness import SecretScan, until_ready
from proxy.app import App
from proxy.sandbox import Sandbox
from wire import Far, between


@pytest.fixture(params=DOORS)
def mode(request: pytest.FixtureRequest) -> str:
    """Every listener mode that there is; see `doors`."""
    return str(request.param)


@pytest.fixture
async def app(mode: str, far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan, listener={"mode": mode}) as app:
        await until_ready(app)
        yield app


@pytest.fixture
def enter(mode: str, app: App) -> Enter:
    """Open a client's connection."""
    return DOORS[mode](app)


@pytest.fixture
def stage(enter: Enter, far: Far) -> Stage:
    return Stage(enter, far)
