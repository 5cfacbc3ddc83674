"""What stands in the local CA's certificates, and what clients therefore believe."""

import ssl
import time
from collections.abc import Collection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from proxy import private
from proxy.traffic.certificates import DAY, Authority, Leaf, NotOursError
from tls import is_trusted, shaken, trusting

NOW = time.time()
"""As clients see it, which nobody tells another time."""
ADDRESSES = ("127.0.0.1", "127.0.0.2", "::1", "2001:db8::1")
HOSTS = ("test", "a.test", "xa.test", "b.a.test", "localhost", *ADDRESSES)


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def showing(leaf: Leaf, *chain: x509.Certificate) -> ssl.SSLContext:
    """A server that shows this leaf."""
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    content = "".join([key, *map(pem, (leaf.certificate, *chain))])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with private.fleeting(content.encode(), Path()) as path:
        context.load_cert_chain(path)
    return context


def is_among(host: str, hosts: Collection[str]) -> bool:
    """Tell whether a host is one of these, or a name below one of them."""
    names = set(hosts).difference(ADDRESSES)
    return host in hosts or host.endswith(tuple(f".{each}" for each in names))


# What it may speak for


@given(hosts=st.sets(st.sampled_from(HOSTS), min_size=1), host=st.sampled_from(HOSTS))
@example(hosts={"a.test"}, host="::1")
@example(hosts={"127.0.0.1"}, host="localhost")
@example(hosts={"127.0.0.1"}, host="::1")
def test_clients_believe_what_its_key_signed_for_its_hosts_and_for_no_other(
    hosts: set[str], host: str
) -> None:
    authority = Authority.made(hosts, NOW)
    client = trusting(pem(authority.certificate))
    shown = showing(authority.sign(host, NOW))
    assert is_trusted(shown, client, host) == is_among(host, hosts)


def test_clients_that_do_not_trust_it_do_not_believe_it() -> None:
    ours, other = (Authority.made(["a.test"], NOW) for _ in range(2))
    shown = showing(ours.sign("a.test", NOW), ours.certificate)
    assert not is_trusted(shown, trusting(pem(other.certificate)), "a.test")


def test_it_cannot_make_another_authority() -> None:
    root, other = (Authority.made(["a.test"], NOW) for _ in range(2))
    builder = (
        x509.CertificateBuilder()
        .subject_name(other.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(other.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.certificate.not_valid_before_utc)
        .not_valid_after(root.certificate.not_valid_after_utc)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), False
        )
    )
    for each in other.certificate.extensions:
        builder = builder.add_extension(each.value, each.critical)
    shown = showing(other.sign("a.test", NOW), builder.sign(root.key, SHA256()))
    with pytest.raises(ssl.SSLCertVerificationError, match="path length constraint exceeded"):
        shaken(shown, trusting(pem(root.certificate)), "a.test")


def test_whoever_does_not_understand_what_bounds_it_must_not_use_it() -> None:
    certificate = Authority.made(["a.test"], NOW).certificate
    critical = {type(each.value) for each in certificate.extensions if each.critical}
    assert critical == {x509.BasicConstraints, x509.KeyUsage, x509.NameConstraints}


# What is made anew with the same key


def test_with_the_same_key_what_either_signed_is_believed_by_those_who_trust_the_other() -> None:
    old = Authority.made(["a.test"], NOW)
    new = Authority.made(["a.test", "b.test"], NOW, old.key)
    of_old, of_new = (trusting(pem(each.certificate)) for each in (old, new))
    assert is_trusted(showing(new.sign("a.test", NOW)), of_old, "a.test")
    assert is_trusted(showing(old.sign("a.test", NOW)), of_new, "a.test")
    assert not is_trusted(showing(new.sign("b.test", NOW)), of_old, "b.test")


# What it is read from


@given(hosts=st.sets(st.sampled_from(HOSTS), min_size=1))
def test_its_certificate_tells_its_hosts(hosts: set[str]) -> None:
    made = Authority.made(hosts, NOW)
    assert Authority.of(made.certificate, made.key).hosts == made.hosts == hosts


def test_a_certificate_of_another_key_is_not_taken() -> None:
    one, other = (Authority.made(["a.test"], NOW) for _ in range(2))
    with pytest.raises(NotOursError, match="do not belong together"):
        Authority.of(one.certificate, other.key)


def test_a_certificate_that_is_not_bound_to_hosts_is_not_taken() -> None:
    authority = Authority.made(["a.test"], NOW)
    leaf = authority.sign("a.test", NOW)
    with pytest.raises(NotOursError, match="a certificate of another kind"):
        Authority.of(leaf.certificate, leaf.key)


# Leaves


def test_no_key_is_used_twice() -> None:
    authority = Authority.made(["a.test"], NOW)
    keys = [authority.key, *(authority.sign("a.test", NOW).key for _ in range(3))]
    assert len({key.private_numbers().private_value for key in keys}) == 4


def test_a_leaf_is_for_one_host_and_for_servers_only() -> None:
    leaf = Authority.made(["a.test", "b.test"], NOW).sign("a.test", NOW).certificate
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(names) == [x509.DNSName("a.test")]
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_leaves_are_valid_for_a_week_and_the_authority_for_years_both_from_yesterday_on() -> None:
    authority = Authority.made(["a.test"], NOW)
    leaf = authority.sign("a.test", NOW)
    for certificate, days in ((leaf.certificate, 7), (authority.certificate, 5 * 365)):
        since = certificate.not_valid_before_utc.timestamp()
        until = certificate.not_valid_after_utc.timestamp()
        assert (since, until) == (int(NOW - DAY), int(NOW + days * DAY))


def test_no_key_shows_in_a_repr() -> None:
    authority = Authority.made(["a.test"], NOW)
    assert "key" not in repr(authority) + repr(authority.sign("a.test", NOW))
