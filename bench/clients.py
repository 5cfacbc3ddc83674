"""Print what it costs to ask for clients: who it is, a request through the proxy, and the start.

Each with few clients and with ten thousand. These machines are noisy, so compare figures of one run
only. CPU per request counts the proxy alone.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from children import KEY, Proxy, cpu_seconds, memory_mb, proxy, sandbox
from load import load
from proxy.traffic.auth import NO_EVIDENCE, Auth, Evidence, Visit
from proxy.traffic.reception import read_roster

PATH = "/api/1/market/data?asset=Bitcoin"
REQUESTS = 30_000
WARM_UP = 2_000
CONNECTIONS = 64
CALLS = 100_000
MANY = 10_000
LIMITS = {"requests_per_second": 1e6, "requests_per_day": 10**12, "paths": ["/api/1"]}


def token_of(number: int) -> str:
    return f"token-{number}-{'x' * 32}"


def account_of(number: int) -> str:
    return f"namespace-{number}/app"


def known_by(number: int, **more: Any) -> dict[str, Any]:
    """Return the settings of a client that is known by one of each."""
    digest = hashlib.sha256(token_of(number).encode()).hexdigest()
    return {
        "tokens": [f"sha256:{digest}"],
        "certificates": [f"spiffe://cluster.local/ns/namespace-{number}/sa/app"],
        "uids": [number],
        "service_accounts": [account_of(number)],
        **more,
    }


def named(count: int, **more: Any) -> dict[str, dict[str, Any]]:
    return {f"client-{number}": known_by(number, **more) for number in range(count)}


def written(folder: Path, clients: Mapping[str, Any]) -> Path:
    """Return the file in which they stand."""
    file = folder / "clients.yaml"
    file.write_text(json.dumps(clients))  # which is YAML as well
    return file


class Remembered:
    """Reviews that have all been made: a token is looked up by its hash, as it is for real."""

    def __init__(self, count: int) -> None:
        self._accounts = {
            hashlib.sha256(jwt_of(number)).digest(): account_of(number) for number in range(count)
        }

    def known(self, token: bytes) -> str | None:
        return self._accounts.get(hashlib.sha256(token).digest())

    def looks_like_one(self, token: bytes) -> bool:
        return token.count(b".") == 2

    async def review(self, token: bytes) -> str:
        raise NotImplementedError


def jwt_of(number: int) -> bytes:
    """Return what is as long as a ServiceAccount's token."""
    return b"%08d.%b.%b" % (number, b"x" * 600, b"x" * 340)


# Who it is


def visits(number: int) -> Mapping[str, Visit]:
    certificate = f"spiffe://cluster.local/ns/namespace-{number}/sa/app"
    return {
        "token": Visit(NO_EVIDENCE, (token_of(number).encode(),)),
        "token behind another": Visit(NO_EVIDENCE, (b"an-apps-own", token_of(number).encode())),
        "certificate": Visit(Evidence(names=(certificate,)), ()),
        "user": Visit(Evidence(uid=number), ()),
        "ServiceAccount": Visit(NO_EVIDENCE, (jwt_of(number),)),
    }


def microseconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - started) / CALLS * 1e6


def asked(folder: Path, count: int, **more: Any) -> dict[str, float]:
    """Return how long it takes to let in each kind of client, in microseconds."""
    roster = read_roster({}, str(written(folder, named(count, **more))))
    auth = Auth(roster, reviews=Remembered(count))

    def admit(visit: Visit) -> None:
        guest = auth.recognise(visit)
        assert guest is not None
        auth.admit(guest, "GET", PATH.encode())

    found = visits(count - 1)
    return {kind: microseconds(partial(admit, visit)) for kind, visit in found.items()}


def print_asked(folder: Path) -> None:
    few, many = asked(folder, 1), asked(folder, MANY)
    limited = asked(folder, MANY, **LIMITS)
    for kind in few:
        print(
            f"{kind:20}  1 client {few[kind]:5.2f} µs   {MANY} clients {many[kind]:5.2f} µs   "
            f"with limits {limited[kind]:5.2f} µs"
        )


# A request through the proxy


async def measure(running: Proxy, key: str) -> str:
    async def run(requests: int) -> None:
        result = await load(
            running.url + PATH,
            requests=requests,
            connections=CONNECTIONS,
            headers=f"x-api-key: {key}\r\n",
        )
        assert result.failed == 0, result.statuses

    await run(WARM_UP)
    before = cpu_seconds(running.pid)
    await run(REQUESTS)
    cpu = (cpu_seconds(running.pid) - before) / REQUESTS * 1e6
    return (
        f"{cpu:6.1f} µs of CPU a request, {memory_mb(running.pid):5.1f} MB, "
        f"ready after {running.ready_seconds:4.2f} s"
    )


def settings_for(folder: Path, clients: Mapping[str, Any]) -> list[str]:
    """Return settings with which these clients alone are served."""
    file = written(folder, clients)
    listener = {"bind": "127.0.0.1:0", "authenticate": True}
    return [f"listeners={json.dumps([listener])}", f"clients_file={file}"]


async def print_requests(folder: Path) -> None:
    often = "token.request_limit=1000000"
    crowds = {
        "nobody is asked for": {},
        "1 client": named(1),
        f"{MANY} clients": named(MANY),
        f"{MANY} with limits": named(MANY, **LIMITS),
    }
    with sandbox() as url:
        for title, clients in crowds.items():
            settings = settings_for(folder, clients) if clients else []
            key = token_of(len(clients) - 1) if clients else KEY
            with proxy(url, often, *settings) as running:
                print(f"{title:20} {await measure(running, key)}")


def print_reading(folder: Path) -> None:
    file = written(folder, named(MANY))
    started = time.perf_counter()
    read_roster({}, str(file))
    print(f"{MANY} clients are read from their file in {time.perf_counter() - started:.2f} s")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print_asked(Path(folder))
        print_reading(Path(folder))
        await print_requests(Path(folder))


if __name__ == "__main__":
    uvloop.run(main())
