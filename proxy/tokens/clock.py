"""The steady clock of the tokens room."""

import time

_CLOCK_ID: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> float:
    """Return seconds that never jump and, where the system can tell, count while it sleeps.

    A laptop that slept for an hour must not send a token that expired meanwhile, so Linux's
    CLOCK_BOOTTIME is used rather than the loop's clock.
    """
    return time.clock_gettime(_CLOCK_ID)
