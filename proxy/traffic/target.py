"""The request target: its form, what it may not reach, and keys that stand in it. Pure."""

import re
from itertools import islice
from typing import Protocol
from urllib.parse import unquote_to_bytes

from proxy.errors import MalformedRequest, MethodDenied

KEY_PARAMETERS = (b"apikey", b"xapikey")
"""Names of query parameters that hold a key, in lower case and without `-` and `_`."""

_TOKEN_ENDPOINTS = (b"api", b"2", b"auth")
_LEAVES_A_CHOICE = re.compile(rb"%|;|\\|\.\.")
_IGNORED = bytes(range(0x21)) + b"."
"""What some servers cut off the ends of a segment."""
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)


class KeyFinder(Protocol):
    """Knows the static keys; see `tokens.key.KnownKeys`."""

    def occur_in(self, data: bytes) -> bool: ...

    def cut_from(self, data: bytes) -> bytes: ...


def is_host(value: bytes) -> bool:
    """Tell whether a Host header's value is well formed (RFC 9110, section 7.2)."""
    return _HOST.fullmatch(value) is not None


def origin_form(method: str, target: bytes) -> bytes:
    """Return the target as an origin server gets it, its bytes untouched. Raises refusals.

    An absolute target loses its authority: a listener's upstream is set by the settings and by
    nothing in the request (RFC 9112, section 3.2.2).
    """
    if method == "CONNECT":
        raise MethodDenied("This listener is a reverse proxy: it takes no CONNECT.")
    if target.startswith(b"/") or (target == b"*" and method == "OPTIONS"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not is_host(absolute[1]):
        raise MalformedRequest("The request target is neither a path nor an http URL.")
    rest = absolute[2]
    if not rest and method == "OPTIONS":
        return b"*"
    return rest if rest.startswith(b"/") else b"/" + rest


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


def _bare(segment: bytes) -> bytes:
    return re.split(rb"[;?#]", segment, maxsplit=1)[0].strip(_IGNORED)


def without_keys(target: bytes, keys: KeyFinder) -> tuple[bytes, list[str]]:
    """Return the target without static keys, and the places where some stood.

    A query parameter goes whole if it is named like one that holds a key, or holds a known key;
    from a path, a known key is cut out. All other bytes stay as they are.
    """
    path, mark, query = target.partition(b"?")
    places = []
    if mark and _may_hold_key(query, keys):
        kept = [each for each in query.split(b"&") if not _holds_key(each, keys)]
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
    return b"%" in query or b"key" in query.lower() or keys.occur_in(query)


def _holds_key(parameter: bytes, keys: KeyFinder) -> bool:
    name = unquote_to_bytes(parameter.partition(b"=")[0]).lower()
    return name.translate(None, b"-_+ ") in KEY_PARAMETERS or keys.occur_in(parameter)
