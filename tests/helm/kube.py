"""What an API server would say of objects: by its schemas, and by what it checks beside them.

`kubernetes-validate` has the schemas of Kubernetes; strict ones, which refuse unknown fields. Those
of custom resources are written here, for as much of them as the chart uses.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from helm.engine import Object

VERSIONS = ("1.35", "1.36", "1.37")

_LABEL = re.compile(r"([a-z0-9A-Z]([-a-z0-9A-Z_.]{0,61}[a-z0-9A-Z])?)?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


def validate(objects: Iterable[Object], version: str) -> None:
    """Fail if that version of Kubernetes would not take one of the objects."""
    found = [f"{name_of(each)}: {text}" for each in objects for text in problems(each, version)]
    assert not found, "\n".join(found)


def problems(thing: Object, version: str) -> list[str]:
    """Return what is wrong with an object."""
    return [*_by_schema(json.dumps(thing, sort_keys=True), version), *_beside_it(thing)]


def name_of(thing: Object) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """Return the objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def only(objects: Iterable[Object], kind: str, ending: str = "") -> Object:
    """Return the one object of a kind whose name has that ending."""
    found = [each for each in of_kind(objects, kind) if each["metadata"]["name"].endswith(ending)]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def pod_of(thing: Object) -> Object | None:
    """Return the pod that an object is or makes: its metadata and its spec."""
    match thing["kind"]:
        case "Pod":
            return thing
        case "CronJob":
            template: Object = thing["spec"]["jobTemplate"]["spec"]["template"]
        case "Deployment" | "Job" | "StatefulSet" | "DaemonSet" | "ReplicaSet":
            template = thing["spec"]["template"]
        case _:
            return None
    return template


@functools.cache
def _by_schema(text: str, version: str) -> Sequence[str]:
    """Many cases have objects in common, so each is looked at once for each version."""
    thing = json.loads(text)
    custom = _CUSTOM.get((thing["apiVersion"], thing["kind"]))
    try:
        if custom is None:
            kubernetes_validate.validate(thing, version, strict=True)
        else:
            jsonschema.Draft202012Validator(custom).validate(thing)
    except jsonschema.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"Kubernetes {version} has no {thing['kind']} of {thing['apiVersion']}"]
    return []


def atomic(value: Any, kind: str, version: str) -> set[str]:
    """Return the paths of lists and structs that Kubernetes takes whole or not at all.

    https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy
    """
    return set(_atomic(value, {"$ref": f"/{kind}"}, _definitions(version), ""))


def _atomic(value: Any, schema: Any, known: Any, path: str) -> Iterator[str]:
    whole = known.get(schema.get("$ref", "").rpartition("/")[2], schema)
    if isinstance(value, list):
        if whole.get("x-kubernetes-list-type", "atomic") == "atomic":
            yield path
        for each in value:
            yield from _atomic(each, whole["items"], known, path)
    elif isinstance(value, dict):
        if whole.get("x-kubernetes-map-type") == "atomic":
            yield path
        for name, each in value.items():
            inner = whole.get("properties", {}).get(name, {})
            yield from _atomic(each, inner, known, f"{path}.{name}")


@functools.cache
def _definitions(version: str) -> Any:
    schemas = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    return json.loads((schemas / f"v{version}.0-local" / "_definitions.json").read_text())["$defs"]


def _beside_it(thing: Object) -> Iterator[str]:
    """What no schema says."""
    meta = thing["metadata"]
    yield from _names(meta)
    if pod := pod_of(thing):
        yield from _labels(pod.get("metadata") or {})
        yield from _pod(pod["spec"])
        yield from _selected(thing, pod)


def _names(meta: Object) -> Iterator[str]:
    if not all(_DNS_LABEL.fullmatch(part) for part in meta["name"].split(".")):
        yield f"metadata.name: {meta['name']} is no name"
    if len(meta["name"]) > 63:
        yield f"metadata.name: {meta['name']} has more than 63 characters"
    yield from _labels(meta)


def _labels(meta: Object) -> Iterator[str]:
    for name, value in (meta.get("labels") or {}).items():
        if not (isinstance(value, str) and _LABEL.fullmatch(value)):
            yield f"metadata.labels: {value!r} is no value for {name}"
    for name, value in (meta.get("annotations") or {}).items():
        if not isinstance(value, str):
            yield f"metadata.annotations: {value!r} is no value for {name}"


def _selected(thing: Object, pod: Object) -> Iterator[str]:
    selector = ((thing.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    if not selector.items() <= (pod.get("metadata") or {}).get("labels", {}).items():
        yield "spec.selector: does not select its own pods"


def _pod(spec: Object) -> Iterator[str]:
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    yield from _twice("container", [each["name"] for each in containers])
    yield from _twice("volume", [each["name"] for each in spec.get("volumes") or ()])
    volumes = {each["name"] for each in spec.get("volumes") or ()}
    used = {mount["name"] for each in containers for mount in each.get("volumeMounts") or ()}
    yield from (f"volume {name} is not there" for name in sorted(used - volumes))
    yield from (f"volume {name} is not mounted" for name in sorted(volumes - used))
    for each in containers:
        yield from (f"{each['name']}: {text}" for text in _container(each))


def _container(container: Object) -> Iterator[str]:
    ports = container.get("ports") or ()
    mounts = container.get("volumeMounts") or ()
    named = [each["name"] for each in ports if "name" in each]
    yield from _twice("port", named)
    yield from _twice("port", [str(each["containerPort"]) for each in ports])
    yield from _twice("mount path", [each["mountPath"] for each in mounts])
    yield from _twice("variable", [each["name"] for each in container.get("env") or ()])
    yield from (f"{name} is no name of a port" for name in named if not _PORT_NAME.fullmatch(name))
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = ((container.get(kind) or {}).get("httpGet") or {}).get("port")
        if isinstance(port, str) and port not in named:
            yield f"{kind}: there is no port {port}"


def _twice(what: str, names: Sequence[str]) -> Iterator[str]:
    yield from (f"{what} {name} is there twice" for name, n in Counter(names).items() if n > 1)


def _fields(required: Sequence[str] = (), **properties: Any) -> Object:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _custom(api: str, kind: str, spec: Object) -> tuple[tuple[str, str], Object]:
    parts = {"apiVersion": {"const": api}, "kind": {"const": kind}}
    return (api, kind), _fields(tuple(parts), **parts, metadata={"type": "object"}, spec=spec)


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_TIME = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}


def _endpoints(**more: Object) -> Object:
    """What a monitor scrapes."""
    common = {"port": _TEXT, "path": _TEXT, "interval": _TIME}
    return {"type": "array", "minItems": 1, "items": _fields(("port",), **common, **more)}


_RULE = _fields(
    ("alert", "expr"),
    **{"alert": _TEXT, "expr": _TEXT, "for": _TIME, "labels": _TEXTS, "annotations": _TEXTS},
)
_CUSTOM = dict(
    [
        _custom(
            "monitoring.coreos.com/v1",
            "PodMonitor",
            _fields(
                ("selector", "podMetricsEndpoints"),
                selector=_fields(matchLabels=_TEXTS),
                namespaceSelector=_fields(("any",), any={"const": True}),
                podMetricsEndpoints=_endpoints(
                    scrapeTimeout=_TIME, honorLabels={"type": "boolean"}
                ),
            ),
        ),
        _custom(
            "monitoring.coreos.com/v1",
            "ServiceMonitor",
            _fields(
                ("selector", "endpoints"),
                selector=_fields(matchLabels=_TEXTS),
                endpoints=_endpoints(
                    relabelings={
                        "type": "array",
                        "items": _fields(
                            ("targetLabel", "replacement"), targetLabel=_TEXT, replacement=_TEXT
                        ),
                    },
                ),
            ),
        ),
        _custom(
            "monitoring.coreos.com/v1",
            "PrometheusRule",
            _fields(
                ("groups",),
                groups={
                    "type": "array",
                    "minItems": 1,
                    "items": _fields(
                        ("name", "rules"), name=_TEXT, rules={"type": "array", "items": _RULE}
                    ),
                },
            ),
        ),
        _custom(
            "external-secrets.io/v1",
            "ExternalSecret",
            _fields(
                ("secretStoreRef", "target", "data"),
                refreshInterval=_TIME,
                secretStoreRef=_fields(
                    ("name", "kind"),
                    name=_TEXT,
                    kind={"enum": ["SecretStore", "ClusterSecretStore"]},
                ),
                target=_fields(("name",), name=_TEXT, creationPolicy={"const": "Owner"}),
                data={
                    "type": "array",
                    "minItems": 1,
                    "items": _fields(
                        ("secretKey", "remoteRef"),
                        secretKey=_TEXT,
                        remoteRef=_fields(("key",), key=_TEXT, property=_TEXT),
                    ),
                },
            ),
        ),
    ]
)
