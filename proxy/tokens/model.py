"""What the tokens room is made of: values without IO, frozen, secrets that redact themselves.

All times are seconds on one steady clock, the one that the pool is handed as `now`.
"""

import hmac
from dataclasses import dataclass, field
from enum import Enum


class Secret:
    """A credential; only `reveal` shows it, and only the code that sends it may call that."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(
            self._value.encode(), other._value.encode()
        )

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Token:
    """A short-lived token as it was minted; `left` is what Mobula said remained of `limit`."""

    id: str
    secret: Secret
    key: Secret | None
    """The static key that minted it: only that one may inspect and revoke it. None if not ours."""
    minted_at: float
    expires_at: float
    limit: int
    left: int
    revocable: bool = True
    """False when the mint answer held no id, which the revoke call needs."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one request with one token, charged already; settle it exactly once."""

    serial: int
    token: Token
    cost: int


class Outcome(Enum):
    """What became of a lease."""

    USED = "used"
    """Mobula served the request, so the token was good."""
    NOT_SENT = "not_sent"
    """No byte left: the charge is taken back."""
    REJECTED = "rejected"
    """Answered 401 or 403, which may be about the token."""
    EXHAUSTED = "exhausted"
    """Mobula said that the token is used up."""
    UNKNOWN = "unknown"
    """It may have arrived: counts as used."""


class Standing(Enum):
    """What the inspect call says of a token."""

    ALIVE = "alive"
    EXHAUSTED = "exhausted"
    GONE = "gone"
    UNKNOWN = "unknown"
    """No answer, or one that says nothing about the token."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The answer of one inspect call; `remaining` is None unless Mobula gave a number."""

    standing: Standing
    remaining: int | None = None


class Reason(Enum):
    """Why another token became current."""

    FIRST = "first"
    EXPIRY = "expiry"
    EXHAUSTED = "exhausted"
    REJECTED = "rejected"
    KEY_CHANGED = "key_changed"
    REQUESTED = "requested"


class Need(Enum):
    """Why tokens are minted."""

    STOCK = "stock"
    """Fewer tokens are in hand than wanted: none yet, or some were used up, refused or replaced."""
    EXPIRY = "expiry"
    """Tokens in hand have passed two thirds of their lifetime."""
    DEMAND = "demand"
    """At the observed rate the stock would not last."""


@dataclass(frozen=True, slots=True)
class Mint:
    """Ask Mobula for `count` tokens, now; `generation` tells which key or rotation it serves."""

    count: int
    generation: int
    need: Need = field(default=Need.STOCK, compare=False)
    alone: bool = False
    """Whether it is the call a minute that is made without the store, while that is not reached."""


@dataclass(frozen=True, slots=True)
class Inspect:
    """Ask Mobula about this token."""

    token: Token


@dataclass(frozen=True, slots=True)
class Revoke:
    """Have Mobula told that this token is no longer needed.

    Others may use it still if it is `shared`: it is then to be retired.
    """

    token: Token
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """Ask the store for a share: up to `count` requests of this token."""

    token: Token
    count: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Return to the store a part of a share; the pool has let go of it already."""

    token: Token
    count: int


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `plan` again at this time, or earlier if something happens."""

    at: float


Action = Mint | Inspect | Revoke | Grant | GiveBack | WakeAt


@dataclass(frozen=True, slots=True)
class Stocked:
    """A token of the fleet's shelf, its secret opened."""

    token: Token
    free: int
    """Requests that are granted to nobody."""
    current: bool
    """False when it is to be let go of as soon as there are others."""


class Reach(Enum):
    """Whether the store can be reached, and what this process may do while it cannot."""

    JOINED = "joined"
    LOCAL = "local"
    """Not reached: it spends its shares, and may mint for itself, once a minute."""
    CUT = "cut"
    """Not reached: it spends its shares."""


@dataclass(frozen=True, slots=True)
class MintFault:
    """Why a mint call gave no token.

    `sent` is False only if the call certainly never reached Mobula. A `fatal` one (401, 402, 403)
    will not heal without a change of key or plan. `retry_after` is in seconds, as Mobula said it.
    """

    kind: str
    detail: str
    sent: bool = True
    fatal: bool = False
    retry_after: float | None = None

    @property
    def unclear(self) -> bool:
        """Whether it may have made tokens all the same: a gateway may fail after Mobula did not."""
        return self.sent and not self.kind.startswith("4") and self.kind != "redirect"


@dataclass(frozen=True, slots=True)
class TokenSnapshot:
    """One token as operators see it; `expires_in` in seconds."""

    id: str
    state: str
    left: int
    """Requests of our share."""
    free: int
    """Requests that are granted to nobody."""
    limit: int
    expires_in: float


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """The pool as operators see it; `rate` in requests a second.

    `next_mint_in` is in seconds, None if it is not for this process to mint.
    `leases` are those not settled yet; `settled` counts the others by outcome.
    """

    tokens: tuple[TokenSnapshot, ...]
    leases: int
    settled: dict[str, int]
    quarantined: int
    left: int
    rate: float
    drift: int
    minting: bool
    permits: int
    next_mint_in: float | None
    fault: MintFault | None
