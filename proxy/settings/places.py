"""Where things are: the address to listen on, a directory, an upstream's name and its URL.

Parsers bring each into one form, so that equal places are equal values, and raise `Wrong` with what
would be right.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from msgspec import Struct

from proxy.settings.values import Leaf, Wrong

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_PORT = r"[0-9]{1,5}"
_UNIX_PATH_BYTES = 107  # sun_path is 108 bytes on Linux, the last one NUL


def _host(text: str) -> str:
    """Return the host in lower case, an IP address compressed and without brackets."""
    if text.startswith("[") and text.endswith("]"):
        return str(ipaddress.IPv6Address(text[1:-1]))
    if not re.fullmatch(_HOST_NAME, text):
        raise ValueError
    if text.rpartition(".")[2].isdigit():  # resolvers would read 127.1 as an address too
        return str(ipaddress.IPv4Address(text))
    return text.lower()


def _port(text: str, lowest: int) -> int:
    if not re.fullmatch(_PORT, text) or not lowest <= int(text) <= 65535:
        raise Wrong(f"must have a port between {lowest} and 65535")
    return int(text)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _authority(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


class Address(Struct, frozen=True):
    """Where to listen: `path` of a Unix socket, or `host` and `port` when `path` is empty.

    `port` 0 asks the system for a free one. An IPv6 `host` is without brackets.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read `host:port`, `[v6]:port` or `unix:/path`; raise Wrong for anything else."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or ":" not in value:
            raise Wrong("must be host:port, [v6]:port or unix:/path, e.g. 127.0.0.1:8080")
        if value.startswith("unix:"):
            return cls(path=_unix_path(value.removeprefix("unix:")))
        host, _, port = value.rpartition(":")
        return cls(host=_bind_host(host), port=_port(port, 0))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a Unix socket counts."""
        return bool(self.path) or _is_loopback(self.host)

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else _authority(self.host, self.port)


def _unix_path(path: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise Wrong("must have an absolute path, as in unix:/run/mobula-proxy/proxy.sock")
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        raise Wrong(f"must have a path of at most {_UNIX_PATH_BYTES} bytes")
    return path


def _bind_host(text: str) -> str:
    if ":" in text and not text.startswith("["):
        raise Wrong("must have brackets around an IPv6 address, as in [::1]:8080")
    try:
        return _host(text)
    except ValueError:
        raise Wrong("must start with an IP address or a host name, as in 127.0.0.1:8080") from None


def _directory(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and value and value.isprintable()):
        raise Wrong("must be the path of a directory")
    return value


Directory = Annotated[str | None, Leaf(_directory, {"type": ["string", "null"], "minLength": 1})]


def user_state_dir(environ: Mapping[str, str]) -> Path | None:
    """Return our folder among those where the user's programs keep what survives a restart.

    It is where the XDG Base Directory Specification says; None if the environment names no home.
    """
    state, home = (Path(environ.get(name, "")) for name in ("XDG_STATE_HOME", "HOME"))
    if state.is_absolute():  # a relative one is to be ignored
        return state / "mobula-proxy"
    return home / ".local" / "state" / "mobula-proxy" if home.is_absolute() else None


Bind = Annotated[
    Address,
    Leaf(
        Address.parse,
        {
            "type": "string",
            "pattern": rf"^(?:unix:/.+|(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|{_HOST_NAME}):{_PORT})$",
        },
        write=str,
    ),
]
"""An Address; text `host:port`, `[v6]:port` or `unix:/path`."""


def _upstream_name(value: object) -> str:
    """Return the name in lower case: the host, and the port if any, that clients put in `Host`."""
    text = str(value)
    name, colon, port = text.rpartition(":")
    has_port = bool(colon) and port.isdecimal()
    try:
        host = _host(name if has_port else text)
    except ValueError:
        raise Wrong(
            "must be a host name with an optional port, e.g. api.mobula.io or localhost:9000"
        ) from None
    return _authority(host, _port(port, 1) if has_port else None)


def host_of(name: str) -> str:
    """Return the host of an upstream's name: without a port, and an IPv6 one without brackets."""
    return urlsplit(f"//{name}").hostname or ""


UpstreamName = Annotated[
    str,
    Leaf(_upstream_name, {"type": "string", "pattern": rf"^{_HOST_NAME}(?::{_PORT})?$"}),
]


def _http_url(value: object) -> str:
    """Return `scheme://host[:port][/prefix]`: scheme and host in lower case, no slash at the end.

    Raises Wrong for credentials and queries too: a prefix is all that goes before a request's path.
    """
    if not isinstance(value, str):
        raise Wrong("must be text")
    scheme, separator, rest = value.partition("://")
    if scheme.lower() not in {"http", "https"} or not separator:
        raise Wrong("must start with https:// (or http:// for this machine)")
    if "@" in rest:
        raise Wrong("must not hold a user name or password")
    if "?" in rest or "#" in rest:
        raise Wrong("must not hold a query or fragment (? or #)")
    if not re.fullmatch(r"[!-~]+", rest):
        raise Wrong("must name a host, without spaces, as in https://api.mobula.io")
    netloc, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{_url_authority(netloc)}{(slash + path).rstrip('/')}"


def _url_authority(netloc: str) -> str:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", netloc)
    try:
        host = _host(found[1] if found else "")
    except ValueError:
        raise Wrong("must name a host, as in https://api.mobula.io") from None
    port = found[2] if found else None
    return _authority(host, None if port is None else _port(port, 1))


DEFAULT_PORTS: Final = {"http": 80, "https": 443}
"""Of an HttpUrl that names none, by its scheme."""

HttpUrl = Annotated[
    str,
    Leaf(_http_url, {"type": "string", "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s@?#]+$"}),
]


def travels_in_clear(url: str, address: str | None) -> bool:
    """Whether requests to this HttpUrl, or to its fixed address, cross a network unencrypted."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(address or parts.hostname or "")


def names_an_address(url: str) -> bool:
    """Whether the host of this HttpUrl, or of this UpstreamName, is an IP address."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return False
    return True
