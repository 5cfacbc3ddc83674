"""What the chart's policies make of pods, and what they refuse.

The pods are in pods/, and what becomes of each is in golden/, which `make tables` writes.
"""

from pathlib import Path

import pytest
import yaml

from helm import kube
from helm.admission import Cluster, DeniedError
from helm.cases import IMAGE, Values, merged, on
from helm.engine import Helm, Object
from helm.kube import of_kind
from helm.security import violations
from table import WRITE

HERE = Path(__file__).parent
NAME = "mobula-proxy"
MODES = ("reverse", "forward", "tls")
INJECTION: Values = merged(
    IMAGE,
    on("injection"),
    {"mode": "sidecar", "store": {"url": "redis://redis.mobula.svc:6379/0"}},
)
KEYED: Values = {"store": {"url": ""}, "sidecar": {"secret": {"apiKeyKey": "api-key"}}}
PODS: dict[str, Values] = {"reverse": {}, "forward": {}, "tls": {}, "job": KEYED}
"""Those in pods/, and the values beside INJECTION that they are created with."""

every_pod = pytest.mark.parametrize("name", PODS)
every_version = pytest.mark.parametrize("version", kube.VERSIONS)


@pytest.fixture(scope="module")
def cluster(helm: Helm) -> Cluster:
    return Cluster(helm.render(INJECTION))


def pod(name: str) -> Object:
    read: Object = yaml.safe_load((HERE / "pods" / f"{name}.yaml").read_text())
    return read


def asking(**annotations: str) -> Object:
    """A small pod that asks for a sidecar; the annotations come without their prefix."""
    made = pod("reverse")
    made["metadata"]["annotations"] |= {f"{NAME}/{key}": each for key, each in annotations.items()}
    return made


def injected(helm: Helm, name: str) -> Object:
    """What becomes of a pod in pods/."""
    return Cluster(helm.render(merged(INJECTION, PODS[name]))).admit(pod(name))


def sidecar_of(pod: Object) -> Object:
    first: Object = pod["spec"]["initContainers"][0]
    assert first["name"] == NAME
    return first


def names(listed: list[Object]) -> list[str]:
    return [each["name"] for each in listed]


@every_pod
def test_what_becomes_of_a_pod_is_what_its_golden_file_says(helm: Helm, name: str) -> None:
    file = HERE / "golden" / f"{name}.yaml"
    after = injected(helm, name)
    if WRITE:
        file.write_text(yaml.safe_dump(after, width=100))
    assert yaml.safe_load(file.read_text()) == after, f"{file.name}: look, then `make tables`"


@every_pod
@every_version
def test_kubernetes_takes_what_becomes_of_a_pod(helm: Helm, name: str, version: str) -> None:
    kube.validate([injected(helm, name)], version)


@every_pod
def test_the_sidecar_keeps_to_the_restricted_standard(helm: Helm, name: str) -> None:
    before, after = pod(name), injected(helm, name)
    assert set(violations(after["spec"])) <= set(violations(before["spec"]))


def test_a_restricted_pod_stays_one(helm: Helm) -> None:
    assert violations(injected(helm, "forward")["spec"]) == []


@every_version
def test_an_apply_configuration_could_not_hold_what_is_added(helm: Helm, version: str) -> None:
    """Kubernetes takes no atomic lists and structs in one, so it is all done by JSON patch."""
    spec = injected(helm, "tls")["spec"]
    assert kube.atomic(spec, "io.k8s.api.core.v1.PodSpec", version) == {
        ".hostAliases.hostnames",
        ".initContainers.args",
        ".initContainers.securityContext.capabilities.drop",
        ".securityContext.sysctls",
        ".volumes.secret.items",
    }


@every_version
def test_kubernetes_takes_the_policies(helm: Helm, version: str) -> None:
    """They are for 1.36 and later, and before that in beta."""
    objects = helm.render(INJECTION, kubernetes=version)
    kube.validate(objects, version)
    (policy,) = of_kind(objects, "MutatingAdmissionPolicy")
    (binding,) = of_kind(objects, "MutatingAdmissionPolicyBinding")
    stage = "v1beta1" if version == "1.35" else "v1"
    assert policy["apiVersion"] == binding["apiVersion"] == f"admissionregistration.k8s.io/{stage}"


@pytest.mark.parametrize(("kubernetes", "stage"), [("1.35", "v1"), ("1.37", "v1beta1")])
def test_what_the_cluster_has_counts_more_than_its_version(
    helm: Helm, kubernetes: str, stage: str
) -> None:
    api = f"admissionregistration.k8s.io/{stage}"
    apis = [f"{api}/MutatingAdmissionPolicy"]
    objects = helm.render(INJECTION, kubernetes=kubernetes, apis=apis)
    assert of_kind(objects, "MutatingAdmissionPolicy")[0]["apiVersion"] == api


def test_the_sidecar_comes_first_and_the_others_wait_for_its_first_token(helm: Helm) -> None:
    after = injected(helm, "forward")
    assert names(after["spec"]["initContainers"]) == [NAME, "fill"]
    sidecar = sidecar_of(after)
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/startupz"


@pytest.mark.parametrize(
    "annotations",
    [None, {}, {"other/inject": "true"}, {f"{NAME}/inject": "false", f"{NAME}/mode": "tls"}],
)
def test_a_pod_that_does_not_ask_is_left_alone(
    cluster: Cluster, annotations: dict[str, str] | None
) -> None:
    silent = pod("reverse")
    del silent["metadata"]["annotations"]
    silent["metadata"] |= {} if annotations is None else {"annotations": annotations}
    assert cluster.admit(silent) == silent


def test_a_pod_that_is_there_already_is_left_alone(cluster: Cluster) -> None:
    assert cluster.admit(asking(), operation="UPDATE") == asking()


def test_a_namespace_that_is_left_out_is_left_alone(cluster: Cluster) -> None:
    assert cluster.admit(asking(), namespace="kube-system") == asking()


def test_a_sidecar_that_someone_wrote_stays_as_it_is(cluster: Cluster) -> None:
    written = asking()
    written["spec"]["initContainers"] = [{"name": NAME, "image": "mine"}]
    assert cluster.admit(written) == written


def test_the_upstreams_that_are_named_are_the_only_ones_in_their_order(cluster: Cluster) -> None:
    after = cluster.admit(asking(mode="tls", upstreams="graphql.mobula.io,api.mobula.io"))
    env = {each["name"]: each["value"] for each in sidecar_of(after)["env"]}
    assert env["MOBULA_PROXY__UPSTREAMS"] == '{"graphql.mobula.io": {}, "api.mobula.io": {}}'
    (alias,) = after["spec"]["hostAliases"]
    assert alias == {"ip": "127.0.0.1", "hostnames": ["graphql.mobula.io", "api.mobula.io"]}


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"inject": "yes"}, "mobula-proxy/inject: must be true or false, not yes"),
        ({"inject": "True"}, "mobula-proxy/inject: must be true or false, not True"),
        ({"mode": "proxy"}, "mobula-proxy/mode: must be reverse, forward or tls, not proxy"),
        ({"mode": ""}, "mobula-proxy/mode: must be reverse, forward or tls, not "),
        (
            {"upstreams": "api.mobula.io, api.example.com"},
            'mobula-proxy/upstreams: "api.example.com" is none of api.mobula.io, ',
        ),
        ({"upstreams": ""}, 'mobula-proxy/upstreams: "" is none of api.mobula.io, '),
        (
            {"upstreams": "api.mobula.io,api.mobula.io"},
            "mobula-proxy/upstreams: a host is there twice",
        ),
        (
            {"modes": "tls"},
            "mobula-proxy/modes: there is no such annotation, but mobula-proxy/",
        ),
    ],
)
def test_wrong_annotations_are_refused_with_what_would_be_right(
    cluster: Cluster, annotations: dict[str, str], text: str
) -> None:
    with pytest.raises(DeniedError) as denied:
        cluster.admit(asking(**annotations))
    assert str(denied.value).startswith(text)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"])
@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
def test_what_makes_pods_is_refused_before_it_makes_any(
    cluster: Cluster, kind: str, operation: str
) -> None:
    def maker(mode: str) -> Object:
        spec: Object = {"template": asking(mode=mode)}
        spec = {"jobTemplate": {"spec": spec}} if kind == "CronJob" else spec
        group = "batch" if kind.endswith("Job") else "apps"
        return {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec}

    good = maker("tls")
    assert cluster.admit(good, operation=operation) == good
    with pytest.raises(DeniedError, match="must be reverse, forward or tls, not http"):
        cluster.admit(maker("http"), operation=operation)


def test_a_wrong_one_from_before_the_policy_can_be_deleted(cluster: Cluster) -> None:
    job: Object = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}}
    job["spec"] = {"template": asking(mode="http")}
    assert cluster.complaints(job, operation="UPDATE")
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not cluster.complaints(job, operation="UPDATE")


def test_a_template_without_metadata_asks_for_nothing(cluster: Cluster) -> None:
    spec = {"template": {"spec": pod("reverse")["spec"]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": spec}
    assert cluster.admit(job) == job


def test_a_pod_on_the_network_of_its_node_is_refused(cluster: Cluster) -> None:
    wrong = asking()
    wrong["spec"]["hostNetwork"] = True
    with pytest.raises(DeniedError, match="so the sidecar would serve the node"):
        cluster.admit(wrong)


@pytest.mark.parametrize(
    ("mode", "port"), [("reverse", 18080), ("reverse", 19090), ("tls", 443), ("tls", 19090)]
)
def test_a_pod_that_uses_a_port_of_the_sidecar_is_refused(
    cluster: Cluster, mode: str, port: int
) -> None:
    wrong = asking(mode=mode)
    wrong["spec"]["containers"][0]["ports"] = [{"containerPort": 80}, {"containerPort": port}]
    with pytest.raises(DeniedError, match=f"the sidecar listens on port {port}, and so does"):
        cluster.admit(wrong)


@pytest.mark.parametrize(("mode", "port"), [("reverse", 443), ("forward", 443), ("tls", 18080)])
def test_a_port_that_only_another_mode_uses_is_free(cluster: Cluster, mode: str, port: int) -> None:
    good = asking(mode=mode)
    good["spec"]["containers"][0]["ports"] = [{"containerPort": port}]
    cluster.admit(good)


def test_a_pod_that_got_no_sidecar_is_refused(helm: Helm) -> None:
    """It would call Mobula with no key at all, or with one that it should not have."""
    objects = helm.render(INJECTION)
    cluster = Cluster(each for each in objects if not each["kind"].startswith("Mutating"))
    with pytest.raises(DeniedError, match="the sidecar was not injected"):
        cluster.admit(asking())


def test_keyless_sidecars_without_a_store_are_refused_by_the_chart(helm: Helm) -> None:
    refusal = helm.refusal(merged(INJECTION, {"store": {"url": ""}}))
    assert "store.url is empty: sidecars without the static key live on what others" in refusal


@pytest.mark.parametrize(
    ("sidecar", "text"),
    [
        ({"adminPort": 18080}, "sidecar.adminPort is 18080, as is sidecar.port: they must differ"),
        ({"noProxy": ["*"]}, "sidecar.noProxy has *, which covers api.mobula.io: apps would call"),
        ({"noProxy": [".mobula.io"]}, "sidecar.noProxy has .mobula.io, which covers api.mobula.io"),
    ],
)
def test_sidecars_that_could_not_work_are_refused_by_the_chart(
    helm: Helm, sidecar: Values, text: str
) -> None:
    assert text in helm.refusal(merged(INJECTION, {"sidecar": sidecar}))


def test_a_secret_may_hold_the_url_of_the_store(helm: Helm) -> None:
    values = {"store": {"url": ""}, "sidecar": {"secret": {"name": "fleet", "storeUrlKey": "url"}}}
    after = Cluster(helm.render(merged(INJECTION, values))).admit(asking())
    (url,) = [each for each in sidecar_of(after)["env"] if each["name"].endswith("STORE__URL")]
    assert url["valueFrom"] == {"secretKeyRef": {"name": "fleet", "key": "url"}}


def test_settings_of_upstreams_reach_the_sidecar(helm: Helm) -> None:
    config = {"upstreams": {"api.mobula.io": {"connections": 8}}, "log": {"level": "warning"}}
    after = Cluster(helm.render(merged(INJECTION, {"config": config}))).admit(asking())
    env = {each["name"]: each["value"] for each in sidecar_of(after)["env"]}
    assert env["MOBULA_PROXY__UPSTREAMS"] == '{"api.mobula.io": {"connections":8}}'
    assert env["MOBULA_PROXY__LOG__LEVEL"] == "warning"
