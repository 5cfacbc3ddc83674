"""What the chart renders, over a matrix of values, as API servers and operators would judge it."""

from typing import Any

import pytest
import yaml

from helm import kube
from helm.cases import CASES, FORWARD, GATEWAY, KEYLESS, TLS, WATCHED, Values, existing, merged, on
from helm.engine import CHART, Helm, Object
from helm.kube import of_kind, only, pod_of
from helm.security import violations
from proxy import __version__

case = pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())


def gateway(objects: list[Object]) -> Object:
    """The gateway's Deployment."""
    return only(objects, "Deployment", "-gateway")


def spec_of(deployment: Object) -> Object:
    """The spec of a Deployment's pods."""
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


def container_of(deployment: Object) -> Object:
    """The one container of a Deployment's pods."""
    (container,) = spec_of(deployment)["containers"]
    return dict(container)


@case
@pytest.mark.parametrize("version", kube.VERSIONS)
def test_kubernetes_takes_every_object(helm: Helm, values: Values, version: str) -> None:
    kube.validate(helm.render(values, kubernetes=version), version)


@case
def test_every_pod_keeps_to_the_restricted_standard(helm: Helm, values: Values) -> None:
    pods = [pod for each in helm.render(values) if (pod := pod_of(each))]
    for pod in pods:
        assert violations(pod["spec"], pod["metadata"].get("annotations")) == []


@case
def test_no_pod_can_write_to_its_root_file_system_or_has_a_token_unasked(
    helm: Helm, values: Values
) -> None:
    for pod in filter(None, map(pod_of, helm.render(values))):
        assert pod["spec"]["automountServiceAccountToken"] is False
        for each in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["resources"]["limits"]["memory"]
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}


@case
def test_lint_finds_nothing(helm: Helm, values: Values) -> None:
    assert helm.lint(values) == []


@case
def test_names_fit_the_longest_release_name(helm: Helm, values: Values) -> None:
    objects = helm.render(values, release="r" * 53)
    kube.validate(objects, kube.VERSIONS[-1])
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


@case
def test_names_may_look_like_numbers(helm: Helm, values: Values) -> None:
    numbers = merged(values, {"nameOverride": "1e3", "image": {"pullSecrets": ["12"]}})
    kube.validate(helm.render(numbers, release="7", namespace="42"), kube.VERSIONS[-1])


@case
def test_two_releases_in_one_namespace_have_nothing_in_common(helm: Helm, values: Values) -> None:
    values = merged(values, {"fullnameOverride": ""})
    first, second = (helm.render(values, release=name) for name in ("first", "second"))
    named = [{(each["kind"], each["metadata"]["name"]) for each in one} for one in (first, second)]
    assert not named[0] & named[1]
    for each in of_kind(first, "Deployment"):
        for other in filter(None, map(pod_of, second)):
            selector = each["spec"]["selector"]["matchLabels"]
            assert not selector.items() <= other["metadata"]["labels"].items()


@case
def test_an_upgrade_changes_no_selector(helm: Helm, values: Values) -> None:
    def selectors(objects: list[Object]) -> list[Any]:
        return [each["spec"]["selector"] for each in of_kind(objects, "Deployment")]

    changed = merged(values, {"image": {"tag": "9.9.9"}, "podLabels": {"new": "label"}})
    assert selectors(helm.render(values)) == selectors(helm.render(changed, upgrade=True))


@case
def test_each_selector_finds_pods_of_its_own_part_only(helm: Helm, values: Values) -> None:
    objects = helm.render(values)
    pods = [pod["metadata"]["labels"] for pod in filter(None, map(pod_of, objects))]
    for each in objects:
        selector = each.get("spec", {}).get("selector") or each.get("spec", {}).get("podSelector")
        if not selector or each["kind"].endswith("Monitor"):
            continue
        labels = selector.get("matchLabels", selector)
        assert len([pod for pod in pods if labels.items() <= pod.items()]) == 1, each["kind"]


def test_releases_of_one_name_in_two_namespaces_bind_roles_of_the_cluster_apart(helm: Helm) -> None:
    values = merged(GATEWAY, on("tokenReview"))
    names = {
        only(helm.render(values, namespace=each), "ClusterRoleBinding")["metadata"]["name"]
        for each in ("research", "batch")
    }
    assert len(names) == 2


def test_a_roll_out_takes_no_replica_away_before_another_is_ready(helm: Helm) -> None:
    spec = gateway(helm.render(GATEWAY))["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_autoscaling_alone_decides_how_many_there_are(helm: Helm) -> None:
    objects = helm.render(merged(GATEWAY, on("autoscaling")))
    assert "replicas" not in gateway(objects)["spec"]
    scaler = only(objects, "HorizontalPodAutoscaler")["spec"]
    assert scaler["minReplicas"] == 2
    assert scaler["scaleTargetRef"]["name"] == gateway(objects)["metadata"]["name"]


def test_a_pod_drains_only_when_nodes_have_heard_that_it_ends(helm: Helm) -> None:
    deployment = gateway(helm.render(merged(GATEWAY, {"preStopSeconds": 7})))
    assert container_of(deployment)["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}


def test_a_minter_which_nobody_connects_to_ends_at_once(helm: Helm) -> None:
    minter = only(helm.render(merged(GATEWAY, KEYLESS)), "Deployment", "-minter")
    assert "lifecycle" not in container_of(minter)
    assert spec_of(minter)["terminationGracePeriodSeconds"] == 25


def test_chart_and_proxy_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize(
    ("shutdown", "seconds"),
    [
        ({}, 5 + 20 + 3 + 2),
        ({"drain": "1m30s"}, 5 + 90 + 3 + 2),
        ({"drain": 45, "revoke": "10s"}, 5 + 45 + 10 + 2),
        ({"drain": "1h", "revoke": "250ms"}, 5 + 3600 + 1 + 2),
    ],
)
def test_the_grace_period_holds_all_of_the_end(
    helm: Helm, shutdown: dict[str, Any], seconds: int
) -> None:
    deployment = gateway(helm.render(merged(GATEWAY, {"config": {"shutdown": shutdown}})))
    assert spec_of(deployment)["terminationGracePeriodSeconds"] == seconds


def test_a_change_of_settings_rolls_the_pods_and_nothing_else_does(helm: Helm) -> None:
    def checksum(*changes: Values) -> str:
        deployment = gateway(helm.render(merged(GATEWAY, *changes)))
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum() == checksum({"replicas": 3})
    assert checksum() != checksum({"config": {"log": {"level": "debug"}}})


def test_a_change_of_the_store_secret_in_values_rolls_the_pods(helm: Helm) -> None:
    def template(letter: str) -> Object:
        secret = {"value": letter * 32, "allowInValues": True}
        objects = helm.render(merged(GATEWAY, {"store": {"secret": secret}}))
        return dict(gateway(objects)["spec"]["template"])

    assert template("a") != template("b")


def test_only_the_minter_mounts_the_static_key(helm: Helm) -> None:
    objects = helm.render(merged(GATEWAY, KEYLESS))
    mounting = {
        each["metadata"]["name"]
        for each in of_kind(objects, "Deployment")
        for volume in spec_of(each)["volumes"]
        if volume.get("secret", {}).get("secretName") == "mobula"
    }
    assert mounting == {"egress-mobula-proxy-minter"}


def test_secrets_are_mounted_as_files_that_only_the_pods_group_reads(helm: Helm) -> None:
    spec = spec_of(
        gateway(helm.render(merged(GATEWAY, TLS, FORWARD, {"clients": existing("who")})))
    )
    secrets = [each["secret"] for each in spec["volumes"] if "secret" in each]
    assert len(secrets) == 5
    assert {each["defaultMode"] for each in secrets} == {0o440}
    assert spec["securityContext"]["fsGroup"] == 65532


def test_without_token_reviews_no_pod_has_an_account_token_or_a_right(helm: Helm) -> None:
    objects = helm.render(GATEWAY)
    assert not of_kind(objects, "ClusterRoleBinding")
    assert not [each for each in spec_of(gateway(objects))["volumes"] if "projected" in each]


def test_with_token_reviews_the_gateway_alone_may_ask_for_them(helm: Helm) -> None:
    objects = helm.render(merged(GATEWAY, KEYLESS, on("tokenReview")))
    (subject,) = only(objects, "ClusterRoleBinding")["subjects"]
    assert subject["name"] == spec_of(gateway(objects))["serviceAccountName"]
    mounts = container_of(gateway(objects))["volumeMounts"]
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in [each["mountPath"] for each in mounts]
    minter = only(objects, "Deployment", "-minter")
    assert not [each for each in spec_of(minter)["volumes"] if "projected" in each]


def test_a_store_url_with_a_password_reaches_the_pods_in_no_config_map(helm: Helm) -> None:
    objects = helm.render(merged(GATEWAY, {"store": {"url": "", **existing("redis-url")}}))
    assert "redis" not in only(objects, "ConfigMap")["data"]["config.yaml"]
    (variable,) = container_of(gateway(objects))["env"]
    assert variable == {
        "name": "MOBULA_PROXY__STORE__URL",
        "valueFrom": {"secretKeyRef": {"name": "redis-url", "key": "url"}},
    }


def test_secrets_that_are_named_are_not_made(helm: Helm) -> None:
    objects = helm.render(merged(GATEWAY, KEYLESS))
    assert not of_kind(objects, "Secret")
    assert not of_kind(objects, "ExternalSecret")


def test_an_external_secret_makes_what_the_pods_mount(helm: Helm) -> None:
    objects = helm.render(CASES["secrets from a store"])
    made = {each["spec"]["target"]["name"] for each in of_kind(objects, "ExternalSecret")}
    minter = spec_of(only(objects, "Deployment", "-minter"))
    mounted = {each["secret"]["secretName"] for each in minter["volumes"] if "secret" in each}
    assert made == mounted
    first = only(objects, "ExternalSecret", "-api-key")["spec"]
    assert first["secretStoreRef"] == {"name": "vault", "kind": "SecretStore"}
    assert first["data"] == [
        {"secretKey": "api-key", "remoteRef": {"key": "mobula/secret", "property": "key"}}
    ]


def test_only_labelled_pods_of_the_named_namespaces_come_in(helm: Helm) -> None:
    objects = helm.render(
        merged(GATEWAY, {"networkPolicy": {"clients": {"namespaces": ["research", "batch"]}}})
    )
    clients, monitoring = only(objects, "NetworkPolicy")["spec"]["ingress"]
    assert clients["from"][0] == {
        "namespaceSelector": {
            "matchExpressions": [
                {
                    "key": "kubernetes.io/metadata.name",
                    "operator": "In",
                    "values": ["research", "batch"],
                }
            ]
        },
        "podSelector": {"matchLabels": {"mobula-proxy/client": "true"}},
    }
    assert clients["ports"] == [{"port": "reverse", "protocol": "TCP"}]
    assert monitoring["ports"] == [{"port": "admin", "protocol": "TCP"}]


def test_clients_are_of_the_own_namespace_unless_others_are_named(helm: Helm) -> None:
    clients, _ = only(helm.render(GATEWAY), "NetworkPolicy")["spec"]["ingress"]
    (expression,) = clients["from"][0]["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["mobula"]


def test_other_labels_for_clients_take_the_place_of_the_usual_one(helm: Helm) -> None:
    labels = {"egress": "mobula"}
    objects = helm.render(merged(GATEWAY, {"networkPolicy": {"clients": {"podLabels": labels}}}))
    clients, _ = only(objects, "NetworkPolicy")["spec"]["ingress"]
    assert clients["from"][0]["podSelector"] == {"matchLabels": labels}


def test_nobody_but_monitoring_comes_in_to_a_minter(helm: Helm) -> None:
    policy = only(helm.render(merged(GATEWAY, KEYLESS)), "NetworkPolicy", "-minter")
    assert [each["ports"] for each in policy["spec"]["ingress"]] == [
        [{"port": "admin", "protocol": "TCP"}]
    ]


@pytest.mark.parametrize(
    ("more", "ports"),
    [
        ({}, {53, 6379, 443}),
        ({"networkPolicy": {"redis": {"ports": [6380]}}}, {53, 6380, 443}),
        ({"store": {"url": "rediss://redis.example.com:6380/0"}}, {53, 6380, 443}),
        ({"store": {"url": "redis+cluster://a:7000,[fd00::1]:7001"}}, {53, 7000, 7001, 443}),
        ({"store": {"url": "redis+sentinel://s/main"}}, {53, 26379, 6379, 443}),
        ({"store": {"url": "", **existing("redis-url")}}, {53, 6379, 443}),
        (on("tokenReview"), {53, 6379, 443, 6443}),
    ],
)
def test_only_dns_redis_and_https_go_out(helm: Helm, more: Values, ports: set[int]) -> None:
    policy = only(helm.render(merged(GATEWAY, more)), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == ports


def test_https_does_not_go_to_what_clouds_tell_of_the_machine(helm: Helm) -> None:
    policy = only(helm.render(GATEWAY), "NetworkPolicy")["spec"]
    (https,) = [each for each in policy["egress"] if each["ports"][0]["port"] == 443]
    assert https["to"][0]["ipBlock"] == {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}


def test_nobody_else_is_let_in_but_the_test_pod_wherever_clients_are(helm: Helm) -> None:
    elsewhere = {"networkPolicy": {"clients": {"namespaces": ["research"]}}}
    objects = helm.render(merged(GATEWAY, elsewhere))
    clients, _ = only(objects, "NetworkPolicy")["spec"]["ingress"]
    _, test = clients["from"]
    assert test.keys() == {"podSelector"}
    wanted = test["podSelector"]["matchLabels"].items()
    assert wanted <= only(objects, "Pod")["metadata"]["labels"].items()
    assert not wanted <= gateway(objects)["spec"]["template"]["metadata"]["labels"].items()


def test_monitoring_scrapes_gateway_and_minter_each_by_itself(helm: Helm) -> None:
    objects = helm.render(merged(GATEWAY, KEYLESS, WATCHED))
    monitor = only(objects, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [
        each["spec"]
        for each in of_kind(objects, "Service")
        if wanted <= each["metadata"]["labels"].items()
    ]
    for each in of_kind(objects, "Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        (service,) = [spec for spec in services if spec["selector"].items() <= labels.items()]
        assert service["clusterIP"] == "None"
        (port,) = service["ports"]
        assert port["name"] == monitor["endpoints"][0]["port"]
        assert port["targetPort"] in [each["name"] for each in container_of(each)["ports"]]


def test_monitoring_scrapes_sidecars_wherever_they_are(helm: Helm) -> None:
    objects = helm.render(merged(CASES["sidecars by injection"], WATCHED))
    (monitor,) = of_kind(objects, "PodMonitor")
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "mobula-admin"


@pytest.mark.parametrize("name", WATCHED)
def test_labels_for_monitoring_are_beside_our_own(helm: Helm, name: str) -> None:
    labels = {name: {"labels": {"release": "prometheus", "app.kubernetes.io/instance": "other"}}}
    files = helm.files(merged(CASES["gateway and sidecars"], WATCHED, labels))
    (text,) = [each for each in files.values() if "release: prometheus" in each]
    (labelled,) = [each for each in text.split("\n---\n") if "release: prometheus" in each]
    assert "app.kubernetes.io/instance: other" not in labelled


def test_the_image_is_named_by_its_digest_where_one_is_given(helm: Helm) -> None:
    digest = f"sha256:{'a' * 64}"
    objects = helm.render(merged(GATEWAY, {"image": {"digest": digest, "tag": "1.0.0"}}))
    image = container_of(gateway(objects))["image"]
    assert image == f"registry.example.com/mobula-proxy@{digest}"


def test_a_platform_may_choose_the_user(helm: Helm) -> None:
    nobody = {"runAs": {"user": None, "group": None, "fsGroup": None}}
    context = spec_of(gateway(helm.render(merged(GATEWAY, nobody))))["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert "runAsUser: " not in str(helm.files(merged(CASES["gateway and sidecars"], nobody)))
