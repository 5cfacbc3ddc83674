"""Clients in the settings: what each is known by, until when, and what it may do.

No plain token stands here, only its SHA-256: tokens are long and random, so it cannot be undone.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, cast

from msgspec import field

from proxy.settings.problems import SettingsError
from proxy.settings.section import Finding, Section, parse
from proxy.settings.sources import read_part
from proxy.settings.values import Leaf, SettingPath, Wrong

DIGEST_PREFIX: Final = "sha256:"
"""What stands before the hexadecimal digits of a token's SHA-256."""
_MOST = 100
"""Entries of each list of a client."""
_LONGEST = 1024
"""Characters of each of them."""
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile("[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_TOKEN = re.compile(f"{DIGEST_PREFIX}[0-9a-f]{{64}}")
_CERTIFICATE = re.compile(
    r"[a-z][a-z0-9+.-]*://[!-~]+|[A-Za-z0-9_*](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
)
_ACCOUNT = re.compile(rf"{_LABEL}/(?:\*|{_LABEL}(?:\.{_LABEL})*)")
_PATH = re.compile(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~!$&'()*+,=:@-]+)*/?(?<=.)")
_METHOD = re.compile("[A-Z]+(?:-[A-Z]+)*")
_LAST_UID: Final = 2**32 - 2
_MOST_A_DAY: Final = 10**12


def _list_of(
    read: Callable[[object], Any],
    schema: Mapping[str, object],
    form: str,
    *,
    secret: bool = False,
) -> Leaf:
    """Take a list of what `read` takes, each once; `form` says in words what that is."""

    def read_all(value: object) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise Wrong(f"must be a list of {form}")
        if len(value) > _MOST:
            raise Wrong(f"must have at most {_MOST} entries")
        return tuple(dict.fromkeys(map(read, value)))

    whole = {"type": "array", "items": schema, "maxItems": _MOST}
    return Leaf(read_all, whole, list, secret=secret)


def _texts(
    pattern: re.Pattern[str],
    form: str,
    *,
    make: Callable[[str], str] = str,
    secret: bool = False,
) -> Leaf:
    def read(value: object) -> str:
        if isinstance(value, str) and len(value) <= _LONGEST and pattern.fullmatch(value):
            return make(value)
        raise Wrong(f"must have {form}")

    schema = {"type": "string", "pattern": f"^(?:{pattern.pattern})$", "maxLength": _LONGEST}
    return _list_of(read, schema, form, secret=secret)


def folded(name: str) -> str:
    """Return a subject alternative name as it is compared: case counts in URIs only."""
    return name if "://" in name else name.lower()


def _name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise Wrong("must be a name of at most 63 small letters and digits, with . _ - between them")


def _uid(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_UID:
        return value
    raise Wrong("must have numbers of users, as `id -u` prints them")


def _time(value: object) -> float | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(cast("str", value))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC).timestamp()
    except (TypeError, ValueError, OverflowError):
        pass
    raise Wrong("must be a time with its zone, as in 2027-01-31T12:00:00Z, or null")


def _written_time(value: float | None) -> str | None:
    if value is None:
        return None
    return datetime.fromtimestamp(value, UTC).isoformat().replace("+00:00", "Z")


def _rate(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0.001 <= value <= 1e6:
        return float(value)
    raise Wrong("must be a number between 0.001 and 1000000, or null")


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_A_DAY:
        return value
    raise Wrong(f"must be a whole number between 1 and {_MOST_A_DAY}, or null")


ClientName = Annotated[str, Leaf(_name, {"type": "string", "pattern": f"^{_NAME.pattern}$"})]
"""The name of a client; it is a label of metrics, and stands in the log."""


class ClientSettings(Section, frozen=True, kw_only=True):
    """One who may use listeners that authenticate; any one credential is enough."""

    tokens: Annotated[
        tuple[str, ...],
        _texts(_TOKEN, "sha256: and 64 hexadecimal digits, the SHA-256 of each token", secret=True),
    ] = ()
    """SHA-256 of each token that it may show, as sha256:… and never a token itself."""
    certificates: Annotated[
        tuple[str, ...],
        _texts(
            _CERTIFICATE,
            "subject alternative names, as spiffe://cluster/ns/a or app.example",
            make=folded,
        ),
    ] = ()
    """Subject alternative names, URI or DNS, of its client certificates."""
    uids: Annotated[
        tuple[int, ...],
        _list_of(_uid, {"type": "integer", "minimum": 0, "maximum": _LAST_UID}, "user numbers"),
    ] = ()
    """Numbers of the users that it runs as, at the other end of a Unix socket."""
    service_accounts: Annotated[
        tuple[str, ...],
        _texts(_ACCOUNT, "namespace/name of ServiceAccounts, or namespace/* for all of one"),
    ] = ()
    """Kubernetes ServiceAccounts whose tokens it may show, namespace/name or namespace/*."""
    expires: Annotated[float | None, Leaf(_time, {"type": ["string", "null"]}, _written_time)] = (
        None
    )
    """Time, with its zone, after which none of its credentials is taken; null: never."""
    requests_per_second: Annotated[
        float | None,
        Leaf(_rate, {"type": ["number", "null"], "minimum": 0.001, "maximum": 1_000_000}),
    ] = None
    """How many requests a second it may send, to each process for itself; null: any number."""
    requests_per_day: Annotated[
        int | None,
        Leaf(_count, {"type": ["integer", "null"], "minimum": 1, "maximum": _MOST_A_DAY}),
    ] = None
    """How many it may send in a day (UTC), over all that share the store; null: any number."""
    paths: Annotated[
        tuple[str, ...],
        _texts(_PATH, "paths such as /api/1/market, without %, //, ?, . and .. in them"),
    ] = ()
    """What its paths must begin with, whole segments of it; none: any path."""
    methods: Annotated[tuple[str, ...], _texts(_METHOD, "methods in capitals, such as GET")] = ()
    """Methods that it may use; none: any method."""

    @classmethod
    def clashes(cls, good: Mapping[str, Any]) -> Iterator[Finding]:
        """Find a client that nobody could be, whose name would only pretend."""
        kinds = ("tokens", "certificates", "uids", "service_accounts")
        if good.keys() >= set(kinds) and not any(good[each] for each in kinds):
            text = "has no credential; give it tokens, certificates, uids or service_accounts"
            yield Finding((), text, show=False)


Clients = dict[ClientName, ClientSettings]


class _ClientsFile(Section, frozen=True, kw_only=True):
    """What stands in a file of clients, as if it stood in the settings."""

    clients: Clients = field(default_factory=dict)


def ambiguous(clients: Mapping[str, ClientSettings]) -> Iterator[Finding]:
    """Find credentials that two clients have, so that nobody could say whose they are."""
    holders: dict[object, str] = {}
    for name, client in clients.items():
        for kind in ("tokens", "certificates", "uids", "service_accounts"):
            for credential in getattr(client, kind):
                other = holders.setdefault((kind, credential), name)
                if other != name:
                    path: SettingPath = ("clients", name, kind)
                    yield Finding(path, f"has one that client {other} has too", show=False)


def read_clients(file: Path, beside: Mapping[str, ClientSettings]) -> Mapping[str, ClientSettings]:
    """Return the clients of a file, a mapping by name, and those that the settings name `beside`.

    Blocking. Raises SettingsError with every problem.
    """
    tree = read_part(file, ("clients",))
    parsed = parse(_ClientsFile, tree.values)
    if not isinstance(parsed, _ClientsFile):
        findings = parsed
    else:
        clients = {**beside, **parsed.clients}
        text = "stands in the settings too; one of them would be ignored"
        findings = [
            Finding(("clients", name), text, show=False)
            for name in parsed.clients.keys() & beside.keys()
        ]
        findings += ambiguous(clients)
        if not findings:
            return clients
    raise SettingsError([tree.problem(path, text, show=show) for path, text, show in findings])
