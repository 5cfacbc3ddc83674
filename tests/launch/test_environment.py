"""What a child finds in its environment, and what runtimes make of it."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib import request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.utils import should_bypass_proxies

from harness import KEY, program
from proxy.config import Address
from proxy.launch.environment import LOOPBACK, METADATA, Way, child_environment, network_proxy
from proxy.tokens.model import Secret

STORE_SECRET = "store-secret-of-the-tests-0123456789abcdef"
SECRETS = [Secret(KEY), Secret(STORE_SECRET)]
HOST = "api.mobula.io"
PLACEHOLDER = "mobula-proxy-placeholder"
WAY = Way(
    address=Address("127.0.0.1", 4711),
    placeholder=Secret(PLACEHOLDER),
    hosts=[HOST],
    sockets={"api.mobula.io:443": "/run/tls.sock"},
    preload=Path("/opt/preload.cjs"),
    trust={"SSL_CERT_FILE": "/run/bundle.pem"},
    trust_store=Path("/run/trust.p12"),
    trust_store_password="changeit",
)
PROXY = f"http://mobula-proxy:{PLACEHOLDER}@127.0.0.1:4711"


def child(environ: Mapping[str, str] | None = None, way: Way = WAY) -> dict[str, str]:
    return child_environment(environ or {}, SECRETS, way)


# Secrets

ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
WITH_KEY = st.builds("{}{}{}".format, ANY_TEXT, st.sampled_from([KEY, STORE_SECRET]), ANY_TEXT)
NAMES = st.text("ABC_abc1", min_size=1) | st.sampled_from(
    [
        "MOBULA_API_KEY", "MOBULA_API_KEY_FILE", "MOBULA_STORE_SECRET", "MOBULA_API_URL",
        "MOBULA_PROXY__STORE__URL", "HTTPS_PROXY", "all_proxy", "NO_PROXY", "NODE_OPTIONS",
        "JAVA_TOOL_OPTIONS", "SSL_CERT_FILE",
    ]
)  # fmt: skip


@given(st.dictionaries(NAMES, ANY_TEXT | WITH_KEY))
def test_no_secret_is_left_whatever_held_it(environ: dict[str, str]) -> None:
    values = child(environ).values()
    assert [each for each in values for secret in (KEY, STORE_SECRET) if secret in each] == []


def test_a_variable_that_held_the_key_holds_the_placeholder_in_its_place() -> None:
    kept = child({"VENDOR_AUTH": f"Bearer {KEY}", "VENDOR_URL": "https://vendor.test"})
    assert kept["VENDOR_AUTH"] == f"Bearer {PLACEHOLDER}"
    assert kept["VENDOR_URL"] == "https://vendor.test"


def test_what_is_for_the_proxy_alone_is_taken_out() -> None:
    ours = {
        "MOBULA_API_KEY_FILE": "/run/key",
        "MOBULA_STORE_SECRET": "short",
        "MOBULA_STORE_SECRET_FILE": "/run/secret",
        "MOBULA_PROXY__STORE__URL": "redis://:password@redis:6379/0",
    }
    assert child(ours).keys() == child().keys()


def test_the_child_has_a_key_and_a_base_url_that_are_good_for_the_proxy() -> None:
    found = child({"MOBULA_API_KEY": KEY})
    assert found["MOBULA_API_KEY"] == PLACEHOLDER
    assert found["MOBULA_API_URL"] == "http://127.0.0.1:4711"


# Proxies


def test_proxy_variables_are_set_in_both_spellings() -> None:
    found = child({"HTTPS_PROXY": "http://corp:3128", "http_proxy": "http://corp:3128"})
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
    assert {found[name] for name in names} == {PROXY}


def test_a_proxy_for_all_is_replaced_where_there_is_one_and_not_added() -> None:
    assert child({"all_proxy": "socks5://corp:1080"})["all_proxy"] == PROXY
    assert not {"ALL_PROXY", "all_proxy"} & child().keys()


def test_proxies_that_some_clients_prefer_for_websockets_are_taken_out() -> None:
    found = child({"wss_proxy": "http://corp", "WS_PROXY": "http://corp", "SOCKS_PROXY": "x"})
    assert found.keys() == child().keys()


def direct(*entries: str, hosts: list[str] | None = None) -> list[str]:
    """Return what NO_PROXY becomes of these entries."""
    way = replace(WAY, hosts=hosts or [HOST])
    found = child({"NO_PROXY": ",".join(entries)}, way)
    assert found["NO_PROXY"] == found["no_proxy"]
    return found["NO_PROXY"].split(",")


NOWHERE = [*LOOPBACK, *METADATA]
"""Where the proxy leads nobody."""


@pytest.mark.parametrize("entry", ["corp.test", ".corp.test", "10.0.0.0/8", "db:5432", "ula.io"])
def test_what_is_reached_directly_stays_so_beside_where_the_proxy_leads_nobody(entry: str) -> None:
    assert direct(entry, hosts=["api.mobula.test"]) == [entry, *NOWHERE]


@pytest.mark.parametrize(
    "entry",
    ["*", "mobula.io", ".mobula.io", "*.mobula.io", HOST, f"{HOST}:443", "MOBULA.IO", "api.*",
     "mobula.io.", "io", "bula.io", "*bula.io", ".", "a*i.mobula.io"],
)  # fmt: skip
def test_what_some_client_would_take_for_an_upstream_is_not_reached_directly(entry: str) -> None:
    assert direct("corp.test", entry) == ["corp.test", *NOWHERE]


def test_an_upstream_on_this_machine_is_not_reached_directly() -> None:
    assert direct(hosts=["localhost", "127.0.0.1"]) == ["::1", *METADATA]


def test_both_spellings_of_no_proxy_count_and_any_space_parts_entries() -> None:
    found = child({"NO_PROXY": "a.test, b.test", "no_proxy": "c.test b.test"})
    assert found["NO_PROXY"].split(",") == ["c.test", "b.test", "a.test", *NOWHERE]


ENTRIES = st.lists(
    st.sampled_from(["*", ".", "", " ", "localhost", "corp.test", "10.0.0.0/8", "[::1]", ":443"])
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(["", ".", "*.", "*", "..", "x"]),
        st.integers(0, len(HOST)).map(lambda start: HOST[start:]),
        st.sampled_from(["", ".", ":443", ":80", " "]),
    ),
)


@given(ENTRIES)
def test_no_client_bypasses_the_proxy_for_an_upstream_whatever_no_proxy_held(
    entries: list[str],
) -> None:
    value = ",".join(direct(*entries))
    assert not request.proxy_bypass_environment(HOST, {"no": value})  # type: ignore[attr-defined]
    assert not should_bypass_proxies(f"https://{HOST}/", value)
    assert should_bypass_proxies("http://localhost:9000/", value)


# The network's own proxy


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://user:word@corp:3128"}, "http://user:word@corp:3128"),
        ({"https_proxy": "http://small:1", "HTTPS_PROXY": "http://capital:1"}, "http://small:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://capital:1"}, "http://capital:1"),
        ({"HTTPS_PROXY": "corp:3128"}, "http://corp:3128"),
        ({"HTTPS_PROXY": "http://corp/"}, "http://corp:80"),
        ({"HTTPS_PROXY": "http://[fd00::1]"}, "http://[fd00::1]:80"),
        ({"HTTPS_PROXY": "/"}, None),
        ({"ALL_PROXY": "socks5://corp:1080"}, "socks5://corp:1080"),
        ({"HTTPS_PROXY": "http://corp", "ALL_PROXY": "socks5://corp:1080"}, "http://corp:80"),
        ({"HTTP_PROXY": "http://corp"}, None),
        ({"HTTPS_PROXY": "http://corp", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://corp", "no_proxy": ".mobula.io"}, None),
        ({"HTTPS_PROXY": "http://corp", "NO_PROXY": "localhost"}, "http://corp:80"),
    ],
)
def test_the_networks_proxy_is_found_as_other_programs_find_it(
    environ: dict[str, str], found: str | None
) -> None:
    assert network_proxy(environ, [HOST], "https") == found


def test_calls_in_clear_have_a_proxy_of_their_own() -> None:
    environ = {"HTTP_PROXY": "http://clear", "HTTPS_PROXY": "http://other"}
    assert network_proxy(environ, [HOST], "http") == "http://clear:80"


# Node and Java


def test_node_loads_the_script_beside_what_it_loads_already(tmp_path: Path) -> None:
    """Whatever stands in the path of either."""
    folder = tmp_path / 'it\'s a "strange"\\folder'
    folder.mkdir()
    (folder / "theirs.cjs").write_text("console.log('theirs');")
    (folder / "ours.cjs").write_text("console.log('ours');")
    theirs = str(folder / "theirs.cjs").replace("\\", "\\\\").replace('"', '\\"')
    way = replace(WAY, preload=folder / "ours.cjs")
    environ = child({"NODE_OPTIONS": f'--require "{theirs}"'}, way)
    done = subprocess.run(
        [program("node"), "-e", "console.log(process.env.NODE_USE_ENV_PROXY)"],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["theirs", "ours", "1"]
    assert json.loads(environ["MOBULA_PROXY_SOCKETS"]) == {"api.mobula.io:443": "/run/tls.sock"}


def properties(environ: dict[str, str]) -> dict[str, str]:
    """Return the system properties of a JVM in this environment."""
    done = subprocess.run(
        [program("java"), "-XshowSettings:properties", "-version"],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    pairs = re.findall(r"^    (\S+) = (.*)$", done.stderr, re.MULTILINE)
    return dict(pairs)


def test_java_has_the_trust_store_and_the_proxy_whatever_stands_in_paths() -> None:
    strange = '/srv/it\'s a "strange"\\folder/trust.p12'
    found = properties(child({}, replace(WAY, trust_store=Path(strange))))
    assert found["javax.net.ssl.trustStore"] == strange
    assert found["javax.net.ssl.trustStorePassword"] == "changeit"
    assert found["javax.net.ssl.trustStoreType"] == "PKCS12"
    for scheme in ("http", "https"):
        assert found[f"{scheme}.proxyHost"] == "127.0.0.1"
        assert found[f"{scheme}.proxyPort"] == "4711"


def test_java_options_that_were_given_stay_but_for_another_way_out() -> None:
    given = "-Dtheirs='a b' -Dhttps.proxyHost=corp -Dhttp.nonProxyHosts='*.corp.test|*.io|db'"
    found = properties(child({"JAVA_TOOL_OPTIONS": given, "NO_PROXY": ".lan,db:5432,10.0.0.0/8"}))
    assert found["theirs"] == "a b"
    assert found["https.proxyHost"] == "127.0.0.1"
    hosts = found["http.nonProxyHosts"].split("|")
    assert hosts[:7] == ["localhost", "127.*", "[::1]", "*.corp.test", "db", "*.lan", "*.db"]
    assert "169.254.169.254" in hosts


def test_a_trust_store_that_java_was_given_stays_the_only_one() -> None:
    given = "-Djavax.net.ssl.trustStore=/corp.jks"
    found = child({"JAVA_TOOL_OPTIONS": given})["JAVA_TOOL_OPTIONS"]
    assert found.count("trustStore") == 1
    assert found.startswith(f"{given} -Dhttp.proxyHost=127.0.0.1 ")
