"""Whether programs that are started from here trust the local CA."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.launch.checks.authority import Outlook
from proxy.launch.report import Line, ok, warn
from proxy.launch.trust import ADDING, IN_PLACE
from proxy.traffic.bundle import certificates_at, includes, system_places

CHECK = "trust"
REPLACING = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", *IN_PLACE)
"""Variables that name what programs trust, and nothing beside it."""
NEEDED = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""Those that most programs look at, one or another."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Who leads to the local CA: the system's store, and each variable that is set."""

    system: bool
    variables: Mapping[str, bool]


def look(outlook: Outlook, environ: Mapping[str, str]) -> Trust:
    """Read what would be trusted; blocking."""
    variables = {name: environ[name] for name in (*REPLACING, *ADDING) if environ.get(name)}
    return Trust(
        system=any(_holds(each, outlook.pem) for each in system_places()),
        variables={name: _holds(Path(place), outlook.pem) for name, place in variables.items()},
    )


def _holds(place: Path, pem: str) -> bool:
    with suppress(OSError):
        return includes(certificates_at(place), pem)
    return False


def judge(trust: Trust, outlook: Outlook) -> Iterator[Line]:
    lacking = [name for name, holds in trust.variables.items() if not holds]
    for name in lacking:
        found = "it names what does not hold the local CA"
        yield warn(CHECK, name, found, step=f"export {name}={_right(name, outlook)}")
    missing = [name for name in NEEDED if name not in trust.variables]
    if trust.system:
        yield ok(CHECK, "system", "its store holds the local CA")
    elif missing:
        found = f"nothing here leads programs to the local CA by {', '.join(missing)}"
        settings = " ".join(f"{name}={_right(name, outlook)}" for name in missing)
        step = f"for apps started from here: export {settings}; or use mobula-proxy exec"
        yield warn(CHECK, "environment", found, step=step)
    elif not lacking:
        yield ok(CHECK, "environment", f"{', '.join(NEEDED)} lead to the local CA")


def _right(name: str, outlook: Outlook) -> Path:
    return outlook.certificate if name in ADDING else outlook.bundle
