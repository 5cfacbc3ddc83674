"""The command line: a thin face over `app`, `sandbox` and the admin listener."""

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from proxy import __version__, run
from proxy.app import check_authorities
from proxy.config import Address, Settings, SettingsError, effective, load
from proxy.ops import client, logs, tokens
from proxy.settings.values import parse_duration
from proxy.tokens.key import (
    KeyRefusedError,
    KeySource,
    StaticKey,
    find_key_source,
    find_store_secret,
)
from proxy.tokens.mobula import is_token_id
from proxy.tokens.model import Secret
from proxy.tokens.store.base import Order

DEMO_KEY = "sandbox-static-key"


def _split_override(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, str]]:
    pairs = [value.partition("=") for value in values]
    wrong = [key for key, mark, _ in pairs if not mark]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} has no '='; write --set section.key=value")
    return [(key.strip(), value) for key, _, value in pairs]


def _parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a click callback that reads an option with `parse`, whose ValueError says why not."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(f"{error}, not {value!r}") from error

    return read


def _token_ids(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Take what may be ids; one or several of them."""
    for each in [value] if isinstance(value, str) else value:
        if not is_token_id(each):
            raise click.BadParameter("a token's id is made of letters, digits and . _ ~ -")
    return value


_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="MOBULA_PROXY_CONFIG",
    metavar="FILE",
    help="YAML settings; config.example.yaml names them all.  [env: MOBULA_PROXY_CONFIG]",
)
_set = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_split_override,
    help="Override one setting, as in --set token.standby=2. May be given again.",
)
_admin = click.option(
    "--admin",
    metavar="ADDRESS",
    callback=_parsed(Address.parse),
    help="Admin address of the running proxy; by default the one in the settings.",
)


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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


@main.command()
@_config
@_set
@click.option(
    "--demo",
    is_flag=True,
    help="Without a static key, serve a built-in sandbox of the Mobula API instead of refusing.",
)
def serve(config: Path | None, overrides: list[tuple[str, str]], demo: bool) -> None:
    """Run the proxy until SIGTERM, SIGINT or `mobula-proxy quit`."""
    settings = _load(config, overrides)
    logs.configure(settings.log)
    if demo and settings.role != "member" and not _names_a_key(settings):
        run.run(run.serve_demo(settings, DEMO_KEY))
    secret = _read_store_secret(settings)
    source, key = (None, None) if settings.role == "member" else _read_key(settings)
    run.run(run.serve(settings, source, key, secret))


@main.command()
@_config
@_set
def check(config: Path | None, overrides: list[tuple[str, str]]) -> None:
    """Print the effective settings, or every error in them, and exit 2."""
    settings = _load(config, overrides)
    key = None if settings.role == "member" else _read_key(settings)[1]
    secret = _read_store_secret(settings)
    _check_authorities(settings)
    click.echo(effective(settings), nl=False)
    for remark in _remarks(settings, key, secret):
        click.echo(f"# {remark}")


@main.command()
@click.option(
    "--bind",
    default="127.0.0.1:8081",
    show_default=True,
    metavar="HOST:PORT",
    callback=_parsed(Address.parse),
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
@_config
@_set
@_admin
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(
    config: Path | None, overrides: list[tuple[str, str]], admin: Address | None, as_json: bool
) -> None:
    """Tell how the running proxy is; exit 1 if it is not ready or not there."""
    run.run(client.show_status(admin or _admin_of(config, overrides), as_json=as_json))


@main.command()
@_config
@_set
@_admin
@click.option(
    "--timeout",
    default="60s",
    show_default=True,
    metavar="DURATION",
    callback=_parsed(parse_duration),
    help="How long to wait: 250ms, 90s, 5m, or seconds.",
)
def wait(
    config: Path | None, overrides: list[tuple[str, str]], admin: Address | None, timeout: float
) -> None:
    """Return once the running proxy is ready; exit 1 if it is not in time."""
    run.run(client.wait_ready(admin or _admin_of(config, overrides), timeout))


@main.command(name="quit")
@_config
@_set
@_admin
def quit_(config: Path | None, overrides: list[tuple[str, str]], admin: Address | None) -> None:
    """Ask the running proxy to drain and end, as a Job's main container does when it is done."""
    run.run(client.ask_quit(admin or _admin_of(config, overrides)))


@main.group(name="tokens")
def tokens_() -> None:
    """List, inspect, create and revoke the tokens of the static key, or have them replaced.

    Mobula is asked. With a store other than memory:// the answers also tell what the proxies that
    share it know, and what is revoked is taken out of it.
    """


@tokens_.command(name="list")
@_config
@_set
@_json
def list_(config: Path | None, overrides: list[tuple[str, str]], as_json: bool) -> None:
    """Print the active tokens: what is left of each, and whether the store has it."""
    _at_desk(config, overrides, lambda desk: tokens.show_list(desk, as_json=as_json))


@tokens_.command()
@_config
@_set
@_json
@click.argument("token_id", metavar="ID", callback=_token_ids)
def inspect(
    config: Path | None, overrides: list[tuple[str, str]], as_json: bool, token_id: str
) -> None:
    """Print what is known of one token; exit 1 if there is none of that id."""
    _at_desk(config, overrides, lambda desk: tokens.show_token(desk, token_id, as_json=as_json))


@tokens_.command()
@_config
@_set
@_json
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 25), help="How many.")
@click.option(
    "--expires-in",
    metavar="DURATION",
    callback=_parsed(partial(parse_duration, shortest="1m", longest="24h")),
    help="Lifetime, 1m to 24h.  [default: token.expires_in of the settings]",
)
@click.option(
    "--request-limit",
    type=click.IntRange(1, 1_000_000),
    help="Requests in each.  [default: token.request_limit of the settings]",
)
def create(
    config: Path | None,
    overrides: list[tuple[str, str]],
    as_json: bool,
    count: int,
    expires_in: float | None,
    request_limit: int | None,
) -> None:
    """Make tokens for a person or another tool, and print them: nobody can read them later.

    It is one of the 5 creation calls a minute that Mobula allows. A shared store keeps count of
    them, and may refuse; with memory:// nobody knows of those that running proxies made.
    """
    settings = _load(config, overrides)
    order = Order(
        count,
        request_limit or settings.token.request_limit,
        expires_in or settings.token.expires_in,
    )
    _work(settings, lambda desk: tokens.create(desk, order, as_json=as_json), begins_store=True)


@tokens_.command()
@_config
@_set
@_json
@click.option("--all", "every", is_flag=True, help="Revoke every token of the static key.")
@click.option("--yes", is_flag=True, help="Do not ask before revoking every token.")
@click.argument("ids", metavar="[ID]...", nargs=-1, callback=_token_ids)
def revoke(
    config: Path | None,
    overrides: list[tuple[str, str]],
    as_json: bool,
    every: bool,
    yes: bool,
    ids: tuple[str, ...],
) -> None:
    """Make tokens useless at once; exit 1 if Mobula did not confirm one of them.

    They are taken out of the store too, and the proxies that share it mint others.
    """
    if every == bool(ids):
        raise click.UsageError("name tokens by their ids, or give --all")
    if every and not yes:
        _ask_before_revoking_all()
    _at_desk(
        config,
        overrides,
        lambda desk: tokens.revoke(desk, None if every else ids, as_json=as_json),
    )


@tokens_.command()
@_config
@_set
@_admin
def rotate(config: Path | None, overrides: list[tuple[str, str]], admin: Address | None) -> None:
    """Ask the running proxy to replace all tokens; with a shared store, those of its fleet."""
    run.run(client.ask_rotate(admin or _admin_of(config, overrides)))


def _ask_before_revoking_all() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--all asks before it revokes; without a terminal, give --yes")
    click.confirm("Revoke every token of this static key, whoever uses it?", abort=True, err=True)


def _at_desk(
    config: Path | None,
    overrides: list[tuple[str, str]],
    work: Callable[[tokens.Desk], Awaitable[int]],
) -> NoReturn:
    _work(_load(config, overrides), work)


def _work(
    settings: Settings,
    work: Callable[[tokens.Desk], Awaitable[int]],
    *,
    begins_store: bool = False,
) -> NoReturn:
    _, key = _read_key(settings)
    secret = _read_store_secret(settings)
    _check_authorities(settings)
    run.run(tokens.at_desk(settings, key, secret, work, begins_store=begins_store))


def _load(config: Path | None, overrides: list[tuple[str, str]]) -> Settings:
    try:
        return load(file=config, environ=os.environ, overrides=overrides)
    except SettingsError as error:
        run.fail(str(error), run.EXIT_USAGE)


def _remarks(settings: Settings, key: StaticKey | None, secret: Secret | None) -> Iterator[str]:
    """Say what is no setting, or is one that cannot be shown."""
    url = settings.store.url
    if url.hides:
        yield "store.url: *** stands for credentials; this does not load without them"
    if not url.in_memory:
        yield f"store: {url}, sealed with {'the store secret' if secret else 'the static key'}"
    yield f"static key: fingerprint {key.fingerprint}" if key else "static key: none, for a member"


def _read_key(settings: Settings) -> tuple[KeySource, StaticKey]:
    try:
        source = find_key_source(settings.api_key, os.environ)
        return source, source.read()
    except KeyRefusedError as error:
        run.fail(str(error), run.EXIT_USAGE)


def _read_store_secret(settings: Settings) -> Secret | None:
    needed = settings.role == "member"
    try:
        return find_store_secret(settings.store.secret, os.environ, needed=needed)
    except KeyRefusedError as error:
        run.fail(str(error), run.EXIT_USAGE)


def _check_authorities(settings: Settings) -> None:
    try:
        check_authorities(settings)
    except ValueError as error:
        run.fail(str(error), run.EXIT_USAGE)


def _admin_of(config: Path | None, overrides: list[tuple[str, str]]) -> Address:
    return _load(config, overrides).admin.bind


def _names_a_key(settings: Settings) -> bool:
    named = ("MOBULA_API_KEY", "MOBULA_API_KEY_FILE")
    return settings.api_key.file is not None or any(name in os.environ for name in named)
