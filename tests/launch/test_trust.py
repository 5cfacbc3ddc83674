"""The certificates that a child trusts: those it trusted before, and the local CA's."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest
import trustme

from proxy.launch.trust import ADDING, BEFORE_SSL_CERT_FILE, IN_PLACE, trusted_files
from proxy.traffic.bundle import Roots
from proxy.traffic.ca import LocalCA

Certificate = bytes
REPLACING = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", *IN_PLACE)
"""Variables whose certificates programs trust in place of all others."""


class Folder:
    """Has a local CA beside the one authority that the system knows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.system = authority()
        roots = Roots(path, (ssl.DER_cert_to_PEM_cert(self.system),))
        self.ca = LocalCA.open(path / "ca", ["api.mobula.io"], roots=lambda: roots)

    def file(self, name: str, *certificates: Certificate, end: str = "") -> str:
        """Write certificates into a file, and return its path."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, certificates)).strip() + end)
        return str(path)

    def trusted(self, environ: Mapping[str, str], name: str) -> set[Certificate]:
        """Return what OpenSSL finds in the file that a variable names to the child."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(trusted_files(environ, self.path, self.ca)[name])
        return set(context.get_ca_certs(binary_form=True))


def authority() -> Certificate:
    pem = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes()
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("name", REPLACING)
def test_in_place_of_all_others_come_the_systems_authorities_and_ours(
    folder: Folder, name: str
) -> None:
    assert folder.trusted({}, name) == {folder.system, folder.ca.der}


@pytest.mark.parametrize("name", ADDING)
def test_to_those_of_a_runtime_only_ours_is_added(folder: Folder, name: str) -> None:
    assert folder.trusted({}, name) == {folder.ca.der}


@pytest.mark.parametrize("name", [*ADDING, *REPLACING, *BEFORE_SSL_CERT_FILE])
@pytest.mark.parametrize("end", ["", "\n", "\n# the end"])
def test_where_a_file_was_named_it_is_trusted_and_ours_and_no_others(
    folder: Folder, name: str, end: str
) -> None:
    first, second = authority(), authority()
    theirs = folder.file("theirs.pem", first, second, end=end)
    assert folder.trusted({name: theirs}, name) == {first, second, folder.ca.der}


def test_a_folder_may_be_named_in_place_of_a_file(folder: Folder) -> None:
    first, second = authority(), authority()
    (folder.path / "theirs").mkdir()
    folder.file("theirs/first.pem", first)
    folder.file("theirs/second.pem", second)
    (folder.path / "theirs" / "0a1b2c3d.0").symlink_to("first.pem")
    (folder.path / "theirs" / "sub").mkdir()
    environ = {"REQUESTS_CA_BUNDLE": str(folder.path / "theirs")}
    assert folder.trusted(environ, "REQUESTS_CA_BUNDLE") == {first, second, folder.ca.der}


def test_a_file_of_a_folder_that_cannot_be_read_hides_no_others(folder: Folder) -> None:
    first, second = authority(), authority()
    folder.file("theirs/first.pem", first)
    folder.file("theirs/second.pem", second)
    (folder.path / "theirs" / "fore.pem").symlink_to("/proc/self/mem")  # not even root can read it
    environ = {"SSL_CERT_DIR": str(folder.path / "theirs")}
    found = folder.trusted(environ, "SSL_CERT_FILE")
    assert found == {first, second, folder.system, folder.ca.der}


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "CURL_CA_BUNDLE"])
def test_what_stands_in_folders_is_trusted_by_who_looks_there_only_while_no_file_is_named(
    folder: Folder, name: str
) -> None:
    first, second = authority(), authority()
    folder.file("one/first.pem", first)
    folder.file("two/second.pem", second)
    environ = {"SSL_CERT_DIR": f"{folder.path}/one:{folder.path}/two"}
    assert folder.trusted(environ, name) == {first, second, folder.system, folder.ca.der}


@pytest.mark.parametrize(
    ("named", "looks"),
    [
        ("SSL_CERT_FILE", {"SSL_CERT_FILE", "CURL_CA_BUNDLE", *IN_PLACE}),
        ("CURL_CA_BUNDLE", {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"}),
        ("REQUESTS_CA_BUNDLE", {"REQUESTS_CA_BUNDLE"}),
    ],
)
def test_a_file_is_trusted_by_who_looks_at_its_variable_for_want_of_another(
    folder: Folder, named: str, looks: set[str]
) -> None:
    """curl looks at SSL_CERT_FILE too, and requests at curl's variable."""
    theirs = authority()
    environ = {named: folder.file("theirs.pem", theirs)}
    assert {name for name in REPLACING if theirs in folder.trusted(environ, name)} == looks


@pytest.mark.parametrize("place", ["", "/nowhere/theirs.pem"])
def test_a_file_that_is_not_there_adds_nothing(folder: Folder, place: str) -> None:
    assert folder.trusted({"NODE_EXTRA_CA_CERTS": place}, "NODE_EXTRA_CA_CERTS") == {folder.ca.der}


def test_variables_that_few_programs_know_are_not_set_anew(folder: Folder) -> None:
    assert not trusted_files({}, folder.path, folder.ca).keys() & set(BEFORE_SSL_CERT_FILE)
