"""What watches the proxies: alerts that fire when they should, panels that show what there is."""

import itertools
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from harness import SecretScan, base_url, get, program, running, until_ready
from helm.cases import GATEWAY, WATCHED, Values, merged
from helm.engine import Helm, Object
from helm.kube import only
from proxy.sandbox import Sandbox

METRIC = re.compile(r"\b(mobula_proxy_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
FROM_KUBERNETES = {"namespace", "pod", "job"}
SERIES = 'namespace="mobula", pod="egress-1", job="mobula/egress-mobula-proxy-proxies"'


def rules_of(helm: Helm, *changes: Values) -> list[Object]:
    """The alerts that the chart renders."""
    objects = helm.render(merged(GATEWAY, WATCHED, *changes))
    (group,) = only(objects, "PrometheusRule")["spec"]["groups"]
    return list(group["rules"])


def dashboard_of(helm: Helm) -> dict[str, Any]:
    config_map = only(helm.render(merged(GATEWAY, WATCHED)), "ConfigMap", "-dashboard")
    dashboard: dict[str, Any] = json.loads(config_map["data"]["mobula-proxy.json"])
    return dashboard


def panels_of(helm: Helm) -> list[dict[str, Any]]:
    """The panels that show something, without the rows' titles."""
    return [each for each in dashboard_of(helm)["panels"] if each["type"] != "row"]


@pytest.fixture
async def exposed(sandbox: Sandbox, scan: SecretScan) -> dict[str, set[str]]:
    """The names of all that a proxy exposes, each with the labels of what it has counted so far."""
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        for path in ("/api/1/market/data?asset=Bitcoin&apiKey=mine", "/api/2/auth/tokens"):
            await get(base_url(app) + path)
        _, _, body = await get(f"http://{app.admin_address}/metrics")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(body.decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        found.setdefault(name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def unknown(query: str, exposed: dict[str, set[str]]) -> Iterator[str]:
    """Names of metrics, and of labels of those that have samples, that no proxy exposes."""
    for name, matchers in METRIC.findall(query):
        if name not in exposed:
            yield name
        for label in LABEL.findall(matchers) if exposed.get(name) else ():
            if label not in exposed[name] | FROM_KUBERNETES:
                yield f"{name}: {label}"


async def test_alerts_are_about_metrics_that_a_proxy_exposes(
    helm: Helm, exposed: dict[str, set[str]]
) -> None:
    queries = " ".join(each["expr"] for each in rules_of(helm))
    assert len(METRIC.findall(queries)) >= 12
    assert list(unknown(queries, exposed)) == []


async def test_panels_show_metrics_that_a_proxy_exposes(
    helm: Helm, exposed: dict[str, set[str]]
) -> None:
    for panel in panels_of(helm):
        assert panel["targets"]
        for target in panel["targets"]:
            assert list(unknown(target["expr"], exposed)) == []
            assert METRIC.search(target["expr"])


async def test_a_metric_that_is_not_there_is_seen(exposed: dict[str, set[str]]) -> None:
    assert list(unknown("rate(mobula_proxy_hopes_total[5m])", exposed)) == [
        "mobula_proxy_hopes_total"
    ]
    wrong = 'mobula_proxy_requests_total{colour="red"}'
    assert list(unknown(wrong, exposed)) == ["mobula_proxy_requests_total: colour"]


def test_every_alert_says_how_bad_it_is_and_what_to_do(helm: Helm) -> None:
    for rule in rules_of(helm):
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert len(rule["annotations"]["description"]) > 40


def test_every_metric_worth_an_alert_has_one(helm: Helm) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = page.partition("## Worth an alert")[2]
    wanted = set(re.findall(r"^\| `(mobula_proxy_\w+)", table, re.MULTILINE))
    assert wanted
    assert wanted <= {name for each in rules_of(helm) for name, _ in METRIC.findall(each["expr"])}


def test_alerts_follow_the_settings(helm: Helm) -> None:
    config = {"token": {"expires_in": "10m"}, "limits": {"connections": 500}}
    rules = {each["alert"]: each for each in rules_of(helm, {"config": config})}
    assert rules["MobulaProxyMintsFail"]["for"] == "200s"
    assert rules["MobulaProxyStockExpires"]["expr"].endswith("< 60")
    assert rules["MobulaProxyConnectionsNearLimit"]["expr"].endswith("> 400")


def test_alerts_are_about_this_release_unless_told_otherwise(helm: Helm) -> None:
    for rule in rules_of(helm):
        assert "mobula/egress-mobula-proxy-proxies" in rule["expr"]
    for rule in rules_of(helm, {"prometheusRule": {"selector": 'service="egress"'}}):
        assert 'service="egress"' in rule["expr"]
        assert "job" not in rule["expr"]


def test_panels_have_a_place_of_their_own(helm: Helm) -> None:
    places = [each["gridPos"] for each in dashboard_of(helm)["panels"]]
    ids = [each["id"] for each in dashboard_of(helm)["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(each["x"] + each["w"] <= 24 for each in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_panels_ask_the_chosen_source_about_the_chosen_pods(helm: Helm) -> None:
    for panel in panels_of(helm):
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'namespace=~"$namespace", pod=~"$pod"' in target["expr"]


FIRING: Mapping[str, Mapping[str, str]] = {
    "MobulaProxyTokenUnavailable": {'errors_total{code="token_unavailable", %s}': "0+1x200"},
    "MobulaProxyMintsFail": {'mints_total{result="401", %s}': "0+1x200"},
    "MobulaProxyStockExpires": {"token_stock_expiry_seconds{%s}": "300x200"},
    "MobulaProxyStoreLost": {'store_reach{reach="joined", %s}': "0x200"},
    "MobulaProxyNothingFree": {"token_requests_free{%s}": "0x200", "sharers{%s}": "2x200"},
    "MobulaProxyMintBudgetSpent": {"mint_permits{%s}": "0x200"},
    "MobulaProxyOrphans": {'orphans_total{result="ok", %s}': "0+1x200"},
    "MobulaProxyConnectionsNearLimit": {"client_connections{%s}": "9000x200"},
    "MobulaProxyTunnelsNearLimit": {"tunnels{%s}": "9000x200"},
    "MobulaProxyLeasesStayOpen": {
        "leases_open{%s}": "3x200",
        "requests_in_flight{%s}": "2x200",
    },
    "MobulaProxyDistrusted": {'errors_total{code="ca_not_trusted", %s}': "0+1x200"},
    "MobulaProxyClientUnknown": {'errors_total{code="client_unknown", %s}': "0+1x200"},
    "MobulaProxyClientOverLimit": {
        'client_refusals_total{client="research", code="client_quota_used_up", %s}': "0+1x200"
    },
    "MobulaProxyReviewUnavailable": {
        'errors_total{code="client_review_unavailable", %s}': "0+1x200"
    },
    "MobulaProxyKeyMisplaced": {'stripped_keys_total{place="query", %s}': "0+1x200"},
}
WELL: Mapping[str, str] = {
    'build_info{version="0.1.0", %s}': "1x200",
    'errors_total{code="token_unavailable", %s}': "7x200",
    'errors_total{code="path_denied", %s}': "0+1x200",
    'errors_total{code="client_unknown", %s}': "7x200",
    'client_refusals_total{client="research", code="client_denied", %s}': "0+1x200",
    'mints_total{result="ok", %s}': "0+1x200",
    'mints_total{result="401", %s}': "7x200",
    "token_stock_expiry_seconds{%s}": "3600x200",
    'store_reach{reach="joined", %s}': "1x200",
    'store_reach{reach="cut", %s}': "0x200",
    "token_requests_free{%s}": "0x200",
    "sharers{%s}": "0x200",
    "mint_permits{%s}": "1x200",
    'orphans_total{result="ok", %s}': "7x200",
    "client_connections{%s}": "7999x200",
    "tunnels{%s}": "7999x200",
    "leases_open{%s}": "3x200",
    "requests_in_flight{%s}": "3x200",
    'stripped_keys_total{place="query", %s}': "7x200",
    'stripped_keys_total{place="authorization", %s}': "0+1x200",
}


def situation(series: Mapping[str, str], *firing: str) -> Object:
    """A test of promtool: after two hours of these series, these alerts fire and no others."""
    given = [
        {"series": f"mobula_proxy_{name % SERIES}", "values": values}
        for name, values in series.items()
    ]
    asked = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "2h",
        "exp_samples": [{"labels": f'{{alertname="{each}"}}', "value": 1} for each in firing],
    }
    return {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}


def without(series: Mapping[str, str], start: str) -> dict[str, str]:
    return {name: values for name, values in series.items() if not name.startswith(start)}


@pytest.fixture
def rule_file(helm: Helm, tmp_path: Path) -> Path:
    objects = helm.render(merged(GATEWAY, WATCHED))
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(only(objects, "PrometheusRule")["spec"]))
    return file


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_prometheus_takes_the_rules(rule_file: Path) -> None:
    checked = promtool("check", "rules", rule_file)
    assert checked.returncode == 0, checked.stderr
    assert f"SUCCESS: {len(FIRING) + 1} rules found" in checked.stdout


def test_each_alert_fires_when_it_should_and_none_when_all_is_well(rule_file: Path) -> None:
    situations = [
        situation(WELL),
        situation(without(WELL, "build_info"), "MobulaProxyAbsent"),
        *(situation({**WELL, **series}, alert) for alert, series in FIRING.items()),
    ]
    file = rule_file.with_name("situations.yaml")
    file.write_text(yaml.safe_dump({"rule_files": [str(rule_file)], "tests": situations}))
    tested = promtool("test", "rules", file)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_an_alert_that_does_not_fire_is_seen(rule_file: Path) -> None:
    """So that the test above can fail."""
    file = rule_file.with_name("situations.yaml")
    wrong = {"rule_files": [str(rule_file)], "tests": [situation(WELL, "MobulaProxyStoreLost")]}
    file.write_text(yaml.safe_dump(wrong))
    assert promtool("test", "rules", file).returncode == 1
