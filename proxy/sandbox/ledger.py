"""The ledger: static keys, tokens, and everything that arrived. Pure; the clock is handed in.

Rules (source: Mobula's page on short-lived tokens, unless marked ours):
- A token is charged when its request arrives, whatever is answered (ours).
- A token works until its limit is used, its expiry is reached or it is revoked, not a moment more.
- A static key sees and revokes only its own tokens.
- Skew moves what the sandbox takes for now, and with it expiry; the mint window, which measures
  time passed, stays on the clock as it is (ours).
"""

import hmac
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Any, NamedTuple

import jwt

from proxy.sandbox.answer import Answer, refusal
from proxy.sandbox.leaks import KeyFinder
from proxy.sandbox.mint import PLANS, MintOrder, MintWindow

KEEP_ENDED = 3600.0
"""Seconds that an expired token is remembered, so that its late requests are told apart."""

_KEEP_RECORDS = 1000

UNAUTHORIZED = refusal(401)
EXHAUSTED = refusal(429, "Request limit exceeded")
WRONG_PLAN = refusal(403, "Short-lived tokens need the Startup, Growth or Enterprise plan")
TOKEN_MAY_NOT = refusal(403, "Short-lived tokens may not manage tokens")


class Credential(NamedTuple):
    """What a request shows; only `Authorization: Bearer` (`bearer`) may carry a token."""

    value: str
    bearer: bool

    def __repr__(self) -> str:
        return f"<Credential bearer={self.bearer}>"


@dataclass(eq=False, slots=True)
class StaticKey:
    """A static key, its plan and its mints; `name` stands for it wherever it is shown."""

    value: str = field(repr=False)
    name: str
    plan: str
    window: MintWindow = field(default_factory=MintWindow)


@dataclass(eq=False, slots=True)
class Token:
    """A minted token; `expires` is in seconds of the sandbox's time, `used` never tops `limit`."""

    id: str
    value: str = field(repr=False)
    owner: StaticKey = field(repr=False)
    limit: int
    expires: int
    used: int = 0
    revoked: bool = False
    over_limit: int = 0
    after_expiry: int = 0
    after_revocation: int = 0

    def active(self, now: float) -> bool:
        return not self.revoked and now < self.expires

    def report(self) -> dict[str, object]:
        return {
            "id": self.id,
            "key": self.owner.name,
            "limit": self.limit,
            "used": self.used,
            "over_limit": self.over_limit,
            "expires": self.expires,
            "revoked": self.revoked,
            "after_expiry": self.after_expiry,
            "after_revocation": self.after_revocation,
        }


@dataclass(eq=False, slots=True)
class MintCall:
    """One mint: `at` is the clock's time without skew, `status` None while nothing is answered."""

    at: float
    key: str | None
    status: int | None = None
    count: int = 0

    def report(self) -> dict[str, object]:
        return {"at": self.at, "key": self.key, "status": self.status, "count": self.count}


class Ledger:
    """Holds `keys` (static key to plan); `clock` tells seconds since the epoch.

    `secret` signs the tokens, `new_id` makes their ids. ValueError for keys that no header could
    carry. What is remembered is bounded; the totals are not cut when old records are.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        *,
        clock: Callable[[], float],
        secret: bytes,
        new_id: Callable[[], str],
    ) -> None:
        if not all(
            key.isascii() and key.isprintable() and key.strip() == key != "" for key in keys
        ):
            raise ValueError("a static key must be printable ASCII without blanks around it")
        self.skew = 0.0
        self.finder = KeyFinder(keys)
        self.clock = clock
        self._secret = secret
        self._new_id = new_id
        self._keys = [
            StaticKey(key, f"key-{number}", plan.lower())
            for number, (key, plan) in enumerate(keys.items(), start=1)
        ]
        self._tokens: dict[str, Token] = {}
        self._by_id: dict[str, Token] = {}
        self._calls: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._mints: deque[MintCall] = deque(maxlen=_KEEP_RECORDS)
        self._leaks: deque[tuple[str, str]] = deque(maxlen=_KEEP_RECORDS)

    def __repr__(self) -> str:
        return f"<Ledger {self._calls.total()} requests, {len(self._tokens)} tokens>"

    def now(self) -> float:
        """Return the sandbox's time in seconds, skew included."""
        return self.clock() + self.skew

    def arrived(self, kind: str) -> None:
        """Count a request of `kind`: data, mint, list, inspect, revoke, or other."""
        self._calls[kind] += 1

    def leaked(self, place: str, path: str) -> None:
        """Flag a static key that came in `place` of a request for `path`."""
        self._totals["leaks"] += 1
        self._leaks.append((place, self.finder.redact(path)[:200]))

    def charge(self, credential: Credential | None) -> tuple[Answer | None, Token | None]:
        """Charge a data request. Return the refusal, if any, and the token, if that is live."""
        token = self._tokens.get(credential.value) if credential and credential.bearer else None
        if token is None:
            return (None if self._static_key(credential) else self._unauthorized()), None
        if token.revoked:
            token.after_revocation += 1
            self._totals["after_revocation"] += 1
            return self._unauthorized(), None
        if self.now() >= token.expires:
            token.after_expiry += 1
            self._totals["after_expiry"] += 1
            return self._unauthorized(), None
        if token.used >= token.limit:
            token.over_limit += 1
            self._totals["over_limit"] += 1
            return EXHAUSTED, token
        token.used += 1
        return None, token

    def _unauthorized(self) -> Answer:
        self._totals["unauthorized"] += 1
        return UNAUTHORIZED

    def _static_key(self, credential: Credential | None) -> StaticKey | None:
        if credential is None:
            return None
        shown = credential.value.encode("utf-8", "surrogateescape")
        matches = [key for key in self._keys if hmac.compare_digest(key.value.encode(), shown)]
        return matches[0] if matches else None

    def manager(self, credential: Credential | None) -> StaticKey | Answer:
        """Return the static key that may manage tokens, or the refusal: 401 or 403."""
        if owner := self._static_key(credential):
            return owner if owner.plan in PLANS else WRONG_PLAN
        token = self._tokens.get(credential.value) if credential and credential.bearer else None
        if token is not None and token.active(self.now()):
            return TOKEN_MAY_NOT
        return self._unauthorized()

    def mint_called(self, owner: StaticKey | None) -> tuple[MintCall, int]:
        """Record a mint on arrival, and count it if `owner` may mint.

        Return the record, to be completed, and the seconds to wait if the budget is exceeded.
        """
        now = self.clock()
        call = MintCall(now, owner.name if owner else None)
        self._totals["mints"] += 1
        self._mints.append(call)
        return call, owner.window.count(now) if owner else 0

    def mint(self, owner: StaticKey, order: MintOrder, *, exp: bool = True) -> list[Token]:
        """Make the tokens of `order`, and forget those that ended long ago.

        `exp` False leaves the claim of that name out, which the documentation does not promise.
        """
        self._prune()
        issued = floor(self.now())
        tokens = [self._new_token(owner, order, issued, exp) for _ in range(order.count)]
        self._tokens.update((token.value, token) for token in tokens)
        self._by_id.update((token.id, token) for token in tokens)
        return tokens

    def _new_token(self, owner: StaticKey, order: MintOrder, issued: int, exp: bool) -> Token:
        token_id, expires = self._new_id(), floor(issued + order.lifetime)
        claims = {"iat": issued, "jti": token_id} | ({"exp": expires} if exp else {})
        value = jwt.encode(claims, self._secret, algorithm="HS256")
        return Token(token_id, value, owner, order.limit, expires)

    def _prune(self) -> None:
        horizon = self.now() - KEEP_ENDED
        for token in [token for token in self._tokens.values() if token.expires < horizon]:
            del self._tokens[token.value], self._by_id[token.id]

    def secrets(self) -> list[str]:
        """Return the value of every token remembered, for scanning what a client logged."""
        return list(self._tokens)

    def tokens(self, owner: StaticKey) -> Iterator[Token]:
        """Yield the active tokens of `owner`, used up or not."""
        now = self.now()
        return (t for t in self._tokens.values() if t.owner is owner and t.active(now))

    def find(self, owner: StaticKey, *, value: str = "", token_id: str = "") -> Token | None:
        """Return the active token of `owner` with that value or id, if there is one."""
        token = self._tokens.get(value) or self._by_id.get(token_id)
        return token if token and token.owner is owner and token.active(self.now()) else None

    def revoke(self, token_id: str) -> bool:
        """Revoke a token, whoever owns it; false if there is no such active one."""
        token = self._by_id.get(token_id)
        if token is None or not token.active(self.now()):
            return False
        token.revoked = True
        return True

    def reject(self, token: Token) -> Answer:
        """Revoke `token` under the request that it came with; return what that request gets."""
        token.revoked = True
        return self._unauthorized()

    def revoke_all(self) -> int:
        """Revoke every active token; return how many there were."""
        return sum(self.revoke(token_id) for token_id in self._by_id)

    def report(self) -> dict[str, Any]:
        """Return everything that `GET /_sandbox/ledger` tells, as JSON-ready values.

        `requests` counts every call but control calls. `mints`, `leaks` and `tokens` hold the
        latest records only; the numbers beside them are totals. `at` is the clock's time without
        skew, `now` and `expires` are the sandbox's time, all in seconds since the epoch.
        """
        return {
            "now": self.now(),
            "skew": self.skew,
            "requests": self._calls.total(),
            "data_requests": self._calls["data"],
            "inspects": self._calls["inspect"],
            "lists": self._calls["list"],
            "revokes": self._calls["revoke"],
            "unauthorized": self._totals["unauthorized"],
            "over_limit": self._totals["over_limit"],
            "after_expiry": self._totals["after_expiry"],
            "after_revocation": self._totals["after_revocation"],
            "mint_calls": self._totals["mints"],
            "max_mint_calls_per_minute": max((key.window.peak for key in self._keys), default=0),
            "mints": [call.report() for call in self._mints],
            "tokens": [token.report() for token in self._tokens.values()],
            "leak_count": self._totals["leaks"],
            "leaks": [{"place": place, "path": path} for place, path in self._leaks],
        }
