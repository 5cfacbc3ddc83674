"""Child processes of the benchmarks: the sandbox and the installed proxy, on free ports."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

KEY = "bench-static-key"
COMMAND = Path(sys.executable).with_name("mobula-proxy")


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its process id, where it serves, and seconds from start to ready."""

    pid: int
    url: str
    ready_seconds: float


@contextlib.contextmanager
def _child(*arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [COMMAND, *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextlib.contextmanager
def sandbox() -> Iterator[str]:
    """Run a sandbox that knows KEY; yield its URL."""
    with _child("sandbox", "--bind", "127.0.0.1:0", "--key", KEY) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found[0]


@contextlib.contextmanager
def proxy(upstream: str, *settings: str) -> Iterator[Proxy]:
    """Run a proxy in front of `upstream` and wait until it is ready."""
    free = 'listeners=[{"bind": "127.0.0.1:0"}]'
    values = [f"upstreams.api.mobula.io.url={upstream}", free, "admin.bind=127.0.0.1:0", *settings]
    started = time.perf_counter()
    flags = [flag for value in values for flag in ("--set", value)]
    with _child("serve", *flags, MOBULA_API_KEY=KEY) as process:
        assert process.stderr is not None
        served = json.loads(process.stderr.readline())
        while not _answers_200(f"http://{served['admin']}/readyz"):
            time.sleep(0.002)
        seconds = time.perf_counter() - started
        yield Proxy(process.pid, "http://" + served["listeners"][0].split()[1], seconds)


def _answers_200(url: str) -> bool:
    with contextlib.suppress(OSError), urlopen(url, timeout=5) as response:  # noqa: S310 - http
        return bool(response.status == 200)
    return False


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """One memory figure of a process, in MB (10^6 bytes), as the kernel counts it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"the kernel tells no {field}")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, user and system together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
