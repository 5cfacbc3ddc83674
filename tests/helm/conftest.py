"""What the tests of the chart share."""

from collections.abc import Iterator

import pytest

from helm.engine import Helm, running_helm


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    """The real Helm."""
    with running_helm() as helm:
        yield helm
