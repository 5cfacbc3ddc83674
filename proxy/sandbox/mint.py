"""Mints: what one asks for, and how many a static key may make. Pure.

Source: Mobula's page on short-lived tokens, "Create API tokens".
"""

import re
from collections import deque
from dataclasses import dataclass
from math import ceil

from proxy.sandbox.answer import MalformedError, parse_object, refuse_unknown

PLANS = frozenset({"startup", "growth", "enterprise"})
BUDGET = 5
WINDOW = 60.0

_DEFAULTS: dict[str, object] = {"expiresIn": 3_600_000, "count": 1, "requestLimit": "5000"}
_MAX_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class MintOrder:
    """What one mint asks for: `count` tokens of `lifetime` seconds and `limit` requests each."""

    lifetime: float
    count: int
    limit: int

    @classmethod
    def parse(cls, body: bytes) -> "MintOrder":
        """Return the order in a JSON `body`; MalformedError names the field and the rule broken."""
        fields = parse_object(body)
        refuse_unknown(fields, _DEFAULTS)
        if not fields:
            raise MalformedError(f"at least one of {', '.join(_DEFAULTS)} must be given")
        complete = _DEFAULTS | fields
        return cls(
            lifetime=_lifetime(complete["expiresIn"]),
            count=_count(complete["count"]),
            limit=_limit(complete["requestLimit"]),
        )


def _lifetime(value: object) -> float:
    if not isinstance(value, int | float) or not 60_000 <= value <= 86_400_000:
        raise MalformedError("expiresIn must be a number of milliseconds from 60000 to 86400000")
    return value / 1000


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 25:
        raise MalformedError("count must be a whole number from 1 to 25")
    return value


def _limit(value: object) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and re.fullmatch("[1-9][0-9]{0,6}", text) and int(text) <= _MAX_LIMIT:
        return int(text)
    raise MalformedError(f"requestLimit must be a positive integer up to {_MAX_LIMIT}, as text")


class MintWindow:
    """The mints of one static key in a sliding window of 60 seconds.

    Every mint counts, refused ones too, so that a client which hammers stays refused. `peak` is
    the most that came within any window so far.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._times: deque[float] = deque(maxlen=1000)

    def __repr__(self) -> str:
        return f"<MintWindow {len(self._times)} of {BUDGET}, peak {self.peak}>"

    def count(self, now: float) -> int:
        """Count a mint that came `now`. Return 0 if it may go on, else the seconds to wait."""
        while self._times and now - self._times[0] >= WINDOW:
            self._times.popleft()
        self._times.append(now)
        self.peak = max(self.peak, len(self._times))
        if len(self._times) <= BUDGET:
            return 0
        return max(1, ceil(self._times[-BUDGET] + WINDOW - now))
