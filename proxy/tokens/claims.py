"""The claims of a token: a JWT whose signature is Mobula's to check, and is not looked at here."""

import sys
from typing import Any

# PyJWT would load cryptography, for signatures: 13 MB that a proxy without a store has no use for.
_LOADED = sys.modules.get("cryptography")
if _LOADED is None:
    sys.modules["cryptography"] = None  # type: ignore[assignment]
try:
    import jwt
finally:
    if _LOADED is None:
        del sys.modules["cryptography"]


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims; none if that is no JWT."""
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError):  # it may come from strangers
        return {}
    return claims
