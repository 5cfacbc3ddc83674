"""The commands of `mobula-proxy ca`: a thin face over `traffic.ca`."""

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from proxy import run
from proxy.options import config_option, json_option, load_settings, set_option

if TYPE_CHECKING:
    from proxy.traffic.ca import LocalCA


@click.group(name="ca")
def ca_group() -> None:
    """Show, export and renew the local certificate authority.

    It signs what forward and tls listeners show to apps, which therefore must trust it. It is made
    on first use, and speaks for the configured upstreams only.
    """


@ca_group.command()
@config_option
@set_option
@json_option
def show(config: Path | None, overrides: list[tuple[str, str]], as_json: bool) -> None:
    """Print what it is, for which hosts and how long, and where its files are."""
    ca = _opened(config, overrides)
    click.echo(json.dumps(_facts(ca), indent=2) if as_json else _text(ca))


@ca_group.command()
@config_option
@set_option
@click.option("--bundle", "which", flag_value="bundle", help="Of it and the system's roots.")
@click.option("--truststore", "which", flag_value="truststore", help="Of the same, for Java.")
def path(
    config: Path | None,
    overrides: list[tuple[str, str]],
    which: Literal["bundle", "truststore"] | None,
) -> None:
    """Print the path of its certificate, as in curl --cacert "$(mobula-proxy ca path)"."""
    click.echo(getattr(_opened(config, overrides).files, which or "certificate"))


@ca_group.command()
@config_option
@set_option
@click.option("--der", is_flag=True, help="Write DER, as some stores want it, instead of PEM.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it.  [default: standard output]",
)
def export(
    config: Path | None, overrides: list[tuple[str, str]], der: bool, output: Path | None
) -> None:
    """Write its certificate, never its key."""
    ca = _opened(config, overrides)
    content = ca.der if der else ca.pem.encode()
    if output is None:
        click.echo(content, nl=False)
        return
    if output.resolve() == ca.key_file.resolve():
        run.fail(f"{output} holds the key of the local CA: name another file", run.EXIT_FAILED)
    try:
        output.write_bytes(content)
    except OSError as error:
        run.fail(f"cannot write {output}: {error.strerror}", run.EXIT_FAILED)


@ca_group.command()
@config_option
@set_option
def renew(config: Path | None, overrides: list[tuple[str, str]]) -> None:
    """Put another one in its place, with a new key, and tell what must happen next."""
    ca = _opened(config, overrides, anew=True)
    click.echo(f"{_text(ca)}\n\n{_next_steps(ca)}")


def _opened(
    config: Path | None, overrides: list[tuple[str, str]], *, anew: bool = False
) -> "LocalCA":
    from proxy.traffic.ca import CaError, CaUnsetError, open_ca  # noqa: PLC0415 - takes memory

    settings = load_settings(config, overrides)
    try:
        ca = open_ca(settings.ca, settings.upstreams, anew=anew)
    except CaUnsetError as error:
        run.fail(str(error), run.EXIT_USAGE)
    except CaError as error:
        run.fail(str(error), run.EXIT_FAILED)
    if ca.change.concerns_apps:
        click.echo(
            f"mobula-proxy: the local CA's certificate was made anew, because {ca.change.value}: "
            f"apps must read {ca.files.certificate} again",
            err=True,
        )
    return ca


def _facts(ca: "LocalCA") -> dict[str, object]:
    files, certificate = ca.files, ca.certificate
    return {
        "subject": certificate.subject.rfc4514_string(),
        "sha256": ca.fingerprint,
        "hosts": sorted(ca.hosts),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "certificate": str(files.certificate),
        "bundle": str(files.bundle),
        "truststore": str(files.truststore),
        "key": str(ca.key_file),
        "system_roots": str(files.roots.place) if files.roots.place else None,
    }


def _text(ca: "LocalCA") -> str:
    files, certificate = ca.files, ca.certificate
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    lines = {
        "subject": certificate.subject.rfc4514_string(),
        "SHA-256": ca.fingerprint,
        "hosts": ", ".join(sorted(ca.hosts)),
        "valid": f"{since:%Y-%m-%d} to {until:%Y-%m-%d}",
        "certificate": files.certificate,
        "bundle": f"{files.bundle}, {files.roots}",
        "truststore": f"{files.truststore}, the same for Java, password changeit",
        "key": ca.key_file,
    }
    return "\n".join(f"{name:<11}  {value}" for name, value in lines.items())


def _next_steps(ca: "LocalCA") -> str:
    text = (
        "Now restart the proxies that use it; until then they show certificates of the one before. "
        f"Then restart the apps that trust {ca.files.certificate}, the bundle or the truststore. "
        "If you put the one before into a system's store, take it out there, and put this one in."
    )
    return textwrap.fill(text, 88, break_on_hyphens=False, break_long_words=False)
