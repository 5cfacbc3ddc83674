"""What is seen of a proxy from outside: memory, descriptors, tasks, leases, and both ledgers."""

import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from children import memory_mb
from harness import Served, get
from proxy.sandbox import Sandbox

LOOK_SECONDS = 1.0
LOOKS_A_LINE = 60


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a proxy: seconds since the watch began, private memory in MB, what is open."""

    at: float
    memory: float
    files: int
    tasks: int
    clients: int
    leases: int
    settled: int

    def __str__(self) -> str:
        return (
            f"{self.at:5.0f} s: {self.memory:.1f} MB private, {self.files} descriptors, "
            f"{self.tasks} tasks, {self.clients} clients, {self.leases} leases open, "
            f"{self.settled} settled"
        )

    def holds_no_more_than(self, other: "Sight") -> bool:
        return (
            self.files <= other.files
            and self.tasks <= other.tasks
            and self.clients <= other.clients
            and self.leases <= other.leases
        )


class Watch:
    """Looks at a proxy again and again; `undercharged` are tokens on which Mobula counted more."""

    def __init__(self, served: Served, sandbox: Sandbox) -> None:
        self.sights: list[Sight] = []
        self.undercharged: set[str] = set()
        self._served = served
        self._sandbox = sandbox
        self._began = time.monotonic()

    async def keep(self) -> None:
        """Look until cancelled; say what is seen once a minute."""
        while True:
            self.sights.append(await self.look())
            await self._compare_ledgers()
            if len(self.sights) % LOOKS_A_LINE == 0:
                say(self.sights[-1])
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> Sight:
        metrics = await self._metrics()
        pid = self._served.process.pid
        return Sight(
            at=time.monotonic() - self._began,
            memory=memory_mb(pid, "RssAnon"),
            files=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - it is no file's folder
            tasks=metrics["mobula_proxy_tasks"],
            clients=metrics["mobula_proxy_client_connections"],
            leases=metrics["mobula_proxy_leases_open"],
            settled=metrics["mobula_proxy_leases_settled_total"],
        )

    async def at_rest(self) -> Sight:
        """Return the least of some looks, since what has just been done takes a moment to end."""
        sights = [await self.look() for _ in range(10)]
        return min(sights, key=lambda each: (each.files, each.tasks))

    async def back_to(self, before: Sight, seconds: float) -> Sight:
        """Look until no more is held than before; return the last look, whatever it showed."""
        end = time.monotonic() + seconds
        sight = await self.look()
        while not sight.holds_no_more_than(before) and time.monotonic() < end:
            await asyncio.sleep(0.1)
            sight = await self.look()
        return sight

    def memory(self, start: float, seconds: float) -> float:
        """Return the median of the private memory over so many seconds, in MB."""
        end = start + seconds
        return statistics.median(each.memory for each in self.sights if start <= each.at <= end)

    async def _metrics(self) -> dict[str, int]:
        """Scrape; samples that differ only by their labels are added up."""
        _, _, body = await get(self._served.admin + "/metrics")
        sums: dict[str, int] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + int(sample.value)
        return sums

    async def _compare_ledgers(self) -> None:
        """Read Mobula's count first: whatever it has counted, the proxy has charged before."""
        counted = {each["id"]: each["used"] for each in self._sandbox.ledger.report()["tokens"]}
        _, _, body = await get(self._served.admin + "/status")
        for token in json.loads(body)["tokens"]["tokens"]:
            if counted.get(token["id"], 0) > token["limit"] - token["left"]:
                self.undercharged.add(token["id"])


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()
