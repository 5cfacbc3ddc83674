"""The command line: its usage, its refusals, and what it tells of a running proxy.

Whatever serves, or is spoken to, is the installed command in a process of its own. What only reads
its arguments is called in this process, which saves half a second each time.
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import requests
import yaml

from harness import (
    KEY,
    SecretScan,
    called,
    command,
    command_line,
    finished,
    get,
    program,
    running,
    serving,
    until_ready,
)
from proxy import __version__
from proxy.sandbox import Sandbox

EXAMPLE = Path(__file__).parents[1] / "config.example.yaml"
GIVEN = {"MOBULA_API_KEY": KEY}
FREE_PORTS = ("--set", 'listeners=[{"bind": "127.0.0.1:0"}]', "--set", "admin.bind=127.0.0.1:0")


@pytest.fixture
def taken() -> Iterator[str]:
    """An address on which somebody listens who never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "127.0.0.1:{1}".format(*server.getsockname())


# Streams


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["check"], 0),
        (["check", "--set", "no=1"], 2),
        (["exec", "--demo", "sh", "-c", "exit 5"], 5),
    ],
    ids=lambda it: it[0] if isinstance(it, list) else str(it),
)
def test_a_closed_stream_changes_nothing_else(
    scan: SecretScan, closed: str, arguments: list[str], code: int
) -> None:
    """As some supervisors and daemons start what they start."""
    within = ("sh", "-c", f'exec "$@" {closed}', "sh")
    environ = GIVEN if arguments[0] == "check" else {}
    with command(*arguments, scan=scan, environ=environ, within=within) as process:
        assert process.wait() == code


# check


def test_check_prints_the_effective_settings_and_only_a_fingerprint_of_the_key(
    scan: SecretScan, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("token: {expires_in: 30m, standby: 3}\n")
    code, out, err = finished(
        "check", "--set", "token.standby=2", scan=scan,
        environ={**GIVEN, "MOBULA_PROXY_CONFIG": str(file), "MOBULA_PROXY__LOG__LEVEL": "debug"},
    )  # fmt: skip
    settings = yaml.safe_load(out)
    assert (code, err) == (0, "")
    assert settings["token"]["expires_in"] == "30m"
    assert settings["token"]["standby"] == 2
    assert settings["log"]["level"] == "debug"
    assert settings.keys() == yaml.safe_load(EXAMPLE.read_text()).keys()
    assert out.splitlines()[-1].startswith("# static key: fingerprint ")


def test_what_check_prints_is_a_settings_file_that_check_accepts(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    code, text, _ = called("check")
    assert code == 0
    file.write_text(text)
    assert called("check", "--config", str(file)) == (0, text, "")


MEMBER = ("--set", "role=member", "--set", "store.url=redis://redis:6379/0")
STORE_SECRET = "5e" * 32


def test_check_asks_a_member_for_the_store_secret_and_for_no_static_key(scan: SecretScan) -> None:
    scan.add(STORE_SECRET)
    environ = {"MOBULA_STORE_SECRET": STORE_SECRET}
    code, out, err = finished("check", *MEMBER, scan=scan, environ=environ)
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == [
        "# store: redis://redis:6379/0, sealed with the store secret",
        "# static key: none, for a member",
    ]


@pytest.mark.parametrize("name", ["check", "serve"])
def test_a_member_without_a_store_secret_is_refused_and_told_how_to_give_one(name: str) -> None:
    code, out, err = called(name, *MEMBER)
    assert (code, out) == (2, "")
    assert "No store secret, which a member needs to read its fleet's tokens. Set MOBULA_" in err


def test_check_tells_that_the_static_key_seals_where_there_is_no_other_secret() -> None:
    code, out, _ = called("check", "--set", "state_dir=/var/lib/x")
    assert code == 0
    assert "# store: sqlite:////var/lib/x/tokens.db, sealed with the static key\n" in out


def test_check_shows_no_password_of_the_store_and_says_so() -> None:
    code, out, _ = called("check", "--set", "store.url=redis://:pass4711@redis:6379/0")
    assert code == 0
    assert "pass4711" not in out
    assert "url: redis://***@redis:6379/0\n" in out
    assert "# store.url: *** stands for credentials; this does not load without them\n" in out


def test_check_shows_no_password_of_the_upstream_proxy_and_says_so() -> None:
    code, out, _ = called("check", "--set", "upstream_proxy=http://me:pass4711@proxy:3128")
    assert code == 0
    assert "pass4711" not in out
    assert "upstream_proxy: http://***@proxy:3128\n" in out
    assert "# upstream_proxy: *** stands for credentials; this does not load" in out


@pytest.mark.parametrize("name", ["check", "serve", "tokens list"])
def test_a_redis_store_without_its_extra_is_refused_and_told_how_to_get_it(name: str) -> None:
    code = (
        "import sys; sys.modules['redis'] = None; "
        f"from proxy.cli import main; main({name!r}.split())"
    )
    environ = {**GIVEN, "MOBULA_PROXY__STORE__URL": "redis://redis"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "mobula-proxy: a Redis store needs redis-py; "
        "install it with: pip install 'mobula-proxy[redis]'\n"
    )


def test_every_wrong_setting_of_every_source_is_reported_at_once(
    scan: SecretScan, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("token:\n  standbye: 1\n")
    code, out, err = finished(
        "check", "--config", str(file), "--set", "log.level=loud", scan=scan,
        environ={**GIVEN, "MOBULA_PROXY__TOKEN__EXPIRES_IN": "30s"},
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "3 problems with the settings:" in err
    assert "token.standbye: unknown setting; did you mean token.standby?" in err
    assert "token.expires_in: must be between 1m and 24h (30s in" in err
    assert "log.level: " in err


@pytest.mark.parametrize(
    ("file", "reason"), [("missing.yaml", "No such file"), (".", "Is a directory")]
)
def test_a_settings_file_that_cannot_be_read_is_named(
    tmp_path: Path, file: str, reason: str
) -> None:
    path = str(tmp_path / file)
    code, _, err = called("check", "--config", path)
    assert code == 2
    assert f"{path}: cannot be read: {reason}" in err


@pytest.mark.parametrize("name", ["check", "serve"])
def test_without_a_key_it_exits_2_and_tells_how_to_give_one(scan: SecretScan, name: str) -> None:
    code, out, err = finished(name, scan=scan)
    assert (code, out) == (2, "")
    ways = ("MOBULA_API_KEY,", "MOBULA_API_KEY_FILE", "api_key.file")
    assert [way for way in ways if way not in err] == []


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "is empty"),
        (f"Bearer {KEY}", "holds a space"),
        (jwt.encode({"exp": 1}, "x" * 32), "short-lived token (a JWT)"),
    ],
    ids=["empty", "space", "jwt"],
)
def test_a_key_that_cannot_be_one_is_refused_with_the_reason_and_not_shown(
    key: str, reason: str
) -> None:
    code, out, err = called("serve", environ={"MOBULA_API_KEY": key})
    assert (code, out) == (2, "")
    assert err.startswith("mobula-proxy: The static key from MOBULA_API_KEY ")
    assert reason in err
    assert not key or key not in err


def test_two_keys_in_the_environment_are_refused() -> None:
    code, _, err = called("check", environ={**GIVEN, "MOBULA_API_KEY_FILE": "/dev/null"})
    assert code == 2
    assert "both set: unset one" in err


@pytest.mark.parametrize("name", ["check", "serve"])
def test_certificate_authorities_that_cannot_be_read_are_a_settings_error(name: str) -> None:
    upstream = 'upstreams={"api.mobula.io": {"url": "https://127.0.0.1:1", "ca_file": "/no.pem"}}'
    code, out, err = called(name, *FREE_PORTS, "--set", upstream)
    assert (code, out) == (2, "")
    assert err.startswith("mobula-proxy: upstreams.api.mobula.io.ca_file: '/no.pem'")


# Usage


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["serve", "--frobnicate"], "No such option"),
        (["exec"], "Missing argument 'COMMAND"),
        (["exec", "--frobnicate", "--", "true"], "No such option"),
        (["serve", "--set", "nonsense"], "write --set section.key=value"),
        (["status", "--admin", "nonsense"], "'--admin': must be host:port"),
        (["wait", "--timeout", "nan"], "'--timeout': must be a duration"),
        (["wait", "--timeout", "-1"], "'--timeout': must be a duration"),
        (["sandbox", "--bind", "nonsense"], "'--bind': must be host:port"),
        (["sandbox", "--bind", "127.0.0.1:99999"], "'--bind': must have a port"),
        (["sandbox", "--bind", "unix:/tmp/no.sock"], "bind must be host:port"),
        (["sandbox", "--key", " blank =growth"], "a static key must be printable"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_would_be_right(
    arguments: list[str], reason: str
) -> None:
    code, out, err = called(*arguments)
    assert (code, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", ["Exit codes", "143", "MOBULA_API_KEY_FILE", "MOBULA_PROXY__SECTION__KEY", "serve"]),
        ("serve", ["--demo", "--config", "MOBULA_PROXY_CONFIG", "--set", "SIGTERM"]),
        ("exec", ["--demo", "--open", "--config", "--set", "COMMAND", "127", "126"]),
        ("check", ["--config", "--set", "exit 2"]),
        ("sandbox", ["--bind", "--key", "127.0.0.1:8081"]),
        ("status", ["--admin", "--json"]),
        ("wait", ["--admin", "--timeout", "60s"]),
        ("quit", ["--admin", "drain"]),
        ("doctor", ["[COMMAND]...", "--json", "--no-mint", "Exit codes: 0 well"]),
    ],
)
def test_help_names_what_one_must_know(name: str, words: list[str]) -> None:
    code, out, err = called(*filter(None, [name]), "--help")
    assert (code, err) == (0, "")
    assert [word for word in words if word not in out] == []


def test_it_tells_its_version(scan: SecretScan) -> None:
    assert finished("--version", scan=scan)[:2] == (0, f"mobula-proxy, version {__version__}\n")


# serve


@pytest.mark.parametrize("place", ["listener", "admin"])
async def test_an_address_that_is_taken_is_named_and_nothing_was_minted(
    sandbox: Sandbox, scan: SecretScan, taken: str, place: str
) -> None:
    binds = {
        "listener": f'listeners=[{{"bind": "127.0.0.1:0"}}, {{"bind": "{taken}"}}]',
        "admin": f"admin.bind={taken}",
    }
    arguments = [*command_line(sandbox.url), "--set", binds[place]]
    with command(*arguments, scan=scan, environ=GIVEN) as process:
        code = process.wait()
    assert code == 1
    assert process.err == f"mobula-proxy: cannot listen on {taken}: Address already in use\n"
    assert sandbox.ledger.report()["mint_calls"] == 0


def test_the_line_that_a_demo_prints_works_in_a_shell(scan: SecretScan) -> None:
    program("curl")
    with command("serve", "--demo", *FREE_PORTS, scan=scan) as process:
        line = process.line("    curl ").strip()
        answer = subprocess.run(
            ["sh", "-c", f"{line} --silent --show-error"],
            capture_output=True,
            timeout=10,
            check=True,
        )
    assert json.loads(answer.stdout)["data"]["name"] == "Bitcoin"
    assert "this is a demo" in process.out
    assert "set MOBULA_API_KEY" in process.out


async def test_a_demo_with_a_key_serves_the_configured_upstream(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with serving(sandbox.url, scan, flags=["--demo"]) as served:
        status, _, _ = await get(served.url + "/api/1/market/data")
    assert status == 200
    assert served.process.out == ""
    assert sandbox.ledger.report()["data_requests"] == 1


def test_a_demo_ignores_the_certificate_authorities_of_the_upstream_it_stands_in_for(
    scan: SecretScan,
) -> None:
    upstream = 'upstreams={"api.mobula.io": {"url": "https://127.0.0.1:1", "ca_file": "/no.pem"}}'
    arguments = ["serve", "--demo", *FREE_PORTS, "--set", upstream]
    with command(*arguments, scan=scan) as process:
        assert process.serving()["admin"]


def test_a_demo_refuses_a_file_of_clients_that_is_of_no_use(scan: SecretScan) -> None:
    asking = 'listeners=[{"bind": "127.0.0.1:0", "authenticate": true}]'
    arguments = ["serve", "--demo", *FREE_PORTS, "--set", asking, "--set", "clients_file=/no.yaml"]
    with command(*arguments, scan=scan) as process:
        assert process.wait() == 2
    assert process.err.startswith("mobula-proxy: clients_file has 1 problem with the settings:")


# sandbox


def test_the_sandbox_command_tells_where_it_is_and_answers_until_it_is_ended(
    scan: SecretScan,
) -> None:
    with command("sandbox", "--bind", "127.0.0.1:0", "--key", "a-key=free", scan=scan) as process:
        url = process.line("Sandbox of the Mobula API on ").split()[-1]
        ledger = requests.get(f"{url}/_sandbox/ledger", timeout=10).json()
        process.signal(signal.SIGTERM)
        assert process.wait() == 143
    assert ledger["requests"] == 0
    assert "static keys: a-key (free)" in process.out
    assert f"ledger: curl {url}/_sandbox/ledger" in process.out
    assert process.err == ""


def test_a_sandbox_that_cannot_listen_names_the_address(scan: SecretScan, taken: str) -> None:
    code, out, err = finished("sandbox", "--bind", taken, scan=scan)
    assert (code, out) == (1, "")
    assert err == f"mobula-proxy: cannot listen on {taken}: Address already in use\n"


# status, wait, quit


async def test_status_wait_and_quit_speak_to_the_running_proxy(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with serving(sandbox.url, scan) as served:
        admin = served.admin.removeprefix("http://")
        assert await told(scan, "wait", admin) == (0, "", "")

        code, text, _ = await told(scan, "status", admin)
        assert code == 0
        assert text.startswith(f"mobula-proxy {__version__}, ready, up ")
        assert f"listener  reverse {served.url.removeprefix('http://')} -> api.mobula.io" in text
        assert "of 5 creation calls left this minute" in text
        assert "5000 of 5000 left, expires in" in text

        code, text, _ = await told(scan, "status", admin, "--json")
        assert code == 0
        assert json.loads(text)["ready"] is True

        assert await told(scan, "quit", admin) == (0, "", "")
        assert await served.ended() == 0
    assert sandbox.ledger.report()["revokes"] == 2


async def test_they_find_the_admin_address_in_the_settings_a_unix_socket_too(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    path = tmp_path / "admin.sock"
    environ = {"MOBULA_PROXY__ADMIN__BIND": f"unix:{path}"}
    async with running(sandbox.url, scan, admin={"bind": f"unix:{path}"}) as app:
        await until_ready(app)
        code, text, _ = await asyncio.to_thread(finished, "status", scan=scan, environ=environ)
        assert (code, "ready" in text) == (0, True)
    assert not path.exists()


async def test_status_and_wait_exit_1_with_the_reason_while_the_proxy_is_not_ready(
    scan: SecretScan,
) -> None:
    async with (
        Sandbox(keys={"another-key": "growth"}) as stranger,
        serving(stranger.url, scan) as served,
    ):
        await served.said("mint failed")
        admin = served.admin.removeprefix("http://")
        status = await told(scan, "status", admin)
        waited = await told(scan, "wait", admin, "--timeout", "100ms")
        as_json = await told(scan, "status", admin, "--json")
    reason = "status 401: Mobula refused the static key"
    assert (status[0], waited[0], as_json[0]) == (1, 1, 1)
    assert f"not ready: {reason}" in status[1]
    assert waited[2] == f"mobula-proxy: not ready: {reason} (waited 0.1 s)\n"
    assert json.loads(as_json[1])["reason"] == reason


def test_where_nobody_listens_it_says_so_without_a_traceback(scan: SecretScan) -> None:
    code, out, err = finished("status", "--admin", "127.0.0.1:1", scan=scan)
    assert (code, out) == (1, "")
    assert err == "mobula-proxy: no proxy answers on admin address 127.0.0.1:1\n"


async def told(scan: SecretScan, name: str, admin: str, *more: str) -> tuple[int, str, str]:
    """Run `name` against an admin address, while this loop goes on."""
    return await asyncio.to_thread(finished, name, "--admin", admin, *more, scan=scan)


def test_a_proxy_does_not_load_what_only_stores_and_resolvers_need() -> None:
    """Each takes a megabyte or more of every sidecar."""
    rare = {"cryptography", "redis", "sqlite3", "aiodns", "pycares"}
    code = f"import sys, proxy.cli; print(*sys.modules.keys() & {rare})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
