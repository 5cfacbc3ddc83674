"""What the rendered settings mean, to the proxy itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helm.cases import (
    BARE,
    CASES,
    FORWARD,
    GATEWAY,
    KEYLESS,
    OPEN,
    TLS,
    Values,
    existing,
    merged,
    on,
)
from helm.engine import Helm, Object
from helm.kube import of_kind, only
from helm.kubelet import Contents, Pod
from proxy.config import Settings, load
from proxy.settings.values import parse_duration

SECRETS: Mapping[str, Contents] = {
    "mobula": {"api-key": "key"},
    "fleet": {"store-secret": "secret"},
    "redis-url": {"url": "redis://:password@redis:6379/0"},
    "who": {"clients.yaml": "{}"},
    "gateway-tls": {"tls.crt": "", "tls.key": ""},
    "team-ca": {"ca.crt": ""},
    "local-ca": {"ca-key.pem": ""},
    "kube-root-ca.crt": {"ca.crt": ""},
    "egress-mobula-proxy-api-key": {"api-key": "key"},
    "egress-mobula-proxy-store-secret": {"store-secret": "secret"},
}


def settings_of(deployment: Object, objects: list[Object], folder: Path) -> Settings:
    """The settings that the proxy of a Deployment's pods has: of its file, then its environment."""
    spec = deployment["spec"]["template"]["spec"]
    pod = Pod(spec, objects, folder, SECRETS)
    name = spec["containers"][0]["name"]
    file = pod.file(name, "/etc/mobula-proxy/config.yaml")
    return load(file=file, environ=pod.environ(name), overrides=[])


@pytest.fixture
def settings(helm: Helm, tmp_path: Path) -> Any:
    """A function: the settings of a part, for some values."""

    def of(values: Values, part: str = "gateway") -> Settings:
        objects = helm.render(values)
        return settings_of(only(objects, "Deployment", f"-{part}"), objects, tmp_path / part)

    return of


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_the_proxy_takes_the_settings_of_every_case(
    helm: Helm, values: Values, tmp_path: Path
) -> None:
    values = merged(values, {"extraVolumes": [], "extraVolumeMounts": []})
    objects = helm.render(values)
    for number, deployment in enumerate(of_kind(objects, "Deployment")):
        settings_of(deployment, objects, tmp_path / str(number))


def test_a_gateway_listens_for_others_and_asks_who_they_are(settings: Any) -> None:
    (listener,) = settings(GATEWAY).listeners
    assert (str(listener.bind), listener.mode) == ("0.0.0.0:8080", "reverse")
    assert listener.authenticate
    assert not listener.insecure


def test_an_open_gateway_is_one_only_when_told_so(settings: Any) -> None:
    (listener,) = settings(merged(BARE, OPEN)).listeners
    assert listener.insecure


def test_the_admin_port_is_reached_by_probes(settings: Any) -> None:
    assert str(settings(GATEWAY).admin.bind) == "0.0.0.0:9090"


def test_roles_follow_the_minter(settings: Any) -> None:
    assert settings(GATEWAY).role == "both"
    assert settings(merged(GATEWAY, KEYLESS)).role == "member"
    assert settings(merged(GATEWAY, KEYLESS), "minter").role == "minter"


def test_a_member_is_told_of_no_static_key(settings: Any) -> None:
    assert settings(GATEWAY).api_key.file == "/run/secrets/mobula/api-key"
    assert settings(merged(GATEWAY, KEYLESS)).api_key.file is None


def test_a_store_url_of_a_secret_is_the_one_that_counts(settings: Any) -> None:
    values = merged(GATEWAY, {"store": {"url": "", **existing("redis-url")}})
    assert str(settings(values).store.url) == "redis://***@redis:6379/0"


def test_what_config_says_is_merged_over_what_the_chart_decides(settings: Any) -> None:
    config = {"log": {"level": "debug"}, "token": {"request_limit": 1_000_000}}
    found = settings(merged(GATEWAY, {"config": config}))
    assert (found.log.level, found.log.format) == ("debug", "json")
    assert found.token.request_limit == 1_000_000


def test_the_listeners_tls_is_where_the_secrets_are_mounted(settings: Any) -> None:
    (listener,) = settings(merged(GATEWAY, TLS)).listeners
    assert listener.tls.certificate_file == "/run/secrets/mobula-tls/tls.crt"
    assert listener.tls.key_file == "/run/secrets/mobula-tls/tls.key"
    assert listener.tls.client_ca_file == "/run/secrets/mobula-client-ca/ca.crt"


def test_a_forward_listener_denies_other_hosts_unless_told_otherwise(settings: Any) -> None:
    values = merged(GATEWAY, FORWARD, {"listeners": {"forward": {"otherHosts": "tunnel"}}})
    _, forward = settings(values).listeners
    assert forward.mode == "forward"
    assert (forward.other_hosts, forward.private_hosts) == ("tunnel", "deny")


def test_the_audience_of_account_tokens_is_the_one_of_the_values(settings: Any) -> None:
    values = merged(GATEWAY, on("tokenReview"), {"tokenReview": {"audience": "egress"}})
    assert settings(values).service_accounts.audience == "egress"


@pytest.mark.parametrize("text", ["20s", "1m30s", "1h", "2500ms", "1.5s", "1d", 45, 0.25, "1h1ms"])
def test_durations_are_read_as_the_proxy_reads_them(helm: Helm, text: str | float) -> None:
    """They decide the grace period, whole seconds; revoke is 3s, and 7 are the chart's own."""
    objects = helm.render(merged(GATEWAY, {"config": {"shutdown": {"drain": text}}}))
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == -(-parse_duration(text) // 1) + 3 + 7


def test_the_first_upstream_of_a_gateway_is_the_api_wherever_its_name_stands(settings: Any) -> None:
    """Helm sorts what it is given, and the first one mints."""
    upstreams = {"api-2.mobula.io": {"connections": 8}, "a.example": {}, "api.mobula.io": {}}
    found = settings(merged(GATEWAY, {"config": {"upstreams": upstreams}})).upstreams
    assert list(found) == ["api.mobula.io", "api-2.mobula.io", "a.example"]
    assert found["api-2.mobula.io"].connections == 8
