"""What tests with apps have in common: one set of secrets for all tests of a module."""

from collections.abc import Iterator

import pytest

from harness import SecretScan


@pytest.fixture(scope="module")
def scan() -> Iterator[SecretScan]:
    scan = SecretScan()
    yield scan
    assert not scan.leaks(), "a secret was logged or printed"
