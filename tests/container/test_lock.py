"""The lock of what the image installs: that it agrees with what the tests ran with."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from container.lock import BACKEND, REPOSITORY, image_python, locked_pins, pins

LOCK = (REPOSITORY / "requirements.txt").read_text()


def test_every_pin_is_the_one_that_the_tests_ran_with() -> None:
    tested = pins("constraints.txt")
    assert {name: tested.get(name) for name in locked_pins()} == locked_pins()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_it_names_what_the_image_needs_and_nothing_else(machine: str) -> None:
    environment = {
        "python_version": image_python(),
        "python_full_version": f"{image_python()}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
    }
    needed = set(closure(Requirement("mobula-proxy[redis]"), environment))
    assert locked_pins().keys() == needed - {canonicalize_name("mobula-proxy")} | {BACKEND}


def test_the_build_backend_in_it_is_the_one_that_a_build_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == [f"{BACKEND}=={locked_pins()[BACKEND]}"]


def test_pip_is_given_hashes_of_every_package_and_no_place_to_get_it_from() -> None:
    lines = [line for line in LOCK.splitlines() if not line.lstrip().startswith("#")]
    entries = "\n".join(lines).replace("\\\n", "").splitlines()
    assert len(entries) == len(locked_pins())
    odd = [
        each
        for each in entries
        if not re.fullmatch(r"\S+==\S+( +--hash=sha256:[0-9a-f]{64})+", each)
    ]
    assert odd == []


def closure(requirement: Requirement, environment: dict[str, str]) -> Iterator[NormalizedName]:
    """Name a package and all that it needs there, as the packages installed here say."""
    yield canonicalize_name(requirement.name)
    for text in requires(requirement.name) or ():
        needed = Requirement(text)
        if wanted(needed, requirement.extras, environment):
            yield from closure(needed, environment)


def wanted(needed: Requirement, extras: set[str], environment: dict[str, str]) -> bool:
    if needed.marker is None:
        return True
    return any(needed.marker.evaluate({**environment, "extra": extra}) for extra in (*extras, ""))
