"""That injection is harmless, whatever the pod."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helm.admission import Cluster
from helm.engine import Helm, Object
from helm.security import violations
from helm.test_injection import INJECTION, MODES, NAME, asking

FEW = settings(max_examples=60)

words = st.sampled_from(["a", "b", "c", "d"])
names = st.sampled_from(["PATH", "MOBULA_API_URL", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE"])
texts = st.fixed_dictionaries({"name": names, "value": st.text(max_size=5)})
sources = st.just({"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
mounts = st.fixed_dictionaries({"name": words, "mountPath": words.map("/mnt/{}".format)})
containers = st.fixed_dictionaries(
    {"image": words},
    optional={
        "env": st.lists(st.one_of(texts, sources), max_size=4),
        "volumeMounts": st.lists(mounts, max_size=2),
        "args": st.lists(st.text(max_size=3), max_size=2),
        "resources": st.just({"limits": {"cpu": 2}}),
    },
)
aliases = st.fixed_dictionaries(
    {"ip": st.sampled_from(["127.0.0.1", "10.0.0.1"])},
    optional={"hostnames": st.lists(words, max_size=2)},
)
sysctls = st.sampled_from(
    [
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"},
        {"name": "net.ipv4.tcp_syncookies", "value": "1"},
    ]
)


def named(letter: str, many: list[Object]) -> list[Object]:
    return [{"name": f"{letter}{number}", **each} for number, each in enumerate(many)]


specs = st.fixed_dictionaries(
    {"containers": st.lists(containers, min_size=1, max_size=3).map(lambda all_: named("a", all_))},
    optional={
        "initContainers": st.lists(containers, max_size=3).map(lambda all_: named("i", all_)),
        "volumes": st.lists(st.just({"emptyDir": {}}), max_size=3).map(
            lambda all_: named("v", all_)
        ),
        "hostAliases": st.lists(aliases, max_size=2),
        "securityContext": st.fixed_dictionaries(
            {}, optional={"runAsUser": st.just(0), "sysctls": st.lists(sysctls, max_size=2)}
        ),
    },
)
pods = st.builds(
    lambda spec, mode: asking(mode=mode) | {"spec": spec}, specs, st.sampled_from(MODES)
)


@pytest.fixture(scope="module")
def cluster(helm: Helm) -> Cluster:
    return Cluster(helm.render(INJECTION))


def kept(before: Any, after: Any) -> bool:
    """Tell whether all that was there is there still, and what stood in a row still does."""
    match before, after:
        case dict(), dict():
            return all(kept(each, after.get(name)) for name, each in before.items())
        case list(), list():
            starts = range(len(after) - len(before) + 1)
            return any(all(map(kept, before, after[start:])) for start in starts)
    return bool(before == after)


def own(injected: Object) -> list[Object]:
    """The containers that a pod had before."""
    sidecar, *others = injected["spec"]["initContainers"]
    assert sidecar["name"] == NAME
    return [*others, *injected["spec"]["containers"]]


@FEW
@given(pod=pods)
def test_nothing_that_a_pod_had_is_changed(cluster: Cluster, pod: Object) -> None:
    before = deepcopy(pod)
    after = cluster.admit(pod)
    assert kept(before, after)
    assert pod == before
    had = [*before["spec"].get("initContainers", []), *before["spec"]["containers"]]
    for container, now in zip(had, own(after), strict=True):
        assert now.keys() - container.keys() <= {"env", "volumeMounts"}


@FEW
@given(pod=pods)
def test_no_variable_that_a_container_has_is_set_in_either_spelling(
    cluster: Cluster, pod: Object
) -> None:
    had = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    for container, now in zip(had, own(cluster.admit(pod)), strict=True):
        given = [each["name"].upper() for each in container.get("env", [])]
        added = [each["name"].upper() for each in now["env"]][: len(now["env"]) - len(given)]
        assert not set(added) & set(given)


@FEW
@given(pod=pods)
def test_a_second_time_changes_nothing(cluster: Cluster, pod: Object) -> None:
    once = cluster.mutate(pod)
    assert cluster.mutate(once) == once


@FEW
@given(pod=pods)
def test_the_sidecar_breaks_no_rule_of_the_restricted_standard(
    cluster: Cluster, pod: Object
) -> None:
    found = violations(cluster.admit(pod)["spec"])
    assert not [each for each in found if each.startswith(NAME)]
