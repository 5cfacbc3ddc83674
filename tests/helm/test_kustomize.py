"""The plain base for those without Helm: it is what Helm renders, and kustomize builds it.

`make tables` writes what is rendered.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness import program
from helm import kube
from helm.admission import Cluster
from helm.cases import Values, existing, merged, on
from helm.engine import CHART, Helm, Object
from helm.kube import of_kind, only
from helm.security import violations
from helm.test_injection import INJECTION, MODES, NAME, asking, sidecar_of
from helm.test_sidecar import rendered
from table import WRITE

BASE = CHART.parent / "kustomize"
HEADER = "# Rendered from the chart; `make tables` writes it.\n"
MINTER: Values = merged(
    INJECTION,
    on("minter"),
    {
        "injection": {"enabled": False},
        "apiKey": existing("mobula-api-key"),
        "store": {"secret": existing("mobula-proxy")},
    },
)
ONLY_HELM = re.compile(
    r"^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n"
    r'|^  namespace: "mobula"\n'
    r"|^ *annotations:\n +# .*\n +checksum/config: .*\n",
    re.MULTILINE,
)
"""What is for Helm alone, or for kustomize to say."""


def check_written(file: Path, text: str) -> None:
    if WRITE:
        file.write_text(text)
    assert file.read_text() == text, f"{file.name} is not what Helm renders: `make tables`"


def plain(helm: Helm, values: Values) -> str:
    """What Helm renders, without what is Helm's."""
    files = helm.files(values, release=NAME)
    texts = [text.strip("\n- ") for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return HEADER + ONLY_HELM.sub("", "\n---\n".join(filter(None, texts)) + "\n")


def test_the_base_is_what_helm_renders(helm: Helm) -> None:
    check_written(BASE / "base" / "injection.yaml", plain(helm, INJECTION))
    check_written(BASE / "minter" / "minter.yaml", plain(helm, MINTER))


@pytest.mark.parametrize("mode", MODES)
def test_the_patch_of_a_sidecar_is_what_helm_renders(helm: Helm, consumer: Path, mode: str) -> None:
    spec = rendered(helm, consumer, mode)["spec"]["template"]["spec"]
    (app,) = spec["containers"]
    added = {
        "initContainers": spec["initContainers"],
        "containers": [{name: app[name] for name in ("name", "env", "volumeMounts") if app[name]}],
        "volumes": spec["volumes"],
        "hostAliases": spec["hostAliases"],
        "securityContext": {"sysctls": spec["securityContext"]["sysctls"]},
    }
    if mode != "tls":
        del added["hostAliases"], added["securityContext"]
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "any"},
        "spec": {"template": {"spec": added}},
    }
    text = HEADER + yaml.safe_dump(patch, sort_keys=False, width=100)
    check_written(BASE / "sidecar" / mode / "patch.yaml", text)


Build = Callable[[Path], list[Object]]


@pytest.fixture(scope="module")
def build() -> Build:
    """Have kubectl build a kustomization; a wheel among the tests' requirements carries it."""
    beside = Path(sys.executable).with_name("kubectl")
    kubectl = str(beside) if beside.exists() else program("kubectl")

    def build(folder: Path) -> list[Object]:
        done = subprocess.run(
            [kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return build


def test_the_example_says_what_differs_from_the_base(build: Build) -> None:
    objects = build(BASE / "example")
    kube.validate(objects, kube.VERSIONS[-1])
    after = Cluster(objects).admit(asking())
    sidecar = sidecar_of(after)
    assert sidecar["image"] == "registry.internal/mobula-proxy:1.0.0"
    assert after["spec"]["volumes"][0]["secret"]["secretName"] == "mobula-fleet"
    store = {"name": "MOBULA_PROXY__STORE__URL", "value": "redis://redis.egress.svc:6379/0"}
    assert store in sidecar["env"]
    minter = only(objects, "Deployment")
    (container,) = minter["spec"]["template"]["spec"]["containers"]
    assert minter["metadata"]["namespace"] == "egress"
    assert container["image"] == sidecar["image"]
    assert store in container["env"]


def test_the_beta_is_what_older_clusters_take(build: Build, tmp_path: Path) -> None:
    objects = build(overlay(tmp_path, {"resources": ["../base"], "components": ["../beta"]}))
    kube.validate(objects, "1.35")
    assert len(of_kind(objects, "MutatingAdmissionPolicy")) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_a_label_has_kustomize_add_the_sidecar_in_front(
    build: Build, tmp_path: Path, mode: str, kind: str
) -> None:
    spec = asking()["spec"] | {"initContainers": [{"name": "first", "image": "first"}]}
    app = {
        "apiVersion": "apps/v1" if kind == "Deployment" else "batch/v1",
        "kind": kind,
        "metadata": {"name": "app", "labels": {"mobula-proxy/sidecar": mode}},
        "spec": {"template": {"spec": spec}},
    }
    files = {"resources": ["app.yaml"], "components": [f"../sidecar/{each}" for each in MODES]}
    (patched,) = build(overlay(tmp_path, files, app))
    pod = patched["spec"]["template"]["spec"]
    patch = yaml.safe_load((BASE / "sidecar" / mode / "patch.yaml").read_text())
    added = patch["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == [NAME, "first"]
    assert pod["initContainers"][0] == added["initContainers"][0]
    assert pod["containers"][0].items() >= added["containers"][0].items()
    assert [each for each in violations(pod) if each.startswith(NAME)] == []
    for name in ("volumes", "hostAliases", "securityContext"):
        assert pod.get(name) == added.get(name)


def overlay(folder: Path, kustomization: Object, *objects: Object) -> Path:
    """A kustomization beside a copy of ours; the objects are in its app.yaml."""
    shutil.copytree(BASE, folder / "kustomize")
    mine = folder / "kustomize" / "mine"
    mine.mkdir()
    (mine / "app.yaml").write_text(yaml.safe_dump_all(objects))
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return mine
