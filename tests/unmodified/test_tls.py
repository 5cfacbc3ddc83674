"""Apps that are told nothing at all: the name of the API leads to the proxy, as /etc/hosts has it.

That is how `hostAliases` of Kubernetes work, and `--add-host` of Docker. The proxy itself
asks DNS, in which the name leads to the API.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import KEY, SecretScan, command, installed_sandbox, program
from unmodified.app import APPS, CALLERS, ECHO, MARKET, App, check_calls, check_feed
from unmodified.machine import Machine, own_machine
from unmodified.proxies import Proxy, served

HOSTS = "127.0.0.1 localhost\n127.0.0.1 api.mobula.io\n"
DNS = {"api.mobula.io": "127.0.0.2"}
API = "{url: 'http://api.mobula.io', insecure: true}"
OTHER_UPSTREAM = "demo-api.mobula.io"
TLS = {"bind": "127.0.0.1:443", "mode": "tls"}
HTTP_1_1_REQUIRED = "13"
"""What a session of HTTP/2 is ended with (RFC 9113, section 7)."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("machine") / "hosts"
    file.write_text(HOSTS)
    return file


@pytest.fixture(scope="module")
def machine(hosts: Path) -> Iterator[Machine]:
    with own_machine(hosts, DNS) as machine:
        yield machine


@pytest.fixture(scope="module")
def proxy(
    machine: Machine, scan: SecretScan, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with (
        installed_sandbox("127.0.0.2:80", machine.within) as sandbox,
        served(
            sandbox,
            tmp_path_factory.mktemp("ca"),
            f"upstreams.api.mobula.io={API}",
            f"upstreams.{OTHER_UPSTREAM}={API}",
            "resolver=dns",
            f"nameservers=['{machine.nameserver}']",
            listeners=[TLS],
            scan=scan,
        ) as proxy,
    ):
        yield proxy


@pytest.fixture(params=CALLERS)
def app(request: pytest.FixtureRequest) -> App:
    return APPS[request.param]()


def test_an_app_gets_real_data_and_a_token_takes_the_place_of_its_key(
    app: App, proxy: Proxy
) -> None:
    check_calls(proxy.run(app, MARKET, ECHO))


def test_a_feed_comes_over_tls(proxy: Proxy) -> None:
    check_feed(proxy.run(APPS["websockets"]()))


@pytest.mark.parametrize("name", ["curl", "fetch"])
def test_of_an_app_that_does_not_trust_the_local_ca_the_proxy_says_so(
    name: str, proxy: Proxy
) -> None:
    with proxy.noticing_distrust():
        assert "certificate" in proxy.run_distrusting(APPS[name]())


def test_a_request_for_another_host_than_the_server_name_is_refused(proxy: Proxy) -> None:
    done = subprocess.run(
        [*proxy.within, program("curl"), "-sS", "--cacert", proxy.ca / "ca.pem",
         "-H", f"Host: {OTHER_UPSTREAM}", f"https://api.mobula.io{MARKET}"],
        capture_output=True, check=True, text=True, timeout=20,
    )  # fmt: skip
    problem = json.loads(done.stdout)
    assert (problem["status"], problem["code"]) == (421, "misdirected_request")


def test_an_app_that_speaks_only_http_2_is_told_that_http_1_is_required(proxy: Proxy) -> None:
    assert proxy.run(APPS["http2"]()).strip() == HTTP_1_1_REQUIRED


def test_a_proxy_that_looks_the_name_up_where_apps_do_refuses_to_start_and_says_what_to_set(
    hosts: Path, scan: SecretScan, tmp_path: Path
) -> None:
    """Whatever it asked of the API would come back to it."""
    sets = ("--set", f"listeners={json.dumps([TLS])}", "--set", f"ca.dir={tmp_path}")
    environ = {"MOBULA_API_KEY": KEY}
    with (
        own_machine(hosts, DNS) as machine,
        command("serve", *sets, scan=scan, environ=environ, within=machine.within) as process,
    ):
        assert process.wait() == 1
    assert "upstream api.mobula.io leads back to this proxy: " in process.err
    assert "; set resolver: dns, which looks past /etc/hosts, or upstreams." in process.err
