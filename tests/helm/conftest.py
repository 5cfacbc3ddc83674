"""What the tests of the chart share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helm.engine import CHART, Helm, running_helm


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    """The real Helm."""
    with running_helm() as helm:
        yield helm


@pytest.fixture(scope="session")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chart that depends on ours, after `helm dependency build`."""
    folder = tmp_path_factory.mktemp("charts") / "shop"
    shutil.copytree(Path(__file__).parent / "consumer", folder)
    shutil.copytree(CHART, folder / "charts" / CHART.name)
    return folder
