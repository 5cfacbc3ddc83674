"""The environment of a child: what leads its calls to the proxy, and nothing that is secret. Pure.

No value holds a static key; where one did, there is the placeholder, which is good for this proxy
only. What was set already is kept beside what is added, unless it would lead the calls elsewhere.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from proxy.config import Address
from proxy.settings.sources import PREFIX
from proxy.tokens.model import Secret

LOOPBACK = ("localhost", "127.0.0.1", "::1")
METADATA = (
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "100.100.100.200",
    "fd00:ec2::254",
    "metadata.google.internal",
)
"""Where clouds have programs ask for credentials, which no proxy should pass on; ours does not."""
USER = "mobula-proxy"
"""The user whose password is the placeholder, where a client logs in to the proxy."""

_TAKEN_OUT = (
    "MOBULA_API_KEY",
    "MOBULA_API_KEY_FILE",
    "MOBULA_STORE_SECRET",
    "MOBULA_STORE_SECRET_FILE",
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY")
_PROXIES_OF_ALL = ("ALL_PROXY",)
"""For programs that look at no other; set only where there is one to replace."""
_PROXIES_BESIDE = ("WS_PROXY", "WSS_PROXY", "SOCKS_PROXY")
"""Some clients prefer these, for WebSockets; without one they take HTTPS_PROXY."""
_JAVA_LOOPBACK = ("localhost", "127.*", "[::1]")
_JAVA_DIRECT = re.compile(r"""-Dhttp\.nonProxyHosts=("[^"]*"|'[^']*'|\S*)""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a child reaches the proxy, and what it needs to trust it."""

    address: Address
    """Of the forward listener, which is also the API's base URL."""
    placeholder: Secret
    hosts: Collection[str]
    """Of the upstreams, without ports."""
    sockets: Mapping[str, str]
    """For Node: the path of the Unix socket that stands in for each `host:port`."""
    preload: Path
    """The script that leads Node's connections there."""
    trust: Mapping[str, str]
    """The variables that name files of certificates, each with its file."""
    trust_store: Path
    """The same for Java, in PKCS #12."""
    trust_store_password: str

    @property
    def proxy_url(self) -> str:
        return f"http://{USER}:{self.placeholder.reveal()}@{self.address}"


def child_environment(
    environ: Mapping[str, str], secrets: Collection[Secret], way: Way
) -> dict[str, str]:
    """Return the environment of a child; `environ` is ours, and none of the `secrets` is left."""
    kept = {
        name: _without(secrets, value, way.placeholder)
        for name, value in environ.items()
        if name not in _TAKEN_OUT and not name.startswith(PREFIX)
    }
    direct = direct_hosts(kept, way.hosts)
    return {
        **_without_proxies(kept),
        **_proxies(kept, way.proxy_url, direct),
        **way.trust,
        **_node(kept, way),
        "JAVA_TOOL_OPTIONS": _java_options(kept.get("JAVA_TOOL_OPTIONS", ""), way, direct),
        "MOBULA_API_KEY": way.placeholder.reveal(),
        "MOBULA_API_URL": f"http://{way.address}",
    }


def _without(secrets: Collection[Secret], value: str, placeholder: Secret) -> str:
    for secret in secrets:
        value = value.replace(secret.reveal(), placeholder.reveal())
    return value


# Proxies


def network_proxy(environ: Mapping[str, str], hosts: Collection[str], scheme: str) -> str | None:
    """Return the URL of the proxy that this network has for calls to `hosts`; None for no proxy."""
    if any(covers(entry, host) for entry in _no_proxy(environ) for host in hosts):
        return None
    names = both_spellings(f"{scheme.upper()}_PROXY", *_PROXIES_OF_ALL)
    found = next(filter(None, map(environ.get, names)), "")
    scheme, _, rest = found.rpartition("://")
    place = rest.partition("/")[0]
    port = "" if re.search(r":\d+$", place) else ":80"
    return f"{scheme or 'http'}://{place}{port}" if place else None


def both_spellings(*names: str) -> list[str]:
    """Return each name in small letters, which programs prefer, and as it is."""
    return [spelled for name in names for spelled in (name.lower(), name)]


def _without_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    gone = both_spellings(*_PROXIES_BESIDE)
    return {name: value for name, value in environ.items() if name not in gone}


def _proxies(environ: Mapping[str, str], url: str, direct: Iterable[str]) -> dict[str, str]:
    replaced = [name for name in both_spellings(*_PROXIES_OF_ALL) if name in environ]
    proxies = dict.fromkeys([*both_spellings(*_PROXIES), *replaced], url)
    return proxies | dict.fromkeys(both_spellings("NO_PROXY"), ",".join(direct))


def direct_hosts(environ: Mapping[str, str], hosts: Collection[str]) -> list[str]:
    """Return what NO_PROXY is to hold: what it held, and where the proxy leads nobody.

    An entry that covers one of `hosts` is left out; the proxy tunnels to the others that it covers.
    """
    entries = dict.fromkeys([*_no_proxy(environ), *LOOPBACK, *METADATA])
    return [each for each in entries if not any(covers(each, host) for host in hosts)]


def _no_proxy(environ: Mapping[str, str]) -> list[str]:
    texts = (environ.get(name, "") for name in both_spellings("NO_PROXY"))
    return [entry for text in texts for entry in re.split(r"[,\s]+", text) if entry]


def covers(entry: str, host: str) -> bool:
    """Tell whether any client would take this entry of NO_PROXY for the host.

    Some compare whole labels and others mere ends of names, and some know wildcards.
    """
    pattern = re.sub(r":\d+$", "", entry.lower()).rstrip(".")
    return host.endswith(pattern.lstrip("*.")) or fnmatchcase(host, pattern)


# Node


def _node(environ: Mapping[str, str], way: Way) -> dict[str, str]:
    return {
        "NODE_USE_ENV_PROXY": "1",
        "NODE_OPTIONS": _joined(environ.get("NODE_OPTIONS"), f"--require {_quoted(way.preload)}"),
        "MOBULA_PROXY_SOCKETS": json.dumps(dict(way.sockets)),
    }


def _quoted(path: Path) -> str:
    """Quote for NODE_OPTIONS, which knows double quotes, and a backslash inside of them."""
    escaped = re.sub(r'(["\\])', r"\\\1", str(path))
    return f'"{escaped}"'


def _joined(*options: str | None) -> str:
    return " ".join(filter(None, options))


# Java


def _java_options(given: str, way: Way, direct: Iterable[str]) -> str:
    """Return the options for every JVM; of those that are set twice, the last one counts.

    A trust store that was given stays the only one: it cannot be told what it holds, nor added to.
    """
    trust = {
        "javax.net.ssl.trustStore": str(way.trust_store),
        "javax.net.ssl.trustStorePassword": way.trust_store_password,
        "javax.net.ssl.trustStoreType": "PKCS12",
    }
    own_trust = "-Djavax.net.ssl.trustStore=" in given
    proxies = {
        f"{scheme}.{word}": value
        for scheme in ("http", "https")
        for word, value in (("proxyHost", way.address.host), ("proxyPort", str(way.address.port)))
    }
    proxies["http.nonProxyHosts"] = "|".join(_java_direct(given, way.hosts, direct))
    return _joined("" if own_trust else _properties(trust), given, _properties(proxies))


def _java_direct(given: str, hosts: Collection[str], direct: Iterable[str]) -> list[str]:
    """Return the hosts that Java is to reach directly, in its own way of writing."""
    entries = [
        entry
        for found in _JAVA_DIRECT.findall(given)
        for entry in found.strip("\"'").split("|")
        if entry and not any(covers(entry, host) for host in hosts)
    ]
    entries += [pattern for each in direct for pattern in _java_patterns(each)]
    return list(dict.fromkeys([*_JAVA_LOOPBACK, *entries]))


def _java_patterns(entry: str) -> list[str]:
    """Return what covers in Java what an entry of NO_PROXY does; it knows no networks."""
    name = entry.lstrip("*.")
    if "/" in name or name.count(":") > 1:
        return []
    host = name.partition(":")[0]
    if host.replace(".", "").isdigit():
        return [host]
    return [f"*.{host}"] if name != entry else [host, f"*.{host}"]


def _properties(properties: Mapping[str, str]) -> str:
    return " ".join(f"-D{name}={_java_quoted(value)}" for name, value in properties.items())


def _java_quoted(value: str) -> str:
    """Quote for JAVA_TOOL_OPTIONS, which knows both quotes and nothing to escape them with."""

    def quoted(found: re.Match[str]) -> str:
        quote = "'" if found[0][0] == '"' else '"'
        return f"{quote}{found[0]}{quote}"

    return re.sub(r"""[\s']+|"+""", quoted, value)
