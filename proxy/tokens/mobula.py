"""Client of Mobula's token endpoints: the one place that sends the static key.

Shapes are those of Mobula's token page and of its own TypeScript client. The JWT's signature is
never verified: its secret is Mobula's.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Self

import aiohttp

from proxy.errors import ERROR_HEADER
from proxy.network.dialer import Dialer
from proxy.network.errors import UpstreamProxyError
from proxy.network.reason import reason
from proxy.network.session import make_connector, read_json, through_proxy, why_broken
from proxy.tokens.claims import claims_of
from proxy.tokens.clock import steady
from proxy.tokens.model import Inspection, MintFault, Secret, Standing, Token

TIMEOUT_SECONDS = 5.0
CONNECT_SHARE = 0.6
"""Part of the timeout in which the connection must be there; the call was not sent if it is not."""
MAX_ANSWER_BYTES = 1 << 20
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}")
LATEST_EXPIRY = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
"""Beyond it an `exp` is no time in seconds, but one in milliseconds, say."""
DATE_GRAIN = 1.0
"""Seconds that a Date header may lie behind the clock it was read from."""


class CallError(Exception):
    """A call gave nothing of what it was made for; `fault` says why."""

    def __init__(self, fault: MintFault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class MintError(CallError):
    """A creation call gave no token."""


class ListError(CallError):
    """The tokens of a key could not be listed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one creation call gave; `unreadable` says what else its answer held."""

    tokens: tuple[Token, ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """An active token as Mobula lists it; None for what it did not say in a readable way."""

    id: str
    limit: int | None
    remaining: int | None
    expires_in: float | None
    """Seconds, in Mobula's time, from when it made the list; right to DATE_GRAIN."""


class Revocation(Enum):
    """What became of a revoke call."""

    REVOKED = "revoked"
    NOT_FOUND = "not found"
    """The key has no active token of that id: it may have been revoked before, or expired."""
    UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Any
    body: Any
    """The JSON value, or None when the answer is not JSON."""


class MobulaClient:
    """Talks to the token endpoints at `url` (an origin, maybe with a path prefix).

    `address` is the IP address to connect to, if not one that the URL's host resolves to.
    """

    def __init__(
        self,
        url: str,
        *,
        address: str | None = None,
        ca_file: str | None = None,
        dialer: Dialer | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        clock: Callable[[], float] = steady,
        wall: Callable[[], float] = lambda: datetime.now(UTC).timestamp(),
    ) -> None:
        self._url = url.rstrip("/") + "/api/2/auth"
        self._address = address
        self._ca_file = ca_file if url.startswith("https:") else None
        self._dialer = dialer or Dialer()
        self._options, self._headers = through_proxy(self._dialer, url)
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._wall = wall
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        seconds = self._timeout_seconds
        # A new connection for each call: calls are rare, and aiohttp would resend some of them
        # by itself on a kept connection that went stale.
        self._session = aiohttp.ClientSession(
            connector=make_connector(self._dialer, address=self._address, ca_file=self._ca_file),
            timeout=aiohttp.ClientTimeout(total=seconds, connect=CONNECT_SHARE * seconds),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def mint(
        self, key: Secret, *, count: int, expires_in: float, request_limit: int
    ) -> Batch:
        """Create `count` tokens that live `expires_in` seconds. Raises MintError."""
        body = {
            "expiresIn": round(expires_in * 1000),
            "count": count,
            "requestLimit": str(request_limit),
        }
        sent_at = self._clock()
        answer = await self._answered(MintError, "POST", "/tokens", key, json=body)
        if answer.status not in (200, 201):
            raise MintError(_fault_of_status(answer, _SAID_OF_MINTS))
        return self._read_batch(answer, key, sent_at, request_limit)

    async def list(self, key: Secret) -> tuple[Listed, ...]:
        """Return the active tokens of a key, as far as they have ids. Raises ListError."""
        answer = await self._answered(ListError, "GET", "/tokens", key)
        if answer.status != 200:
            raise ListError(_fault_of_status(answer, {}))
        entries = _listed_entries(answer.body)
        if entries is None:
            raise ListError(MintFault("unreadable", "status 200 with an answer that holds no list"))
        mobula_now = read_date(answer.headers.get("Date"))
        now = self._wall() if mobula_now is None else mobula_now
        return tuple(_read_listed(each, now) for each in entries if _has_id(each))

    async def inspect(self, token: Token) -> Inspection:
        """Ask about one token; never raises: no clear answer is UNKNOWN."""
        return await self.inspect_value(token.secret, token.key)

    async def inspect_value(self, value: Secret, key: Secret | None) -> Inspection:
        """Ask about the token of this value; never raises. Without a key it is UNKNOWN."""
        if key is None:
            return Inspection(Standing.UNKNOWN)
        try:
            query = {"token": value.reveal()}
            answer = await self._call("GET", "/token", key, params=query)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Inspection(Standing.UNKNOWN)
        if answer.status in (404, 410):
            return Inspection(Standing.GONE)
        if answer.status != 200 or not isinstance(answer.body, dict):
            return Inspection(Standing.UNKNOWN)
        if "apiToken" in answer.body and answer.body["apiToken"] is None:
            return Inspection(Standing.GONE)
        remaining = _count(_inner(answer.body, "apiToken").get("remaining"))
        if remaining is None:
            return Inspection(Standing.UNKNOWN)
        return Inspection(Standing.ALIVE if remaining else Standing.EXHAUSTED, remaining)

    async def revoke(self, token: Token) -> bool:
        """Revoke one token; tell whether Mobula confirmed that it is gone."""
        return await self.revoke_id(token.id, token.key) is not Revocation.UNCONFIRMED

    async def revoke_id(self, token_id: str, key: Secret | None) -> Revocation:
        """Revoke the token of this id, which `is_token_id`; never raises. It needs a key."""
        if key is None:
            return Revocation.UNCONFIRMED
        try:
            answer = await self._call("DELETE", f"/tokens/{token_id}", key)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Revocation.UNCONFIRMED
        if answer.status in (404, 410):
            return Revocation.NOT_FOUND
        return Revocation.REVOKED if answer.status in (200, 202, 204) else Revocation.UNCONFIRMED

    async def _answered(
        self, failed: type[CallError], method: str, path: str, key: Secret, **request: Any
    ) -> _Answer:
        """Call, and raise `failed` if no answer came."""
        try:
            return await self._call(method, path, key, **request)
        except aiohttp.ClientConnectorError as error:
            raise failed(_fault_of_connect(error)) from None
        except aiohttp.ClientHttpProxyError as error:
            refused = UpstreamProxyError.refused(error.status)
            raise failed(_no_connection(refused)) from None
        except aiohttp.ConnectionTimeoutError:
            detail = f"no connection within {CONNECT_SHARE * self._timeout_seconds:g} s"
            raise failed(MintFault("connect", detail, sent=False)) from None
        except TimeoutError:
            detail = f"no answer within {self._timeout_seconds:g} s"
            raise failed(MintFault("timeout", detail)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise failed(MintFault("broken", why_broken(error))) from None

    async def _call(self, method: str, path: str, key: Secret, **request: Any) -> _Answer:
        if self._session is None:
            raise RuntimeError("MobulaClient is used outside its `async with`")
        async with self._session.request(
            method,
            self._url + path,
            headers={
                **self._headers,
                "Authorization": key.reveal(),
                "Accept": "application/json",
            },
            allow_redirects=False,
            **self._options,
            **request,
        ) as response:
            body = await read_json(response, MAX_ANSWER_BYTES)
            return _Answer(response.status, response.headers, body)

    def _read_batch(
        self, answer: _Answer, key: Secret, sent_at: float, request_limit: int
    ) -> Batch:
        entries = _entries(answer.body)
        if not entries:
            detail = f"status {answer.status} with an answer that holds no token"
            raise MintError(MintFault("unreadable", detail))
        # Lifetimes are judged in Mobula's time: between our two clock readings its Date was read.
        mobula_now = read_date(answer.headers.get("Date"))
        offset = sent_at - DATE_GRAIN - (self._wall() if mobula_now is None else mobula_now)
        tokens, unreadable = [], []
        for number, entry in enumerate(entries, 1):
            try:
                tokens.append(_read_token(entry, key, sent_at, offset, request_limit))
            except ValueError as error:
                unreadable.append(f"token {number} of {len(entries)}: {error}")
        if not tokens:
            detail = f"no usable token in the answer ({unreadable[0]})"
            raise MintError(MintFault("unreadable", detail))
        return Batch(tuple(tokens), tuple(unreadable))


def _fault_of_connect(error: aiohttp.ClientConnectorError) -> MintFault:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return MintFault("tls", "the certificate was not accepted", sent=False)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return _no_connection(UpstreamProxyError(f"cannot be reached: {reason(error.os_error)}"))
    return _no_connection(error.os_error)


def _no_connection(error: OSError) -> MintFault:
    return MintFault("connect", f"no connection: {reason(error)}", sent=False)


FATAL = (401, 402, 403)
"""What stays so until the key, or what it pays for, changes."""
_SAID = {
    401: "Mobula refused the static key",
    402: "Mobula asks for payment",
    403: "the key's plan has no short-lived tokens (Startup, Growth and Enterprise have)",
    404: "there is no token endpoint at the upstream's url",
    429: "Mobula was asked too often",
}
_SAID_OF_MINTS = {
    400: "Mobula did not accept what the token settings ask for",
    429: "the mint budget is used up, by others who share this key or before a restart",
}


def _fault_of_status(answer: _Answer, said: Mapping[int, str]) -> MintFault:
    """Return what a status means; `said` is what is special to the call."""
    status, meanings = answer.status, {**_SAID, **said}
    if 300 <= status < 400:
        return MintFault("redirect", f"status {status}: redirects are not followed with a key")
    if ERROR_HEADER in answer.headers:
        return MintFault(
            "proxied",
            f"status {status} from another mobula-proxy on the way: mint past it, or use it alone",
            fatal=status in FATAL,
        )
    return MintFault(
        str(status),
        f"status {status}: {meanings.get(status, 'the token endpoint failed')}",
        fatal=status in FATAL,
        retry_after=_retry_after(answer.headers.get("Retry-After")) if status == 429 else None,
    )


def _entries(body: Any) -> list[Any]:
    """Find the tokens in a creation answer; Mobula's own client accepts all three envelopes."""
    if not isinstance(body, dict):
        return []
    listed = body.get("createApiTokens")
    if isinstance(listed, list):
        return listed
    for holder in (listed, body.get("data"), body):
        if isinstance(holder, dict) and "token" in holder:
            return [holder]
    return []


def _listed_entries(body: Any) -> list[Any] | None:
    """Find the tokens in a list answer; None if there is no list, be it an empty one."""
    if isinstance(body, dict):
        body = body.get("apiTokens", body.get("data"))
    if isinstance(body, dict):
        body = body.get("apiTokens")
    return body if isinstance(body, list) else None


def is_token_id(value: object) -> bool:
    """Tell whether it may be an id: one that stays itself in the path of a URL."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and is_token_id(entry.get("id"))


def _read_listed(entry: dict[str, Any], now: float) -> Listed:
    """Read a listed token; `now` is Mobula's."""
    try:
        expires_in = _moment(entry.get("expiresTimeString")) - now
    except ValueError:
        expires_in = None
    return Listed(
        entry["id"], _count(entry.get("requestLimit")), _count(entry.get("remaining")), expires_in
    )


def _read_token(
    entry: Any, key: Secret, sent_at: float, offset: float, request_limit: int
) -> Token:
    """Read one token; `offset` turns Mobula's time into ours. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    value = entry.get("token")
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]{1,8192}", value):
        raise ValueError("no token value that fits into a header")
    token_id = entry.get("id")
    known = is_token_id(token_id)
    limit = _count(entry.get("requestLimit")) or request_limit
    remaining = _count(entry.get("remaining"))
    return Token(
        id=str(token_id) if known else "unnamed-" + hashlib.sha256(value.encode()).hexdigest()[:12],
        secret=Secret(value),
        key=key,
        minted_at=sent_at,
        expires_at=_expiry(value, entry.get("expiresTimeString")) + offset,
        limit=limit,
        left=limit if remaining is None else min(limit, remaining),
        revocable=known,
    )


def _expiry(value: str, text: Any) -> float:
    """Return when a token expires, in Mobula's epoch seconds; the JWT's `exp` is trusted first."""
    exp = claims_of(value).get("exp")
    if isinstance(exp, int | float) and exp is not True and 0 < exp < LATEST_EXPIRY:
        return float(exp)
    with suppress(ValueError):
        return _moment(text)
    raise ValueError("neither an exp claim nor expiresTimeString")


def _moment(text: Any) -> float:
    """Return the epoch seconds of an `expiresTimeString`. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("not text")
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _inner(body: dict[str, Any], name: str) -> dict[str, Any]:
    inner = body.get(name, body.get("data", body))
    return inner if isinstance(inner, dict) else {}


def _count(value: Any) -> int | None:
    """Read a number that Mobula sends as a string; None when it is none, or below zero."""
    text = str(value)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def read_date(text: str | None) -> float | None:
    """Return the epoch seconds of a Date header; None where there is none that can be read."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _retry_after(text: str | None) -> float | None:
    seconds = _count(text)
    return None if seconds is None else min(300.0, max(1.0, float(seconds)))
