"""That the check of the restricted Pod Security Standard sees what each of its rules forbids."""

import copy
from typing import Any

import pytest

from helm.security import violations

GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "app",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "volumes": [{"name": "tmp", "emptyDir": {}}],
}
APP = "containers.0.securityContext"


def changed(path: str, value: object) -> dict[str, Any]:
    """The good pod with one thing changed; None takes it away."""
    pod = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place: Any = pod
    for each in parents:
        place = place[int(each)] if each.isdigit() else place.setdefault(each, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return pod


def test_a_restricted_pod_has_no_violations() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("hostNetwork", True, "hostNetwork is on"),
        ("hostPID", True, "hostPID is on"),
        ("hostIPC", True, "hostIPC is on"),
        ("securityContext.windowsOptions", {"hostProcess": True}, "hostProcess is on"),
        ("securityContext.runAsNonRoot", None, "app: runAsNonRoot is not true"),
        ("securityContext.runAsUser", 0, "runAsUser is 0"),
        ("securityContext.seccompProfile", None, "app: seccomp profile is undefined"),
        ("securityContext.seLinuxOptions", {"user": "root"}, "SELinux user is set"),
        (
            "securityContext.appArmorProfile",
            {"type": "Unconfined"},
            "AppArmor profile is Unconfined",
        ),
        (
            "securityContext.sysctls",
            [{"name": "net.core.somaxconn", "value": "1"}],
            "sysctl net.core.somaxconn is not a safe one",
        ),
        ("volumes", [{"name": "host", "hostPath": {}}], "volume host is of type hostPath"),
        ("volumes", [{"name": "net", "nfs": {}}], "volume net is of type nfs"),
        (f"{APP}.privileged", True, "app: privileged is on"),
        (f"{APP}.windowsOptions", {"hostProcess": True}, "app: hostProcess is on"),
        (f"{APP}.allowPrivilegeEscalation", None, "app: allowPrivilegeEscalation is not false"),
        (f"{APP}.capabilities", None, "app: capabilities are not all dropped"),
        (f"{APP}.capabilities.add", ["NET_RAW"], "app: capability NET_RAW is added"),
        (f"{APP}.capabilities.add", ["CHOWN"], "app: capability CHOWN is added"),
        (f"{APP}.procMount", "Unmasked", "app: procMount is Unmasked"),
        (f"{APP}.seLinuxOptions", {"type": "spc_t"}, "app: SELinux type is spc_t"),
        (f"{APP}.runAsNonRoot", False, "app: runAsNonRoot is not true"),
        (f"{APP}.runAsUser", 0, "app: runAsUser is 0"),
        (f"{APP}.seccompProfile", {"type": "Unconfined"}, "app: seccomp profile is Unconfined"),
        (f"{APP}.appArmorProfile", {"type": "Unconfined"}, "app: AppArmor profile is Unconfined"),
        ("containers.0.ports", [{"hostPort": 80}], "app: host port 80 is taken"),
        (
            "containers.0.livenessProbe",
            {"httpGet": {"host": "10.0.0.1"}},
            "app: livenessProbe names a host",
        ),
        (
            "containers.0.lifecycle",
            {"preStop": {"tcpSocket": {"host": "10.0.0.1"}}},
            "app: preStop names a host",
        ),
        (
            "initContainers",
            [{"name": "first"}],
            "first: allowPrivilegeEscalation is not false",
        ),
    ],
)
def test_each_rule_is_seen_broken(path: str, value: object, text: str) -> None:
    assert text in violations(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{APP}.capabilities.add", ["NET_BIND_SERVICE"]),
        (f"{APP}.seLinuxOptions", {"type": "container_t", "level": "s0:c1,c2"}),
        (f"{APP}.appArmorProfile", {"type": "Localhost", "localhostProfile": "mine"}),
        ("securityContext.sysctls", [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]),
        ("volumes", [{"name": "all", "projected": {"sources": []}}]),
        ("containers.0.livenessProbe", {"httpGet": {"port": 80}}),
    ],
)
def test_what_the_standard_allows_is_no_violation(path: str, value: object) -> None:
    assert violations(changed(path, value)) == []


def test_a_container_that_says_it_itself_needs_nothing_of_its_pod() -> None:
    pod = changed("securityContext", {})
    pod["containers"][0]["securityContext"] |= {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "Localhost"},
    }
    assert violations(pod) == []


def test_an_old_annotation_may_not_unconfine() -> None:
    name = "container.apparmor.security.beta.kubernetes.io/app"
    assert violations(GOOD, {name: "unconfined"}) == ["AppArmor profile is unconfined"]
    assert violations(GOOD, {name: "runtime/default"}) == []
