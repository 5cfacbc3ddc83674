"""The sweep: revokes what crashed or broken creation calls have left behind."""

import asyncio
from collections.abc import Callable, Sequence

from proxy.tokens.events import Event, OrphanFound
from proxy.tokens.mobula import ListError, MobulaClient, Revocation
from proxy.tokens.model import Secret
from proxy.tokens.orphans import find_orphans
from proxy.tokens.sharing import Sharing
from proxy.tokens.store.base import Abandoned

SWEEP_SECONDS = 600.0
SWEEP_AGAIN_SECONDS = 5.0
"""How soon to look again while the store cannot be reached."""


async def sweep_always(
    sharing: Sharing,
    mobula: MobulaClient,
    key: Callable[[], Secret | None],
    tell: Callable[[Event], None],
) -> None:
    """Look for orphans at start, and every SWEEP_SECONDS; `key` is asked for each time."""
    while True:
        secret = key()
        if secret is not None and (calls := await sharing.abandoned()):
            await _sweep(sharing, mobula, secret, calls, tell)
        await asyncio.sleep(SWEEP_SECONDS if sharing.contact.joined else SWEEP_AGAIN_SECONDS)


async def _sweep(
    sharing: Sharing,
    mobula: MobulaClient,
    key: Secret,
    calls: Sequence[Abandoned],
    tell: Callable[[Event], None],
) -> None:
    known = await sharing.shelved_ids()
    if known is None:
        return
    try:
        listed = await mobula.list(key)
    except ListError:
        return
    for number, token_ids in find_orphans(calls, listed, known):
        for token_id in token_ids:
            revocation = await mobula.revoke_id(token_id, key)
            tell(OrphanFound(token_id, revocation is not Revocation.UNCONFIRMED))
        await sharing.settle_abandoned(number)
