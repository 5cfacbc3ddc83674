"""What happens to tokens, said once; logs and metrics subscribe."""

from dataclasses import dataclass

from proxy.tokens.model import MintFault, Need, Reach, Reason, Standing


@dataclass(frozen=True, slots=True)
class Minted:
    """One creation call gave `count` tokens; `unreadable` says what else the answer held."""

    count: int
    need: Need
    seconds: float
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MintFailed:
    """One creation call gave no token; the next may start in `retry_in` seconds, or none may."""

    fault: MintFault
    retry_in: float | None
    covered: bool
    """Whether a usable token is still in hand."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """Another token became current."""

    token_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A token is never leased again before its time."""

    token_id: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Drifted:
    """Mobula counts `requests` more than we do on this token; its word was taken."""

    token_id: str
    requests: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revoke call ended; `ok` tells whether Mobula confirmed it."""

    token_id: str
    ok: bool


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """The static key's source holds another key; tokens of the old one are being replaced."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class KeyUnreadable:
    """The static key's source became unreadable or bad; the last good key stays in use."""

    detail: str


@dataclass(frozen=True, slots=True)
class StoreLost:
    """The store at `place` cannot be reached; `reach` tells what may be done meanwhile."""

    place: str
    detail: str
    reach: Reach


@dataclass(frozen=True, slots=True)
class StoreFound:
    """The store answers, for the first time or after `seconds` in which it did not."""

    place: str
    seconds: float
    sharers: int
    emptied: bool
    """Whether it has forgotten what was on its shelf."""


@dataclass(frozen=True, slots=True)
class StrangeShelves:
    """The store holds `count` shelves that were sealed with other secrets, and none with ours."""

    place: str
    count: int


@dataclass(frozen=True, slots=True)
class Unsealable:
    """What the store holds as a token's secret was not sealed by us for that token."""

    token_id: str


@dataclass(frozen=True, slots=True)
class OrphanFound:
    """A token that an earlier crash left behind; `revoked` tells whether Mobula confirmed."""

    token_id: str
    revoked: bool


Event = (
    Minted
    | MintFailed
    | Rotated
    | Quarantined
    | Drifted
    | Revoked
    | KeyChanged
    | KeyUnreadable
    | StoreLost
    | StoreFound
    | StrangeShelves
    | Unsealable
    | OrphanFound
)
