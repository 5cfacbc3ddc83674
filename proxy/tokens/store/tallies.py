"""The tallies: what `base` rules of them, pure and handed its clock.

`days` is all that is known of them, in plain values, as it is written down; it is the format of
what stores have written, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.tokens.clock import steady
from proxy.tokens.store.base import DAY_SECONDS, Tally


@dataclass(slots=True)
class Day:
    grew_at: float
    counts: dict[str, int] = field(default_factory=dict)
    """By client; those that never made a request are not in it."""


class Tallies:
    """The tallies of a fleet; `days`, by their numbers, are those so far."""

    def __init__(
        self, clock: Callable[[], float] = steady, days: dict[int, Day] | None = None
    ) -> None:
        self._clock = clock
        self.days = {} if days is None else days

    def __repr__(self) -> str:
        return f"<Tallies of {len(self.days)} days>"

    def tell(self, number: int, told: Mapping[str, Tally]) -> dict[str, int]:
        now = self._now()
        day = self.days.get(number) or Day(now)
        before = day.counts
        counts = {
            name: max(before.get(name, 0), each.known) + each.spent for name, each in told.items()
        }
        grown = {name: count for name, count in counts.items() if count > before.get(name, 0)}
        if grown:
            day.counts |= grown
            day.grew_at = now
            self.days[number] = day
        return counts

    def date_anew(self) -> None:
        """Take all days to have grown just now: they were dated by another clock."""
        for day in self.days.values():
            day.grew_at = self._clock()

    def _now(self) -> float:
        """Read the clock, and forget what has had its time."""
        now = self._clock()
        for number in [n for n, day in self.days.items() if day.grew_at + DAY_SECONDS <= now]:
            del self.days[number]
        return now
