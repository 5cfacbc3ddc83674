"""The lock of what the image installs, as pip reads it."""

import re
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import NormalizedName, canonicalize_name

REPOSITORY = Path(__file__).parents[2]
BACKEND = canonicalize_name("setuptools")
"""Builds the wheel, and stays behind in the stage that does."""
_PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def locked_pins() -> Mapping[NormalizedName, str]:
    return pins("requirements.txt")


def pins(file: str) -> Mapping[NormalizedName, str]:
    """Return the version of each package that a file of requirements pins."""
    found = _PIN.findall((REPOSITORY / file).read_text())
    return {canonicalize_name(name): version for name, version in found}


def image_python() -> str:
    """Return the version that `make lock` chooses for, as in 3.13."""
    found = re.search(
        r"^IMAGE_PYTHON := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE
    )
    assert found
    return found[1]
