"""Apps that know the API by its own name only, and hold a static key of their own.

Each prints the body and the status of every path that it is given. Of the proxy it is told nothing,
and its runtime no more than what stands here.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import KEY, program
from proxy.config import Address

FOLDER = Path(__file__).with_name("apps")
MARKET = "/api/1/market/data?asset=Ethereum"
ECHO = "/api/1/sandbox/echo"

PROXY = {"HTTPS_PROXY": "http://{place}"}
FIRST_NODE_WITH_PROXIES = (22, 21)
PATIENCE = 60.0
"""Seconds that an app may take: a JVM compiles its own first."""


@dataclass(frozen=True)
class App:
    """`trust` and `proxy` are the variables that its runtime looks at.

    In their values, `ca` stands for the folder of the local CA and `place` for the listener.
    """

    command: tuple[str, ...]
    trust: Mapping[str, str]
    proxy: Mapping[str, str]

    def trusting(self, ca: Path) -> dict[str, str]:
        return {name: value.format(ca=ca) for name, value in self.trust.items()}

    def through(self, place: Address) -> dict[str, str]:
        return {name: value.format(place=place) for name, value in self.proxy.items()}


def run(
    app: App, *paths: str, variables: Sequence[Mapping[str, str]], within: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run an app to its end; a variable that is given twice has both values."""
    environ = {"PATH": os.environ["PATH"], "MOBULA_API_KEY": KEY}
    for each in variables:
        for name, value in each.items():
            environ[name] = f"{environ[name]} {value}" if name in environ else value
    return subprocess.run(
        [*within, *app.command, *paths],
        env=environ, check=False, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


def check_calls(printed: str) -> None:
    """Check that who called MARKET and ECHO got data, and was heard by a token and no key."""
    data, echo = [line.rpartition(" ") for line in printed.splitlines()]
    assert (data[2], json.loads(data[0])["data"]["symbol"]) == ("200", "ETH")
    headers = json.loads(echo[0])["headers"]
    credentials = [value for name, value in headers if name == "Authorization"]
    assert (echo[2], credentials) == ("200", ["Bearer [token]"])


def check_feed(printed: str) -> None:
    """Check that three trades came, for the subscription that was asked for."""
    trades = [json.loads(line) for line in printed.splitlines()]
    assert [trade["subscriptionId"] for trade in trades] == ["mine"] * 3


def _curl() -> App:
    program("curl")
    return App(("sh", str(FOLDER / "on_curl.sh")), {"CURL_CA_BUNDLE": "{ca}/bundle.pem"}, PROXY)


def _python(library: str, trust: str) -> App:
    script = str(FOLDER / f"on_{library}.py")
    return App((sys.executable, script), {trust: "{ca}/bundle.pem"}, PROXY)


def _node(module: str) -> App:
    trust = {"NODE_EXTRA_CA_CERTS": "{ca}/ca.pem"}
    proxy = {**PROXY, "NODE_USE_ENV_PROXY": "1"}
    return App((program("node"), str(FOLDER / f"on_{module}.mjs")), trust, proxy)


def _java() -> App:
    if shutil.which("javac") is None:
        pytest.skip("needs a JDK")
    options, soon = "JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1"
    return App(
        (program("java"), soon, str(FOLDER / "OnHttpClient.java")),
        {options: "-Djavax.net.ssl.trustStore={ca}/truststore.p12 "
                  "-Djavax.net.ssl.trustStorePassword=changeit"},
        {options: "-Dhttps.proxyHost={place.host} -Dhttps.proxyPort={place.port}"},
    )  # fmt: skip


@functools.cache
def node_knows_proxies() -> bool:
    """Tell whether Node looks at the variables for proxies, once NODE_USE_ENV_PROXY is set."""
    told = subprocess.run([program("node"), "--version"], capture_output=True, check=True).stdout
    major, minor = told.decode().removeprefix("v").split(".")[:2]
    return (int(major), int(minor)) >= FIRST_NODE_WITH_PROXIES


APPS: Mapping[str, Callable[[], App]] = {
    "curl": _curl,
    "requests": lambda: _python("requests", "REQUESTS_CA_BUNDLE"),
    "httpx": lambda: _python("httpx", "SSL_CERT_FILE"),
    "aiohttp": lambda: _python("aiohttp", "SSL_CERT_FILE"),
    "urllib": lambda: _python("urllib", "SSL_CERT_FILE"),
    "websockets": lambda: _python("websockets", "SSL_CERT_FILE"),
    "fetch": lambda: _node("fetch"),
    "https": lambda: _node("https"),
    "http2": lambda: _node("http2"),
    "java": _java,
}
"""Each is skipped where its runtime is missing."""
CALLERS = ("curl", "requests", "httpx", "aiohttp", "urllib", "fetch", "https", "java")
"""Those that print what they are answered; the others have their own ways."""
