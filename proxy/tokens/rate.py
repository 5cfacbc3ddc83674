"""How fast requests come. Pure."""

import math

MEMORY = 20.0
"""Seconds over which a past rate is forgotten."""
SPAN = 0.05
"""Seconds over which a rate is measured, unless it is said otherwise."""


class RateMeter:
    """Follows the rate of what is counted: up at once, down over MEMORY."""

    def __init__(self, span: float = SPAN) -> None:
        """A rate is measured over `span` seconds at the least."""
        self.total = 0
        """What was counted so far."""
        self.rate = 0.0
        """A second, as last measured."""
        self._span = span
        self._at = -math.inf
        self._seen = 0

    def measure(self, now: float) -> None:
        """Take a reading, unless the last one was moments ago."""
        if self._at == -math.inf:
            self._at, self._seen = now, self.total
        elif now - self._at >= self._span:
            seen = max(0.0, (self.total - self._seen) / (now - self._at))
            weight = 1.0 if seen > self.rate else 1.0 - math.exp((self._at - now) / MEMORY)
            self.rate += (seen - self.rate) * weight
            self._at, self._seen = now, self.total
