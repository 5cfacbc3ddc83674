"""The installed command with listeners for unmodified apps, in front of the installed sandbox."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from harness import KEY, START_SECONDS, Command, InstalledSandbox, SecretScan, command, program
from proxy.config import Address
from unmodified.app import MARKET, App, run

DISTRUST = {"ca_not_trusted", "tls_handshake_failed"}
"""What becomes of a client that does not trust us: some tell why they leave, others only leave."""


@dataclass(frozen=True)
class Proxy:
    """One that serves; `ca` is the folder of its local CA, `within` what has a command reach it."""

    process: Command
    sandbox: InstalledSandbox
    addresses: Sequence[Address]
    """Of its listeners, in the order of the settings."""
    ca: Path
    within: Sequence[str]
    admin: str

    def run(self, app: App, *paths: str, via: Address | None = None) -> str:
        """Run an app that trusts the local CA, and return what it printed.

        It is told that `via`, a forward listener, is its proxy.
        """
        done = self._run(app, paths, via, app.trusting(self.ca))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_distrusting(self, app: App, *, via: Address | None = None) -> str:
        """Run an app that does not trust the local CA, and return how it complains."""
        done = self._run(app, (MARKET,), via, {})
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _run(
        self, app: App, paths: Sequence[str], via: Address | None, trust: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        proxy = app.through(via) if via else {}
        return run(app, *paths, variables=[trust, proxy], within=self.within)

    @contextlib.contextmanager
    def noticing_distrust(self) -> Iterator[None]:
        """Fail unless a client comes during the block that does not trust it, and is noticed.

        The log tells of such clients once a minute, the metrics of each.
        """
        before = self._distrusted()
        yield
        deadline = time.monotonic() + START_SECONDS
        while self._distrusted() == before:
            assert time.monotonic() < deadline, "it has noticed nothing"
            time.sleep(0.02)
        self.process.line("trust the local CA")

    def _distrusted(self) -> float:
        asked = [*self.within, program("curl"), "-sSf", f"http://{self.admin}/metrics"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
        return sum(
            sample.value
            for family in text_string_to_metric_families(done.stdout)
            for sample in family.samples
            if sample.labels.get("code") in DISTRUST
        )


@contextlib.contextmanager
def served(
    sandbox: InstalledSandbox,
    ca: Path,
    *settings: str,
    listeners: Sequence[dict[str, str]],
    scan: SecretScan,
) -> Iterator[Proxy]:
    """A proxy where the sandbox is; `settings` are for `--set`."""
    common = (
        f"listeners={json.dumps(listeners)}",
        "admin.bind=127.0.0.1:0",
        f"ca.dir={ca}",
    )
    sets = [part for each in (*common, *settings) for part in ("--set", each)]
    with command(
        "serve", *sets, scan=scan, environ={"MOBULA_API_KEY": KEY}, within=sandbox.within
    ) as process:
        record = process.serving()
        addresses = [Address.parse(each.split()[1]) for each in record["listeners"]]
        yield Proxy(process, sandbox, addresses, ca, sandbox.within, record["admin"])
