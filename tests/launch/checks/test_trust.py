"""Whether what is started from here trusts the local CA."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trustme

from harness import settings_for
from proxy.launch.checks.authority import Outlook
from proxy.launch.checks.authority import look as look_at_ca
from proxy.launch.checks.trust import Trust, judge, look
from proxy.traffic.ca import open_ca


@pytest.fixture
def outlook(tmp_path: Path) -> Outlook:
    settings = settings_for("https://api.test", ca={"dir": str(tmp_path / "ca")})
    open_ca(settings.ca, settings.upstreams)
    return look_at_ca(settings, time.time())


NEEDED = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


def judged(trust: Trust, outlook: Outlook) -> list[tuple[str, str]]:
    return [(each.grade.value, each.subject) for each in judge(trust, outlook)]


def test_the_store_of_the_system_is_enough(outlook: Outlook) -> None:
    assert judged(Trust(system=True, variables={}), outlook) == [("ok", "system")]


def test_so_are_the_variables(outlook: Outlook) -> None:
    trust = Trust(system=False, variables=dict.fromkeys(NEEDED, True))
    assert judged(trust, outlook) == [("ok", "environment")]


def test_where_nothing_leads_to_it_the_variables_to_set_are_told(outlook: Outlook) -> None:
    (line,) = judge(Trust(system=False, variables={}), outlook)
    assert line.grade.value == "warn"
    assert line.step == (
        f"for apps started from here: export SSL_CERT_FILE={outlook.bundle} "
        f"REQUESTS_CA_BUNDLE={outlook.bundle} NODE_EXTRA_CA_CERTS={outlook.certificate}; "
        "or use mobula-proxy exec"
    )


def test_where_some_are_missing_these_are_told(outlook: Outlook) -> None:
    trust = Trust(system=False, variables={"SSL_CERT_FILE": True, "REQUESTS_CA_BUNDLE": True})
    (line,) = judge(trust, outlook)
    assert line.found == "nothing here leads programs to the local CA by NODE_EXTRA_CA_CERTS"


@pytest.mark.parametrize("system", [True, False])
def test_a_variable_that_leads_elsewhere_is_told_whatever_the_system_trusts(
    outlook: Outlook, *, system: bool
) -> None:
    variables = {**dict.fromkeys(NEEDED, True), "SSL_CERT_FILE": False}
    line, *_ = judge(Trust(system=system, variables=variables), outlook)
    assert (line.grade.value, line.subject) == ("warn", "SSL_CERT_FILE")
    assert line.step == f"export SSL_CERT_FILE={outlook.bundle}"


# What is looked at


def seen(environ: Mapping[str, Path], outlook: Outlook) -> Mapping[str, bool]:
    return look(outlook, {name: str(path) for name, path in environ.items()}).variables


def test_the_files_that_variables_name_are_read(outlook: Outlook, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    environ = {
        "SSL_CERT_FILE": outlook.bundle,
        "NODE_EXTRA_CA_CERTS": outlook.certificate,
        "CURL_CA_BUNDLE": tmp_path / "other.pem",
        "DENO_CERT": tmp_path / "none.pem",
        "HOME": tmp_path,
    }
    assert seen(environ, outlook) == {
        "SSL_CERT_FILE": True,
        "NODE_EXTRA_CA_CERTS": True,
        "CURL_CA_BUNDLE": False,
        "DENO_CERT": False,
    }


def test_an_older_certificate_of_the_same_ca_will_do(outlook: Outlook, tmp_path: Path) -> None:
    old = tmp_path / "old.pem"
    shutil.copy(outlook.certificate, old)
    upstreams: dict[str, dict[str, str]] = {"a.test": {}, "b.test": {}}
    ca = {"dir": str(tmp_path / "ca")}
    settings = settings_for("https://api.test", ca=ca, upstreams=upstreams)
    open_ca(settings.ca, settings.upstreams)
    assert seen({"SSL_CERT_FILE": old}, look_at_ca(settings, time.time())) == {
        "SSL_CERT_FILE": True
    }


def test_a_system_that_was_not_told_does_not_trust_it(outlook: Outlook) -> None:
    assert not look(outlook, {}).system
