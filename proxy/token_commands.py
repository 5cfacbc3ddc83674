"""The commands of `mobula-proxy tokens`: a thin face over `ops.tokens`."""

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from proxy import run
from proxy.config import Address, Settings
from proxy.ops import client, tokens
from proxy.options import (
    admin_of,
    admin_option,
    check_authorities,
    check_store,
    config_option,
    json_option,
    load_settings,
    parsed,
    read_key,
    read_store_secret,
    set_option,
)
from proxy.settings.values import parse_duration
from proxy.tokens.mobula import is_token_id
from proxy.tokens.store.base import Order


def _token_ids(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Take what may be ids; one or several of them."""
    for each in [value] if isinstance(value, str) else value:
        if not is_token_id(each):
            raise click.BadParameter("a token's id is made of letters, digits and . _ ~ -")
    return value


@click.group(name="tokens")
def tokens_group() -> None:
    """List, inspect, create and revoke the tokens of the static key, or have them replaced.

    Mobula is asked. With a store other than memory:// the answers also tell what the proxies that
    share it know, and what is revoked is taken out of it.
    """


@tokens_group.command(name="list")
@config_option
@set_option
@json_option
def list_(config: Path | None, overrides: list[tuple[str, str]], as_json: bool) -> None:
    """Print the active tokens: what is left of each, and whether the store has it."""
    _at_desk(config, overrides, lambda desk: tokens.show_list(desk, as_json=as_json))


@tokens_group.command()
@config_option
@set_option
@json_option
@click.argument("token_id", metavar="ID", callback=_token_ids)
def inspect(
    config: Path | None, overrides: list[tuple[str, str]], as_json: bool, token_id: str
) -> None:
    """Print what is known of one token; exit 1 if there is none of that id."""
    _at_desk(config, overrides, lambda desk: tokens.show_token(desk, token_id, as_json=as_json))


@tokens_group.command()
@config_option
@set_option
@json_option
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 25), help="How many.")
@click.option(
    "--expires-in",
    metavar="DURATION",
    callback=parsed(partial(parse_duration, shortest="1m", longest="24h")),
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
    settings = load_settings(config, overrides)
    order = Order(
        count,
        request_limit or settings.token.request_limit,
        expires_in or settings.token.expires_in,
    )
    _work(settings, lambda desk: tokens.create(desk, order, as_json=as_json), begins_store=True)


@tokens_group.command()
@config_option
@set_option
@json_option
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


@tokens_group.command()
@config_option
@set_option
@admin_option
def rotate(config: Path | None, overrides: list[tuple[str, str]], admin: Address | None) -> None:
    """Ask the running proxy to replace all tokens; with a shared store, those of its fleet."""
    run.run(client.ask_rotate(admin or admin_of(config, overrides)))


def _ask_before_revoking_all() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--all asks before it revokes; without a terminal, give --yes")
    click.confirm("Revoke every token of this static key, whoever uses it?", abort=True, err=True)


def _at_desk(
    config: Path | None,
    overrides: list[tuple[str, str]],
    work: Callable[[tokens.Desk], Awaitable[int]],
) -> NoReturn:
    _work(load_settings(config, overrides), work)


def _work(
    settings: Settings,
    work: Callable[[tokens.Desk], Awaitable[int]],
    *,
    begins_store: bool = False,
) -> NoReturn:
    _, key = read_key(settings)
    secret = read_store_secret(settings)
    check_authorities(settings)
    check_store(settings)
    run.run(tokens.at_desk(settings, key, secret, work, begins_store=begins_store))
