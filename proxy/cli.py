"""The command line: a thin face over `app`, `sandbox` and the admin listener."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from proxy import __version__, run
from proxy.ca_commands import ca_group
from proxy.config import Address, Settings, effective
from proxy.launch.streams import fill
from proxy.ops import client, logs
from proxy.options import (
    admin_of,
    admin_option,
    check_authorities,
    check_files,
    check_store,
    config_option,
    find_key,
    json_option,
    load_settings,
    parsed,
    read_store_secret,
    set_option,
)
from proxy.settings.values import parse_duration
from proxy.token_commands import tokens_group
from proxy.tokens.key import StaticKey
from proxy.tokens.model import Secret

DEMO_KEY = "sandbox-static-key"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mobula-proxy")
def main() -> None:
    """Give every Mobula API call a current short-lived token.

    Apps call this proxy as if it were the API. It takes out whatever key they send, puts in a
    token that it minted from yours, and rotates tokens so that no one notices.

    Settings come from --config, then MOBULA_PROXY__SECTION__KEY in the environment, then --set.
    The static key comes from MOBULA_API_KEY, MOBULA_API_KEY_FILE or api_key.file.

    Exit codes: 0 well, 1 failed, 2 bad usage or settings, 143 ended by SIGTERM.
    """
    fill()


@main.command()
@config_option
@set_option
@click.option(
    "--demo",
    is_flag=True,
    help="Without a static key, serve a built-in sandbox of the Mobula API instead of refusing.",
)
def serve(config: Path | None, overrides: list[tuple[str, str]], demo: bool) -> None:
    """Run the proxy until SIGTERM, SIGINT or `mobula-proxy quit`."""
    settings = load_settings(config, overrides)
    logs.configure(settings.log)
    if demo and _lacks_a_key(settings):
        run.run(run.serve_demo(settings, DEMO_KEY))
    secret = read_store_secret(settings)
    source, key = find_key(settings)
    check_store(settings)
    run.run(run.serve(settings, source, key, secret))


@main.command(name="exec", context_settings={"allow_interspersed_args": False})
@config_option
@set_option
@click.option(
    "--demo",
    is_flag=True,
    help="Without a static key, let the command call a built-in sandbox of the Mobula API.",
)
@click.option(
    "--open",
    "serves_all",
    is_flag=True,
    help="Serve whatever calls, also without the placeholder that the command is given for a key.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    config: Path | None,
    overrides: list[tuple[str, str]],
    demo: bool,
    serves_all: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND with a proxy of its own for its calls to Mobula.

    As in `mobula-proxy exec -- node app.js`. The command needs no change: its environment names the
    proxy, and has a placeholder in place of the static key. Exits as the command does, with 127 if
    there is no such command and 126 if it cannot be run; with 1 and 2 if the proxy cannot start.
    """
    from proxy.launch import exec as launch  # noqa: PLC0415 - others need not pay for its TLS

    settings = load_settings(config, overrides, launch.usual_settings)
    logs.configure(settings.log)
    if settings.role == "minter":
        run.fail("a minter serves no command: set role to both or member", run.EXIT_USAGE)
    if demo and _lacks_a_key(settings):
        launch.launch_demo(command, settings, DEMO_KEY, serves_all=serves_all)
    secret = read_store_secret(settings)
    source, key = find_key(settings)
    check_authorities(settings)
    check_store(settings)
    credentials = launch.Credentials(source=source, key=key, store_secret=secret)
    launch.launch(command, settings, credentials, serves_all=serves_all)


@main.command(context_settings={"allow_interspersed_args": False})
@config_option
@set_option
@json_option
@click.option("--no-mint", is_flag=True, help="Make no creation call, one of 5 a minute.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def doctor(
    config: Path | None,
    overrides: list[tuple[str, str]],
    as_json: bool,
    no_mint: bool,
    command: tuple[str, ...],
) -> None:
    """Look at all that a proxy needs, and say what is wrong and what to do next.

    Settings, static key, store, DNS, TLS, clock, plan, addresses and trust. With a COMMAND, as in

    mobula-proxy doctor -- node app.js

    it is run as `exec` would, and it is told what became of its calls.

    Exit codes: 0 well, 1 something failed, 2 bad usage or settings.
    """
    from proxy.launch import doctor as launch  # noqa: PLC0415 - others need not pay for it

    sys.exit(launch.consult(config, overrides, command, mints=not no_mint, json_list=as_json))


@main.command()
@config_option
@set_option
def check(config: Path | None, overrides: list[tuple[str, str]]) -> None:
    """Print the effective settings, or every error in them, and exit 2."""
    settings = load_settings(config, overrides)
    _, key = find_key(settings)
    secret = read_store_secret(settings)
    check_files(settings)
    check_store(settings)
    click.echo(effective(settings), nl=False)
    for remark in _remarks(settings, key, secret):
        click.echo(f"# {remark}")


@main.command()
@click.option(
    "--bind",
    default="127.0.0.1:8081",
    show_default=True,
    metavar="HOST:PORT",
    callback=parsed(Address.parse),
    help="Where to listen; port 0 takes a free one.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY[=PLAN]",
    help=f"A static key that the sandbox knows, and its plan.  [default: {DEMO_KEY}=growth]",
)
def sandbox(bind: Address, keys: tuple[str, ...]) -> None:
    """Emulate the Mobula API, its tokens and their limits, for demos and tests.

    Its ledger tells what arrived, and /_sandbox/faults makes it fail in chosen ways.
    """
    pairs = [key.rpartition("=") if "=" in key else (key, "", "growth") for key in keys]
    known = {key: plan for key, _, plan in pairs} or {DEMO_KEY: "growth"}
    run.run(run.serve_sandbox(bind, known))


@main.command()
@config_option
@set_option
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(
    config: Path | None, overrides: list[tuple[str, str]], admin: Address | None, as_json: bool
) -> None:
    """Tell how the running proxy is; exit 1 if it is not ready or not there."""
    run.run(client.show_status(admin or admin_of(config, overrides), as_json=as_json))


@main.command()
@config_option
@set_option
@admin_option
@click.option(
    "--timeout",
    default="60s",
    show_default=True,
    metavar="DURATION",
    callback=parsed(parse_duration),
    help="How long to wait: 250ms, 90s, 5m, or seconds.",
)
def wait(
    config: Path | None, overrides: list[tuple[str, str]], admin: Address | None, timeout: float
) -> None:
    """Return once the running proxy is ready; exit 1 if it is not in time."""
    run.run(client.wait_ready(admin or admin_of(config, overrides), timeout))


@main.command(name="quit")
@config_option
@set_option
@admin_option
def quit_(config: Path | None, overrides: list[tuple[str, str]], admin: Address | None) -> None:
    """Ask the running proxy to drain and end, as a Job's main container does when it is done."""
    run.run(client.ask_quit(admin or admin_of(config, overrides)))


main.add_command(tokens_group)
main.add_command(ca_group)


def _remarks(settings: Settings, key: StaticKey | None, secret: Secret | None) -> Iterator[str]:
    """Say what is no setting, or is one that cannot be shown."""
    url = settings.store.url
    if url.hides:
        yield "store.url: *** stands for credentials; this does not load without them"
    if settings.upstream_proxy and settings.upstream_proxy.hides:
        yield "upstream_proxy: *** stands for credentials; this does not load without them"
    if not url.in_memory:
        yield f"store: {url}, sealed with {'the store secret' if secret else 'the static key'}"
    yield f"static key: fingerprint {key.fingerprint}" if key else "static key: none, for a member"


def _lacks_a_key(settings: Settings) -> bool:
    """Tell whether a static key is needed and none is named."""
    named = ("MOBULA_API_KEY", "MOBULA_API_KEY_FILE")
    if settings.role == "member" or settings.api_key.file is not None:
        return False
    return not any(name in os.environ for name in named)
