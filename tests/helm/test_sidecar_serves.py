"""The container that the policy adds, started for real: apps get their data through it.

It runs the installed command with the container's own arguments and variables, on a machine of its
own with the pod's hosts, before the installed sandbox. The app is curl, with the variables that the
policy gave it.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import KEY, START_SECONDS, Command, SecretScan, command, installed_sandbox, program
from helm.admission import Cluster
from helm.cases import Values, merged
from helm.engine import Helm, Object
from helm.kubelet import Contents, Pod
from helm.test_injection import INJECTION, KEYED, MODES, NAME, asking, sidecar_of
from redis_server import RedisServer
from unmodified.app import APPS, ECHO, MARKET, check_calls, run
from unmodified.machine import Machine, own_machine

API = {"url": "http://api.mobula.io", "insecure": True}
DNS = {"api.mobula.io": "127.0.0.2"}
STORE_SECRET = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Running:
    """A pod whose sidecar has been started; `within` has a command run beside it."""

    mode: str
    pod: Object
    environ: dict[str, str]
    """The variables of the sidecar."""
    app: dict[str, str]
    """Those of the app."""
    sidecar: Command
    within: tuple[str, ...]

    def started(self) -> bool:
        """Tell whether a kubelet would start the app now."""
        container = sidecar_of(self.pod)
        probe = container["startupProbe"]["httpGet"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        url = f"http://127.0.0.1:{ports[probe['port']]}{probe['path']}"
        return self._curl("-o/dev/null", "-w%{http_code}", url) == "200"

    def until_started(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.started():
            assert time.monotonic() < deadline, self.sidecar.err
            time.sleep(0.02)

    def call(self, *paths: str) -> str:
        """Run the app, and return what it printed."""
        if self.mode == "reverse":
            base = self.app["MOBULA_API_URL"]
            return self._curl("-w", " %{http_code}\n", *(base + path for path in paths))
        done = run(APPS["curl"](), *paths, variables=[self.app], within=self.within)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _curl(self, *arguments: str) -> str:
        asked = [*self.within, program("curl"), "-sS", *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout


@contextlib.contextmanager
def running(
    helm: Helm, folder: Path, scan: SecretScan, mode: str, values: Values, secret: Contents
) -> Iterator[Running]:
    """A pod with a sidecar in this mode, where DNS leads to a sandbox and hostAliases do not."""
    hosts = folder / "hosts"
    hosts.write_text(_hosts(_injected(helm, mode, values)))
    with own_machine(hosts, DNS) as machine, installed_sandbox("127.0.0.2:80", machine.within):
        settings = {"resolver": "dns", "nameservers": [machine.nameserver]}
        pod = _injected(helm, mode, merged(values, {"config": settings}))
        _set_sysctls(pod, machine)
        kubelet = Pod(pod["spec"], [], folder, {NAME: secret})
        with kubelet.proxy(NAME, scan, _without_capabilities(machine)) as sidecar:
            sidecar.serving()
            environ, app = kubelet.environ(NAME), kubelet.environ("app")
            yield Running(mode, pod, environ, app, sidecar, machine.within)


def _injected(helm: Helm, mode: str, values: Values) -> Object:
    config = {"config": {"upstreams": {"api.mobula.io": API}}}
    return Cluster(helm.render(merged(INJECTION, config, values))).admit(asking(mode=mode))


def _hosts(pod: Object) -> str:
    """What stands in the pod's /etc/hosts."""
    aliases: list[Mapping[str, list[str]]] = pod["spec"].get("hostAliases", [])
    lines = [f"{alias['ip']} {' '.join(alias['hostnames'])}" for alias in aliases]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


def _set_sysctls(pod: Object, machine: Machine) -> None:
    context = pod["spec"].get("securityContext", {})
    for each in context.get("sysctls", ()):
        path = f"/proc/sys/{each['name'].replace('.', '/')}"
        subprocess.run(
            [*machine.within, "tee", path], input=each["value"], text=True, check=True, timeout=20
        )


def _without_capabilities(machine: Machine) -> tuple[str, ...]:
    """As the container's security context has it: also root may then not bind port 443."""
    drop = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    return (*machine.within, program("setpriv"), *drop, "--")


@contextlib.contextmanager
def minting(beside: Running, scan: SecretScan) -> Iterator[None]:
    """Have a minter on the same store."""
    changed = {"MOBULA_PROXY__ROLE": "minter", "MOBULA_PROXY__ADMIN__BIND": "127.0.0.1:0"}
    environ = beside.environ | changed | {"MOBULA_API_KEY": KEY}
    del environ["MOBULA_PROXY__LISTENERS"]
    with command("serve", scan=scan, environ=environ, within=beside.within) as process:
        process.serving()
        yield


@pytest.mark.parametrize("mode", MODES)
def test_an_app_gets_real_data_and_the_sidecar_ends_well(
    helm: Helm, mode: str, tmp_path: Path, scan: SecretScan
) -> None:
    """With SIGTERM, which a kubelet sends once the containers of a Job have ended."""
    with running(helm, tmp_path, scan, mode, KEYED, {"api-key": KEY}) as pod:
        pod.until_started()
        check_calls(pod.call(MARKET, ECHO))
        pod.sidecar.signal(signal.SIGTERM)
        assert pod.sidecar.wait() == 0


def test_the_app_of_a_keyless_sidecar_starts_once_the_minter_has_minted(
    helm: Helm, redis_server: RedisServer, tmp_path: Path, scan: SecretScan
) -> None:
    keyless = {"store": {"url": ""}, "sidecar": {"secret": {"storeUrlKey": "store-url"}}}
    secret = {"store-secret": STORE_SECRET, "store-url": f"unix://{redis_server.socket}"}
    with running(helm, tmp_path, scan, "reverse", keyless, secret) as pod:
        assert not pod.started()
        with minting(pod, scan):
            pod.until_started()
            check_calls(pod.call(MARKET, ECHO))
