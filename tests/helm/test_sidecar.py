"""The sidecar itself: templates and policy make the same of it, and the proxy takes it."""

from pathlib import Path

import pytest

from helm import kube
from helm.admission import Cluster
from helm.cases import merged
from helm.engine import Helm, Object
from helm.security import violations
from helm.test_injection import INJECTION, KEYED, MODES, asking, sidecar_of
from proxy.config import Settings, load
from proxy.launch.environment import Way, child_environment
from proxy.launch.trust import trusted_files
from proxy.settings.places import Address
from proxy.tokens.model import Secret
from proxy.traffic.ca import LocalCA

ONLY_EXEC = {"MOBULA_API_KEY", "MOBULA_PROXY_SOCKETS", "NODE_OPTIONS"}
"""The placeholder, and what leads Node over Unix sockets: a pod's apps have neither."""

every_mode = pytest.mark.parametrize("mode", MODES)


def rendered(helm: Helm, consumer: Path, mode: str, *upstreams: str) -> Object:
    """The one object of the consumer: what it depends on renders none."""
    values = {"mode": mode, "upstreams": list(upstreams)}
    (deployment,) = helm.render(values, chart=consumer)
    return deployment


def environment(container: Object) -> dict[str, str]:
    """The variables of a container that do not come from a Secret."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


@every_mode
def test_any_chart_can_have_it_with_a_few_lines(helm: Helm, consumer: Path, mode: str) -> None:
    deployment = rendered(helm, consumer, mode)
    for version in kube.VERSIONS:
        kube.validate([deployment], version)
    assert violations(deployment["spec"]["template"]["spec"]) == []


@every_mode
@pytest.mark.parametrize("upstreams", [(), ("graphql.mobula.io", "api.mobula.io")])
def test_templates_and_policy_make_the_same_of_a_pod(
    helm: Helm, consumer: Path, mode: str, upstreams: tuple[str, ...]
) -> None:
    written = rendered(helm, consumer, mode, *upstreams)["spec"]["template"]["spec"]
    plain = asking(mode=mode, **({"upstreams": ",".join(upstreams)} if upstreams else {}))
    plain["spec"] = {
        "securityContext": {
            name: each for name, each in written["securityContext"].items() if name != "sysctls"
        },
        "containers": [
            {name: each for name, each in container.items() if name not in ("env", "volumeMounts")}
            for container in written["containers"]
        ],
    }
    assert _filled(Cluster(helm.render(INJECTION)).admit(plain)["spec"]) == _filled(written)


def _filled(part: object) -> object:
    """Leave out what is empty: Kubernetes does not tell that from what is missing."""
    if isinstance(part, dict):
        filled = {name: _filled(each) for name, each in part.items()}
        return {name: each for name, each in filled.items() if each not in ([], {})}
    return [_filled(each) for each in part] if isinstance(part, list) else part


def test_upstreams_that_are_none_of_mobulas_are_refused(helm: Helm, consumer: Path) -> None:
    values = {"upstreams": ["api.example.com"]}
    assert "api.example.com is none of api-2.mobula.io, " in helm.refusal(values, chart=consumer)


def test_a_mode_that_is_none_is_refused(helm: Helm, consumer: Path) -> None:
    refusal = helm.refusal({"mode": "http"}, chart=consumer)
    assert "mode: must be reverse, forward or tls, not http" in refusal


@every_mode
@pytest.mark.parametrize("keyed", [False, True])
def test_the_proxy_takes_its_settings(helm: Helm, mode: str, keyed: bool) -> None:
    values = merged(INJECTION, KEYED if keyed else {})
    sidecar = sidecar_of(Cluster(helm.render(values)).admit(asking(mode=mode)))
    settings = load(file=None, environ=environment(sidecar), overrides=())
    (listener,) = settings.listeners
    assert listener.mode == mode
    assert listener.bind == Address.parse("127.0.0.1:443" if mode == "tls" else "127.0.0.1:18080")
    assert settings.role == ("both" if keyed else "member")
    assert settings.resolver == ("dns" if mode == "tls" else "system")
    assert settings.shutdown.exit_zero_on_sigterm
    assert settings.upstreams == Settings().upstreams
    assert list(settings.upstreams) == list(Settings().upstreams)


def test_apps_find_what_exec_gives_a_command(helm: Helm, tmp_path: Path) -> None:
    after = Cluster(helm.render(INJECTION)).admit(asking(mode="forward"))
    app = environment(after["spec"]["containers"][0])
    ca = LocalCA.open(tmp_path / "private", ["api.mobula.io"], public=tmp_path / "ca")
    way = Way(
        address=Address.parse("127.0.0.1:18080"),
        placeholder=Secret("placeholder"),
        hosts=list(Settings().upstreams),
        sockets={},
        preload=tmp_path,
        trust=trusted_files({}, tmp_path, ca),
        trust_store=ca.files.truststore,
        trust_store_password="changeit",
    )
    ours = app["NO_PROXY"].partition(",localhost,")[0]
    given = child_environment({"NO_PROXY": ours}, [], way)
    expected = {
        name: value.replace("mobula-proxy:placeholder@", "").replace(
            str(tmp_path), "/run/mobula-proxy"
        )
        for name, value in given.items()
        if name not in ONLY_EXEC
    }
    assert app == expected


def test_apps_of_the_tls_mode_find_what_they_trust_by_and_nothing_else(helm: Helm) -> None:
    cluster = Cluster(helm.render(INJECTION))
    forward, tls = (
        environment(cluster.admit(asking(mode=mode))["spec"]["containers"][0])
        for mode in ("forward", "tls")
    )
    assert tls.keys() == {name for name, value in forward.items() if "/run/mobula-proxy/" in value}
    trust = [name for name in tls if name != "JAVA_TOOL_OPTIONS"]
    assert {name: tls[name] for name in trust} == {name: forward[name] for name in trust}
    assert forward["JAVA_TOOL_OPTIONS"].startswith(tls["JAVA_TOOL_OPTIONS"])
