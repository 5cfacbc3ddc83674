"""Everything that a soak needs at once: a proxy, what is around it, and those who watch it."""

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from children import cpu_seconds
from harness import KEY, SecretScan, Served, serving
from proxy.config import Address
from proxy.sandbox import Sandbox
from soak.chaos import OTHER_KEY, Chaos
from soak.crowd import Crowd, Doors
from soak.feeds import FEEDS
from soak.polite import POLITE
from soak.rogue import Rogue
from soak.rude import LIMITS, RUDE
from soak.watch import Watch
from wire import Far, served

EVERYBODY = POLITE | FEEDS | RUDE
TOKEN_LIMIT = 200
"""So few requests that another token is drawn every few seconds, and expires before the last."""


@dataclass(frozen=True)
class Stage:
    """A proxy between clients and three upstreams, while it serves."""

    proxy: Served
    sandbox: Sandbox
    rogue: Rogue
    wayward: Rogue
    crowd: Crowd
    chaos: Chaos
    watch: Watch

    async def play(self, seconds: float, visits_a_second: float) -> None:
        """Let clients come and things go wrong, and watch; return when the last client has left."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch.keep())
            async with asyncio.TaskGroup() as actors:
                actors.create_task(self.chaos.strike(seconds))
                actors.create_task(self.crowd.visit(EVERYBODY, seconds, visits_a_second))
            watching.cancel()

    def report(self) -> str:
        """Tell in some lines what happened."""
        mine, its = cpu_seconds(os.getpid()), cpu_seconds(self.proxy.process.pid)
        lines = {
            "visits": _listed(self.crowd.visits),
            "answers": _listed(self.crowd.answers),
            "troubles": _listed(self.chaos.troubles),
            "requests that arrived": self.arrived,
            "tokens": len(self.sandbox.ledger.secrets()),
            "seconds of CPU": f"{its:.1f} for the proxy, {mine:.1f} for all around it",
            "findings": len(self.crowd.findings),
        }
        return "\n".join(f"{name}: {value}" for name, value in lines.items())

    @property
    def arrived(self) -> int:
        """Requests that reached an upstream."""
        at_sandbox: int = self.sandbox.ledger.report()["data_requests"]
        return at_sandbox + self.rogue.requests + self.wayward.requests


@contextlib.asynccontextmanager
async def staged(scan: SecretScan, folder: Path, seed: int) -> AsyncIterator[Stage]:
    """The installed command, once it has a token, in front of a sandbox that knows two keys."""
    key_file = folder / "api-key"
    key_file.write_text(KEY)
    scan.add(OTHER_KEY)
    rogue, wayward = Rogue(), Rogue()
    async with (
        Sandbox(keys={KEY: "growth", OTHER_KEY: "growth"}) as sandbox,
        Far() as port,
        served(port, rogue.serve),
        Far() as wayward_port,
        served(wayward_port, wayward.serve),
        serving(
            sandbox.url,
            scan,
            *_settings(port.authority, wayward_port.authority, folder / "socket"),
            environ={"MOBULA_API_KEY_FILE": str(key_file)},
        ) as proxy,
    ):
        scan.watch(sandbox)
        await proxy.ready()
        chaos = Chaos(sandbox, wayward_port, key_file, proxy.admin, seed)
        crowd = Crowd(_doors(proxy), rogue, chaos.struck, seed)
        yield Stage(proxy, sandbox, rogue, wayward, crowd, chaos, Watch(proxy, sandbox))


def _listed(counts: Counter[str]) -> str:
    each = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{counts.total()} ({each})"


def _settings(rogue: str, wayward: str, path: Path) -> list[str]:
    """Short times, so that what is idle has closed a few seconds after the load."""
    short = {"keepalive": 3, "head_timeout": 2, "idle_timeout": 2}
    listeners = [
        {"bind": "127.0.0.1:0"},
        {"bind": f"unix:{path}"},
        {"bind": "127.0.0.1:0", "upstream": "rogue.test"},
        {"bind": "127.0.0.1:0", "upstream": "wayward.test"},
    ]
    values = {
        "upstreams.api.mobula.io.keepalive": 3,
        "upstreams.rogue.test": {"url": f"http://{rogue}"} | short,
        "upstreams.wayward.test": {"url": f"http://{wayward}"} | short,
        "listeners": listeners,
        "token": {"expires_in": 60, "request_limit": TOKEN_LIMIT},
        "limits": LIMITS,
        "log.level": "debug",
    }
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def _doors(proxy: Served) -> Doors:
    listeners: list[str] = proxy.process.serving()["listeners"]
    return Doors(*(Address.parse(each.split()[1]) for each in listeners))
