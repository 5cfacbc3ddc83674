"""The file that the local CA is kept in: key and certificate together, so that no crash parts them.

The key stays the same for as long as nobody asks for another: when hosts are added, or its time is
running out, only the certificate is made anew. So what runs goes on: apps that read the certificate
before trust what they trusted, and proxies that opened the CA before are trusted by new apps.
"""

from collections.abc import Collection
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxy import private
from proxy.traffic.certificates import CA_RENEWAL_SECONDS, Authority, NotOursError


class CaError(Exception):
    """The local CA cannot be used; the text says what to do about it."""


class Change(Enum):
    """What became of the CA when it was opened; the value says why."""

    NONE = "it is as it was"
    CREATED = "there was none"
    EXTENDED = "hosts were added"
    RENEWED = "its time was over, or nearly so"
    MENDED = "it could not be read"

    @property
    def concerns_apps(self) -> bool:
        """Whether apps that have read ca.pem should read it again."""
        return self not in (Change.NONE, Change.CREATED)


def take_up(
    file: Path, hosts: Collection[str], now: float, *, anew: bool
) -> tuple[Authority, Change]:
    """Return the CA of the file, for these hosts too, once that is what the file holds.

    One that is made `anew` has another key, and these hosts only. Whoever calls has the lock of the
    folder. Raises CaError for what must not be used, OSError, and private.RefusedError.
    """
    authority, change = _decided(None, hosts, now) if anew else foreseen(file, hosts, now)
    if change is not Change.NONE:
        private.replace(file, together(authority.key, authority.certificate))
    return authority, change


def foreseen(file: Path, hosts: Collection[str], now: float) -> tuple[Authority, Change]:
    """Return what `take_up` would, but leave the file as it is."""
    return _decided(_held(file), hosts, now)


def together(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    """Return both as the content of one PEM file."""
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + certificate.public_bytes(Encoding.PEM)


Held = Authority | ec.EllipticCurvePrivateKey
"""What a file holds: all, or a key beside a certificate that cannot be read."""


def _decided(held: Held | None, hosts: Collection[str], now: float) -> tuple[Authority, Change]:
    if held is None:
        return Authority.made(hosts, now), Change.CREATED
    if not isinstance(held, Authority):
        return Authority.made(hosts, now, held), Change.MENDED
    every = held.hosts.union(hosts)
    if every != held.hosts:
        return Authority.made(every, now, held.key), Change.EXTENDED
    if not held.is_valid(now) or now > held.ends - CA_RENEWAL_SECONDS:
        return Authority.made(every, now, held.key), Change.RENEWED
    return held, Change.NONE


def _held(file: Path) -> Held | None:
    try:
        mode = private.mode_of(file)
    except FileNotFoundError:
        return None
    if mode & private.OTHERS:
        raise CaError(
            f"others can read {file}, and so sign as the local CA: run `mobula-proxy ca renew` for "
            f"another one, or `chmod 600 {file}` if you know that nobody has read it"
        )
    try:
        return _parsed(file.read_bytes())
    except NotOursError as error:
        raise CaError(
            f"{file} holds {error}: put it back as it was, or run `mobula-proxy ca renew` for "
            "another local CA"
        ) from error


def _parsed(content: bytes) -> Held:
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise NotOursError("no key that can be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NotOursError("a key of another kind")
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError:
        return key
    return Authority.of(certificate, key)
