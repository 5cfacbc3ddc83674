"""The credentials that a client shows, wherever apps put what they take for their key. Pure."""

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from proxy.traffic.target import KEY_PARAMETERS, KeyFinder, may_name_key, parameter_name

TO_A_PROXY = (b"proxy-authorization",)
"""Where those stand that are for the proxy alone."""
TO_AN_API = (*TO_A_PROXY, b"authorization", b"x-api-key")
"""Where those stand that are for the proxy in the place of the API."""
_UNIT = re.compile(rb"%[0-9A-Fa-f]{2}|.", re.DOTALL)
"""What stands for one byte where bytes may be percent-encoded."""
_MOST = 8
"""Credentials that are looked at; a client has use for two."""


def shown_in(
    headers: Iterable[tuple[bytes, bytes]], names: tuple[bytes, ...], query: bytes = b""
) -> list[bytes]:
    """Return what stands in the headers of these names, and in a query's parameters for keys.

    It is taken bare, as a Bearer, or as the password of Basic.
    """
    found = [_bare(value) for name, value in headers if name.lower() in names]
    if may_name_key(query):
        found += [
            unquote_to_bytes(value)
            for name, _, value in (each.partition(b"=") for each in query.split(b"&"))
            if parameter_name(name) in KEY_PARAMETERS
        ]
    return [each for each in found if each][:_MOST]


def _bare(credential: bytes) -> bytes:
    scheme, _, rest = credential.strip().partition(b" ")
    match scheme.lower():
        case b"bearer":
            return rest.strip()
        case b"basic":
            return _password(rest.strip())
        case _:
            return credential.strip()


def _password(encoded: bytes) -> bytes:
    """Return the password of Basic credentials (RFC 7617, section 2), empty if they are none."""
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


class AndShown:
    """Finds static keys, and what a client has shown, where neither must go.

    By decoding, since each client shows another one: to make a pattern of a long token takes longer
    than to serve the request.
    """

    def __init__(self, keys: KeyFinder, shown: bytes) -> None:
        self._keys = keys
        self._shown = shown

    def __repr__(self) -> str:
        return f"<AndShown {self._keys!r}>"

    def occur_in(self, data: bytes) -> bool:
        """Tell whether one stands in `data`, be it percent-encoded."""
        return (
            self._shown in data
            or (b"%" in data and self._shown in unquote_to_bytes(data))
            or self._keys.occur_in(data)
        )

    def cut_from(self, data: bytes) -> bytes:
        """Return `data` without them, be they percent-encoded."""
        data = data.replace(self._shown, b"")
        return self._keys.cut_from(_cut(data, self._shown) if b"%" in data else data)


def _cut(data: bytes, encoded: bytes) -> bytes:
    """Return `data` without what stands in it once it is decoded."""
    units, decoded = _UNIT.findall(data), unquote_to_bytes(data)
    kept, start = list[bytes](), 0
    while (at := decoded.find(encoded, start)) >= 0:
        kept += units[start:at]
        start = at + len(encoded)
    return b"".join(kept + units[start:])
