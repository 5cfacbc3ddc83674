"""A machine of its own for some processes: its ports are free, and it has names of its own.

Linux makes one of namespaces (namespaces(7)); for all others nothing changes.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import program

HOLD = Path(__file__).with_name("hold.py")
KINDS = ((), ("--user", "--map-root-user"))
"""What is asked of the system: it grants the first to root, the second to others, if at all."""
REFUSALS = ("not permitted", "permission denied", "no space left", "invalid argument")
"""How it says that it grants no namespaces here, or lets nothing be done in them."""


@dataclass(frozen=True)
class Machine:
    """`within` has a command run there, when it stands before it; `nameserver` is of its DNS."""

    within: tuple[str, ...]
    nameserver: str


@contextlib.contextmanager
def own_machine(hosts: Path, dns: Mapping[str, str]) -> Iterator[Machine]:
    """A machine with this file as its /etc/hosts, and with these addresses of names in DNS.

    A test that needs one is skipped where the system grants none, also in CI: nothing helps there.
    """
    refusals = []
    for kind in KINDS:
        with _held(kind, hosts, dns) as holder:
            assert holder.stdout
            assert holder.stderr
            if nameserver := holder.stdout.readline().strip():
                yield Machine(_entering(kind, holder.pid), nameserver)
                return
            refusals.append(holder.stderr.read())
    if all(any(each in text.lower() for each in REFUSALS) for text in refusals):
        pytest.skip(f"the system grants no namespaces: {refusals}")
    pytest.fail(f"no machine could be made: {refusals}")


@contextlib.contextmanager
def _held(
    kind: tuple[str, ...], hosts: Path, dns: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run what keeps a machine in being; it ends with its standard input, so when we do."""
    records = [f"{name}={address}" for name, address in dns.items()]
    with subprocess.Popen(
        [program("unshare"), *kind, "--mount", "--net", sys.executable, HOLD, hosts, *records],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONPATH": str(HOLD.parents[1])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        yield holder


def _entering(kind: tuple[str, ...], pid: int) -> tuple[str, ...]:
    user = ("--user", "--preserve-credentials") if kind else ()
    return (program("nsenter"), "--target", str(pid), *user, "--mount", "--net", "--")
