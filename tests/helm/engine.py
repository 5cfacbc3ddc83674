"""The real Helm: renders and lints charts, offline.

Helm's own library is written in Go. It starts threads, opens descriptors and takes signals, which
tests that count them, or that fork, would meet. So it lives in a child process, which is this file
run as a program; a call takes about a millisecond.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypedDict, Unpack

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "mobula-proxy"

Object = dict[str, Any]
"""A Kubernetes object, as YAML or JSON gives it."""


class Given(TypedDict, total=False):
    """What is not as usual: chart, release, cluster.

    `apis` are those that the cluster has beside what every cluster has, as in
    `admissionregistration.k8s.io/v1/MutatingAdmissionPolicy`.
    """

    chart: Path
    release: str
    namespace: str
    kubernetes: str
    apis: Sequence[str]
    upgrade: bool


class RefusedError(Exception):
    """Helm does not render these values; the text is what a user reads."""


class Helm:
    """Helm in a child process."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def render(self, values: Mapping[str, Any], **given: Unpack[Given]) -> list[Object]:
        """Return what a chart makes of the values, in order of its files' names.

        Raises RefusedError.
        """
        files = self.files(values, **given)
        manifests = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
        return [each for text in manifests for each in yaml.safe_load_all(text) if each]

    def files(self, values: Mapping[str, Any], **given: Unpack[Given]) -> dict[str, str]:
        """Return the text of each template by its path, NOTES.txt too. Raises RefusedError."""
        upgrade = given.get("upgrade", False)
        options = {
            "name": given.get("release", "egress"),
            "namespace": given.get("namespace", "mobula"),
            "is_install": not upgrade,
            "is_upgrade": upgrade,
            "kube_version": f"v{given.get('kubernetes', '1.37')}.0",
            "api_versions": list(given.get("apis", ())),
            "strict": True,
        }
        chart = str(given.get("chart", CHART))
        files: dict[str, str] = self._ask("render", chart, values, options)
        return files

    def refusal(self, values: Mapping[str, Any], *, chart: Path = CHART) -> str:
        """Return why Helm does not render these values."""
        try:
            self.files(values, chart=chart)
        except RefusedError as error:
            return str(error)
        pytest.fail("it was rendered")

    def lint(self, values: Mapping[str, Any], *, chart: Path = CHART) -> list[str]:
        """Return what `helm lint --strict` finds, without remarks that are for information."""
        report = self._ask("lint", str(chart), values, {"strict": True})
        found = [each for each in report["messages"] if each["severity"] > 1]
        return [f"{each['path']}: {each['error']}" for each in found]

    def close(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._child.wait(timeout=10)

    def _ask(self, *question: object) -> Any:
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended
            child.stdin.write(json.dumps(question) + "\n")
            child.stdin.flush()
        line = child.stdout.readline()
        if not line:
            _missing(f"helm-python-sdk does not run here: it ended with {child.wait()}")
        answer = json.loads(line)
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        return answer["answer"]


def _missing(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@contextlib.contextmanager
def running_helm() -> Iterator[Helm]:
    """Helm while the block runs."""
    helm = Helm()
    try:
        yield helm
    finally:
        helm.close()


def _answer(command: str, chart: str, values: Any, options: Any) -> Any:
    """Answer in the child.

    The binding's own `Chart.render` cannot tell the version of Kubernetes and its APIs, which the
    library takes.
    """
    from helm_python import _native, lint  # noqa: PLC0415 - loads Go, so in the child only

    if command == "lint":
        return lint(chart, values, **options)
    handle = _native.HANDLE(_native.call_handle("helm_chart_load", chart))
    try:
        text = _native.call_string("helm_render", handle, json.dumps(values), json.dumps(options))
        return json.loads(text)
    finally:
        _native.call_status("helm_chart_free", handle)


def _serve() -> None:
    """Answer one line of JSON with another until there are no more."""
    from helm_python import HelmError  # noqa: PLC0415 - loads Go, so in the child only

    for line in sys.stdin:
        try:
            answer = {"answer": _answer(*json.loads(line))}
        except HelmError as error:
            answer = {"refused": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
