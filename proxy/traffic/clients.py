"""The clients of listeners that authenticate: what each is known by, and what it may. Pure."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.config import ClientSettings
from proxy.errors import ClientDenied
from proxy.settings.clients import DIGEST_PREFIX, folded
from proxy.traffic.target import is_below


@dataclass(frozen=True, slots=True)
class Client:
    """One who may use what is behind; times in seconds since 1970, none means for ever."""

    name: str
    expires: float | None = None
    rate: float | None = None
    """Requests a second, in each process; None: any number."""
    a_day: int | None = None
    """Requests a day (UTC), over all processes; None: any number."""
    paths: tuple[bytes, ...] = ()
    methods: frozenset[str] = frozenset()

    @property
    def is_limited(self) -> bool:
        """Whether its requests must be counted."""
        return self.rate is not None or self.a_day is not None

    def check_rights(self, method: str, path: bytes) -> None:
        """Raise ClientDenied unless it may send such a request."""
        if self.methods and method not in self.methods:
            raise ClientDenied(f"Client {self.name} may not use the method of this request.")
        if self.paths and not is_below(path, self.paths):
            raise ClientDenied(f"Client {self.name} may not use the path of this request.")


class Roster:
    """All clients, found by any of their credentials in a time that their number does not touch."""

    def __init__(self, clients: Mapping[str, ClientSettings]) -> None:
        self._by_digest: dict[bytes, tuple[bytes, Client]] = {}
        self._by_name: dict[str, Client] = {}
        self._by_uid: dict[int, Client] = {}
        self._by_account: dict[str, Client] = {}
        for name, settings in clients.items():
            self._add(_client(name, settings), settings)

    def __repr__(self) -> str:
        return (
            f"<Roster {len(self._by_digest)} tokens, {len(self._by_name)} certificates, "
            f"{len(self._by_uid)} users, {len(self._by_account)} service accounts>"
        )

    def _add(self, client: Client, settings: ClientSettings) -> None:
        for each in settings.tokens:
            digest = bytes.fromhex(each.removeprefix(DIGEST_PREFIX))
            self._by_digest[_place_of(digest)] = digest, client
        self._by_name.update((each, client) for each in settings.certificates)
        self._by_uid.update((each, client) for each in settings.uids)
        self._by_account.update((each, client) for each in settings.service_accounts)

    @property
    def has_accounts(self) -> bool:
        """Whether a client is known by a Kubernetes ServiceAccount."""
        return bool(self._by_account)

    @property
    def has_uids(self) -> bool:
        """Whether a client is known by the user that it runs as."""
        return bool(self._by_uid)

    def of_token(self, token: bytes) -> Client | None:
        """Return whose token it is.

        How long that takes tells at most of the digest's first bytes, which lead to no token.
        """
        digest = hashlib.sha256(token).digest()
        known, client = self._by_digest.get(_place_of(digest), _NOBODY)
        return client if hmac.compare_digest(known, digest) else None

    def of_names(self, names: tuple[str, ...]) -> Client | None:
        """Return whose certificate it is that has these names; the first that is known counts."""
        return next(filter(None, (self._by_name.get(folded(each)) for each in names)), None)

    def of_uid(self, uid: int) -> Client | None:
        return self._by_uid.get(uid)

    def of_account(self, account: str) -> Client | None:
        """Return who is known by a `namespace/name`, or else by its whole namespace."""
        namespace, _, _ = account.partition("/")
        return self._by_account.get(account) or self._by_account.get(f"{namespace}/*")


_NOBODY: tuple[bytes, Client | None] = b"", None


def _place_of(digest: bytes) -> bytes:
    return digest[:8]


def _client(name: str, settings: ClientSettings) -> Client:
    return Client(
        name,
        expires=settings.expires,
        rate=settings.requests_per_second,
        a_day=settings.requests_per_day,
        paths=tuple(each.rstrip("/").encode() for each in settings.paths),
        methods=frozenset(settings.methods),
    )
