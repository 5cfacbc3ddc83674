"""What the tests of the network room share."""

from collections.abc import AsyncIterator

import pytest

from name_server import NameServer


@pytest.fixture
async def name_server() -> AsyncIterator[NameServer]:
    """A name server that says what the test says."""
    async with NameServer() as server:
        yield server
