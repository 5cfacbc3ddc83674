"""The request target: which upstream it is for, what it may not reach, keys that stand in it. Pure.

`select` alone decides which upstream a request is for. It goes by what the listener and the opening
of the connection promise (`Entrance`) and by what the request asks for; where they differ it says
no, so that no two parts of the proxy can take one request for two different ones.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from itertools import islice
from typing import Protocol
from urllib.parse import unquote_to_bytes

from proxy.errors import HostDenied, MalformedRequest, MethodDenied, Misdirected
from proxy.network.guard import Guard

KEY_PARAMETERS = (b"apikey", b"xapikey")
"""Names of query parameters that hold a key, in lower case and without `-` and `_`."""

_TOKEN_ENDPOINTS = (b"api", b"2", b"auth")
_LEAVES_A_CHOICE = re.compile(rb"%|;|\\|\.\.")
_IGNORED = bytes(range(0x21)) + b"."
"""What some servers cut off the ends of a segment."""
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
_LAST_PORT = 65535
_LONGEST_HOST = 262
"""Bytes of a host name (RFC 1035, section 2.3.4), its colon and its port."""


@dataclass(frozen=True, slots=True)
class Place:
    """A host, in lower case and without brackets and root dot, and its port if one was given."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def read_place(authority: bytes) -> Place | None:
    """Return what `host[:port]` names, or None if it is not well formed."""
    found = _HOST.fullmatch(authority)
    if found is None:
        return None
    host = found[1].decode().lower().removesuffix(".")
    port = int(found[2]) if found[2] else None
    if not host or host.endswith(".") or (port is not None and not 0 < port <= _LAST_PORT):
        return None
    if not host.startswith("["):
        return Place(host, port)
    try:
        return Place(str(IPv6Address(host[1:-1])), port)
    except ValueError:
        return None


class Names:
    """The upstreams by the hosts that clients ask for.

    A name with a port is that port only; one without is its host, whatever the port.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {place: name for name in names if (place := read_place(name.encode()))}
        self._remembered = lru_cache(maxsize=256)(self._find)

    def __repr__(self) -> str:
        return f"<Names {', '.join(self._names.values())}>"

    def find(self, authority: bytes) -> str | None:
        """Return the upstream that a client means by `host[:port]`, or None if it is no one's.

        Raises MalformedRequest for what is not well formed.
        """
        find = self._remembered if len(authority) <= _LONGEST_HOST else self._find
        return find(authority)

    def _find(self, authority: bytes) -> str | None:
        if not is_host(authority):
            raise MalformedRequest("The Host header, or the target's authority, is malformed.")
        place = read_place(authority)
        if place is None:
            return None
        return self._names.get(place) or self._names.get(Place(place.host))

    def host_of(self, name: str) -> str:
        """Return the host of an upstream."""
        return next(place.host for place, each in self._names.items() if each == name)

    def on(self, host: str) -> frozenset[str]:
        """Return the upstreams of a host, whatever their ports."""
        return frozenset(name for place, name in self._names.items() if place.host == host.lower())


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a client's connection says of the requests on it before the first of them has come.

    `upstream` is for requests that name no other. A `pinned` connection, whose TLS ends here, is
    for these upstreams only: those of its server name, or the one of its CONNECT, or none at all if
    the two differ. Without `others`, hosts that are no upstream's are denied.
    """

    upstream: str
    pinned: frozenset[str] | None = None
    forwards: bool = False
    """Whether absolute targets say where to go, as they do to a forward proxy."""
    others: Guard | None = None
    """Which addresses of other hosts may be reached."""


@dataclass(slots=True)
class Route:
    """Where a request goes: to an upstream, or else to another host; and its target there."""

    target: bytes
    upstream: str = ""
    other: tuple[Place, Guard] | None = None


def select(
    names: Names, entrance: Entrance, method: str, target: bytes, host: bytes | None
) -> Route:
    """Decide which upstream a request is for; `host` is its Host, None without one.

    An absolute target goes before Host (RFC 9112, section 3.2.2). Raises MalformedRequest,
    MethodDenied, HostDenied and Misdirected.
    """
    authority, path = _split(method, target)
    name = entrance.upstream if host is None else names.find(host)
    if authority is not None:
        name = names.find(authority)
    if entrance.pinned is not None:
        return Route(path, _pinned(name, entrance.pinned))
    if name is not None:
        return Route(path, name)
    if authority is None or not entrance.forwards:
        return Route(path, entrance.upstream)
    place = read_place(authority)
    if place is None:
        raise MalformedRequest("The target's authority is malformed.")
    guard = guard_of(place, entrance)
    if target[:6].lower() == b"https:":
        raise HostDenied("https:// to other hosts needs a CONNECT.")
    return Route(path, other=(place, guard))


def _pinned(name: str | None, pinned: frozenset[str]) -> str:
    if name is None or name not in pinned:
        raise Misdirected(
            "The request is for another host than its connection, whose CONNECT, TLS server name "
            "and Host must agree."
        )
    return name


def guard_of(place: Place, entrance: Entrance) -> Guard:
    """Return what guards the way to another host. Raises HostDenied if all others are denied."""
    if entrance.others is None:
        raise HostDenied(f"{place} is no configured upstream, and this listener serves no others.")
    return entrance.others


def _split(method: str, target: bytes) -> tuple[bytes | None, bytes]:
    """Return a target's authority, if it has one, and what an origin server gets of it.

    Its bytes stay untouched.
    """
    if method == "CONNECT":
        raise MethodDenied("A CONNECT is for forward listeners, as a connection's first request.")
    if target.startswith(b"/") or (target == b"*" and method == "OPTIONS"):
        return None, target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise MalformedRequest("The request target is neither a path nor an http URL.")
    authority, rest = absolute[1], absolute[2]
    if not rest and method == "OPTIONS":
        return authority, b"*"
    return authority, rest if rest.startswith(b"/") else b"/" + rest


def is_host(value: bytes) -> bool:
    """Tell whether a Host header's value is well formed (RFC 9110, section 7.2)."""
    return _HOST.fullmatch(value) is not None


class KeyFinder(Protocol):
    """Knows the static keys; see `tokens.known_keys.KnownKeys`."""

    def occur_in(self, data: bytes) -> bool: ...

    def cut_from(self, data: bytes) -> bytes: ...


def manages_tokens(target: bytes) -> bool:
    """Tell whether a target reaches Mobula's token endpoints, however it is spelled.

    Servers differ in what they decode, resolve and collapse, and in which order. A path that leaves
    them a choice is taken for one as soon as `api`, `2` and `auth` stand in it in this order.
    """
    path = re.split(rb"[?#]", target, maxsplit=1)[0]
    if b"%" not in path and b"auth" not in path.lower():
        return False
    plain = _LEAVES_A_CHOICE.search(path) is None
    for _ in range(3):
        path = unquote_to_bytes(path)
    names = filter(None, map(_bare, re.split(rb"[/\\]", path.lower())))
    if plain:
        return tuple(islice(names, 3)) == _TOKEN_ENDPOINTS
    return all(each in names for each in _TOKEN_ENDPOINTS)


def is_below(target: bytes, prefixes: Iterable[bytes]) -> bool:
    """Tell whether a target's path is one of these, which end without a slash, or below it.

    It must be so however a server reads it: a path that may lead up again is not.
    """
    path = target.partition(b"?")[0]  # some servers take a # for a part of it
    begins = any(path[: len(each) + 1] in (each, each + b"/") for each in prefixes)
    if not (begins and path.startswith(b"/")):
        return False
    for _ in range(3 if b"%" in path else 0):
        path = unquote_to_bytes(path)
    *names, last = re.split(rb"[/\\]", path)[1:]
    return all(map(_bare, names)) and (not last or _bare(last) != b"")


def _bare(segment: bytes) -> bytes:
    return re.split(rb"[;?#]", segment, maxsplit=1)[0].strip(_IGNORED)


def without_keys(
    target: bytes, keys: KeyFinder, *, by_name: bool = True
) -> tuple[bytes, list[str]]:
    """Return the target without static keys, and the places where some stood.

    A query parameter goes whole if it holds a known key or, `by_name`, if it is named like one that
    holds a key; from a path, a known key is cut out. All other bytes stay as they are.
    """
    path, mark, query = target.partition(b"?")
    places = []
    if mark and _may_hold_key(query, keys):
        kept = [each for each in query.split(b"&") if not _holds_key(each, keys, by_name)]
        if len(kept) <= query.count(b"&"):
            places.append("query")
            query = b"&".join(kept)
            target = path + mark + query if kept else path
    if keys.occur_in(target):
        places.append("path")
    while keys.occur_in(target):  # what is left may make up a key once more
        target = keys.cut_from(target)
    return target, places


def _may_hold_key(query: bytes, keys: KeyFinder) -> bool:
    return may_name_key(query) or keys.occur_in(query)


def may_name_key(query: bytes) -> bool:
    """Tell whether a parameter may be named like one that holds a key; most queries have none."""
    return b"%" in query or b"key" in query.lower()


def _holds_key(parameter: bytes, keys: KeyFinder, by_name: bool) -> bool:
    named = by_name and parameter_name(parameter.partition(b"=")[0]) in KEY_PARAMETERS
    return named or keys.occur_in(parameter)


def parameter_name(name: bytes) -> bytes:
    """Return the name of a query parameter as `KEY_PARAMETERS` has it."""
    return unquote_to_bytes(name).lower().translate(None, b"-_+ ")
