"""What is rendered runs: the installed command, with the files and the environment of its pod."""

import asyncio
import contextlib
import hashlib
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from cryptography import x509

from api_server import ApiServer
from harness import KEY, START_SECONDS, Command, SecretScan, get, program
from helm.cases import BARE, FORWARD, KEYLESS, OPEN, TLS, Values, existing, merged, on
from helm.engine import Helm, Object
from helm.kube import only, pod_of
from helm.kubelet import Contents, Pod
from proxy.config import ServiceAccountSettings
from proxy.sandbox import Sandbox
from proxy.traffic.ca import LocalCA
from redis_server import RedisServer, running_redis

DATA = "/api/1/market/data?asset=Bitcoin"
STORE_SECRET = "5" * 64
CA_FILE, TOKEN_FILE = ServiceAccountSettings().ca_file, ServiceAccountSettings().token_file
TOKEN = "client-token-7d1f0c"
CLIENT = {"tokens": [f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}"]}
PROXY = "mobula-proxy"
SECRETS: Mapping[str, Contents] = {
    "mobula": {"api-key": KEY},
    "fleet": {"store-secret": STORE_SECRET},
}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", password="of-redis") as server:
        yield server


@pytest.fixture
def closed(sandbox: Sandbox) -> Values:
    """A gateway in front of the sandbox, with the store's URL in a Secret, that knows no client."""
    return merged(
        BARE,
        {
            "store": {"url": "", **existing("redis-url")},
            "config": {"upstreams": {"api.mobula.io": {"url": sandbox.url}}},
        },
    )


@pytest.fixture
def values(closed: Values) -> Values:
    """The same for everyone."""
    return merged(closed, OPEN)


@dataclass(frozen=True)
class Cluster:
    """Where rendered pods run."""

    folder: Path
    secrets: Mapping[str, Contents]
    scan: SecretScan

    def having(self, **secrets: Contents) -> "Cluster":
        """Return it with more Secrets, named with _ for -."""
        named = {name.replace("_", "-"): each for name, each in secrets.items()}
        return replace(self, secrets={**self.secrets, **named})

    def pod(self, objects: list[Object], kind: str, part: str, replica: int = 0) -> Pod:
        """Return a pod of a part, on a disk of its own."""
        template = pod_of(only(objects, kind, f"-{part}"))
        assert template is not None
        folder = self.folder / f"{part}-{replica}"
        return Pod(template["spec"], objects, folder, self.secrets)

    @contextlib.asynccontextmanager
    async def running(self, pod: Pod) -> AsyncIterator["Running"]:
        """Run a pod's proxy, from when it serves on."""
        pod.prepare()
        with pod.proxy(PROXY, self.scan) as process:
            record = await asyncio.to_thread(process.serving)
            addresses = dict(str(each).split()[:2] for each in record["listeners"])
            urls = {mode: f"http://{address}" for mode, address in addresses.items()}
            yield Running(process, urls, f"http://{record['admin']}")


@dataclass(frozen=True)
class Running:
    """A proxy of a pod: its process, its listeners' URLs by mode, and that of its admin port."""

    process: Command
    urls: Mapping[str, str]
    admin: str

    @property
    def url(self) -> str:
        return self.urls["reverse"]

    async def passes(self, probe: Mapping[str, Any]) -> None:
        """Wait until a probe gets what the kubelet wants to see."""
        async with asyncio.timeout(START_SECONDS):
            while (await get(self.admin + probe["httpGet"]["path"]))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def cluster(tmp_path: Path, redis: RedisServer, scan: SecretScan) -> Cluster:
    url = redis.url.replace("redis://", "redis://:of-redis@")
    return Cluster(tmp_path, {**SECRETS, "redis-url": {"url": url}}, scan)


def container_of(objects: list[Object], part: str) -> Object:
    pod = pod_of(only(objects, "Deployment", f"-{part}"))
    assert pod is not None
    return dict(pod["spec"]["containers"][0])


def address_of(url: str) -> list[str]:
    """Host and port, as helm's test takes them."""
    return url.partition("://")[2].split(":")


async def test_a_gateway_passes_its_probes_serves_and_ends_within_its_grace_period(
    helm: Helm, cluster: Cluster, values: Values
) -> None:
    objects = helm.render(values)
    container = container_of(objects, "gateway")
    async with cluster.running(cluster.pod(objects, "Deployment", "gateway")) as gateway:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            await gateway.passes(container[probe])
        status, _, body = await get(gateway.url + DATA)
        assert status == 200
        assert b"Bitcoin" in body
        gateway.process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.process.wait) == 143


async def test_replicas_of_a_gateway_share_their_tokens(
    helm: Helm, cluster: Cluster, values: Values, sandbox: Sandbox
) -> None:
    objects = helm.render(values)
    ready = container_of(objects, "gateway")["readinessProbe"]
    pods = [cluster.pod(objects, "Deployment", "gateway", replica) for replica in range(2)]
    async with cluster.running(pods[0]) as first, cluster.running(pods[1]) as second:
        for each in (first, second):
            await each.passes(ready)
            assert (await get(each.url + DATA))[0] == 200
    assert sandbox.ledger.report()["mint_calls"] == 1


async def test_a_keyless_gateway_lives_on_what_its_minter_mints(
    helm: Helm, cluster: Cluster, values: Values
) -> None:
    objects = helm.render(merged(values, KEYLESS))
    minter = cluster.pod(objects, "Deployment", "minter")
    gateway = cluster.pod(objects, "Deployment", "gateway")
    async with cluster.running(minter) as minting, cluster.running(gateway) as serving:
        await minting.passes(container_of(objects, "minter")["readinessProbe"])
        await serving.passes(container_of(objects, "gateway")["readinessProbe"])
        assert (await get(serving.url + DATA))[0] == 200
    files = [each for each in gateway.folder.rglob("*") if each.is_file()]
    assert files
    assert not [each for each in files if KEY in each.read_text()]


async def test_all_replicas_of_a_forward_listener_show_certificates_of_one_ca(
    helm: Helm, cluster: Cluster, values: Values, tmp_path: Path
) -> None:
    key = LocalCA.open(tmp_path / "made", ["api.mobula.io"]).key_file.read_text()
    cluster = cluster.having(local_ca={"ca-key.pem": key})
    objects = helm.render(merged(values, FORWARD))
    keys = []
    for replica in range(2):
        pod = cluster.pod(objects, "Deployment", "gateway", replica)
        async with cluster.running(pod):
            pem = pod.file(PROXY, "/var/lib/mobula-proxy/ca/ca.pem").read_bytes()
        keys.append(x509.load_pem_x509_certificate(pem).public_key())
    assert keys[0] == keys[1]


async def test_an_app_has_a_gateway_as_its_proxy_with_its_own_token(
    helm: Helm, cluster: Cluster, closed: Values, tmp_path: Path
) -> None:
    ca = LocalCA.open(tmp_path / "made", ["api.mobula.io"])
    cluster = cluster.having(local_ca={"ca-key.pem": ca.key_file.read_text()})
    objects = helm.render(merged(closed, FORWARD, {"config": {"clients": {"research": CLIENT}}}))
    pod = cluster.pod(objects, "Deployment", "gateway")
    trust = pod.file(PROXY, "/var/lib/mobula-proxy/ca/ca.pem")

    async def called(token: str, place: str) -> str:
        proxy = f"http://client:{token}@{place}"
        curl = [program("curl"), "-sSf", "--cacert", str(trust), "--proxy", proxy]
        done = await asyncio.to_thread(
            subprocess.run,
            [*curl, "--write-out", "%{http_connect}", f"https://api.mobula.io{DATA}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return str(done.stdout)

    async with cluster.running(pod) as gateway:
        place = gateway.urls["forward"].removeprefix("http://")
        assert "Bitcoin" in await called(TOKEN, place)
        assert await called("another-token", place) == "407"


async def test_helm_test_passes_in_front_of_a_gateway_and_fails_in_front_of_anything_else(
    helm: Helm, cluster: Cluster, values: Values, sandbox: Sandbox
) -> None:
    objects = helm.render(values)
    test = cluster.pod(objects, "Pod", "test")
    async with cluster.running(cluster.pod(objects, "Deployment", "gateway")) as gateway:
        passed = await asyncio.to_thread(test.run, "test", *address_of(gateway.url))
        assert passed.returncode == 0, passed.stderr
        assert "answers 403" in passed.stdout
    other = await asyncio.to_thread(test.run, "test", *address_of(sandbox.url))
    assert other.returncode == 1
    assert "(not the proxy)" in other.stdout


@pytest.mark.parametrize("place", ["settings", "Secret"])
async def test_a_gateway_serves_the_clients_that_it_is_told_of(
    helm: Helm, cluster: Cluster, closed: Values, place: str
) -> None:
    clients = {"research": CLIENT}
    named = (
        {"config": {"clients": clients}} if place == "settings" else {"clients": existing("who")}
    )
    cluster = cluster.having(who={"clients.yaml": yaml.safe_dump(clients)})
    objects = helm.render(merged(closed, named))
    async with cluster.running(cluster.pod(objects, "Deployment", "gateway")) as gateway:
        assert (await get(gateway.url + DATA))[0] == 401
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert (await get(gateway.url + DATA, headers=known))[0] == 200


async def test_a_gateway_speaks_tls_and_knows_clients_by_their_certificates(
    helm: Helm, cluster: Cluster, closed: Values
) -> None:
    ca = trustme.CA()
    shown, client = ca.issue_cert("127.0.0.1"), ca.issue_cert("app.research.svc")
    cluster = cluster.having(
        gateway_tls={
            "tls.crt": b"".join(each.bytes() for each in shown.cert_chain_pems).decode(),
            "tls.key": shown.private_key_pem.bytes().decode(),
        },
        team_ca={"ca.crt": ca.cert_pem.bytes().decode()},
    )
    clients = {"research": {"certificates": ["app.research.svc"]}}
    objects = helm.render(merged(closed, TLS, {"config": {"clients": clients}}))
    test = cluster.pod(objects, "Pod", "test")
    async with cluster.running(cluster.pod(objects, "Deployment", "gateway")) as gateway:
        url = gateway.url.replace("http://", "https://")
        context = ssl.create_default_context()
        ca.configure_trust(context)
        assert (await get(url + DATA, ssl=context))[0] == 401
        client.configure_cert(context)
        assert (await get(url + DATA, ssl=context))[0] == 200
        passed = await asyncio.to_thread(test.run, "test", *address_of(url))
        assert passed.returncode == 0, passed.stderr


async def test_a_gateway_asks_the_api_server_whose_token_it_is(
    helm: Helm, cluster: Cluster, closed: Values, tmp_path: Path
) -> None:
    async with ApiServer(tmp_path, time.time) as api:
        cluster = cluster.having(**{"kube-root-ca.crt": {"ca.crt": api.ca_file.read_text()}})
        config = {
            "clients": {"research": {"service_accounts": ["research/app"]}},
            # The paths are those that it has anyhow; named, they are moved to where the files are.
            "service_accounts": {"url": api.url, "ca_file": CA_FILE, "token_file": TOKEN_FILE},
        }
        objects = helm.render(merged(closed, on("tokenReview"), {"config": config}))
        async with cluster.running(cluster.pod(objects, "Deployment", "gateway")) as gateway:
            for account, status in (("research/app", 200), ("research/other", 403)):
                shown = {"Authorization": f"Bearer {api.issue(account).decode()}"}
                assert (await get(gateway.url + DATA, headers=shown))[0] == status
