"""What the tests of single checks share."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NOBODY = 65_534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are for their owner."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def closed_folder(open_folder: Path) -> Iterator[Path]:
    """A folder that this user may not enter; root may enter all, so it becomes another user."""
    folder = open_folder / "closed"
    folder.mkdir(mode=0)
    us = os.geteuid()
    if us == 0:
        os.seteuid(NOBODY)
    yield folder
    os.seteuid(us)
    folder.chmod(0o700)
