"""A proxy in front of the scripted upstream; its tokens come from the sandbox."""

from collections.abc import AsyncIterator

import pytest

from harness import SecretScan
from proxy.app import App
from proxy.sandbox import Sandbox
from wire import Far, between


@pytest.fixture
async def app(far: Far, sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with between(far, sandbox, scan) as app:
        yield app
