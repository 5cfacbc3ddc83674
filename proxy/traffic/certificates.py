"""The certificates of the local CA: what stands in them, and for how long. Pure.

The CA's own is constrained to the hosts that it speaks for (RFC 5280, section 4.2.1.10): with its
key one can sign for others, but clients do not believe it. Each leaf is for one host.

`now` is the wall clock's, in seconds, because that is what clients judge by.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = 86_400.0
CA_SECONDS = 5 * 365 * DAY
"""How long the CA's certificate is valid; so often must people who installed it do so again."""
CA_RENEWAL_SECONDS = 365 * DAY
"""How long before its end it is made anew: longer than a proxy runs without a restart."""
LEAF_SECONDS = 7 * DAY
"""How long a leaf is valid: nobody revokes it, so it should not outlive its use for long."""
EARLY_SECONDS = DAY
"""How long before it is made a certificate is valid, for clients whose clocks are behind."""

ORGANIZATION = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mobula-proxy")
EVERY_ADDRESS = tuple(x509.IPAddress(ipaddress.ip_network(each)) for each in ("0.0.0.0/0", "::/0"))
EVERY_NAME = (x509.DNSName(""),)


class NotOursError(Exception):
    """Some key and certificate are not those of a local CA; the text says what they are."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a server shows for one host, and the key that proves it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA itself: its certificate, and the key that signs leaves."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    hosts: frozenset[str]
    """Those that it speaks for."""

    @classmethod
    def of(cls, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Self:
        """Return the CA that was made with these. Raises NotOursError."""
        if certificate.public_key() != key.public_key():
            raise NotOursError("a key and a certificate that do not belong together")
        try:
            found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        except (x509.ExtensionNotFound, ValueError) as error:
            raise NotOursError("a certificate of another kind") from error
        return cls(certificate, key, frozenset(map(_host_of, found.value.permitted_subtrees or ())))

    @classmethod
    def made(
        cls, hosts: Iterable[str], now: float, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Self:
        """Make a certificate for a new key, or for one whose certificate is to be replaced.

        With the same key, what was signed before stays good, for clients old and new.
        """
        key = key or _new_key()
        name = _name_of(key)
        builder = (
            _begun(name, key, now, CA_SECONDS)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(_constraints(hosts), critical=True)
        )
        return cls.of(builder.sign(key, SHA256()), key)

    @property
    def ends(self) -> float:
        return self.certificate.not_valid_after_utc.timestamp()

    def is_valid(self, now: float) -> bool:
        return self.certificate.not_valid_before_utc.timestamp() <= now <= self.ends

    def sign(self, host: str, now: float) -> Leaf:
        """Make a leaf with a key of its own; clients refuse one for a host not among `hosts`."""
        key = _new_key()
        builder = (
            _begun(x509.Name([ORGANIZATION]), key, now, LEAF_SECONDS)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.SubjectAlternativeName([_san(host)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        return Leaf(builder.sign(self.key, SHA256()), key)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name_of(key: ec.EllipticCurvePrivateKey) -> x509.Name:
    """Name the CA after its key, so that two of them can be told apart in a store."""
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    common = f"mobula-proxy local CA {digest.hex()[:8]}"
    return x509.Name([ORGANIZATION, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _begun(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, seconds: float
) -> x509.CertificateBuilder:
    """Begin a certificate with what those of the CA and of a leaf have in common."""
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now - EARLY_SECONDS, UTC))
        .not_valid_after(datetime.fromtimestamp(now + seconds, UTC))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _constraints(hosts: Iterable[str]) -> x509.NameConstraints:
    """Permit these hosts and no other: what no constraint is about would be free.

    Names and addresses are constrained apart. One that is not permitted at all is excluded whole,
    as the CA/Browser Forum has it (Baseline Requirements, section 7.1.5).
    """
    permitted = [_subtree(host) for host in sorted(hosts)]
    kinds = {type(each) for each in permitted}
    excluded = [
        *(EVERY_NAME if x509.DNSName not in kinds else ()),
        *(EVERY_ADDRESS if x509.IPAddress not in kinds else ()),
    ]
    return x509.NameConstraints(permitted, excluded or None)


def _subtree(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.IPAddress(ipaddress.ip_network(address)) if address else x509.DNSName(host)


def _san(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.IPAddress(address) if address else x509.DNSName(host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host_of(subtree: x509.GeneralName) -> str:
    value = subtree.value
    is_network = isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network)
    return str(value.network_address if is_network else value)
