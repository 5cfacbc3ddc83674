"""`mobula-proxy exec`: the installed command, real children, and the sandbox in place of Mobula."""

import asyncio
import json
import os
import resource
import signal
import stat
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import COMMAND, KEY, Gate, SecretScan, command, finished, program, until
from launch.terminal import Terminal
from proxy.launch.folder import SHORT
from proxy.sandbox import Fault, Sandbox
from table import DOCS
from wire import Far

MINT = "/api/2/auth/tokens"
MARKET = "https://api.mobula.io/api/1/market/data?asset=Bitcoin"
DOC = (DOCS / "exec.md").read_text()
STORE_IN_MEMORY = ("--set", "store.url=memory://")
SOON = ("--set", "shutdown.revoke=50ms")
WITH_KEY = {"MOBULA_API_KEY": KEY}

Ended = tuple[int, str, str]


def child(
    sandbox: Sandbox, *child_command: str, flags: Sequence[str] = STORE_IN_MEMORY
) -> list[str]:
    """The arguments that run a child in front of a sandbox."""
    upstream = f"upstreams.api.mobula.io.url={sandbox.url}"
    return ["exec", "--set", upstream, *flags, "--", *child_command]


async def ran(
    sandbox: Sandbox,
    scan: SecretScan,
    *child_command: str,
    flags: Sequence[str] = STORE_IN_MEMORY,
    environ: Mapping[str, str] | None = None,
) -> Ended:
    """Run a child to its end: exit code, standard output, standard error."""
    arguments = child(sandbox, *child_command, flags=flags)
    environ = WITH_KEY | dict(environ or {})
    return await asyncio.to_thread(finished, *arguments, scan=scan, environ=environ)


def exists(path: Path) -> bool:
    return path.exists()


def python(script: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script)]


# Calls


def test_a_demo_needs_no_key_and_nothing_but_the_command_writes_to_the_output(
    scan: SecretScan,
) -> None:
    code, out, err = finished("exec", "--demo", "--", program("curl"), "-sf", MARKET, scan=scan)
    assert code == 0
    assert json.loads(out)["data"]["name"] == "Bitcoin"
    assert err == "mobula-proxy: no static key: a demo, with made-up data\n"


CLIENTS = {
    "curl": ["curl", "-sf", "-H", "Authorization: its-own-key", MARKET],
    "node": [
        "node",
        "-e",
        f"""
        const show = (text) => console.log(text);
        require('https').get('{MARKET}', (it) => it.setEncoding('utf8').on('data', show));""",
    ],
    "node's fetch": ["node", "-e", f"fetch('{MARKET}').then((it) => it.text()).then(console.log)"],
    "requests": python(f"import requests; print(requests.get('{MARKET}').text)"),
    "httpx": python(f"import httpx; print(httpx.get('{MARKET}').text)"),
    "urllib": python(
        f"from urllib.request import urlopen; print(urlopen('{MARKET}').read().decode())"
    ),
}


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
async def test_what_a_client_asks_of_the_api_is_asked_with_a_token(
    sandbox: Sandbox, scan: SecretScan, client: list[str]
) -> None:
    name, *arguments = client
    environ = {"NODE_NO_WARNINGS": "1"}  # Node 22 has one of its own proxy agent
    code, out, err = await ran(sandbox, scan, program(name), *arguments, environ=environ)
    assert (code, err) == (0, "")
    assert json.loads(out)["data"]["name"] == "Bitcoin"
    assert sandbox.ledger.report()["data_requests"] == 1


async def test_a_feed_comes_to_a_client_that_knows_nothing_of_the_proxy(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    script = """
    const socket = new WebSocket('wss://api.mobula.io/');
    const authorization = process.env.MOBULA_API_KEY;
    const subscription = { type: 'market', authorization, payload: { subscriptionId: 'mine' } };
    socket.onopen = () => socket.send(JSON.stringify(subscription));
    socket.onmessage = (event) => { console.log(event.data); socket.close(); };
    """
    node = (program("node"), "--experimental-websocket", "-e", script)
    code, out, _ = await ran(sandbox, scan, *node)
    assert code == 0
    assert json.loads(out.splitlines()[0])["subscriptionId"] == "mine"


# Who is served

BASE_URL = """
import os, requests
url = os.environ["MOBULA_API_URL"] + "/api/1/market/data"
key = os.environ["MOBULA_API_KEY"]
print(requests.get(url).status_code, requests.get(url, headers={"x-api-key": key}).status_code)
"""


@pytest.mark.parametrize(("flags", "without"), [((), "401"), (("--open",), "200")])
async def test_a_base_url_app_shows_the_placeholder_unless_all_are_served(
    sandbox: Sandbox, scan: SecretScan, flags: tuple[str, ...], without: str
) -> None:
    code, out, _ = await ran(sandbox, scan, *python(BASE_URL), flags=[*STORE_IN_MEMORY, *flags])
    assert (code, out) == (0, f"{without} 200\n")


# What the child finds


async def test_the_child_has_a_placeholder_and_nothing_that_is_secret(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """What is printed is searched for the static key and every token."""
    environ = {"VENDOR_KEY": f"Bearer {KEY}", "MOBULA_PROXY__TOKEN__STANDBY": "0"}
    code, out, err = await ran(sandbox, scan, program("env"), environ=environ)
    found = dict(line.split("=", 1) for line in out.splitlines())
    placeholder = found["MOBULA_API_KEY"]
    assert (code, err) == (0, "")
    assert placeholder.startswith("mobula-proxy-")
    assert len(placeholder) >= 40
    assert found["VENDOR_KEY"] == f"Bearer {placeholder}"
    assert "MOBULA_PROXY__TOKEN__STANDBY" not in found


async def test_the_docs_name_every_variable_that_the_child_finds(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    _, out, _ = await ran(sandbox, scan, program("env"))
    names = {line.partition("=")[0].upper() for line in out.splitlines()}
    names -= {"PATH", "LC_CTYPE"}  # Python sets the latter where there is no locale (PEP 538)
    assert [name for name in sorted(names) if f"`{name}`" not in DOC] == []


async def test_the_placeholder_is_in_no_log(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    """What was printed is searched for it, too."""
    script = f"""
    echo "$MOBULA_API_KEY" > '{tmp_path}/placeholder'
    curl -s '{MARKET}' && curl -s "$MOBULA_API_URL/?api_key=$MOBULA_API_KEY"
    """
    flags = [*STORE_IN_MEMORY, "--set", "log.level=debug", "--set", "log.access=true"]
    code, _, err = await ran(sandbox, scan, "sh", "-c", script, flags=flags)
    assert (code, err.count('"event": "request"')) == (0, 2)
    scan.add((tmp_path / "placeholder").read_text().strip())


async def test_each_child_has_another_placeholder(sandbox: Sandbox, scan: SecretScan) -> None:
    show = ("sh", "-c", "echo $MOBULA_API_KEY")
    _, first, _ = await ran(sandbox, scan, *show)
    _, second, _ = await ran(sandbox, scan, *show)
    assert first != second


async def test_what_is_for_this_child_is_out_of_reach_of_other_users_and_gone_at_the_end(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    script = """
    import json, os
    folder = os.path.dirname(json.loads(os.environ["MOBULA_PROXY_SOCKETS"])["api.mobula.io:443"])
    print(folder, os.stat(folder).st_mode)
    """
    code, out, _ = await ran(sandbox, scan, *python(script))
    folder, mode = out.split()
    assert (code, stat.S_IMODE(int(mode))) == (0, 0o700)
    assert not exists(Path(folder))


async def test_it_is_gone_as_well_if_we_are_killed(sandbox: Sandbox, scan: SecretScan) -> None:
    arguments = child(sandbox, "sh", "-c", "echo $MOBULA_PROXY_SOCKETS; exec sleep 60")
    with command(*arguments, scan=scan, environ=WITH_KEY) as process:
        shown = await asyncio.to_thread(process.line, "tls.sock")
        folder = Path(json.loads(shown)["api.mobula.io:443"]).parent
        assert exists(folder)
        process.signal(signal.SIGKILL)
        await until(lambda: not exists(folder))


async def test_sockets_are_in_a_short_place_where_temporary_files_are_in_a_long_one(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    """The path of a socket has an end, which some build systems' folders are beyond."""
    far_down = tmp_path / ("x" * 100)
    far_down.mkdir()
    script = "echo $MOBULA_PROXY_SOCKETS"
    code, out, err = await ran(sandbox, scan, "sh", "-c", script, environ={"TMPDIR": str(far_down)})
    folder = Path(json.loads(out)["api.mobula.io:443"]).parent
    assert (code, err, str(folder.parent)) == (0, "", SHORT)
    assert not exists(folder)


async def test_the_child_has_the_limits_that_we_were_given(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    """The proxy raises its own: with so many files possible, a few old programs fail."""
    script = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    _, out, _ = await ran(sandbox, scan, *python(script))
    assert tuple(map(int, out.split())) == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_standard_input_is_the_childs(scan: SecretScan) -> None:
    arguments = ("exec", "--demo", "--", "sh", "-c", "read line; echo got $line")
    read, write = os.pipe()
    os.write(write, b"a line\n")
    os.close(write)
    code, out, _ = finished(*arguments, scan=scan, stdin=read)
    os.close(read)
    assert (code, out) == (0, "got a line\n")


# The start


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("no-such-program", 127, "no-such-program: No such file or directory"),
        ("/etc", 126, "/etc: Is a directory"),
        ("/etc/passwd", 126, "/etc/passwd: Permission denied"),
    ],
)
async def test_for_a_command_that_cannot_be_run_nothing_is_minted(
    sandbox: Sandbox, scan: SecretScan, name: str, code: int, reason: str
) -> None:
    assert await ran(sandbox, scan, name) == (code, "", f"mobula-proxy: {reason}\n")
    assert sandbox.ledger.report()["mint_calls"] == 0


async def test_a_command_that_the_system_cannot_run_after_all_is_told_so(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF\0")
    broken.chmod(0o755)
    code, out, err = await ran(sandbox, scan, str(broken))
    assert (code, out, err) == (126, "", f"mobula-proxy: {broken}: Exec format error\n")


async def test_without_a_token_the_command_is_not_started(scan: SecretScan, tmp_path: Path) -> None:
    async with Sandbox(keys={"another-key": "growth"}) as stranger:
        code, out, err = await ran(stranger, scan, "touch", str(tmp_path / "started"))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == (
        "mobula-proxy: touch was not started. No short-lived token can be had: "
        "status 401: Mobula refused the static key."
    )
    assert not exists(tmp_path / "started")


@pytest.fixture
async def gated(gate: Gate, scan: SecretScan) -> AsyncIterator[Sandbox]:
    """A sandbox whose delays last until `gate` is opened."""
    async with Sandbox(keys={KEY: "growth"}, sleep=gate.hold) as sandbox:
        scan.watch(sandbox)
        yield sandbox
        gate.open()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_before_the_first_token_ends_it_and_the_command_is_not_started(
    gated: Sandbox, gate: Gate, scan: SecretScan, tmp_path: Path, number: signal.Signals
) -> None:
    gated.faults.add(Fault(MINT, delay=1))
    flags = [*STORE_IN_MEMORY, *SOON]
    arguments = child(gated, "touch", str(tmp_path / "started"), flags=flags)
    with command(*arguments, scan=scan, environ=WITH_KEY) as process:
        await gate.reached()
        process.signal(number)
        assert await asyncio.to_thread(process.wait) == 128 + number
    assert (process.out, process.err) == ("", "")
    assert not exists(tmp_path / "started")


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    """Have what is started here ignore a signal, as `nohup` has it."""
    meant = signal.signal(number, signal.SIG_IGN)
    yield
    signal.signal(number, meant)


async def test_a_signal_that_was_ignored_when_it_was_started_stays_so(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault(MINT, delay=1, times=1))
    arguments = child(gated, "sh", "-c", "kill -HUP $$; exit 3")
    with ignored(signal.SIGHUP), command(*arguments, scan=scan, environ=WITH_KEY) as process:
        await gate.reached()
        process.signal(signal.SIGHUP)
        gate.open()
        assert await asyncio.to_thread(process.wait) == 3


def test_authorities_that_cannot_be_read_are_a_settings_error(scan: SecretScan) -> None:
    flags = ("--set", "upstreams.api.mobula.io.ca_file=/no.pem")
    code, out, err = finished("exec", *flags, "--", "true", scan=scan, environ=WITH_KEY)
    assert (code, out) == (2, "")
    assert err.startswith("mobula-proxy: upstreams.api.mobula.io.ca_file: '/no.pem' does not hold")


def test_a_minter_serves_no_command(scan: SecretScan) -> None:
    flags = ("--set", "role=minter", "--set", "store.url=redis://localhost:6379/0")
    code, out, err = finished("exec", *flags, "--", "true", scan=scan, environ=WITH_KEY)
    assert (code, out) == (2, "")
    assert err == "mobula-proxy: a minter serves no command: set role to both or member\n"


# The end


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143)])
async def test_it_exits_as_the_command_does(
    sandbox: Sandbox, scan: SecretScan, script: str, code: int
) -> None:
    assert await ran(sandbox, scan, "sh", "-c", script) == (code, "", "")


async def test_tokens_are_revoked_when_the_command_has_ended(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    await ran(sandbox, scan, "true")
    assert [token["revoked"] for token in sandbox.ledger.report()["tokens"]] == [True, True]


async def test_tokens_are_kept_for_the_next_command_where_no_place_was_named_for_them(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    for _ in range(3):
        code, out, _ = await ran(
            sandbox, scan, program("curl"), "-sf", MARKET, flags=(),
            environ={"HOME": str(tmp_path)},
        )  # fmt: skip
        assert (code, "Bitcoin" in out) == (0, True)
    report = sandbox.ledger.report()
    assert (report["mint_calls"], report["data_requests"], report["revokes"]) == (1, 3, 0)
    assert exists(tmp_path / ".local/state/mobula-proxy/tokens.db")


async def test_without_a_home_everything_is_in_memory_or_gone_at_the_end(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    environ = {"HOME": "/proc/1"}  # nobody can make a folder there
    code, out, err = await ran(
        sandbox, scan, program("curl"), "-sf", MARKET, flags=(), environ=environ
    )
    assert (code, "Bitcoin" in out, err) == (0, True, "")
    assert sandbox.ledger.report()["revokes"] == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_a_home_of_another_user_is_told_of_and_left_alone(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    """As `sudo -E` leaves it to root."""
    home = tmp_path / "mobula-proxy"
    home.mkdir(0o700)
    os.chown(home, 12345, 12345)
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    code, out, err = await ran(
        sandbox, scan, program("curl"), "-sf", MARKET, flags=(), environ=environ
    )
    record = json.loads(err)
    assert (code, "Bitcoin" in out) == (0, True)
    assert record["event"].startswith("the user's state directory cannot be used")
    assert record["reason"].startswith(f"{home} belongs to user 12345, who could replace tokens")
    assert list(home.iterdir()) == []


async def test_a_request_of_who_outlives_the_command_does_not_delay_the_end(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault("/api/1/market/data", delay=1))
    script = f"curl -s '{MARKET}' >/dev/null 2>&1 & read line"
    arguments = child(
        gated, "sh", "-c", script, flags=[*STORE_IN_MEMORY, "--set", "shutdown.drain=1h"]
    )
    read, write = os.pipe()
    with command(*arguments, scan=scan, environ=WITH_KEY, stdin=read) as process:
        await gate.reached()
        os.close(write)
        assert await asyncio.to_thread(process.wait) == 1
    os.close(read)


async def test_a_second_end_cuts_the_revoking_short(
    gated: Sandbox, gate: Gate, scan: SecretScan
) -> None:
    gated.faults.add(Fault(f"{MINT}/*", delay=1))
    arguments = child(
        gated, "sh", "-c", "exit 3", flags=[*STORE_IN_MEMORY, "--set", "shutdown.revoke=30s"]
    )
    with command(*arguments, scan=scan, environ=WITH_KEY) as process:
        await gate.reached()
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 3


async def test_what_is_typed_ends_the_command_and_then_us(sandbox: Sandbox) -> None:
    arguments = child(sandbox, "sh", "-c", "echo begun; exec sleep 60")
    environ = {**WITH_KEY, "PATH": os.environ["PATH"]}
    with Terminal(str(COMMAND), *arguments, environ=environ) as terminal:
        await asyncio.to_thread(terminal.until, "begun\r\n")
        terminal.type("\x03")
        assert await asyncio.to_thread(terminal.process.wait, 20) == -signal.SIGINT
    assert sandbox.ledger.report()["revokes"] == 2


async def test_a_request_to_quit_asks_the_command_to_end(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    script = f"""
    import json, os, subprocess, time
    socket = json.loads(os.environ["MOBULA_PROXY_SOCKETS"])["api.mobula.io:443"]
    admin = "unix:" + os.path.dirname(socket) + "/admin.sock"
    subprocess.run(["{COMMAND}", "quit", "--admin", admin], check=True)
    time.sleep(60)
    """
    assert await ran(sandbox, scan, *python(script)) == (143, "", "")


# The network's own proxy


async def test_the_proxy_that_the_environment_names_is_the_way_out_of_the_network(
    far: Far, scan: SecretScan
) -> None:
    environ = {**WITH_KEY, "HTTPS_PROXY": f"http://user:word@{far.authority}"}
    with command(
        "exec", *STORE_IN_MEMORY, *SOON, "--", "true", scan=scan, environ=environ
    ) as process:
        asked = await (await far.wire()).head()
        assert asked.startswith(b"CONNECT api.mobula.io:443 HTTP/1.1\r\n")
        assert b"\r\nProxy-Authorization: Basic dXNlcjp3b3Jk\r\n" in asked
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 143


async def test_one_that_cannot_be_used_is_told(sandbox: Sandbox, scan: SecretScan) -> None:
    environ = {"ALL_PROXY": "socks5://user:b9f1@127.0.0.1:1"}
    code, _, err = await ran(sandbox, scan, "true", environ=environ)
    record = json.loads(err)
    assert (code, record["event"]) == (0, "the proxy of this network cannot be used")
    assert record["reason"].startswith("it must be http://host:port")
    assert "b9f1" not in err
