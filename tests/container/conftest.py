"""What tests of the container have in common: one image, and a volume for each."""

from pathlib import Path

import pytest

from container.image import Image, built


@pytest.fixture(scope="session")
def image() -> Image:
    return built()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder to mount, which everybody may write to: an emptyDir of Kubernetes is like that."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
