"""What the chart says of values that are wrong, and what it says of its values at all."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml

from helm.cases import (
    BARE,
    CASES,
    FORWARD,
    GATEWAY,
    IMAGE,
    KEYLESS,
    OPEN,
    TLS,
    Values,
    existing,
    external,
    merged,
    off,
    on,
)
from helm.engine import CHART, Helm
from helm.kube import of_kind
from helm.schema import blind, complete, of_chart

KEY = {"existingSecret": {"name": ""}, "value": "live-key"}
SCHEMA = of_chart()
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image": {"repository": ""}}, "image.repository is empty: build the image"),
        ({"store": {"url": ""}}, "store.url is empty: proxies share tokens"),
        (
            {"store": existing("redis-url")},
            "store.url and store.existingSecret.name are both set",
        ),
        (
            {"store": {"url": "redis://:hunter2@redis:6379/0"}},
            "store.url holds credentials",
        ),
        (
            {"config": {"upstream_proxy": "http://me:hunter2@proxy:3128"}},
            "config.upstream_proxy holds credentials",
        ),
        ({"apiKey": existing("")}, "apiKey names no source: set apiKey.existingSecret.name"),
        ({"apiKey": KEY}, "apiKey.value is set: whoever may read the release could read"),
        ({"apiKey": {"value": "k"}}, "apiKey names 2 sources"),
        (
            {"apiKey": {**existing(""), **external("vault", remoteKey="")}},
            "apiKey.externalSecret.remoteKey is empty: say what the store vault calls the",
        ),
        (on("minter"), "store.secret names no source: set store.secret.existingSecret.name"),
        (OPEN, "listeners.authenticate is false, so nobody is asked for the clients"),
        ({"listeners": off("reverse")}, "listeners has none that is enabled"),
        ({"listeners": on("forward")}, "ca.existingSecret.name is empty: all replicas"),
        (
            merged(FORWARD, {"listeners": {"forward": {"port": 8080}}}),
            "listeners.forward.port is 8080, as is that of listeners.reverse",
        ),
        (
            {"listeners": {"reverse": {"port": 9090}}},
            "listeners.reverse.port is 9090, which is the admin port",
        ),
        (
            {"listeners": {"reverse": {"upstream": "api.example.com"}}},
            "listeners.reverse.upstream is api.example.com, which is none of api.mobula.io, ",
        ),
        (
            {
                "listeners": {"reverse": {"upstream": "api.mobula.io"}},
                "config": {"upstreams": {"graphql.mobula.io": {}}},
            },
            "listeners.reverse.upstream is api.mobula.io, which is none of graphql.mobula.io",
        ),
        (
            merged(FORWARD, TLS, {"listeners": off("reverse")}),
            "tls.existingSecret is set, but only the listener listeners.reverse speaks TLS",
        ),
        (on("injection"), "injection.enabled is true, but sidecars could not read what"),
        (merged(TLS, {"tls": {"existingSecret": ""}}), "client certificates are shown over TLS"),
        (
            {"autoscaling": {"enabled": True, "minReplicas": 6, "maxReplicas": 5}},
            "autoscaling.maxReplicas is 5, less than autoscaling.minReplicas, which is 6",
        ),
        (
            {"config": {"role": "member"}},
            "config.role is set: leave it out; minter.enabled decides",
        ),
        ({"config": {"listeners": []}}, "config.listeners is set: leave it out; say which in"),
        ({"config": {"admin": {}}}, "config.admin is set: leave it out"),
        ({"config": {"api_key": {}}}, "config.api_key is set: leave it out; say where it is in"),
        ({"config": {"clients_file": "f"}}, "config.clients_file is set: leave it out"),
        ({"config": {"state_dir": "/s"}}, "config.state_dir is set: leave it out"),
        ({"config": {"store": {"url": "redis://r"}}}, "config.store.url is set: leave it out"),
        ({"config": {"store": {"secret": {}}}}, "config.store.secret is set: leave it out"),
    ],
)
def test_values_that_do_not_go_together_are_refused(helm: Helm, change: Values, text: str) -> None:
    said = helm.refusal(merged(GATEWAY, change))
    assert text in said
    assert "hunter2" not in said


def test_a_gateway_that_would_let_nobody_in_is_refused(helm: Helm) -> None:
    assert "there are no clients, so nobody could use the gateway" in helm.refusal(BARE)


@pytest.mark.parametrize(
    ("change", "where", "text"),
    [
        ({"replica": 3}, "''", "'replica' not allowed"),
        ({"image": {"name": "x"}}, "/image", "'name' not allowed"),
        ({"listeners": {"tls": {}}}, "/listeners", "'tls' not allowed"),
        ({"mode": "proxy"}, "/mode", "must be one of 'gateway', 'sidecar'"),
        ({"replicas": 1}, "/replicas", "got 1, want 2"),
        ({"replicas": "2"}, "/replicas", "got string, want integer"),
        ({"minter": {"replicas": 3}}, "/minter/replicas", "got 3, want 2"),
        ({"autoscaling": {"minReplicas": 1}}, "/autoscaling/minReplicas", "got 1, want 2"),
        ({"store": {"url": "memory://"}}, "/store/url", "does not match pattern"),
        ({"store": {"url": "sqlite:///t.db"}}, "/store/url", "does not match pattern"),
        ({"image": {"repository": "r/p:1.0"}}, "/image/repository", "does not match pattern"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest", "does not match pattern"),
        ({"listeners": {"reverse": {"port": 80}}}, "/listeners/reverse/port", "got 80, want 1,024"),
        ({"runAs": {"user": 0}}, "/runAs/user", "got 0, want 1"),
        ({"podLabels": {"a": 1}}, "/podLabels/a", "got number, want string"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget", "maxUnavailable"),
        ({"bindAddress": "10.0.0.1"}, "/bindAddress", "must be one of"),
        (
            {"networkPolicy": {"clients": {"podLabels": None}}},
            "/networkPolicy/clients",
            "podLabels",
        ),
        ({"apiKey": external("s", kind="Vault")}, "/apiKey/externalSecret/kind", "must be one of"),
    ],
)
def test_the_schema_refuses_what_no_value_may_be(
    helm: Helm, change: Values, where: str, text: str
) -> None:
    said = helm.refusal(merged(GATEWAY, change))
    assert where in said
    assert text in said


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"token": {"expires_in": "soon"}}, "/config/token/expires_in"),
        ({"token": {"lifetime": "1h"}}, "/config/token"),
        ({"limits": {"connections": 0}}, "/config/limits/connections"),
        ({"shutdown": "20s"}, "/config/shutdown"),
        ({"clients": {"Research!": {}}}, "/config/clients"),
        ({"clients": {"research": {"tokens": ["in-clear"]}}}, "/config/clients/research/tokens"),
    ],
)
def test_settings_that_the_proxy_would_refuse_are_refused(
    helm: Helm, config: Values, where: str
) -> None:
    assert where in helm.refusal(merged(GATEWAY, {"config": config}))


@pytest.mark.parametrize(
    ("pattern", "without"),
    [
        ("^(?=[0-9])(?:([0-9]+)m(?!s))?$", "^(?:([0-9]+)m)?$"),
        (r"^(?:/(?!\.\.?(?:/|$))[a-z()]+)*(?<=.)$", "^(?:/[a-z()]+)*$"),
        (r"\(?=x", r"\(?=x"),
    ],
)
def test_expressions_that_look_around_are_made_blind(pattern: str, without: str) -> None:
    assert blind(pattern) == without


def test_the_schema_has_the_proxys_own_as_it_is_now() -> None:
    """Otherwise look at what `make schema` changes."""
    assert complete(SCHEMA) == SCHEMA


def test_one_replica_is_refused_without_the_schema_too(helm: Helm, tmp_path: Path) -> None:
    chart = Path(copytree(CHART, tmp_path / "mobula-proxy"))
    (chart / "values.schema.json").unlink()
    said = helm.refusal(merged(GATEWAY, {"replicas": 1}), chart=chart)
    assert "replicas is 1: a gateway needs at least 2" in said


def test_all_that_is_wrong_is_told_at_once(helm: Helm) -> None:
    said = helm.refusal({})
    assert "image.repository" in said
    assert "store.url" in said
    assert "apiKey" in said
    assert "there are no clients" in said


def test_a_key_in_values_is_taken_when_told_so(helm: Helm) -> None:
    values = merged(GATEWAY, {"apiKey": {**KEY, "allowInValues": True}})
    assert "WARNING: a secret stands in the values" in notes(helm, values)


def notes(helm: Helm, values: Values) -> str:
    return helm.files(values, release="egress")["mobula-proxy/templates/NOTES.txt"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (GATEWAY, "helm test egress --namespace mobula"),
        (GATEWAY, "http://egress-mobula-proxy.mobula.svc:8080"),
        (GATEWAY, 'Only pods with mobula-proxy/client: "true" may connect, in this namespace'),
        (merged(GATEWAY, TLS), "https://egress-mobula-proxy.mobula.svc:8080"),
        (
            merged(GATEWAY, FORWARD),
            "HTTPS_PROXY=http://client:CLIENT_TOKEN@egress-mobula-proxy.mobula.svc:3128",
        ),
        (merged(BARE, OPEN), "WARNING: listeners.authenticate is false"),
        (merged(GATEWAY, KEYLESS), "its minter alone has the static key"),
        (
            merged(GATEWAY, KEYLESS, {"mode": "sidecar"}),
            "rollout status deployment/egress-mobula-proxy-minter",
        ),
        (CASES["sidecars by injection"], 'mobula-proxy/inject: "true"'),
        (
            CASES["sidecars by injection"],
            "create secret generic mobula-proxy --from-file=store-secret=./FILE",
        ),
        (CASES["sidecars without a minter"], "set injection.enabled to true"),
    ],
)
def test_the_notes_say_what_to_do_next(helm: Helm, values: Values, text: str) -> None:
    assert text in notes(helm, values)


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_the_notes_have_no_gaps(helm: Helm, values: Values) -> None:
    said = notes(helm, values)
    assert "\n\n\n" not in said
    assert "<no value>" not in said


def test_the_examples_of_the_page_are_taken(helm: Helm) -> None:
    page = (Path(__file__).parents[2] / "docs" / "helm.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    gateway, keyless = (yaml.safe_load(each.replace("…", "0" * 64)) for each in blocks)
    assert of_kind(helm.render(gateway), "Deployment")
    assert len(of_kind(helm.render(merged(gateway, keyless)), "Deployment")) == 2


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its path; mappings that are empty by default, or that users fill, are one."""
    for name, value in tree.items():
        path = f"{before}{name}"
        if isinstance(value, dict) and value and not path.endswith(("abels", "resources")):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def test_the_readme_has_every_value_and_its_default() -> None:
    row = r"^\| `([\w.]+)` \| `(.*?)` \|"
    rows = re.findall(row, (CHART / "README.md").read_text(), re.MULTILINE)
    assert rows == [(path, json.dumps(value)) for path, value in leaves(DEFAULTS)]


def test_the_schema_knows_every_value_and_no_other(helm: Helm) -> None:
    def known(schema: Any, tree: Mapping[str, Any]) -> None:
        name = schema.get("$ref", "").rpartition("/")[2]
        schema = schema if name in ("", "Settings") else SCHEMA["definitions"][name]
        if "properties" not in schema:
            return
        assert schema["additionalProperties"] is False
        assert schema["properties"].keys() - {"global", "claims"} == tree.keys()
        for name, value in tree.items():
            if isinstance(value, dict):
                known(schema["properties"][name], value)

    known(SCHEMA, DEFAULTS)
    assert helm.files(merged(IMAGE, {"mode": "sidecar", "global": {"any": 1}}))
