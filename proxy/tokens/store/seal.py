"""The seal: what a store keeps of a token's secret, and who can read it.

The secret that a fleet shares, its static key or `store.secret`, never goes into the store. Two
values are derived from it with HKDF (RFC 5869): the name of the shelf, which tells nothing of it,
and the key for AES-256-GCM. So another secret finds another shelf.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.tokens.model import Secret

NONCE_BYTES = 12
SHELF_BYTES = 12


class Seal:
    """Seals and opens the secrets of one fleet; `shelf` names where they lie."""

    def __init__(self, secret: Secret) -> None:
        self.shelf = _derive(secret, b"mobula-proxy shelf name", SHELF_BYTES).hex()
        self._cipher = AESGCM(_derive(secret, b"mobula-proxy token seal", 32))

    def __repr__(self) -> str:
        return f"<Seal of shelf {self.shelf}>"

    def close(self, token_id: str, value: Secret) -> bytes:
        """Return the secret of a token as a store may keep it; it opens for this id only."""
        nonce = os.urandom(NONCE_BYTES)
        bound = f"{self.shelf} {token_id}".encode()
        return nonce + self._cipher.encrypt(nonce, value.reveal().encode(), bound)

    def open(self, token_id: str, sealed: bytes) -> Secret | None:
        """Return the secret, or None if it was not sealed for this id and with this secret."""
        bound = f"{self.shelf} {token_id}".encode()
        try:
            plain = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
        except (InvalidTag, ValueError):
            return None
        return Secret(plain.decode())


def _derive(secret: Secret, purpose: bytes, size: int) -> bytes:
    kdf = HKDF(algorithm=SHA256(), length=size, salt=None, info=purpose)
    return kdf.derive(secret.reveal().encode())
