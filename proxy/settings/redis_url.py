"""Where a Redis store is: one server, the master that Sentinels name, or a Cluster.

It knows nothing of redis-py, so that a wrong URL is refused where that is not installed. Whatever
is wrong, the text repeats nothing of the URL: it may hold a password.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import SplitResult, parse_qsl, unquote

from proxy.settings.values import Wrong

Kind = Literal["server", "unix", "sentinel", "cluster"]

_KINDS: Mapping[str, Kind] = {
    "redis": "server",
    "unix": "unix",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}
_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS = {"ssl_ca_certs"}
_OPTIONS: Mapping[Kind, set[str]] = {
    "server": _TLS_OPTIONS,
    "unix": {"db"},
    "sentinel": _TLS_OPTIONS | {"sentinel_username", "sentinel_password"},
    "cluster": _TLS_OPTIONS,
}
_URL = re.compile(r"([^:/?#]+):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
"""The parts of a URL (RFC 3986, appendix B)."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A Redis URL in its parts; `str` gives it without credentials and options."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    """Of the server, the Sentinels, or some nodes of the Cluster; empty for a socket."""
    path: str = ""
    """Of the server's Unix socket."""
    service: str = ""
    """The master's name, as the Sentinels know it."""
    db: int = 0
    tls: bool = False
    ca_file: str = ""
    """Trusted instead of the system's authorities."""
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL; raise Wrong, a ValueError, with what would be right."""
        url = _split(text)
        kind, tls = _kind(url.scheme)
        options = _options(url, kind, tls=tls)
        user, _, authority = url.netloc.rpartition("@")
        username, _, password = user.partition(":")
        where = _socket(url, authority) if kind == "unix" else _hosts(authority, kind)
        service, db = _inside(url.path, kind)
        return cls(
            kind,
            **where,
            service=service,
            db=_db(options.get("db", db)),
            tls=tls,
            ca_file=options.get("ssl_ca_certs", ""),
            username=unquote(username),
            password=unquote(password),
            sentinel_username=options.get("sentinel_username", ""),
            sentinel_password=options.get("sentinel_password", ""),
        )

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix://{self.path}"
        scheme = "rediss" if self.tls else "redis"
        scheme += "" if self.kind == "server" else f"+{self.kind}"
        hosts = ",".join(_authority(host, port) for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{hosts}{service}" + (f"/{self.db}" if self.db else "")


def is_redis(text: str) -> bool:
    """Tell whether a URL is meant for a Redis store, be it right or wrong."""
    return re.match(r"(rediss?|unix)\b", text) is not None


def _split(text: str) -> SplitResult:
    """Take a URL apart; `urlsplit` would refuse an IPv6 address behind another host."""
    found = _URL.fullmatch(text)
    scheme, authority, *rest = found.groups(default="") if found else [text, "", "", "", ""]
    url = SplitResult(scheme.lower(), authority, *rest)
    if authority.count("[") != authority.count("]"):
        raise Wrong("must have brackets around an IPv6 address, as in redis://[::1]:6379")
    if not text.isprintable() or " " in text or url.fragment or text.endswith("#"):
        raise Wrong("must have each space, control character and # written as %20 and the like")
    return url


def _kind(scheme: str) -> tuple[Kind, bool]:
    tls = scheme.partition("+")[0] == "rediss"
    kind = _KINDS.get(scheme.replace("rediss", "redis", 1) if tls else scheme)
    if kind is None:
        raise Wrong(
            "must start with redis://, redis+sentinel:// or redis+cluster://, "
            "with rediss in place of redis for TLS, or with unix://"
        )
    return kind, tls


def _options(url: SplitResult, kind: Kind, *, tls: bool) -> dict[str, str]:
    try:
        options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    except ValueError:
        raise Wrong(
            "must have options as in ?name=value&name=value, and ? in a password as %3F"
        ) from None
    known = _OPTIONS[kind] - (set() if tls else _TLS_OPTIONS)
    if not options.keys() <= known:
        allowed = f"only these: {', '.join(sorted(known))}" if known else "none"
        raise Wrong(
            f"must write ? in a password as %3F; of options after a ?, this URL may have {allowed}"
        )
    return options


def _hosts(authority: str, kind: Kind) -> dict[str, tuple[tuple[str, int], ...]]:
    names = authority.split(",")
    if len(names) > 1 and kind == "server":
        raise Wrong("must name one server; several are for redis+sentinel:// or redis+cluster://")
    return {"hosts": tuple(_host(name, _PORTS[kind]) for name in names)}


def _host(text: str, default_port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    port = int(found[2] or default_port) if found else 0
    if found is None or not 0 < port < 65536:
        raise Wrong(
            "must be redis://user:password@host:port, with /, ?, # and @ in the password "
            "written as %2F, %3F, %23 and %40"
        )
    return found[1].strip("[]"), port


def _socket(url: SplitResult, authority: str) -> dict[str, str]:
    if authority or len(url.path) < 2:
        raise Wrong("must have an absolute path, as in unix:///run/redis/redis.sock")
    return {"path": unquote(url.path)}


def _inside(path: str, kind: Kind) -> tuple[str, str]:
    """Return the service and the database that the path names; either may be empty."""
    parts = path.strip("/").split("/")
    match kind, parts:
        case "unix", _:
            return "", ""
        case "sentinel", [service, *db] if service and len(db) < 2:
            return unquote(service), "".join(db)
        case "sentinel", _:
            raise Wrong("must name the master, as in redis+sentinel://host:26379/mymaster")
        case "server", [db]:
            return "", db
        case "cluster", [""]:
            return "", ""
    if kind == "cluster":
        raise Wrong("must have no path: a Cluster has one database only")
    raise Wrong("must have nothing but a database's number for a path, as in redis://host:6379/0")


def _db(text: str) -> int:
    if not re.fullmatch(r"[0-9]{0,5}", text):
        raise Wrong("must give the database as a number, as in redis://host:6379/0")
    return int(text or 0)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
