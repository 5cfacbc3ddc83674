"""That the judges of rendered objects see what is wrong, and that Helm is told all it should be."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from helm.engine import Helm
from helm.kube import VERSIONS, problems

JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "fetch"},
    "spec": {
        "template": {
            "metadata": {"labels": {"app": "fetch"}},
            "spec": {
                "restartPolicy": "Never",
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [
                    {
                        "name": "app",
                        "image": "app",
                        "ports": [{"name": "http", "containerPort": 80}],
                        "volumeMounts": [{"name": "tmp", "mountPath": "/work"}],
                    }
                ],
            },
        }
    },
}
APP = "spec.template.spec.containers.0"


def changed(path: str, value: object) -> dict[str, Any]:
    job = deepcopy(JOB)
    *parents, last = path.split(".")
    place: Any = job
    for each in parents:
        place = place[int(each)] if each.isdigit() else place[each]
    place[last] = value
    return job


def test_a_good_object_has_no_problems() -> None:
    assert [problems(JOB, each) for each in VERSIONS] == [[], [], []]


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("spec.retries", 3, "'retries' was unexpected"),
        ("spec.template.spec.volume", [], "'volume' was unexpected"),
        (f"{APP}.image", 3, "3 is not of type"),
        ("apiVersion", "batch/v7", "has no Job of batch/v7"),
        ("metadata.name", "Fetch_it", "Fetch_it is no name"),
        ("metadata.name", "f" * 64, "is no name"),
        ("metadata.name", f"{'f' * 40}.{'g' * 40}", "has more than 63 characters"),
        ("spec.template.metadata.labels", {"a": "x y"}, "'x y' is no value for a"),
        ("spec.template.spec.volumes", [], "volume tmp is not there"),
        (f"{APP}.volumeMounts", [], "volume tmp is not mounted"),
        (f"{APP}.env", [{"name": "A"}, {"name": "A"}], "variable A is there twice"),
        (
            f"{APP}.ports",
            [{"name": "http", "containerPort": 80}, {"name": "web", "containerPort": 80}],
            "port 80 is there twice",
        ),
        (f"{APP}.ports", [{"name": "Http", "containerPort": 80}], "Http is no name of a port"),
        (f"{APP}.livenessProbe", {"httpGet": {"port": "admin"}}, "there is no port admin"),
    ],
)
def test_each_kind_of_mistake_is_seen(path: str, value: object, text: str) -> None:
    assert text in " ".join(problems(changed(path, value), VERSIONS[-1]))


def test_a_custom_resource_is_looked_at_too() -> None:
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "proxy"},
        "spec": {
            "selector": {"matchLabels": {}},
            "podMetricsEndpoints": [{"port": "admin"}],
            "endpoints": [],
        },
    }
    assert "'endpoints'" in problems(monitor, VERSIONS[-1])[0]


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart that tells what it was told."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: echo\nversion: 0.1.0\n")
    (tmp_path / "templates" / "echo.yaml").write_text(
        "kind: Echo\n"
        "version: {{ .Capabilities.KubeVersion.Version }}\n"
        'has: {{ .Capabilities.APIVersions.Has "example.com/v1/Thing" }}\n'
        "upgrade: {{ .Release.IsUpgrade }}\n"
        "where: {{ .Release.Namespace }}/{{ .Release.Name }}\n"
        "given: {{ .Values.given }}\n"
    )
    return tmp_path


def test_helm_is_told_of_cluster_and_release(helm: Helm, chart: Path) -> None:
    (echo,) = helm.render(
        {"given": 1},
        chart=chart,
        release="one",
        namespace="two",
        kubernetes="1.35",
        apis=["example.com/v1/Thing"],
        upgrade=True,
    )
    assert echo == {
        "kind": "Echo",
        "version": "v1.35.0",
        "has": True,
        "upgrade": True,
        "where": "two/one",
        "given": 1,
    }


def test_a_value_that_no_one_gave_is_refused(helm: Helm, chart: Path) -> None:
    assert 'no entry for key "given"' in helm.refusal({}, chart=chart)


def test_lint_finds_what_is_wrong(helm: Helm, chart: Path) -> None:
    (chart / "templates" / "broken.yaml").write_text("a: {{ nonsense }}\n")
    assert "nonsense" in " ".join(helm.lint({"given": 1}, chart=chart))
