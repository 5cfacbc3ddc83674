"""Values of the chart that the tests render: each shape, and each option of it at least once."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

Values = dict[str, Any]


def merged(*parts: Mapping[str, Any]) -> Values:
    """Merge values as Helm does: later ones win, mappings go into each other."""
    whole: Values = {}
    for part in parts:
        for name, value in part.items():
            inner = isinstance(value, Mapping) and isinstance(whole.get(name), Mapping)
            whole[name] = merged(whole[name], value) if inner else deepcopy(value)
    return whole


def on(*names: str) -> Values:
    """Values that turn on what has these names."""
    return {name: {"enabled": True} for name in names}


def off(*names: str) -> Values:
    """Values that turn off what has these names."""
    return {name: {"enabled": False} for name in names}


def existing(name: str) -> Values:
    """Values that name a Secret which exists."""
    return {"existingSecret": {"name": name}}


def external(store: str, **more: str) -> Values:
    """Values that have a Secret made from a store."""
    return {"externalSecret": {"store": store, "remoteKey": "mobula/secret", **more}}


IMAGE: Values = {"image": {"repository": "registry.example.com/mobula-proxy"}}
BARE = merged(IMAGE, {"apiKey": existing("mobula"), "store": {"url": "redis://redis:6379/0"}})
GATEWAY = merged(BARE, {"config": {"clients": {"research": {"tokens": [f"sha256:{'0' * 64}"]}}}})
"""The least that a gateway needs, without and with a client."""
OPEN: Values = {"listeners": {"authenticate": False}}
KEYLESS: Values = merged(on("minter"), {"store": {"secret": existing("fleet")}})
"""What a minter needs beside."""
FORWARD: Values = {"listeners": on("forward"), "ca": existing("local-ca")}
TLS: Values = {"tls": {"existingSecret": "gateway-tls", "clientCa": {"existingSecret": "team-ca"}}}
WATCHED = on("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")

CASES: Mapping[str, Values] = {
    "gateway": GATEWAY,
    "open gateway": merged(BARE, OPEN),
    "gateway with a minter": merged(GATEWAY, KEYLESS, {"minter": {"replicas": 2}}),
    "minter of sidecars": merged(GATEWAY, KEYLESS, {"mode": "sidecar"}),
    "sidecars without a minter": merged(IMAGE, {"mode": "sidecar"}),
    "sidecars by injection": merged(BARE, on("injection"), {"mode": "sidecar"}),
    "gateway and sidecars": merged(GATEWAY, KEYLESS, on("injection")),
    "forward and reverse listener": merged(GATEWAY, FORWARD),
    "forward listener alone": merged(
        GATEWAY, FORWARD, {"listeners": merged(off("reverse"), {"forward": {"port": 8081}})}
    ),
    "TLS with client certificates": merged(GATEWAY, TLS),
    "ServiceAccount tokens": merged(
        GATEWAY, {"tokenReview": {"enabled": True, "audience": "egress"}}
    ),
    "clients in a Secret": merged(BARE, {"clients": existing("who")}),
    "store URL in a Secret": merged(GATEWAY, {"store": {"url": "", **existing("redis-url")}}),
    "secrets from a store": merged(
        GATEWAY,
        KEYLESS,
        {
            "apiKey": merged(existing(""), external("vault", property="key")),
            "store": {"secret": merged(existing(""), external("vault", kind="ClusterSecretStore"))},
        },
    ),
    "secrets in values": merged(
        GATEWAY,
        KEYLESS,
        {
            "apiKey": {**existing(""), "value": "k" * 32, "allowInValues": True},
            "store": {"secret": {**existing(""), "value": "s" * 64, "allowInValues": True}},
        },
    ),
    "autoscaling": merged(GATEWAY, {"autoscaling": {"enabled": True, "maxReplicas": 5}}),
    "monitoring": merged(GATEWAY, KEYLESS, WATCHED),
    "nothing that is optional": merged(
        GATEWAY, off("podDisruptionBudget", "networkPolicy", "topologySpread")
    ),
    "everything": merged(
        GATEWAY,
        KEYLESS,
        FORWARD,
        TLS,
        WATCHED,
        on("tokenReview", "autoscaling"),
        {
            "image": {
                "digest": f"sha256:{'a' * 64}",
                "pullPolicy": "Always",
                "pullSecrets": ["registry"],
            },
            "bindAddress": "[::]",
            "service": {
                "type": "LoadBalancer",
                "annotations": {"example.com/internal": "true"},
                "trafficDistribution": "PreferSameZone",
            },
            "podDisruptionBudget": {"maxUnavailable": "25%"},
            "networkPolicy": {
                "clients": {"podLabels": {"egress": "mobula"}, "namespaces": ["research", "batch"]},
                "monitoring": {"namespaces": ["*"]},
                "redis": {"ports": [6380], "to": [{"podSelector": {"matchLabels": {"a": "b"}}}]},
                "extraEgress": [{"ports": [{"port": 3128}]}],
            },
            "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
            "serviceAccount": {"annotations": {"example.com/role": "reader"}},
            "resources": {"limits": {"cpu": "1"}},
            "runAs": {"user": None, "group": None, "fsGroup": None},
            "podAnnotations": {"example.com/team": "data"},
            "podLabels": {"team": "data"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "egress", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "priorityClassName": "high",
            "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/corp/ca.pem"}],
            "extraVolumes": [{"name": "corp", "configMap": {"name": "corp-ca"}}],
            "extraVolumeMounts": [{"name": "corp", "mountPath": "/etc/corp", "readOnly": True}],
        },
    ),
    "other names": merged(GATEWAY, {"nameOverride": "egress", "fullnameOverride": "to-mobula"}),
}
