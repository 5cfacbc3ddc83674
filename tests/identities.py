"""What clients show of themselves: tokens as settings know them, and certificates of any sort."""

import hashlib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


def digest_of(token: bytes) -> str:
    """Return what stands for a token in the settings."""
    return f"sha256:{hashlib.sha256(token).hexdigest()}"


def names_of(*names: str) -> x509.SubjectAlternativeName:
    """Return subject alternative names, each of the kind that it looks like."""
    return x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(n) if "://" in n else x509.DNSName(n) for n in names]
    )


class Issued:
    """A certificate and its key, as files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate_file = folder / f"{name}.crt"
        self.key_file = folder / f"{name}.key"

    def __repr__(self) -> str:
        return f"<Issued {self.certificate_file.name}>"

    def load_into(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self.certificate_file, self.key_file)


class Authority:
    """A certificate authority that issues whatever it is asked for."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def __repr__(self) -> str:
        return f"<Authority {self.file.name}>"

    def issue(
        self,
        name: str,
        names: x509.SubjectAlternativeName,
        *,
        usages: Sequence[x509.ObjectIdentifier] = (CLIENT, SERVER),
        ends: datetime | None = None,
        password: bytes | None = None,
    ) -> Issued:
        """Put a certificate for `names` and its key into files; it is good from yesterday on."""
        now = datetime.now(UTC)
        key = generate_private_key(SECP256R1())
        own = load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        issuer = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a client")]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(ends or now + timedelta(days=1))
            .add_extension(names, critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(own, SHA256())  # type: ignore[arg-type]
        )
        issued = Issued(self._folder, name)
        issued.certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        sealed = BestAvailableEncryption(password) if password else NoEncryption()
        issued.key_file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, sealed)
        )
        return issued
