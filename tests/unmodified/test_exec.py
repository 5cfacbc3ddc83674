"""Apps that are started by `mobula-proxy exec`, which alone knows what their runtimes look at.

Other clients are in `launch/test_exec.py`; these are the ones that take more than a line.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import KEY, InstalledSandbox, SecretScan, finished, installed_sandbox
from unmodified.app import APPS, ECHO, MARKET, App, check_calls, check_feed


@pytest.fixture(scope="module")
def sandbox() -> Iterator[InstalledSandbox]:
    with installed_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ca")


def run(app: App, *paths: str, sandbox: InstalledSandbox, ca: Path, scan: SecretScan) -> str:
    """Return what an app printed."""
    sets = (f"upstreams.api.mobula.io.url={sandbox.url}", "store.url=memory://", f"ca.dir={ca}")
    code, out, err = finished(
        "exec", *(part for each in sets for part in ("--set", each)), "--", *app.command, *paths,
        scan=scan, environ={"MOBULA_API_KEY": KEY},
    )  # fmt: skip
    assert code == 0, err
    return out


@pytest.mark.parametrize("name", ["aiohttp", "java"])
def test_an_app_gets_real_data_and_a_token_takes_the_place_of_its_key(
    name: str, sandbox: InstalledSandbox, ca: Path, scan: SecretScan
) -> None:
    check_calls(run(APPS[name](), MARKET, ECHO, sandbox=sandbox, ca=ca, scan=scan))


def test_a_feed_comes_to_an_app_that_knows_nothing_of_the_proxy(
    sandbox: InstalledSandbox, ca: Path, scan: SecretScan
) -> None:
    check_feed(run(APPS["websockets"](), sandbox=sandbox, ca=ca, scan=scan))
