"""Client of Kubernetes' TokenReview (authentication.k8s.io/v1): whose token is this?

The API server judges the token as it would one that is shown to itself. What it says against one is
never passed on, since nothing keeps the token out of that text.
"""

import asyncio
import math
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from proxy.config import ServiceAccountSettings
from proxy.network.dialer import Dialer
from proxy.network.reason import reason
from proxy.network.session import SessionResolver, read_json, why_broken
from proxy.tokens.model import Secret

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
MAX_ANSWER_BYTES: Final = 1 << 18
"""An answer repeats the token, and names the groups of whoever it belongs to."""
MAX_FILE_BYTES: Final = 1 << 20
READ_EVERY: Final = 60.0
"""Seconds for which our own token is taken to be good; Kubernetes renews it minutes before."""
KEEPALIVE_SECONDS: Final = 15.0
"""How long an unused connection is kept; API servers, and what is before them, keep it longer."""

_ACCOUNT: Final = re.compile(
    r"system:serviceaccount:([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r":([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)"
)


class ReviewDenied(Exception):  # noqa: N818 - a verdict, and no fault
    """The token is none that may be shown here; the text says why, and is fit for clients."""


class ReviewUnavailable(Exception):  # noqa: N818 - likewise
    """Whose token it is cannot be known now; asking again makes sense in `retry_after` seconds."""

    def __init__(self, why: str, retry_after: int = 1) -> None:
        super().__init__(f"the Kubernetes API server cannot be asked: {why}")
        self.why = why
        self.retry_after = retry_after


def account_of(username: object) -> str | None:
    """Return `namespace/name` of the ServiceAccount that has this user name, if one does."""
    found = _ACCOUNT.fullmatch(username) if isinstance(username, str) else None
    return f"{found[1]}/{found[2]}" if found else None


class TokenReviewer:
    """Asks the API server; it shows our own token, and takes nobody for it but by `ca_file`.

    It looks the API server up as the system does and goes there directly: that is inside the
    cluster, of which neither an upstream proxy nor other name servers need to know.
    """

    def __init__(self, settings: ServiceAccountSettings, *, clock: Callable[[], float]) -> None:
        self._url = settings.url + PATH
        self._audience = settings.audience
        self._files = _Files(settings, clock)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<TokenReviewer {self._url}>"

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=SessionResolver(Dialer(), None),
            use_dns_cache=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def review(self, token: str) -> str:
        """Return whose token it is, as `namespace/name`. It takes its time: bound it.

        Raises ReviewDenied or ReviewUnavailable.
        """
        own = await self._files.current()
        status, body = await self._answered(token, own)
        if status == 401 and (renewed := await self._files.current(refused=own)) != own:
            status, body = await self._answered(token, renewed)
        if status not in (200, 201):
            raise ReviewUnavailable(_meaning(status))
        return _read_review(body, self._audience)

    async def _answered(self, token: str, own: "_Own") -> tuple[int, Any]:
        """Ask, and return the status and the JSON value of the answer. Raises ReviewUnavailable."""
        try:
            return await self._call(token, own)
        except aiohttp.ClientConnectorCertificateError as error:
            raise ReviewUnavailable(reason(error.certificate_error)) from None
        except aiohttp.ClientConnectorError as error:
            raise ReviewUnavailable(f"no connection: {reason(error.os_error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ReviewUnavailable(why_broken(error)) from None

    async def _call(self, token: str, own: "_Own") -> tuple[int, Any]:
        if self._session is None:
            raise RuntimeError("TokenReviewer is used outside its `async with`")
        async with self._session.post(
            self._url,
            json={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": [self._audience]},
            },
            headers={
                "Authorization": f"Bearer {own.token.reveal()}",
                "Accept": "application/json",
            },
            ssl=own.tls or True,
            allow_redirects=False,
        ) as response:
            return response.status, await read_json(response, MAX_ANSWER_BYTES)


_MEANINGS: Final = {
    401: "it does not take our own token, the one in service_accounts.token_file",
    403: (
        "our own ServiceAccount may not create TokenReviews; "
        "bind it to the ClusterRole system:auth-delegator"
    ),
    404: "there is no TokenReview at service_accounts.url",
    429: "it is asked too often",
}


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return f"it answered {status}: redirects are not followed with tokens"
    return f"it answered {status}: {_MEANINGS.get(status, 'it failed')}"


def _read_review(body: Any, audience: str) -> str:
    """Return whose token it is by what the API server says of it. Raises as `review` does."""
    status = body.get("status") if isinstance(body, dict) else None
    if not isinstance(status, dict) or body.get("kind") != "TokenReview":
        raise ReviewUnavailable("its answer is no TokenReview")
    if status.get("authenticated") is not True:
        raise ReviewDenied(
            "the Kubernetes API server does not take the token: "
            "it has expired, was revoked, or is not of this cluster"
        )
    # One that does not know of audiences takes tokens for any of them, and names none.
    audiences = status.get("audiences")
    if not isinstance(audiences, list) or audience not in audiences:
        raise ReviewDenied(f"the token is not meant for audience {audience}")
    user = status.get("user")
    account = account_of(user.get("username")) if isinstance(user, dict) else None
    if account is None:
        raise ReviewDenied("the token is not a ServiceAccount's")
    return account


@dataclass(frozen=True, slots=True)
class _Own:
    """What we show the API server, and the context that has it prove who it is."""

    token: Secret
    authorities: str
    tls: ssl.SSLContext | None
    """None for http://, which is for this machine only."""


class _Files:
    """Reads our own token and the authorities from files, which Kubernetes renews."""

    def __init__(self, settings: ServiceAccountSettings, clock: Callable[[], float]) -> None:
        self._token_file = settings.token_file
        self._ca_file = settings.ca_file if settings.url.startswith("https:") else None
        self._clock = clock
        self._held: _Own | None = None
        self._read_at = -math.inf
        self._reading = asyncio.Lock()

    async def current(self, *, refused: _Own | None = None) -> _Own:
        """Return what stood there less than READ_EVERY ago, but nothing older than `refused`.

        Raises ReviewUnavailable for files that cannot be used.
        """
        async with self._reading:
            now, held = self._clock(), self._held
            if held is None or held is refused or now >= self._read_at + READ_EVERY:
                self._held = held = await asyncio.to_thread(self._read, held)
                self._read_at = now
            return held

    def _read(self, held: _Own | None) -> _Own:
        token = _text(self._token_file).strip()
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ReviewUnavailable(f"what is in {self._token_file} is no token")
        if self._ca_file is None:
            return _Own(Secret(token), "", None)
        authorities = _text(self._ca_file)
        if held and held.authorities == authorities:
            return _Own(Secret(token), authorities, held.tls)
        return _Own(Secret(token), authorities, _context(authorities, self._ca_file))


def _text(file: str) -> str:
    """Return what stands in a file; blocking. Raises ReviewUnavailable."""
    try:
        with Path(file).open("rb") as stream:
            return stream.read(MAX_FILE_BYTES).decode("latin-1")
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else "it failed"
        raise ReviewUnavailable(f"{file} cannot be read: {why}") from None


def _context(authorities: str, file: str) -> ssl.SSLContext:
    """Return a context that trusts these alone. Raises ReviewUnavailable.

    It is not Python's default one: from 3.13 on that takes no authority without key identifiers,
    as those of many clusters are (RFC 5280, section 4.2.1.1, allows it).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError):
        raise ReviewUnavailable(f"there are no certificates in {file}") from None
    return context
