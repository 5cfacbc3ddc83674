"""The placeholder: what an app holds in place of the static key, and shows to be let in. Pure."""

import base64
import binascii
import hmac
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from proxy.tokens.model import Secret
from proxy.traffic.target import KEY_PARAMETERS, parameter_name

_BEARERS = (b"authorization", b"x-api-key", b"proxy-authorization")


class Placeholder:
    """Lets in whoever shows it: in a header for credentials, or as a parameter of the query."""

    def __init__(self, secret: Secret, *, guards_others: bool) -> None:
        """`guards_others` says that the way to hosts that are no upstream is for its holders too.

        That is so where we would spend credentials of our own on it.
        """
        self.guards_others = guards_others
        self._value = secret.reveal().encode()

    def __repr__(self) -> str:
        return "<Placeholder>"

    def is_shown(self, headers: Iterable[tuple[bytes, bytes]], target: bytes = b"") -> bool:
        """Tell whether a request shows it: bare, as a Bearer, or as the password of Basic."""
        shown = [value for name, value in headers if name.lower() in _BEARERS]
        _, _, query = target.partition(b"?")
        shown += [
            unquote_to_bytes(value)
            for name, _, value in (each.partition(b"=") for each in query.split(b"&"))
            if parameter_name(name) in KEY_PARAMETERS
        ]
        return any(self._opens(each) for each in shown)

    def _opens(self, credential: bytes) -> bool:
        scheme, _, rest = credential.strip().partition(b" ")
        match scheme.lower():
            case b"bearer":
                value = rest.strip()
            case b"basic":
                value = _password(rest.strip())
            case _:
                value = credential.strip()
        return hmac.compare_digest(value, self._value)


def _password(encoded: bytes) -> bytes:
    """Return the password of Basic credentials (RFC 7617, section 2), empty if they are none."""
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
