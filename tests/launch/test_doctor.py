"""`mobula-proxy doctor`: the installed command, with the sandbox in place of Mobula."""

import asyncio
import json
import os
import socket
import ssl
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from connect_proxy import ConnectProxy
from harness import COMMAND, KEY, SecretScan, finished, mobula, program, serving
from launch.terminal import Terminal
from name_server import NameServer
from proxy.launch.checks.mint import COSTS
from proxy.sandbox import Sandbox
from proxy.tokens.key import parse_key
from wire import Far

API = "api.mobula.io"
MARKET = f"https://{API}/api/1/market/data?asset=Bitcoin"
WITH_KEY = {"MOBULA_API_KEY": KEY}
FINGERPRINT = parse_key(KEY, "the test").fingerprint
IN_CLEAR = "plain http: tokens, and the static key, travel in clear"
FREE_PORTS = ('listeners=[{"bind": "127.0.0.1:0"}]', "admin.bind=127.0.0.1:0")

Row = tuple[str, str, str]


class Report:
    """What it printed as JSON, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.err = err
        self.lines: list[dict[str, Any]] = json.loads(out)

    def __repr__(self) -> str:
        return f"<Report {self.code} {[each['found'] for each in self.lines]}>"

    def of(self, *checks: str) -> list[Row]:
        """Return grade, subject and what was found of the lines of some checks."""
        lines = [each for each in self.lines if each["check"] in checks]
        return [(each["grade"], each["subject"], each["found"]) for each in lines]

    def grades(self) -> dict[str, str]:
        """Return the last grade of each check."""
        return {each["check"]: each["grade"] for each in self.lines}

    def step(self, check: str) -> str:
        """Return what to do next, of the last line of a check."""
        return next(str(each["step"]) for each in reversed(self.lines) if each["check"] == check)


async def consulted(
    url: str,
    scan: SecretScan,
    *settings: str,
    flags: Sequence[str] = (),
    words: Sequence[str] = (),
    environ: Mapping[str, str] = WITH_KEY,
) -> Report:
    """Run it to its end in front of a sandbox."""
    arguments = consulting(url, *settings, flags=["--json", *flags], words=words)
    return Report(*await asyncio.to_thread(finished, *arguments, scan=scan, environ=environ))


def consulting(
    url: str, *settings: str, flags: Sequence[str] = (), words: Sequence[str] = ()
) -> list[str]:
    given = [f"upstreams.{API}.url={url}", *FREE_PORTS, *settings]
    sets = [part for each in given for part in ("--set", each)]
    return ["doctor", *sets, *flags, *(["--", *words] if words else [])]


def row(grade: str, check: str, subject: str, found: str) -> str:
    """Return a line as it is printed."""
    return f"{grade:<4}  {check:<12}  {subject:<25}  {found}"


# The report


async def test_where_all_is_well_it_says_so_line_by_line(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    arguments = consulting(sandbox.url)
    code, out, err = await asyncio.to_thread(finished, *arguments, scan=scan, environ=WITH_KEY)
    assert (code, err) == (0, "")
    *rows, last = out.splitlines()
    assert rows == [
        row("ok", "settings", "3 flags", "role both; reverse 127.0.0.1:0; store memory://"),
        row("ok", "static key", "MOBULA_API_KEY", f"fingerprint {FINGERPRINT}"),
        row("ok", "store", "memory://", "tokens end with the process, and nobody shares them"),
        row("ok", "dns", API, "127.0.0.1, by its url"),
        row("warn", "tls", API, IN_CLEAR),
        "      -> fine for a sandbox; for the API, set its url to https://",
        row("ok", "clock", API, "the same as its clock"),
        row("ok", "mint", API, f"a token was made, inspected and revoked; it cost {COSTS}"),
        row("ok", "listener", "127.0.0.1:0", "free"),
        row("ok", "listener", "127.0.0.1:0", "free"),
    ]
    assert last.startswith(row("ok", "open files", "limit", ""))
    report = sandbox.ledger.report()
    assert (report["mint_calls"], report["revokes"]) == (1, 1)


@pytest.mark.parametrize(("environ", "colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_a_terminal_has_colours_unless_it_wants_none(
    sandbox: Sandbox, environ: dict[str, str], *, colours: bool
) -> None:
    command = [str(COMMAND), *consulting(sandbox.url)]
    environ = {"PATH": os.environ["PATH"], **WITH_KEY, **environ}
    with Terminal(*command, environ=environ) as terminal:
        shown = await asyncio.to_thread(terminal.until, "settings")
    assert ("\x1b[32mok" in shown) is colours


def test_every_mistyped_setting_is_a_line_and_nothing_else_is_looked_at(scan: SecretScan) -> None:
    arguments = ("doctor", "--set", "token.standbye=1", "--set", "log.level=loud", "--json")
    report = Report(*finished(*arguments, scan=scan, environ=WITH_KEY))
    assert (report.code, report.err) == (2, "")
    assert [(each["grade"], each["subject"]) for each in report.lines] == [
        ("fail", "token.standbye"),
        ("fail", "log.level"),
    ]
    assert "did you mean token.standby?" in report.lines[0]["found"]


def test_a_settings_file_that_is_not_there_is_a_line(scan: SecretScan, tmp_path: Path) -> None:
    code, out, err = finished("doctor", "--config", str(tmp_path / "no.yaml"), scan=scan)
    assert (code, err) == (2, "")
    assert out.startswith(f"fail  settings      {tmp_path / 'no.yaml'}  cannot be read: No such")


# Each failure costs what depends on it


async def test_without_a_key_all_else_is_looked_at(sandbox: Sandbox, scan: SecretScan) -> None:
    report = await consulted(sandbox.url, scan, environ={})
    assert report.code == 1
    assert report.of("static key") == [("fail", "none", "no static key")]
    assert report.step("static key").startswith("Set MOBULA_API_KEY, or MOBULA_API_KEY_FILE to ")
    assert report.of("mint") == [("skip", API, "not tried: there is no static key")]
    assert (report.grades()["dns"], report.grades()["clock"]) == ("ok", "ok")


async def test_a_key_that_mobula_refuses_fails(sandbox: Sandbox, scan: SecretScan) -> None:
    report = await consulted(sandbox.url, scan, environ={"MOBULA_API_KEY": "another-static-key"})
    assert report.code == 1
    assert report.of("mint") == [("fail", API, "status 401: Mobula refused the static key")]
    assert report.step("mint") == "put the key that Mobula's dashboard shows into MOBULA_API_KEY"


async def test_no_token_is_made_where_none_is_wanted(sandbox: Sandbox, scan: SecretScan) -> None:
    report = await consulted(sandbox.url, scan, flags=["--no-mint"])
    assert report.code == 0
    assert report.of("mint") == [("skip", API, "left out, as --no-mint says")]
    assert sandbox.ledger.report()["mint_calls"] == 0


async def test_a_name_that_nobody_knows_costs_what_is_behind_it(scan: SecretScan) -> None:
    report = await consulted("https://no-such-host.invalid", scan)
    assert report.code == 1
    assert [grade for grade, _, _ in report.of("dns", "tls", "clock", "mint")] == [
        "fail", "skip", "skip", "skip",
    ]  # fmt: skip
    assert report.of("dns") == [("fail", API, "its name could not be resolved")]


async def test_a_name_of_another_upstream_costs_that_one_only(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    other = "upstreams.graphql.mobula.io.url=https://no-such-host.invalid"
    report = await consulted(sandbox.url, scan, other)
    assert report.of("dns", "tls", "mint") == [
        ("ok", API, "127.0.0.1, by its url"),
        ("fail", "graphql.mobula.io", "its name could not be resolved"),
        ("warn", API, IN_CLEAR),
        ("skip", "1 upstream", "not tried: see dns"),
        ("ok", API, report.of("mint")[0][2]),
    ]


async def test_a_name_that_was_pointed_at_this_machine_fails_with_the_way_out(
    scan: SecretScan,
) -> None:
    async with NameServer() as server:
        server.names["api.test"] = ("127.0.0.1",)
        nameservers = f'nameservers=["{server.place}"]'
        report = await consulted("https://api.test", scan, "resolver=dns", nameservers)
    assert report.of("dns") == [
        ("fail", API, "its address, 127.0.0.1, is this machine's own"),
    ]
    assert report.step("dns") == "set the API's address beside its url in upstreams"


async def test_an_authority_that_is_not_trusted_fails_until_it_is_named(
    scan: SecretScan, tmp_path: Path
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with Sandbox(keys={KEY: "growth"}, ssl_context=context) as sandbox:
        scan.watch(sandbox)
        strange = await consulted(sandbox.url, scan)
        named = await consulted(sandbox.url, scan, f"upstreams.{API}.ca_file={tmp_path}/ca.pem")
    assert strange.code == 1
    assert strange.of("tls")[0][2].startswith("its certificate was not accepted: ")
    assert "name its authority in ca_file" in strange.step("tls")
    assert strange.of("clock", "mint") == [
        ("skip", API, "not compared: it was not reached"),
        ("skip", API, "not tried: it was not reached"),
    ]
    assert named.code == 0
    assert named.of("tls")[0][2].startswith("TLSv1.3; its certificate ends in ")


async def test_a_clock_that_is_off_is_a_warning(sandbox: Sandbox, scan: SecretScan) -> None:
    sandbox.skew = 3600.0
    report = await consulted(sandbox.url, scan)
    assert report.code == 0
    ((grade, _, found),) = report.of("clock")
    assert (grade, "1h behind its clock" in found or "59m" in found) == ("warn", True)
    assert report.grades()["mint"] == "ok"


async def test_a_store_that_is_not_there_costs_the_mint_and_shows_no_password(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    scan.add("pass4711")
    report = await consulted(sandbox.url, scan, "store.url=redis://:pass4711@127.0.0.1:1/0")
    assert report.code == 1
    assert report.of("store")[0][:2] == ("fail", "redis://***@127.0.0.1:1/0")
    assert report.of("mint") == [
        ("skip", API, "not tried: the store counts such calls, and failed")
    ]
    assert sandbox.ledger.report()["mint_calls"] == 0


async def test_a_member_needs_no_key_and_makes_no_token(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    secret = "5e" * 32
    scan.add(secret)
    report = await consulted(
        sandbox.url, scan, "role=member", f"state_dir={tmp_path}",
        environ={"MOBULA_STORE_SECRET": secret},
    )  # fmt: skip
    assert report.code == 0
    assert report.of("static key", "store secret", "mint") == [
        ("ok", "none", "a member needs none"),
        ("ok", "MOBULA_STORE_SECRET", "it seals what the store keeps"),
        ("skip", API, "not tried: a member makes no creation calls"),
    ]


async def test_behind_an_upstream_proxy_all_goes_through_it_and_its_password_is_not_shown(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    scan.add("pass4711")
    port = sandbox.url.rpartition(":")[2]
    async with ConnectProxy("user", "pass4711") as proxy:
        way_out = f"upstream_proxy={proxy.url}"
        insecure = f"upstreams.{API}.insecure=true"
        report = await consulted(f"http://api.test:{port}", scan, way_out, insecure)
    assert report.code == 0
    assert report.of("dns", "clock", "mint") == [
        ("ok", "upstream_proxy", "127.0.0.1, by its url"),
        ("ok", API, "the same as its clock"),
        ("ok", API, report.of("mint")[0][2]),
    ]


async def test_a_proxy_that_only_the_environment_names_is_pointed_out(scan: SecretScan) -> None:
    scan.add("pass4711")
    environ = {**WITH_KEY, "HTTPS_PROXY": "http://user:pass4711@proxy.test:3128"}
    report = await consulted("https://no-such-host.invalid", scan, environ=environ)
    assert report.step("dns").startswith("set upstream_proxy, as HTTPS_PROXY is set here")


# Listeners


async def test_an_address_that_another_program_has_fails(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = "127.0.0.1:{1}".format(*server.getsockname())
        report = await consulted(sandbox.url, scan, f'listeners=[{{"bind": "{place}"}}]')
    assert report.code == 1
    assert report.of("listener")[0] == ("fail", place, "taken by another program")


async def test_addresses_that_a_running_proxy_serves_are_well(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with serving(sandbox.url, scan) as served:
        await served.ready()
        place, admin = (each.removeprefix("http://") for each in (served.url, served.admin))
        report = await consulted(
            sandbox.url, scan, f'listeners=[{{"bind": "{place}"}}]', f"admin.bind={admin}"
        )
    assert report.code == 0
    (_, first, serves), (_, second, is_ready) = report.of("listener")
    assert (first, second) == (place, admin)
    assert serves.endswith("serves here")
    assert is_ready.endswith("serves here and is ready")


FORWARD = 'listeners=[{"bind": "127.0.0.1:0", "mode": "forward"}]'


async def test_where_tls_ends_here_it_is_told_who_trusts_us(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    settings = (FORWARD, f"ca.dir={tmp_path}/ca")
    absent = await consulted(sandbox.url, scan, *settings)
    ca = ["ca", "show", "--set", f"upstreams.{API}.url={sandbox.url}", "--set", settings[1]]
    assert (await asyncio.to_thread(finished, *ca, scan=scan))[0] == 0
    present = await consulted(sandbox.url, scan, *settings)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    environ = {**WITH_KEY, "SSL_CERT_FILE": str(tmp_path / "other.pem")}
    elsewhere = await consulted(sandbox.url, scan, *settings, environ=environ)
    assert absent.of("local ca", "trust") == [
        ("ok", f"{tmp_path}/ca", "there is none yet; the first start makes it"),
        ("skip", "environment", "not looked at: there is no local CA yet"),
    ]
    assert (present.code, present.grades()["local ca"]) == (0, "ok")
    assert present.step("trust").startswith(
        f"for apps started from here: export SSL_CERT_FILE={tmp_path}/ca/bundle.pem "
    )
    assert elsewhere.of("trust")[0] == (
        "warn", "SSL_CERT_FILE", "it names what does not hold the local CA",
    )  # fmt: skip


# A command

NO_STORE = "store.url=memory://"


async def tried(
    sandbox: Sandbox, scan: SecretScan, *words: str, settings: Sequence[str] = (NO_STORE,)
) -> Report:
    """Have a command tried; its own lines are those of `command`, `calls` and `tunnels`."""
    return await consulted(sandbox.url, scan, *settings, flags=["--no-mint"], words=words)


def exists(path: Path) -> bool:
    return path.exists()


def python(script: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script)]


async def test_calls_that_come_through_are_told_behind_what_the_command_printed(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    words = (program("curl"), "-s", MARKET)
    arguments = consulting(sandbox.url, NO_STORE, flags=["--no-mint"], words=words)
    code, out, err = await asyncio.to_thread(finished, *arguments, scan=scan, environ=WITH_KEY)
    assert (code, err) == (0, "")
    before, printed, *after = out.splitlines()[-4:]
    assert before == row("ok", "local ca", "none", "one is made for the command alone")
    assert json.loads(printed)["data"]["name"] == "Bitcoin"
    assert after == [
        row("ok", "command", words[0], "exited with 0; ran curl"),
        row("ok", "calls", API, "came through: 1 x 200"),
    ]


async def test_beside_json_the_command_prints_to_standard_error(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    report = await tried(sandbox, scan, "sh", "-c", "echo out; echo err >&2")
    assert report.err == "out\nerr\n"


async def test_a_client_that_does_not_trust_the_local_ca_is_told_what_goes_before_it(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    other = str(tmp_path / "other.pem")
    report = await tried(sandbox, scan, program("curl"), "-s", "--cacert", other, MARKET)
    assert report.code == 1
    assert report.of("command")[0][2] == "exited with 60; ran curl"
    ((grade, upstream, found),) = report.of("calls")
    assert (grade, upstream) == ("fail", API)
    assert "it does not trust the local CA (ca_not_trusted)" in found
    assert report.step("calls").startswith("curl: CURL_CA_BUNDLE counts, unless --cacert")


async def test_a_script_that_ignores_proxies_is_told_what_its_clients_want(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    script = """
    import socket
    try:
        socket.create_connection(("api.mobula.io", 443), timeout=1)
    except OSError:
        pass
    """
    report = await tried(sandbox, scan, *python(script))
    assert report.code == 1
    assert report.of("calls") == [("fail", "none", "no call to an upstream came")]
    assert report.step("calls").startswith("python: aiohttp needs trust_env=True")


async def test_a_script_with_a_key_of_its_own_is_told_which_one_to_show(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    script = """
    import os, requests
    url = os.environ["MOBULA_API_URL"] + "/api/1/market/data"
    requests.get(url, headers={"Authorization": "a-key-of-its-own"})
    """
    report = await tried(sandbox, scan, *python(script))
    assert report.code == 1
    ((grade, _, found),) = report.of("calls")
    assert (grade, found.endswith("(client_unknown)")) == ("fail", True)
    assert "mobula-proxy exec --open" in report.step("calls")


async def test_a_host_of_the_api_that_is_no_upstream_is_seen_in_its_tunnel(
    sandbox: Sandbox, scan: SecretScan, far: Far
) -> None:
    scan.add("pass4711")
    async with ConnectProxy("user", "pass4711") as proxy:
        port = far.authority.rpartition(":")[2]
        way_out = f"upstream_proxy={proxy.url}"
        url = f"https://new-api.mobula.io:{port}/"
        report = await tried(
            sandbox, scan, program("curl"), "-s", "-m", "0.5", url, settings=[NO_STORE, way_out]
        )
    assert report.code == 1
    assert report.of("calls")[0][:2] == ("fail", "new-api.mobula.io")
    assert report.step("calls") == "name it in upstreams, beside the others"


async def test_other_hosts_are_out_of_reach_if_the_settings_deny_them(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    listener = {"bind": "127.0.0.1:0", "mode": "forward", "other_hosts": "deny"}
    settings = [NO_STORE, f"listeners={json.dumps([listener])}"]
    curl = (program("curl"), "-s", "https://other.test/")
    report = await tried(sandbox, scan, *curl, settings=settings)
    assert report.step("calls") == "see host_denied in docs/errors.md"


async def test_the_end_of_a_command_is_told_and_is_not_ours(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    script = f"import sys, requests; requests.get('{MARKET}'); sys.exit(3)"
    report = await tried(sandbox, scan, *python(script))
    assert report.code == 0
    ((grade, _, found),) = report.of("command")
    assert (grade, found.split(";")[0]) == ("warn", "exited with 3")


async def test_a_command_that_does_not_end_by_itself_is_told_of_once_it_is_ended(
    sandbox: Sandbox,
) -> None:
    script = f"import requests, time; requests.get('{MARKET}'); print('called'); time.sleep(60)"
    words = [sys.executable, "-uc", script]
    command = [str(COMMAND), *consulting(sandbox.url, NO_STORE, flags=["--no-mint"], words=words)]
    with Terminal(*command, environ={"PATH": os.environ["PATH"], **WITH_KEY}) as terminal:
        await asyncio.to_thread(terminal.until, "called")
        terminal.type("\x03")
        await asyncio.to_thread(terminal.until, "ended by SIGINT, as by Ctrl-C")
        await asyncio.to_thread(terminal.until, "came through: 1 x 200")
        assert await asyncio.to_thread(terminal.process.wait) == 0


async def test_the_version_of_a_node_is_told(sandbox: Sandbox, scan: SecretScan) -> None:
    script = f"fetch('{MARKET}').then((it) => it.text())"
    report = await tried(sandbox, scan, program("node"), "-e", script)
    assert report.of("command")[0][2].startswith("exited with 0; ran node v")
    assert report.of("calls") == [("ok", API, "came through: 1 x 200")]


async def test_a_command_that_is_not_there_costs_no_other_line(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    report = await tried(sandbox, scan, "no-such-program")
    assert report.code == 1
    assert report.of("command") == [
        ("fail", "no-such-program", "no-such-program: No such file or directory")
    ]
    assert report.grades()["dns"] == "ok"


@pytest.mark.parametrize("environ", [{}, {"MOBULA_API_KEY": "Bearer x"}])
async def test_without_what_it_takes_to_get_a_token_the_command_is_not_run(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path, environ: dict[str, str]
) -> None:
    started = tmp_path / "started"
    report = await consulted(
        sandbox.url, scan, NO_STORE, words=["touch", str(started)], environ=environ
    )
    assert report.code == 1
    assert report.of("command") == [("skip", "touch", "not run, because of what failed above")]
    assert not exists(started)


async def test_a_minter_serves_no_command(
    sandbox: Sandbox, scan: SecretScan, tmp_path: Path
) -> None:
    settings = ["role=minter", f"state_dir={tmp_path}"]
    report = await tried(sandbox, scan, "true", settings=settings)
    assert report.of("command") == [("fail", "true", "a minter serves no command")]


async def test_the_proxy_of_this_network_is_the_way_out_as_for_exec(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    scan.add("pass4711")
    port = sandbox.url.rpartition(":")[2]
    async with ConnectProxy("user", "pass4711") as proxy:
        report = await consulted(
            f"http://api.test:{port}", scan, NO_STORE, f"upstreams.{API}.insecure=true",
            flags=["--no-mint"], words=[program("curl"), "-s", MARKET],
            environ={**WITH_KEY, "HTTP_PROXY": proxy.url, "http_proxy": proxy.url},
        )  # fmt: skip
    assert report.of("dns", "calls") == [
        ("ok", "upstream_proxy", "127.0.0.1, by its url"),
        ("ok", API, "came through: 1 x 200"),
    ]


async def test_a_proxy_of_this_network_that_cannot_be_used_is_a_warning(
    scan: SecretScan,
) -> None:
    scan.add("pass4711")
    async with mobula(scan) as sandbox:
        report = await consulted(
            sandbox.url, scan, NO_STORE, words=["true"], flags=["--no-mint"],
            environ={**WITH_KEY, "ALL_PROXY": "socks5://user:pass4711@proxy.test:1080"},
        )  # fmt: skip
    assert ("warn", "HTTPS_PROXY") in [each[:2] for each in report.of("settings")]
