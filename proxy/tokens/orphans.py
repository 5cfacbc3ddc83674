"""Orphans: tokens that a creation call made, and that nobody took in because it broke or crashed.

Mobula's list does not tell who made a token, and others may use the same static key. So a token is
only taken for an orphan if it was asked for like this, was made while the call was under way, has
not been used since, and is on no shelf. Pure.
"""

from collections.abc import Collection, Iterator, Sequence

from proxy.tokens.mobula import TIMEOUT_SECONDS, Listed
from proxy.tokens.store.base import Abandoned

SETTLED_SECONDS = 60.0
"""How long after its permit a call may still be taken in by the process that made it."""
SLACK_SECONDS = 2.0
"""Mobula tells the time in whole seconds, and the answer took its time to come."""


def find_orphans(
    calls: Sequence[Abandoned], listed: Sequence[Listed], known: Collection[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each call that can be judged, with the ids of its orphans."""
    taken = set(known)
    for call in calls:
        if call.ago < SETTLED_SECONDS:
            continue
        found = [each.id for each in listed if each.id not in taken and _fits(each, call)]
        orphans = found[: call.order.count]
        taken.update(orphans)
        yield call.number, orphans


def _fits(token: Listed, call: Abandoned) -> bool:
    if token.expires_in is None or not token.limit == token.remaining == call.order.limit:
        return False
    made_after_permit = token.expires_in - (call.order.lifetime - call.ago)
    return -SLACK_SECONDS <= made_after_permit <= TIMEOUT_SECONDS + SLACK_SECONDS
