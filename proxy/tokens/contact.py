"""Contact: whether the store can be reached, and what may be done while it cannot. Pure."""

import math
from collections.abc import Callable

from proxy.tokens.events import Event, StoreFound, StoreLost
from proxy.tokens.model import Reach
from proxy.tokens.store.base import RIGHT_SECONDS, Roll


class Contact:
    """Judges by what `made` and `lost` tell; an outage is told once, and again if it gets worse."""

    def __init__(
        self,
        place: str,
        *,
        private: bool,
        mints_alone: bool,
        tell: Callable[[Event], None],
        now: float,
    ) -> None:
        """A `private` store is never lost; without the others, only who `mints_alone` may mint."""
        self.reach = Reach.JOINED if private else Reach.CUT
        self.mints_alone = mints_alone
        self.complaint = ""
        """Why the store cannot be reached; empty while it can, or was not tried yet."""
        self.since = now
        """From when on it is so."""
        self._place = place
        self._tell = tell
        self._right_until = -math.inf
        self._told = Reach.JOINED

    def __repr__(self) -> str:
        return f"<Contact with {self._place}, {self.reach.value}>"

    @property
    def joined(self) -> bool:
        return self.reach is Reach.JOINED

    def made(self, roll: Roll, asked_at: float, now: float, *, emptied: bool) -> None:
        """Note that the store has answered what it was asked at `asked_at`."""
        if not self.joined:
            self._tell(StoreFound(self._place, now - self.since, roll.sharers, emptied))
            self.since, self.complaint = now, ""
        self.reach = self._told = Reach.JOINED
        self._right_until = asked_at + RIGHT_SECONDS if roll.right else -math.inf

    def lost(self, complaint: str, now: float) -> None:
        """Note that the store has not answered."""
        if self.joined:
            self.reach, self.since = Reach.CUT, now
        self.complaint = complaint
        self.check(now)

    def begin_anew(self, now: float) -> None:
        """Note that it is about another shelf from now on, where there is no right yet."""
        self.reach, self.since, self._right_until = Reach.CUT, now, -math.inf

    def check(self, now: float) -> Reach:
        """Return what may be done now: in an outage, a right runs out."""
        if not self.joined:
            may = self.mints_alone and now < self._right_until
            self.reach = Reach.LOCAL if may else Reach.CUT
            if self.complaint and self.reach is not self._told:
                self._told = self.reach
                self._tell(StoreLost(self._place, self.complaint, self.reach))
        return self.reach
