"""Who may use a listener: clients by what they show, and what each of them may do.

A client is known by any one of these, which are looked at in this order:

1. a token of its own, in a request or in the CONNECT before it,
2. a certificate, whose chain TLS has verified,
3. the user at the other end of a Unix socket,
4. the token of a Kubernetes ServiceAccount, which the API server is asked about (`Reviews`).

Whoever shows nothing that is known gets 401, from a forward proxy 407. Whoever is known to somebody
else, but is no client, gets 403. Nothing of what was shown goes upstream.
"""

import hashlib
import math
import socket
import struct
import sys
import time
from asyncio import BaseTransport
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from ssl import cert_time_to_seconds
from typing import Final, Protocol

from proxy.config import ClientSettings
from proxy.errors import (
    ClientDenied,
    ClientReviewUnavailable,
    ClientUnknown,
    ProxyClientUnknown,
    Refusal,
)
from proxy.settings.clients import DIGEST_PREFIX
from proxy.tokens.model import Secret
from proxy.traffic.clients import Client, Roster
from proxy.traffic.service_accounts import ReviewDenied, ReviewUnavailable
from proxy.traffic.usage import Usage

_PEER: Final = struct.Struct("3i")
"""What Linux tells of a Unix socket's peer: process, user and group (unix(7))."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a connection tells of who made it, beside what its requests show."""

    names: tuple[str, ...] = ()
    """Subject alternative names of a client's certificate, which has been verified."""
    until: float = math.inf
    """When that certificate expires; seconds since 1970."""
    uid: int | None = None
    """Who is at the other end of a Unix socket."""
    shown: tuple[bytes, ...] = field(default=(), repr=False)
    """Credentials that its CONNECT has shown."""


NO_EVIDENCE = Evidence()


def evidence_of(transport: BaseTransport, before: Evidence) -> Evidence:
    """Return what a connection tells, beside what it told when it was opened."""
    certificate = transport.get_extra_info("peercert")
    if certificate:
        names = (name for kind, name in certificate.get("subjectAltName", ()) if _is(kind, name))
        until = cert_time_to_seconds(certificate["notAfter"])
        before = replace(before, names=tuple(names), until=float(until))
    own = transport.get_extra_info("socket")
    if sys.platform == "linux" and own is not None and own.family == socket.AF_UNIX:
        peer = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        before = replace(before, uid=_PEER.unpack(peer)[1])
    return before


def _is(kind: str, name: str) -> bool:
    """Tell whether a name is of the kind that it looks like: an authority may check but that."""
    return kind == ("URI" if "://" in name else "DNS")


class Reviews(Protocol):
    """Tells whose ServiceAccount token it is; see `service_accounts.ServiceAccounts`."""

    def known(self, token: bytes) -> str | None: ...

    def looks_like_one(self, token: bytes) -> bool: ...

    async def review(self, token: bytes) -> str: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """One who asks to be let in: what the connection and this request tell."""

    evidence: Evidence
    shown: tuple[bytes, ...] = field(repr=False)
    asks_a_proxy: bool = False

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """All credentials that were shown, those of this request first."""
        return self.shown + self.evidence.shown


@dataclass(frozen=True, slots=True)
class Guest:
    """A client that was recognised, by what it told.

    `shown` is the credential that it has shown, empty for none, and `account` its ServiceAccount.
    """

    client: Client
    visit: Visit
    shown: bytes = field(default=b"", repr=False)
    account: str = ""


class Auth:
    """Lets clients in; the roster may be replaced at any time, and counts for the next request."""

    def __init__(
        self,
        roster: Roster,
        *,
        reviews: Reviews | None = None,
        usage: Usage | None = None,
        guards_others: bool = True,
        guards_connects: bool = True,
        hint: str = "Show the credential of a client of this proxy.",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`guards_others` says that the way to hosts that are no upstream is for clients only.

        With `guards_connects` a CONNECT to an upstream must show who asks, else each request behind
        it. `hint` tells who is refused what is expected.
        """
        self.roster = roster
        self.guards_others = guards_others
        self.guards_connects = guards_connects
        self._reviews = reviews
        self._usage = usage or Usage()
        self._hint = hint
        self._clock = clock
        self._wall = wall

    def __repr__(self) -> str:
        return f"<Auth {self.roster!r}>"

    # Who it is

    def recognise(self, visit: Visit) -> Guest | None:
        """Return who it is, None if that takes asking. Raises the refusal that fits."""
        guest = self._by_token(visit) or self._by_connection(visit)
        if guest is None:
            guest = self._by_known_account(visit)
        if guest is not None:
            return self._in_time(guest)
        if self._to_review(visit):
            return None
        raise self._stranger(visit)

    async def ask(self, visit: Visit) -> Guest:
        """Have the API server asked who it is. Raises the refusal that fits."""
        if self._reviews is None or (token := self._to_review(visit)) is None:
            raise self._stranger(visit)
        try:
            account = await self._reviews.review(token)
        except ReviewUnavailable as error:
            detail = "Whose ServiceAccount token it is cannot be found out now; the log says why."
            raise ClientReviewUnavailable(detail, retry_after=error.retry_after) from None
        except ReviewDenied as error:
            raise self._unknown(visit, str(error)) from None
        return self._in_time(self._of_account(account, token, visit))

    def shown_by(self, guest: Guest) -> Iterable[bytes]:
        """Return all credentials for this proxy that it has shown, which must go no further."""
        tokens = guest.visit.tokens
        if len(tokens) < 2:
            return filter(None, (guest.shown,))
        return {each for each in tokens if each == guest.shown or self._is_known(each)}

    def _is_known(self, token: bytes) -> bool:
        reviews = self._reviews
        return bool(self.roster.of_token(token) or (reviews and reviews.known(token)))

    def _by_token(self, visit: Visit) -> Guest | None:
        for each in visit.tokens:
            if (client := self.roster.of_token(each)) is not None:
                return Guest(client, visit, each)
        return None

    def _by_connection(self, visit: Visit) -> Guest | None:
        client, evidence = None, visit.evidence
        if evidence.names and self._wall() < evidence.until:
            client = self.roster.of_names(evidence.names)
        if client is None and evidence.uid is not None:
            client = self.roster.of_uid(evidence.uid)
        return None if client is None else Guest(client, visit)

    def _by_known_account(self, visit: Visit) -> Guest | None:
        if self._reviews is None:
            return None
        found = ((self._reviews.known(each), each) for each in visit.tokens)
        known = ((account, each) for account, each in found if account)
        return next((self._of_account(account, each, visit) for account, each in known), None)

    def _of_account(self, account: str, token: bytes, visit: Visit) -> Guest:
        client = self.roster.of_account(account)
        if client is None:
            raise ClientDenied(f"ServiceAccount {account} is no client of this proxy.")
        return Guest(client, visit, token, account)

    def _to_review(self, visit: Visit) -> bytes | None:
        """Return the credential about which the API server may know more."""
        reviews = self._reviews
        if reviews is None or not self.roster.has_accounts:
            return None
        return next((each for each in visit.tokens if reviews.looks_like_one(each)), None)

    def _in_time(self, guest: Guest) -> Guest:
        client = guest.client
        if client.expires is not None and self._wall() >= client.expires:
            raise self._unknown(guest.visit, f"The credentials of client {client.name} expired.")
        return guest

    def _stranger(self, visit: Visit) -> Refusal:
        """Return the refusal of one who is known to nobody, or only to somebody else."""
        evidence = visit.evidence
        if evidence.names and self._wall() >= evidence.until:
            return self._unknown(visit, "The client's certificate has expired.")
        if evidence.names and not visit.tokens:
            return ClientDenied("The client's certificate is that of no client of this proxy.")
        if evidence.uid is not None and not visit.tokens and self.roster.has_uids:
            return ClientDenied(f"User {evidence.uid} is no client of this proxy.")
        return self._unknown(visit, self._hint)

    def _unknown(self, visit: Visit, detail: str) -> Refusal:
        return (ProxyClientUnknown if visit.asks_a_proxy else ClientUnknown)(detail)

    # What it may

    def admit(self, guest: Guest, method: str, path: bytes) -> None:
        """Let a client send one request more. Raises the refusal that fits."""
        guest.client.check_rights(method, path)
        self._charge(guest.client)

    def admit_more(self, guest: Guest) -> None:
        """Let a client that was let in go on, with one message more. Raises the refusal that fits.

        It may have been removed meanwhile. (The API server is not asked again whose a token is.)
        """
        self._charge((self.recognise(guest.visit) or self._as_before(guest)).client)

    def _as_before(self, guest: Guest) -> Guest:
        """Return who it is whose token would have to be reviewed once more."""
        if not guest.account:
            raise self._stranger(guest.visit)
        return self._in_time(self._of_account(guest.account, guest.shown, guest.visit))

    def _charge(self, client: Client) -> None:
        if client.is_limited:
            self._usage.charge(client, self._clock(), self._wall())


def only_for(placeholder: Secret, *, guards_others: bool) -> Auth:
    """Return what lets in whoever shows what an app was given in place of the static key.

    Not every app shows it in its CONNECT, so each request behind that may.
    """
    digest = hashlib.sha256(placeholder.reveal().encode()).hexdigest()
    return Auth(
        Roster({"": ClientSettings(tokens=(f"{DIGEST_PREFIX}{digest}",))}),
        guards_others=guards_others,
        guards_connects=False,
        hint="This proxy serves one command, which shows the MOBULA_API_KEY that it was given.",
    )
