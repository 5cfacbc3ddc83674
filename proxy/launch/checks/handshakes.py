"""Whether a connection to each upstream comes about, and who vouches for it."""

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.launch.checks.destination import Destination
from proxy.launch.report import Line, fail, ok, warn
from proxy.network.dialer import Dialer
from proxy.network.errors import UpstreamProxyError
from proxy.network.reason import reason

CHECK = "tls"
MOST_SECONDS = 5.0
ENDING_DAYS = 7
"""Days before its end from which on a certificate that nobody has renewed is suspicious."""
_DAY = 86_400.0

Trouble = Literal["authorities", "connection", "upstream proxy", "trust", "tls"]


@dataclass(frozen=True, slots=True)
class Handshake:
    """What became of one connection; `days` are left of the certificate, None in plain HTTP."""

    name: str
    days: float | None = None
    version: str = ""
    trouble: Trouble | None = None
    why: str = ""


async def shake_hands(destination: Destination, dialer: Dialer) -> Handshake:
    """Connect as the proxy does, up to the end of the handshake."""
    name, seconds = destination.name, min(MOST_SECONDS, destination.settings.connect_timeout)
    context = None
    try:
        if destination.is_tls:
            context = dialer.tls_context(destination.settings.ca_file)
    except OSError as error:
        return Handshake(name, trouble="authorities", why=reason(error))
    try:
        async with asyncio.timeout(seconds):
            return await _shaken(destination, dialer, context)
    except TimeoutError:
        why = f"no connection came about within {seconds:g} s"
        return Handshake(name, trouble="connection", why=why)
    except (OSError, RuntimeError) as error:  # uvloop: RuntimeError for some
        return Handshake(name, trouble=_trouble(error), why=reason(error))


async def _shaken(
    destination: Destination, dialer: Dialer, context: ssl.SSLContext | None
) -> Handshake:
    address = destination.settings.address
    sock = await dialer.connect(destination.host, destination.port, address=address)
    if context is None:
        sock.close()
        return Handshake(destination.name)
    _, writer = await asyncio.open_connection(
        sock=sock, ssl=context, server_hostname=destination.host
    )
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate, version = tls.getpeercert() or {}, tls.version() or ""
    writer.transport.abort()
    left = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
    return Handshake(destination.name, left / _DAY, version)


def _trouble(error: Exception) -> Trouble:
    match error:
        case ssl.SSLCertVerificationError():
            return "trust"
        case ssl.SSLError():
            return "tls"
        case UpstreamProxyError():
            return "upstream proxy"
        case _:
            return "connection"


def judge(
    handshakes: Sequence[Handshake], ca_files: Mapping[str, str | None], *, goes_direct: bool
) -> Iterator[Line]:
    """Say how they are, in one line for those that are well.

    `goes_direct` tells that there is no upstream proxy though the environment names one.
    """
    well = [each for each in handshakes if each.trouble is None and each.days is not None]
    lasting = [each for each in well if (each.days or 0) >= ENDING_DAYS]
    if lasting:
        subject = lasting[0].name if len(lasting) == 1 else f"{len(lasting)} upstreams"
        yield ok(CHECK, subject, _described(lasting))
    for each in handshakes:
        if each.trouble is not None:
            step = _step(each, ca_files.get(each.name), goes_direct=goes_direct)
            yield fail(CHECK, each.name, each.why, step=step)
        elif each.days is None:
            found = "plain http: tokens, and the static key, travel in clear"
            step = "fine for a sandbox; for the API, set its url to https://"
            yield warn(CHECK, each.name, found, step=step)
        elif each.days < ENDING_DAYS:
            found = f"{each.version}; its certificate ends in {_days(each.days)}"
            yield warn(CHECK, each.name, found, step="tell those who run it, if it is not renewed")


def _described(handshakes: Sequence[Handshake]) -> str:
    versions = ", ".join(sorted({each.version for each in handshakes}))
    soonest = min(each.days or 0.0 for each in handshakes)
    if len(handshakes) == 1:
        return f"{versions}; its certificate ends in {_days(soonest)}"
    return f"{versions}; the first of their certificates ends in {_days(soonest)}"


def _days(days: float) -> str:
    whole = int(days)
    return f"{whole} day{'' if whole == 1 else 's'}" if whole else "less than a day"


def _step(handshake: Handshake, ca_file: str | None, *, goes_direct: bool) -> str:
    match handshake.trouble:
        case "authorities":
            return "name a file with certificates in PEM in its ca_file"
        case "trust" if "expired" in handshake.why or "not yet valid" in handshake.why:
            return "see by `date -u` whether this clock is right; else tell those who run it"
        case "trust" if ca_file:
            return f"put the authority that signed it into {ca_file}, which its ca_file names"
        case "trust":
            return (
                "if this network inspects TLS, name its authority in ca_file beside its url, or add"
                " it to the system's store; if not, somebody is in between"
            )
        case "tls":
            return "see what answers there, and whether its url in upstreams is right"
        case "upstream proxy":
            return "correct upstream_proxy; that proxy must allow CONNECT to this host"
        case _ if goes_direct:
            return "set upstream_proxy, as HTTPS_PROXY is set here: the proxy does not read that"
        case _:
            return "let this machine out to it, or set upstream_proxy if that is the way out"
