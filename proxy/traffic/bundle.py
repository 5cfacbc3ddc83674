"""What apps are given to trust: the local CA, alone and beside the roots of the system."""

import re
import ssl
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PKCS12Certificate,
    load_pkcs12,
    serialize_java_truststore,
)
from cryptography.utils import CryptographyDeprecationWarning

from proxy import private

CERTIFICATE, BUNDLE, TRUSTSTORE = "ca.pem", "bundle.pem", "truststore.p12"
PASSWORD = b"changeit"
"""Of the truststore: Java's own default, since nothing in it is secret."""
FOLDER_MODE, FILE_MODE = 0o755, 0o644
WELL_KNOWN = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora and its relatives
    "/etc/pki/tls/certs/ca-bundle.crt",  # their older versions
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, the BSDs
)
"""Where systems keep their roots, for a Python that was built for another one."""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([\sA-Za-z0-9+/=]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Roots:
    """Certificates that the system trusts; `place` is where they were found, None if nowhere."""

    place: Path | None = None
    certificates: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.place is None:
            return "the local CA alone: no roots of the system were found"
        return f"with {len(self.certificates)} roots of the system, from {self.place}"


@dataclass(frozen=True, slots=True)
class Files:
    """What apps read, and what was found to stand beside the CA in bundle and truststore."""

    certificate: Path
    bundle: Path
    truststore: Path
    roots: Roots


def system_roots() -> Roots:
    """Return what the system trusts: what this Python does, or else what is in a usual place.

    What the environment names is not the system's: it would get into what other commands trust.
    """
    for place in system_places():
        with suppress(OSError):
            if found := certificates_at(place):
                return Roots(place, tuple(found))
    return Roots()


def system_places() -> Iterator[Path]:
    """Yield the files and folders in which a system may keep its roots, best first."""
    own = ssl.get_default_verify_paths()
    return map(Path, (own.openssl_cafile, *WELL_KNOWN, own.openssl_capath))


def certificates_at(place: Path) -> list[str]:
    """Return the certificates in a PEM file, or in the files of a folder. Raises OSError."""
    files = sorted(filter(Path.is_file, place.iterdir())) if place.is_dir() else [place]
    return [each for file in files for each in certificates_in(file.read_text("latin-1"))]


def certificates_in(text: str) -> list[str]:
    """Return the certificates in a PEM text, without what else stands there, a key say."""
    bodies = ("\n".join(body.split()) for body in _PEM.findall(text))
    return [f"-----BEGIN CERTIFICATE-----\n{it}\n-----END CERTIFICATE-----\n" for it in bodies]


def bundle(own: str, others: Iterable[str]) -> str:
    """Return the certificate of the CA and all others as one PEM text, each once.

    Those that it had before are left out: of two with one name, OpenSSL takes whichever is first.
    """
    with _no_complaints():
        name = _name_of(own)
        kept = [each for each in dict.fromkeys(others) if _name_of(each) != name]
    return "".join([*kept, own])


def includes(others: Iterable[str], own: str) -> bool:
    """Tell whether the certificate of the CA, or one that it had before, is among others."""
    with _no_complaints():
        name = _name_of(own)
        return any(_name_of(each) == name for each in others)


def publish(certificate: str, folder: Path, roots: Callable[[], Roots] = system_roots) -> Files:
    """Write the CA's certificate into a folder in all the forms that apps read; make the folder.

    What is right already is left alone. Raises OSError.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)  # whatever the umask
    files = Files(
        certificate=folder / CERTIFICATE,
        bundle=folder / BUNDLE,
        truststore=folder / TRUSTSTORE,
        roots=roots(),
    )
    whole = bundle(certificate, files.roots.certificates)
    _update(files.certificate, certificate.encode())
    _update(files.bundle, whole.encode())
    with _no_complaints():
        trusted = [it for each in certificates_in(whole) if (it := _parsed(each))]
        if not _holds(_content(files.truststore), trusted):
            private.replace(files.truststore, _truststore(trusted), FILE_MODE)
    return files


def _update(path: Path, content: bytes) -> None:
    if _content(path) != content:
        private.replace(path, content, FILE_MODE)


def _content(path: Path) -> bytes:
    """Return what stands in a file of our own: others may have put anything into the folder."""
    with suppress(OSError, private.RefusedError):
        private.mode_of(path)
        return path.read_bytes()
    return b""


@contextmanager
def _no_complaints() -> Iterator[None]:
    """Some old roots break rules that we are not there to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def _parsed(certificate: str) -> x509.Certificate | None:
    """Return a certificate if it can be read."""
    with suppress(ValueError):
        return x509.load_pem_x509_certificate(certificate.encode())
    return None


def _name_of(certificate: str) -> x509.Name | None:
    parsed = _parsed(certificate)
    return parsed.subject if parsed else None


def _truststore(trusted: Iterable[x509.Certificate]) -> bytes:
    named = [PKCS12Certificate(each, each.fingerprint(SHA256()).hex().encode()) for each in trusted]
    return serialize_java_truststore(named, BestAvailableEncryption(PASSWORD))


def _holds(truststore: bytes, trusted: list[x509.Certificate]) -> bool:
    """Tell whether it is a truststore of just these: no two are the same bytes."""
    try:
        held = load_pkcs12(truststore, PASSWORD).additional_certs
    except ValueError:
        return False
    return [each.certificate for each in held] == trusted
