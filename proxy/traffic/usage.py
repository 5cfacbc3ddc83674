"""What each client has used of its limits. Pure, synchronous, `now` passed in.

- A second's worth of requests is a bucket: it holds one second of them, one at least, fills at the
  client's rate, and each request takes one out. Each process has its own.
- A day is a day of UTC. What a process counts it tells the others now and then, and learns what
  they counted (`untold`, `told`); between two such times each goes by what it knows. So a fleet may
  go over a limit by what it serves in that time.
- A request that is refused for one of its limits counts for neither.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.errors import ClientQuotaUsedUp, ClientRateLimited
from proxy.tokens.store.base import Tally
from proxy.traffic.clients import Client

DAY_SECONDS = 86400


@dataclass(slots=True)
class _Bucket:
    left: float
    filled_at: float


@dataclass(slots=True)
class _Day:
    """What is known of a client's requests of one day."""

    fleet: int = 0
    """What all have counted, as the store last told."""
    own: int = 0
    """What we have counted since."""
    telling: int = 0
    """What of that the store is being told."""

    @property
    def total(self) -> int:
        return self.fleet + self.own


class Usage:
    """Counts for the clients that have limits, and refuses what goes beyond."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._days: dict[str, _Day] = {}
        self._day = 0

    def __repr__(self) -> str:
        return f"<Usage day {self._day}, {len(self._days)} clients>"

    def charge(self, client: Client, now: float, wall: float) -> None:
        """Count one request. Raises ClientRateLimited and ClientQuotaUsedUp.

        `now` is of a steady clock, `wall` seconds since 1970.
        """
        day = self._of_day(client, wall) if client.a_day is not None else None
        if day is not None and client.a_day is not None and day.total >= client.a_day:
            raise ClientQuotaUsedUp(
                f"Client {client.name} may send {client.a_day} requests a day (UTC).",
                retry_after=math.ceil(DAY_SECONDS - wall % DAY_SECONDS),
            )
        if client.rate is not None:
            self._take(client.name, client.rate, now)
        if day is not None:
            day.own += 1

    def _take(self, name: str, rate: float, now: float) -> None:
        size = max(rate, 1.0)
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(size, now)
        bucket.left = min(bucket.left + (now - bucket.filled_at) * rate, size)
        bucket.filled_at = now
        if bucket.left < 1.0:
            raise ClientRateLimited(
                f"Client {name} may send {rate:g} requests a second.",
                retry_after=math.ceil((1.0 - bucket.left) / rate),
            )
        bucket.left -= 1.0

    def _of_day(self, client: Client, wall: float) -> _Day:
        self._turn(wall)
        return self._days.setdefault(client.name, _Day())

    def _turn(self, wall: float) -> None:
        """Begin a new day if it is time; what is not told of the old one by then nobody needs."""
        day = int(wall // DAY_SECONDS)
        if day != self._day:
            self._day, self._days = day, {}

    # What the fleet knows

    def untold(self, wall: float) -> tuple[int, dict[str, Tally]]:
        """Return the number of the day, and what is to be told of it, by client."""
        self._turn(wall)
        told = {name: each for name, each in self._days.items() if each.own}
        for each in told.values():
            each.telling = each.own
        return self._day, {name: Tally(each.own, each.fleet) for name, each in told.items()}

    def told(self, day: int, counts: Mapping[str, int]) -> None:
        """Take in the fleet's counts of that day; who is missing is told of again."""
        if day != self._day:
            return
        for name, count in counts.items():
            if (known := self._days.get(name)) is not None:
                known.fleet = count
                known.own -= known.telling
                known.telling = 0
