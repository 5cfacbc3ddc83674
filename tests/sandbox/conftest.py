from collections.abc import AsyncIterator

import pytest

from proxy.sandbox import Sandbox
from sandbox.kit import KEYS, Api, Clock, api_of


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slept() -> list[float]:
    """The waits that the sandbox made, none of which took time."""
    return []


@pytest.fixture
async def api(clock: Clock, slept: list[float]) -> AsyncIterator[Api]:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with api_of(Sandbox(keys=KEYS, clock=clock, sleep=sleep)) as api:
        yield api
