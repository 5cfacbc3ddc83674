"""The store: what the proxies of one fleet know together.

A store holds the **shelf**: the fleet's tokens, their secrets sealed, and for each how many of its
requests are granted to nobody. A process takes a **share** of them and spends that without asking
anybody. The rules that every store keeps:

1. Each call is atomic, however many processes call at once. What has had its time by then, a
   token, a sharer, a right, a call, is forgotten first.
2. A request is granted once. What was granted and not given back is lost to the fleet, be it that
   its process died or that an answer never arrived: it is never granted again.
3. A retired or removed token is granted no more; what is given back to it is lost. A token of which
   all is granted is removed once no sharer holds any of it.
4. One creation call at a time, and no more than the mint budget in any 60 s, over all sharers. A
   call counts from the moment it is permitted until 60 s after it ended. One that is never said to
   have ended is taken to have ended PERMIT_SECONDS after it was permitted, and is then
   *abandoned*: it may have made tokens that nobody has. Whoever ends a call late, when it is
   somebody else's turn already, moves its place in the window and takes nobody's turn away.
5. Calls are held back for the outages of the store itself: a process that has a *right* may make
   one a minute by itself while it cannot reach the store. A right is valid for RIGHT_SECONDS after
   its holder last attended with success. The store counts it as a call a minute, until the last
   call that it allows would count no more, or 60 s after the holder left. It gives one only while
   calls and rights together stay within the budget.
6. A store that has lost what it knew begins a new *epoch*, with an empty shelf. One that can come
   back empty by itself cannot know of the calls before, so BLIND_CALLS a minute are always held
   back, which a new epoch may use at once; it permits no others, and gives no right, in its first
   60 s.
7. A process that has not attended, or been granted anything, for SHARER_SECONDS is no sharer.
8. Time is the store's own where it has a clock; nobody's wall clock is compared with another's.
   Spans are in seconds, counts in requests.

Beside the shelves lie the **tallies**: how many requests each client has made on a UTC day, over
the fleet. They outlive the shelf, and so a change of the static key: their name comes from the
store secret, and all fleets that have none share theirs.

9. A tally never falls. It grows by what processes tell, and where one of them knows of more than
   the store, which has lost it then, by that.
10. What a process got no answer for it tells again: that may count more than once, and never not
    at all, since a limit is a promise to whoever pays.
11. A day is what its teller takes it for. It is forgotten DAY_SECONDS after it last grew, when it
    is neither today nor yesterday: so one process with a wrong wall clock counts for itself, and
    takes nothing from the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, Self

from proxy.tokens.budget import WINDOW
from proxy.tokens.model import MintFault

PERMIT_SECONDS = 8.0
"""How long a creation call may take: longer than the client that makes it waits."""
NUMBER_BITS = 48
"""Size of the random number that an epoch counts its permits from, so that no two epochs meet."""
RIGHTS = 2
"""Processes that may mint by themselves in an outage of the store."""
RIGHT_SECONDS = 3600.0
"""How long a right is valid after its holder was last seen."""
RIGHT_COUNTS = RIGHT_SECONDS + PERMIT_SECONDS + WINDOW
"""How long it counts: its last call may begin at its end, and counts for WINDOW once it ended."""
BLIND_CALLS = 1
"""Creation calls a minute that are held back for a store that has lost its memory."""
SHARER_SECONDS = 15.0
"""How long after it last attended a process counts as a sharer, and what it holds as in use."""
CHORE_SECONDS = 15.0
"""How long a chore is left to the process that took it; then another one may."""
DAY_SECONDS = 48 * 3600.0
"""How long the tallies of a day are kept after one of them last grew."""
COMMON = "common"
"""What the tallies of those are called that have no store secret."""
CLIENTS_A_CALL = 1000
"""Of how many clients one call may tell, so that it does not keep the others waiting for long."""


class StoreError(Exception):
    """The store cannot be reached, or gave no answer in time; what was asked may be done or not.

    The text names no secret: clients may see it.
    """


class StoreRefused(StoreError):  # noqa: N818 - a refusal is an answer as much as an error
    """The store must not be used as it is; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """A token as the store has it."""

    id: str
    sealed: bytes = field(repr=False)
    """The secret, as only `Seal.open` can read it."""
    key: str
    """Fingerprint of the static key that minted it."""
    age: float
    """Since it was minted."""
    lives: float
    """Until it expires."""
    limit: int
    free: int
    """Requests that are granted to nobody."""
    generation: int
    revocable: bool
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a process tells of itself each time it attends."""

    rate: float
    """Requests a second that it spends."""
    holds: frozenset[str] = frozenset()
    """Ids of the tokens that it has a share of, or requests under way with."""
    wants_right: bool = True
    """Whether it would mint by itself in an outage."""
    inspect_every: float = math.inf
    """After how many seconds a token should be inspected again."""


@dataclass(frozen=True, slots=True)
class Roll:
    """What a process learns each time it attends."""

    epoch: str
    generation: int
    """How often the fleet's tokens were replaced; older ones are to be let go of."""
    version: int
    """Changes whenever tokens were added, retired or removed: then it is time to `load`."""
    sharers: int
    """Processes that share this shelf, this one included."""
    rate: float
    """Requests a second of all sharers, as they reported."""
    free: Mapping[str, int]
    """For each token that may be granted, the requests that are granted to nobody; may be 0."""
    reported: frozenset[str]
    """Ids of the tokens that somebody was refused with, and that nobody has inspected since."""
    permits: int
    """Creation calls that the budget allows now."""
    next_permit_in: float
    """Until a call may be permitted again; 0 when one may be now."""
    minting: bool
    """Whether a permitted call has not ended."""
    blind: bool
    """Whether the epoch is so young that one call must do for its first 60 s."""
    fault: str
    """Why the fleet's last creation call gave no token; empty if it gave some, or none was made."""
    right: bool
    """Whether this process may mint by itself in an outage, once a minute, for RIGHT_SECONDS."""
    chores: int
    """How many chores are due that nobody has taken; they need the static key."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a creation call asks for."""

    count: int
    limit: int
    lifetime: float


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one creation call within PERMIT_SECONDS.

    No two have the same number, in no two epochs: one that ends late must not end another.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Wait:
    """No leave now; it is worth asking again after `seconds`."""

    seconds: float
    minting: bool
    """True when that is because another process mints."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a permitted creation call ended."""

    sent: bool = True
    """False if it certainly never reached Mobula: it then does not count."""
    unclear: bool = False
    """True if it may have made tokens that nobody has: it is then abandoned."""
    closed_for: float = 0.0
    """For how long from now nobody should try again."""
    fault: str = ""
    """Why it gave no token; empty if it gave some."""

    @classmethod
    def of_failure(cls, fault: MintFault, closed_for: float) -> Self:
        return cls(fault.sent, fault.unclear, closed_for, fault.detail)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a process was granted, maybe 0, and what is left for others."""

    count: int
    free: int


class Task(Enum):
    """What a chore is."""

    INSPECT = "inspect"
    """Somebody was refused with it, or it has not been inspected for a while."""
    REVOKE = "revoke"
    """It is retired, and no sharer holds it any more."""


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do for the fleet, which needs the static key; it is this process's now."""

    task: Task
    token: Shelved


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A creation call that nobody said the end of: its tokens are nobody's, if it made any."""

    number: int
    order: Order
    ago: float
    """Since it was permitted."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What a process tells of one client's day."""

    spent: int
    """Requests that it has not told of yet; 0 to ask only."""
    known: int = 0
    """What it was last answered; a store that has forgotten that goes on from there."""


class Store(Protocol):
    """A shelf and tallies, as one process uses them. All calls raise StoreError; see the rules."""

    place: str
    """Where it is, without secrets, for people."""
    private: bool
    """Whether no other process can share it, and it is forgotten with this one."""

    async def open(self) -> int:
        """Connect. Return how many shelves sealed with other secrets lie beside this one."""
        ...

    async def close(self) -> None:
        """Let go of what `open` took; never raises."""
        ...

    async def attend(self, report: Report) -> Roll:
        """Tell that this process lives, and learn how things are."""
        ...

    async def load(self) -> list[Shelved]:
        """Return every token that has not expired, by expiry, then id; retired ones too."""
        ...

    async def add(self, tokens: Sequence[Shelved]) -> None:
        """Put new tokens on the shelf; one that is there already stays as it is.

        `free` is what the caller does not keep for itself. `age` and `lives` are as of the call.
        """
        ...

    async def grant(self, token_id: str, count: int) -> Granted:
        """Take up to `count` requests of a token; this process is then taken to hold it."""
        ...

    async def give_back(self, token_id: str, count: int) -> None:
        """Return granted requests that were not spent and never will be."""
        ...

    async def retire(self, token_id: str) -> None:
        """Have a token granted no more; it is revoked once no sharer holds it."""
        ...

    async def remove(self, token_id: str) -> None:
        """Forget a token: it is revoked, used up, or unknown to Mobula."""
        ...

    async def report(self, token_id: str) -> None:
        """Ask for an inspect: Mobula refused a request with this token."""
        ...

    async def observe(self, token_id: str, remaining: int | None, mine: int) -> None:
        """Note that Mobula called a token alive.

        Where it said what remains, `free` is lowered to that less `mine`, which this process holds.
        """
        ...

    async def chore(self, inspect_every: float) -> Chore | None:
        """Take a chore that is due and that nobody has taken, the most urgent one first.

        That is an inspect that somebody asked for, then a revoke, then any other inspect; among
        these the token that expires first, then by id.
        """
        ...

    async def permit(self, order: Order) -> Permit | Wait:
        """Ask for leave to make a creation call."""
        ...

    async def end(self, permit: Permit, ending: Ending) -> None:
        """Say that a permitted call has ended."""
        ...

    async def abandoned(self) -> list[Abandoned]:
        """Return the calls abandoned so far whose tokens might still live."""
        ...

    async def settle_abandoned(self, number: int) -> None:
        """Forget an abandoned call: what it made was dealt with."""
        ...

    async def rotate(self) -> int:
        """Have every token on the shelf replaced: begin a generation, and return it."""
        ...

    async def leave(self, shares: Mapping[str, int]) -> bool:
        """Give back these shares, by token id, and a right; tell whether no sharer is left."""
        ...

    async def tally(self, day: int, told: Mapping[str, Tally]) -> dict[str, int]:
        """Tell what clients have spent on a day, and return the fleet's tallies of these clients.

        `day` counts UTC days since 1970. At most CLIENTS_A_CALL clients, by their names, and one at
        least.
        """
        ...
