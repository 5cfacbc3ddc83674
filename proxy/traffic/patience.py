"""How long a client may keep the proxy waiting. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Patience:
    """Runs out at `seconds` of waiting, and later by as much as what has come takes at `rate`.

    So a client that is slow but moves is borne with, and one that sends a byte now and then, to
    hold what it holds, is not. `rate` is in bytes a second; only time spent waiting counts.
    """

    seconds: float
    rate: float
    moved: int = 0
    """Bytes that the client has sent or taken so far."""
    waited: float = 0.0
    """Seconds waited for it so far."""

    @property
    def left(self) -> float:
        """Seconds that the next wait may take: never more than `seconds`, 0 or less if none."""
        return min(self.seconds, self.seconds + self.moved / self.rate - self.waited)
