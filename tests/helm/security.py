"""The restricted Pod Security Standard, rule by rule.

The rules and their order are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/:
what the baseline forbids, then what restricted adds. A pod for Windows is none of ours, so the
exceptions for one are left out.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Spec = dict[str, Any]

SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECCOMP = {"RuntimeDefault", "Localhost"}
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
HOOKS = ("postStart", "preStop")


def violations(pod: Spec, annotations: dict[str, str] | None = None) -> list[str]:
    """Return every way in which a pod's spec breaks the restricted standard."""
    found = [text for rule in _OF_PODS for text in rule(pod)]
    for container in containers(pod):
        context = container.get("securityContext") or {}
        name = container["name"]
        found += [f"{name}: {text}" for rule in _OF_CONTAINERS for text in rule(context)]
        found += [f"{name}: {text}" for text in [*_host_ports(container), *_hosts(container)]]
        found += [f"{name}: {text}" for text in _inherited(pod, context)]
    return [*found, *_unconfined(annotations or {})]


def containers(pod: Spec) -> list[Spec]:
    """Return all containers of a pod, of each kind."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [each for kind in kinds for each in pod.get(kind) or ()]


def _host_namespaces(pod: Spec) -> Iterator[str]:
    yield from (f"{name} is on" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))


def _volumes(pod: Spec) -> Iterator[str]:
    for volume in pod.get("volumes") or ():
        yield from (
            f"volume {volume['name']} is of type {kind}"
            for kind in volume.keys() - {"name"} - RESTRICTED_VOLUMES
        )


def _sysctls(pod: Spec) -> Iterator[str]:
    for each in _context(pod).get("sysctls") or ():
        if each["name"] not in SAFE_SYSCTLS:
            yield f"sysctl {each['name']} is not a safe one"


def _pod_context(pod: Spec) -> Iterator[str]:
    yield from _selinux(_context(pod))
    yield from _apparmor(_context(pod))
    yield from _host_process(_context(pod))
    if _context(pod).get("runAsUser") == 0:
        yield "runAsUser is 0"


def _privileged(context: Spec) -> Iterator[str]:
    if context.get("privileged"):
        yield "privileged is on"


def _host_process(context: Spec) -> Iterator[str]:
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess is on"


def _capabilities(context: Spec) -> Iterator[str]:
    given = context.get("capabilities") or {}
    for name in given.get("add") or ():
        if name != "NET_BIND_SERVICE":
            yield f"capability {name} is added"
    if "ALL" not in (given.get("drop") or ()):
        yield "capabilities are not all dropped"


def _selinux(context: Spec) -> Iterator[str]:
    options = context.get("seLinuxOptions") or {}
    if options.get("type", "") not in SELINUX_TYPES:
        yield f"SELinux type is {options['type']}"
    yield from (f"SELinux {name} is set" for name in ("user", "role") if options.get(name))


def _apparmor(context: Spec) -> Iterator[str]:
    kind = (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault")
    if kind not in ("RuntimeDefault", "Localhost"):
        yield f"AppArmor profile is {kind}"


def _proc_mount(context: Spec) -> Iterator[str]:
    if context.get("procMount", "Default") != "Default":
        yield f"procMount is {context['procMount']}"


def _escalation(context: Spec) -> Iterator[str]:
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"


def _root_user(context: Spec) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield "runAsUser is 0"


def _host_ports(container: Spec) -> Iterator[str]:
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"host port {port['hostPort']} is taken"


def _hosts(container: Spec) -> Iterator[str]:
    """Probes and lifecycle hooks may name no host."""
    hooks = container.get("lifecycle") or {}
    handlers = [(name, container.get(name)) for name in PROBES]
    handlers += [(name, hooks.get(name)) for name in HOOKS]
    for name, handler in handlers:
        for action in ("httpGet", "tcpSocket"):
            if ((handler or {}).get(action) or {}).get("host"):
                yield f"{name} names a host"


def _inherited(pod: Spec, context: Spec) -> Iterator[str]:
    """What a container may leave to its pod."""
    whole = _context(pod)
    if context.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    profile = context.get("seccompProfile") or whole.get("seccompProfile") or {}
    if profile.get("type") not in SECCOMP:
        yield f"seccomp profile is {profile.get('type', 'undefined')}"


def _unconfined(annotations: dict[str, str]) -> Iterator[str]:
    for name, value in annotations.items():
        confined = value == "runtime/default" or value.startswith("localhost/")
        if name.startswith("container.apparmor.security.beta.kubernetes.io/") and not confined:
            yield f"AppArmor profile is {value}"


def _context(pod: Spec) -> Spec:
    context: Spec = pod.get("securityContext") or {}
    return context


_OF_PODS: Sequence[Callable[[Spec], Iterator[str]]] = (
    _host_namespaces,
    _volumes,
    _sysctls,
    _pod_context,
)
_OF_CONTAINERS: Sequence[Callable[[Spec], Iterator[str]]] = (
    _privileged,
    _host_process,
    _capabilities,
    _selinux,
    _apparmor,
    _proc_mount,
    _escalation,
    _root_user,
)
