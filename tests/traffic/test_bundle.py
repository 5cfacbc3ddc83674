"""What apps read to trust the local CA: which certificates, in which files, and for whom."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from proxy.traffic.bundle import (
    PASSWORD,
    Files,
    Roots,
    bundle,
    certificates_at,
    certificates_in,
    publish,
    system_roots,
)


def certificate(name: str | None = None) -> str:
    """The certificate of some authority."""
    authority = trustme.CA(organization_unit_name=name)
    return authority.cert_pem.bytes().decode()


OURS, *OTHERS = (certificate() for _ in range(4))
NO_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def found() -> Roots:
    return Roots(Path("/etc/roots.pem"), tuple(OTHERS))


def java_trusts(files: Files) -> list[str]:
    held = load_pkcs12(files.truststore.read_bytes(), PASSWORD).additional_certs
    return [each.certificate.public_bytes(Encoding.PEM).decode() for each in held]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def marks(folder: Path) -> list[tuple[str, int, int]]:
    """What is different once a file was written."""
    files = sorted(folder.iterdir())
    return [(each.name, each.stat().st_ino, each.stat().st_mtime_ns) for each in files]


# The files


def test_the_certificate_is_there_alone_and_beside_the_roots_of_the_system(tmp_path: Path) -> None:
    files = publish(OURS, tmp_path, found)
    assert files.certificate.read_text() == OURS
    assert files.bundle.read_text() == "".join([*OTHERS, OURS])
    assert java_trusts(files) == [*OTHERS, OURS]
    assert str(files.roots) == "with 3 roots of the system, from /etc/roots.pem"


def test_without_roots_of_the_system_the_bundle_is_said_to_be_the_ca_alone(tmp_path: Path) -> None:
    files = publish(OURS, tmp_path, Roots)
    assert files.bundle.read_text() == OURS
    assert java_trusts(files) == [OURS]
    assert str(files.roots) == "the local CA alone: no roots of the system were found"


@pytest.mark.skipif(not shutil.which("keytool"), reason="needs a JDK")
def test_java_takes_all_of_the_truststore_for_trusted(tmp_path: Path) -> None:
    files = publish(OURS, tmp_path, found)
    listed = subprocess.run(
        ["keytool", "-list", "-rfc", "-keystore", files.truststore, "-storepass", "changeit"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(certificates_in(listed)) == {*OTHERS, OURS}
    assert listed.count("Entry type: trustedCertEntry") == 4


@pytest.mark.parametrize("mask", [0, 0o077])
def test_everybody_may_read_the_files_and_nobody_else_may_write_them(
    tmp_path: Path, mask: int
) -> None:
    folder = tmp_path / "for apps"
    before = os.umask(mask)
    try:
        publish(OURS, folder, found)
    finally:
        os.umask(before)
    assert mode(folder) == 0o755
    assert {mode(each) for each in folder.iterdir()} == {0o644}


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """As a volume does that is shared with the app's container."""
    tmp_path.chmod(0o777)
    publish(OURS, tmp_path, found)
    assert mode(tmp_path) == 0o777


def test_what_is_right_already_is_not_written_again(tmp_path: Path) -> None:
    publish(OURS, tmp_path, found)
    before = marks(tmp_path)
    publish(OURS, tmp_path, found)
    assert marks(tmp_path) == before


def empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def fill(path: Path) -> None:
    path.write_bytes(b"something else\n" * 1000)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("harm", [Path.unlink, empty, spoil, fill, link, pipe])
@pytest.mark.parametrize("name", ["ca.pem", "bundle.pem", "truststore.p12"])
def test_what_is_wrong_is_written_again_whatever_became_of_it(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    publish(OURS, tmp_path, found)
    harm(tmp_path / name)
    files = publish(OURS, tmp_path, found)
    assert files.certificate.read_text() == OURS
    assert files.bundle.read_text() == "".join([*OTHERS, OURS])
    assert java_trusts(files) == [*OTHERS, OURS]


def test_roots_that_come_and_go_do_so_in_the_bundle_and_in_the_truststore(tmp_path: Path) -> None:
    publish(OURS, tmp_path, found)
    files = publish(OURS, tmp_path, lambda: Roots(Path("/x"), tuple(OTHERS[1:])))
    assert files.bundle.read_text() == "".join([*OTHERS[1:], OURS])
    assert java_trusts(files) == [*OTHERS[1:], OURS]


def test_a_root_that_java_could_not_read_stays_out_of_its_truststore(tmp_path: Path) -> None:
    files = publish(OURS, tmp_path, lambda: Roots(Path("/x"), (NO_CERTIFICATE, OTHERS[0])))
    assert certificates_at(files.bundle) == [NO_CERTIFICATE, OTHERS[0], OURS]
    assert java_trusts(files) == [OTHERS[0], OURS]


# What stands in a bundle


def test_each_certificate_stands_in_a_bundle_once() -> None:
    assert bundle(OURS, [*OTHERS, OURS, *OTHERS]) == "".join([*OTHERS, OURS])


def test_what_the_ca_had_before_is_not_in_its_bundle() -> None:
    """OpenSSL would take the first of one name, though it speaks for other hosts."""
    before, now = certificate("the CA"), certificate("the CA")
    assert bundle(now, [before, OTHERS[0]]) == OTHERS[0] + now


# Where certificates are found


def test_of_a_text_only_the_certificates_are_taken() -> None:
    text = f"# Ünited\n{trustme.CA().private_key_pem.bytes().decode()}{OURS}and\n{OTHERS[0]}"
    assert certificates_in(text) == [OURS, OTHERS[0]]


def test_a_certificate_is_the_same_whatever_ends_its_lines() -> None:
    assert certificates_in(OURS.replace("\n", "\r\n  ")) == [OURS]


def test_a_folder_of_certificates_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for number, each in enumerate(OTHERS):
        (tmp_path / f"{number}.pem").write_text(each)
    (tmp_path / "README").write_bytes(b"\xff none here")
    assert certificates_at(tmp_path) == OTHERS


def test_the_roots_of_the_system_are_those_that_this_python_trusts() -> None:
    trusted = ssl.create_default_context().get_ca_certs(binary_form=True)
    pems = system_roots().certificates
    assert {ssl.PEM_cert_to_DER_cert(each) for each in pems} >= set(trusted)
