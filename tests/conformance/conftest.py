"""The stage of each listener mode: a client's way in, a proxy, and a scripted upstream."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conformance.doors import DOORS, HOST, Enter, Serve
from conformance.exchange import Stage
from harness import SecretScan, until_ready
from proxy.app import App
from proxy.sandbox import Sandbox
from wire import Far, Upstream, between


@pytest.fixture(params=DOORS)
def mode(request: pytest.FixtureRequest) -> str:
    """Every listener mode that there is; see `doors`."""
    return str(request.param)


@pytest.fixture
def serve(mode: str, sandbox: Sandbox, scan: SecretScan, ca_folder: Path) -> Serve:
    @contextlib.asynccontextmanager
    async def serve(far: Upstream, **sections: Any) -> AsyncIterator[tuple[App, Enter]]:
        sections = {"listener": {"mode": mode}, "ca": {"dir": str(ca_folder)}, **sections}
        async with between(far, sandbox, scan, name=HOST, **sections) as app:
            await until_ready(app)
            yield app, DOORS[mode](app, ca_folder)

    return serve


@pytest.fixture
async def app_and_enter(serve: Serve, far: Far) -> AsyncIterator[tuple[App, Enter]]:
    async with serve(far) as both:
        yield both


@pytest.fixture
def app(app_and_enter: tuple[App, Enter]) -> App:
    return app_and_enter[0]


@pytest.fixture
def enter(app_and_enter: tuple[App, Enter]) -> Enter:
    """Open a client's connection."""
    return app_and_enter[1]


@pytest.fixture
def stage(enter: Enter, far: Far) -> Stage:
    return Stage(enter, far)
