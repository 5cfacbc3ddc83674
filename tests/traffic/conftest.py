"""A proxy in front of the scripted upstream; its tokens come from the sandbox."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness import SecretScan
from proxy.app import App
from proxy.sandbox import Sandbox
from wire import Far, Start, between


@pytest.fixture
async def app(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan) as app:
        yield app


@pytest.fixture
def start(far: Far, way_out: Far, sandbox: Sandbox, scan: SecretScan, ca_folder: Path) -> Start:
    """A forward proxy for the upstream far.test; all other hosts are beyond `way_out`."""

    @contextlib.asynccontextmanager
    async def start(listener: Any = None, **sections: Any) -> AsyncIterator[App]:
        sections = {"upstream_proxy": f"http://{way_out.authority}"} | sections
        listener = {"mode": "forward"} | (listener or {})
        ca = {"dir": str(ca_folder)}
        async with between(far, sandbox, scan, listener=listener, ca=ca, **sections) as app:
            yield app

    return start


@pytest.fixture
async def forward(start: Start) -> AsyncIterator[App]:
    async with start() as app:
        yield app
