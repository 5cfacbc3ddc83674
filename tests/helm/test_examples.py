"""The examples of docs/kubernetes.md: whole manifests and values, as someone would copy them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm import kube
from helm.admission import Cluster
from helm.engine import CHART, Helm, Object
from helm.kube import pod_of
from helm.security import violations
from helm.test_injection import NAME, sidecar_of
from helm.test_sidecar import environment
from proxy.config import load

PAGE = (CHART.parents[1] / "docs" / "kubernetes.md").read_text()
FENCE = re.compile(r"^```yaml\n# ([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INSTALL = re.compile(
    r"^helm install (\S+) helm/mobula-proxy --namespace (\S+) --values (\S+)$", re.MULTILINE
)
FILES = {
    name: list(yaml.safe_load_all(text.replace("…", "0" * 64)))
    for name, text in FENCE.findall(PAGE)
}
EXCERPT = ": injected"
MANIFESTS = {name: each for name, each in FILES.items() if "kind" in each[0]}
VALUES = {
    name: each[0]
    for name, each in FILES.items()
    if name not in MANIFESTS and not name.endswith(EXCERPT)
}
INJECTED = {
    name: thing
    for name, (thing, *_) in MANIFESTS.items()
    if (pod := pod_of(thing)) and "annotations" in pod["metadata"]
}

every_version = pytest.mark.parametrize("version", kube.VERSIONS)


@pytest.fixture(scope="module")
def cluster(helm: Helm) -> Cluster:
    """One with the fleet of the page."""
    return Cluster(helm.render(VALUES["fleet.yaml"], release="fleet", namespace="egress"))


def created(cluster: Cluster, thing: Object) -> Object:
    """A pod of what makes pods, as the cluster stores it."""
    cluster.admit(thing, namespace=thing["metadata"]["namespace"])
    pod = pod_of(thing)
    assert pod
    meta = {"name": "a-pod", **pod["metadata"]}
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod["spec"]}
    return cluster.admit(whole, namespace=thing["metadata"]["namespace"])


def test_each_use_has_an_example() -> None:
    assert list(VALUES) == ["fleet.yaml", "gateway.yaml"]
    kinds = {name: thing["kind"] for name, thing in INJECTED.items()}
    assert kinds == {
        "shop.yaml": "Deployment",
        "prices.yaml": "Deployment",
        "legacy.yaml": "Deployment",
        "report.yaml": "Job",
        "nightly.yaml": "CronJob",
    }


@pytest.mark.parametrize("name", MANIFESTS)
@every_version
def test_kubernetes_takes_each_manifest(name: str, version: str) -> None:
    kube.validate(MANIFESTS[name], version)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_pods_of_each_manifest_keep_to_the_restricted_standard(name: str) -> None:
    for pod in filter(None, map(pod_of, MANIFESTS[name])):
        assert violations(pod["spec"]) == []


@pytest.mark.parametrize("name", INJECTED)
@every_version
def test_so_do_they_with_the_sidecar_and_kubernetes_takes_them(
    cluster: Cluster, name: str, version: str
) -> None:
    pod = created(cluster, INJECTED[name])
    kube.validate([pod], version)
    assert violations(pod["spec"]) == []


@pytest.mark.parametrize("name", INJECTED)
def test_the_proxy_takes_the_settings_of_each_sidecar(cluster: Cluster, name: str) -> None:
    pod = created(cluster, INJECTED[name])
    settings = load(file=None, environ=environment(sidecar_of(pod)), overrides=())
    asked = pod["metadata"]["annotations"]
    assert settings.listeners[0].mode == asked.get(f"{NAME}/mode", "reverse")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(EXCERPT)])
def test_what_the_page_shows_of_an_injected_pod_is_in_it(cluster: Cluster, name: str) -> None:
    pod = created(cluster, INJECTED[name.removesuffix(EXCERPT)])
    assert list(_missing(FILES[name][0], pod)) == []


def _missing(shown: Any, whole: Any, path: str = "") -> Iterator[str]:
    """What is shown and not there. Items of a list are known by their name or address."""
    match shown, whole:
        case dict(), dict():
            for name, each in shown.items():
                yield from _missing(each, whole.get(name), f"{path}/{name}")
        case [dict(), *_], list():
            for each in shown:
                key = "ip" if "ip" in each else "name"
                same = next((other for other in whole if other[key] == each[key]), None)
                yield from _missing(each, same, f"{path}/{each[key]}")
        case _:
            yield from [path] if shown != whole else []


@pytest.mark.parametrize(("release", "namespace", "name"), INSTALL.findall(PAGE))
@every_version
def test_helm_renders_the_values_of_each_command(
    helm: Helm, release: str, namespace: str, name: str, version: str
) -> None:
    objects = helm.render(VALUES[name], release=release, namespace=namespace, kubernetes=version)
    kube.validate(objects, version)
    for pod in filter(None, map(pod_of, objects)):
        assert violations(pod["spec"]) == []
    assert helm.lint(VALUES[name]) == []


def test_the_client_of_the_gateway_calls_a_service_that_is_there(helm: Helm) -> None:
    objects = helm.render(VALUES["gateway.yaml"], release="gateway", namespace="egress")
    service = kube.only(objects, "Service")
    port = service["spec"]["ports"][0]["port"]
    pod = pod_of(MANIFESTS["client.yaml"][0])
    assert pod
    (url, *_) = environment(pod["spec"]["containers"][0]).values()
    assert url == f"http://{service['metadata']['name']}.egress.svc:{port}"
    policy = kube.only(objects, "NetworkPolicy")
    selector = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert selector.items() <= pod["metadata"]["labels"].items()


def test_all_commands_of_helm_are_tried() -> None:
    assert len(INSTALL.findall(PAGE)) == PAGE.count("helm install") == len(VALUES)


def test_paths_of_the_page_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(CHART.parents[1]) / "docs" / link).exists(), link
