"""What `mobula-proxy ca` tells of the local CA, and what it does to it."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from harness import COMMAND, KEY, SecretScan, called, finished
from proxy.config import MOBULA_HOSTS
from proxy.traffic.ca import LocalCA
from tls import is_trusted, trusting

HOST, HOSTS = MOBULA_HOSTS[0], sorted(MOBULA_HOSTS)
MORE_HOSTS = ("--set", "upstreams.localhost:9000={}")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with the user's state directory in it."""
    return {"XDG_STATE_HOME": str(tmp_path)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the CA then is."""
    return tmp_path / "mobula-proxy" / "ca"


def facts(*arguments: str, environ: dict[str, str]) -> dict[str, Any]:
    """Return what `ca show --json` tells."""
    code, out, err = called("ca", "show", "--json", *arguments, environ=environ)
    assert (code, err) == (0, "")
    told: dict[str, Any] = json.loads(out)
    return told


def pem_in(folder: Path) -> str:
    return (folder / "ca.pem").read_text()


# show


def test_show_tells_what_it_is_and_where_and_makes_it_on_first_use(
    home: dict[str, str], folder: Path
) -> None:
    told = facts(environ=home)
    certificate = x509.load_pem_x509_certificate(pem_in(folder).encode())
    assert told["sha256"].replace(":", "").lower() == certificate.fingerprint(SHA256()).hex()
    assert told["subject"] == certificate.subject.rfc4514_string()
    assert told["not_before"] == certificate.not_valid_before_utc.isoformat()
    assert told["not_after"] == certificate.not_valid_after_utc.isoformat()
    assert told["hosts"] == HOSTS
    assert Path(told["system_roots"]).exists()
    names = {"certificate": "ca.pem", "bundle": "bundle.pem", "truststore": "truststore.p12"}
    for name, file in {**names, "key": "ca-key.pem"}.items():
        assert told[name] == str(folder / file)
        assert (folder / file).is_file()


def test_show_tells_people_the_same(home: dict[str, str], folder: Path) -> None:
    told = facts(environ=home)
    code, out, err = called("ca", "show", environ=home)
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["subject"] == told["subject"]
    assert lines["SHA-256"] == told["sha256"]
    assert lines["hosts"] == ", ".join(HOSTS)
    assert lines["valid"] == f"{told['not_before'][:10]} to {told['not_after'][:10]}"
    assert lines["certificate"] == told["certificate"]
    assert lines["bundle"].startswith(f"{told['bundle']}, with ")
    assert lines["bundle"].endswith(f" roots of the system, from {told['system_roots']}")
    assert lines["key"] == str(folder / "ca-key.pem")


def test_processes_that_start_at_once_have_one_ca(home: dict[str, str], scan: SecretScan) -> None:
    def show(_: int) -> tuple[int, str, str]:
        return finished("ca", "show", "--json", scan=scan, environ=home)

    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(show, range(2)))
    assert [(code, err) for code, _, err in ended] == [(0, "")] * 2
    assert len({json.loads(out)["sha256"] for _, out, _ in ended}) == 1


# path


@pytest.mark.parametrize(
    ("options", "file"),
    [([], "ca.pem"), (["--bundle"], "bundle.pem"), (["--truststore"], "truststore.p12")],
)
def test_path_is_all_that_path_prints(
    home: dict[str, str], folder: Path, options: list[str], file: str
) -> None:
    assert called("ca", "path", *options, environ=home) == (0, f"{folder / file}\n", "")
    assert (folder / file).is_file()


def test_paths_are_those_of_the_place_for_apps(home: dict[str, str], tmp_path: Path) -> None:
    public = tmp_path / "public"
    told = called("ca", "path", "--set", f"ca.public_dir={public}", environ=home)
    assert told == (0, f"{public / 'ca.pem'}\n", "")


def test_hosts_that_were_added_are_news_for_apps_but_not_for_scripts(
    home: dict[str, str], folder: Path
) -> None:
    called("ca", "path", environ=home)
    code, out, err = called("ca", "path", *MORE_HOSTS, environ=home)
    assert (code, out) == (0, f"{folder / 'ca.pem'}\n")
    assert err == (
        "mobula-proxy: the local CA's certificate was made anew, because hosts were added: "
        f"apps must read {folder / 'ca.pem'} again\n"
    )
    assert facts(environ=home)["hosts"] == sorted([*HOSTS, "localhost"])


# export


def test_export_prints_the_certificate(home: dict[str, str], folder: Path) -> None:
    code, out, err = called("ca", "export", environ=home)
    assert (code, out, err) == (0, pem_in(folder), "")


@pytest.mark.parametrize("options", [[], ["--der"]])
def test_export_writes_a_file(
    home: dict[str, str], folder: Path, tmp_path: Path, options: list[str]
) -> None:
    file = tmp_path / "exported"
    assert called("ca", "export", *options, "--output", str(file), environ=home) == (0, "", "")
    load = x509.load_der_x509_certificate if options else x509.load_pem_x509_certificate
    assert load(file.read_bytes()) == x509.load_pem_x509_certificate(pem_in(folder).encode())


def test_export_prints_der_as_it_is(home: dict[str, str], folder: Path) -> None:
    printed = subprocess.run(
        [COMMAND, "ca", "export", "--der"], env=home, capture_output=True, check=True
    ).stdout
    certificate = x509.load_pem_x509_certificate(pem_in(folder).encode())
    assert x509.load_der_x509_certificate(printed) == certificate


def test_a_file_that_export_cannot_write_is_named(home: dict[str, str], tmp_path: Path) -> None:
    told = called("ca", "export", "--output", str(tmp_path), environ=home)
    assert told == (1, "", f"mobula-proxy: cannot write {tmp_path}: Is a directory\n")


# renew


def test_renew_makes_another_one_and_tells_what_must_happen_next(
    home: dict[str, str], folder: Path
) -> None:
    before = facts(*MORE_HOSTS, environ=home)
    old = pem_in(folder)
    code, out, err = called("ca", "renew", environ=home)
    assert (code, err) == (0, "")
    assert "Now restart the proxies that use it" in out
    assert f"restart the apps that trust {folder / 'ca.pem'}" in " ".join(out.split())
    after = facts(environ=home)
    assert (after["subject"] != before["subject"], after["hosts"]) == (True, HOSTS)
    assert after["sha256"] in out
    shown = LocalCA.open(folder, [HOST]).context(HOST)
    assert is_trusted(shown, trusting(pem_in(folder)), HOST)
    assert not is_trusted(shown, trusting(old), HOST)


def test_bundle_for_all_holds_nothing_that_one_environment_trusts(
    home: dict[str, str], folder: Path, tmp_path: Path, scan: SecretScan
) -> None:
    finished("ca", "show", environ=home, scan=scan)
    before = (folder / "bundle.pem").read_text()
    theirs = tmp_path / "theirs.pem"
    theirs.write_text(LocalCA.open(tmp_path / "other", [HOST]).pem)
    finished("ca", "show", environ={**home, "SSL_CERT_FILE": str(theirs)}, scan=scan)
    assert (folder / "bundle.pem").read_text() == before


# What is refused


def test_export_never_takes_the_place_of_the_key(home: dict[str, str], folder: Path) -> None:
    called("ca", "show", environ=home)
    key = folder / "ca-key.pem"
    before = key.read_bytes()
    code, out, err = called("ca", "export", "--output", str(key), environ=home)
    assert (code, out) == (1, "")
    assert "holds the key of the local CA: name another file" in err
    assert key.read_bytes() == before


@pytest.mark.parametrize("name", ["show", "path", "export", "renew"])
def test_without_a_place_it_exits_2_and_names_the_settings(name: str) -> None:
    code, out, err = called("ca", name, environ={"HOME": "", "XDG_STATE_HOME": ""})
    assert (code, out) == (2, "")
    assert err.startswith("mobula-proxy: there is no place for the local CA: set ca.dir, or state_")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["show", "path", "export", "renew"])
def test_a_folder_that_others_can_write_to_is_refused_in_one_line(
    home: dict[str, str], folder: Path, name: str
) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    code, out, err = called("ca", name, environ=home)
    assert (code, out) == (1, "")
    assert err.startswith(
        f"mobula-proxy: others can write to {folder}, and so replace the local CA"
    )
    assert err.count("\n") == 1


def test_a_wrong_setting_exits_2() -> None:
    code, out, err = called("ca", "show", "--set", "ca.dir=3", environ={})
    assert (code, out) == (2, "")
    assert "ca.dir: must be the path of a directory (3 in --set ca.dir)" in err


def test_no_command_prints_the_key(home: dict[str, str], folder: Path, scan: SecretScan) -> None:
    for arguments in (["show"], ["show", "--json"], ["path"], ["export"], ["renew"]):
        _, out, err = called("ca", *arguments, environ=home)
        scan.output.write(out + err)
        for line in (folder / "ca-key.pem").read_text().splitlines()[1:4]:
            scan.add(line)


def test_the_help_names_the_commands() -> None:
    code, out, _ = called("ca", "--help")
    assert code == 0
    assert [name for name in ("show", "path", "export", "renew") if name not in out] == []


def test_looking_at_the_settings_makes_none(home: dict[str, str], folder: Path) -> None:
    code, out, _ = called("check", environ={**home, "MOBULA_API_KEY": KEY})
    assert (code, f"dir: {folder}\n" in out, folder.exists()) == (0, True, False)
