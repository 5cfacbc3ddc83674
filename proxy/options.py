"""What several commands take and do alike: their options, the settings, what a start needs.

Whatever is wrong ends the process with a line that says so, and exit code 2.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from proxy import app, run
from proxy.config import Address, Settings, SettingsError, load
from proxy.tokens.key import (
    KeyRefusedError,
    KeySource,
    StaticKey,
    find_key_source,
    find_store_secret,
)
from proxy.tokens.model import Secret
from proxy.tokens.store.base import StoreError
from proxy.tokens.store.choose import make_store


def _split_override(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, str]]:
    pairs = [value.partition("=") for value in values]
    wrong = [key for key, mark, _ in pairs if not mark]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} has no '='; write --set section.key=value")
    return [(key.strip(), value) for key, _, value in pairs]


def parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a click callback that reads an option with `parse`, whose ValueError says why not."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(f"{error}, not {value!r}") from error

    return read


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="MOBULA_PROXY_CONFIG",
    metavar="FILE",
    help="YAML settings; config.example.yaml names them all.  [env: MOBULA_PROXY_CONFIG]",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_split_override,
    help="Override one setting, as in --set token.standby=2. May be given again.",
)
admin_option = click.option(
    "--admin",
    metavar="ADDRESS",
    callback=parsed(Address.parse),
    help="Admin address of the running proxy; by default the one in the settings.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def load_settings(
    config: Path | None,
    overrides: list[tuple[str, str]],
    usual: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {},
) -> Settings:
    """Return the settings; `usual` as for `config.load`."""
    try:
        return load(file=config, environ=os.environ, overrides=overrides, usual=usual)
    except SettingsError as error:
        run.fail(str(error), run.EXIT_USAGE)


def read_key(settings: Settings) -> tuple[KeySource, StaticKey]:
    try:
        source = find_key_source(settings.api_key, os.environ)
        return source, source.read()
    except KeyRefusedError as error:
        run.fail(str(error), run.EXIT_USAGE)


def find_key(settings: Settings) -> tuple[KeySource | None, StaticKey | None]:
    """Read the static key, unless these are a member's settings, who has none."""
    return (None, None) if settings.role == "member" else read_key(settings)


def read_store_secret(settings: Settings) -> Secret | None:
    needed = settings.role == "member"
    try:
        return find_store_secret(settings.store.secret, os.environ, needed=needed)
    except KeyRefusedError as error:
        run.fail(str(error), run.EXIT_USAGE)


def check_store(settings: Settings) -> None:
    """Refuse a store that needs what is not installed."""
    try:
        make_store(settings.store.url, "none: it is not opened")
    except StoreError as error:
        run.fail(str(error), run.EXIT_USAGE)


def check_authorities(settings: Settings) -> None:
    _check(app.check_authorities, settings)


def check_files(settings: Settings) -> None:
    _check(app.check_files, settings)


def _check(check: Callable[[Settings], None], settings: Settings) -> None:
    try:
        check(settings)
    except ValueError as error:
        run.fail(str(error), run.EXIT_USAGE)


def admin_of(config: Path | None, overrides: list[tuple[str, str]]) -> Address:
    return load_settings(config, overrides).admin.bind
