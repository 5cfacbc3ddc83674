"""The HTTP proxy that a network has of its own, for what goes out of it.

Its URL may hold a password, so it redacts itself. What it is redacted to is refused as a URL:
nobody should try `***` for a password because they copied what `check` printed.
"""

import re
from base64 import b64encode
from typing import Annotated, Self
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from proxy.settings.places import Address
from proxy.settings.values import Leaf, Wrong

_HIDDEN = "***"
_CHARACTER = r"""(?:[!"$&-.0-9;<=>A-~]|%[0-9A-Fa-f]{2})"""
_USER_INFO = rf"{_CHARACTER}*(?::(?:{_CHARACTER}|:)*)?"
_URL = re.compile(rf"http://(?:({_USER_INFO})@)?([^@/?#]+)/?", re.IGNORECASE)
_FORM = (
    "must be http://host:port or http://user:password@host:port, with %, /, ?, #, @ and spaces "
    "in user and password written as %25, %2F and so on"
)


class ProxyUrl(Struct, frozen=True):
    """The URL of an HTTP proxy; `str` and `repr` leave out its credentials."""

    place: Address
    _user_info: str = ""
    """User name and password as they stand in the URL, with a colon between them."""

    @classmethod
    def parse(cls, value: object) -> Self | None:
        """Read `http://[user:password@]host:port`, or null for none; raise Wrong for the rest."""
        if value is None or isinstance(value, cls):
            return value
        found = _URL.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise Wrong(_FORM)
        user_info, place = found.groups(default="")
        if user_info == _HIDDEN:
            raise Wrong(f"must have its credentials in place of {_HIDDEN}")
        return cls(_place(place), user_info)

    @property
    def hides(self) -> bool:
        """Whether it holds credentials."""
        return bool(self._user_info)

    def authorization(self) -> str | None:
        """Reveal the credentials as a Proxy-Authorization (RFC 7617); None where there are none."""
        if not self._user_info:
            return None
        user, _, password = self._user_info.partition(":")
        pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
        return f"Basic {b64encode(pair).decode()}"

    def __str__(self) -> str:
        return f"http://{_HIDDEN}@{self.place}" if self.hides else f"http://{self.place}"

    def __repr__(self) -> str:
        return f"ProxyUrl({str(self)!r})"


def _place(text: str) -> Address:
    try:
        place = Address.parse(text)
    except Wrong:
        raise Wrong(_FORM) from None
    if place.path or not place.port:
        raise Wrong(_FORM)
    return place


OptionalProxyUrl = Annotated[
    ProxyUrl | None,
    Leaf(
        ProxyUrl.parse,
        {"type": ["string", "null"], "pattern": r"^[Hh][Tt][Tt][Pp]://[^\s/?#]+/?$"},
        write=lambda value: None if value is None else str(value),
        secret=True,
    ),
]
"""A ProxyUrl; text `http://host:port` or `http://user:password@host:port`, or null."""
