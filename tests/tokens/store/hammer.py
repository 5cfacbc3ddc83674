"""A process that takes requests of a token one by one, until none is left; it tells each.

A line has what one round was granted and told the store of, and whether it was permitted a creation
call.
"""

import asyncio
import sys
from pathlib import Path

from proxy.tokens.store.base import Ending, Order, Permit, Tally
from proxy.tokens.store.sqlite import SqliteStore

CLIENT = "client"
DAY = 20_000


async def hammer(path: Path, token_id: str) -> None:
    store = SqliteStore(path, "shelf")
    await store.open()
    while granted := (await store.grant(token_id, 1)).count:
        await store.tally(DAY, {CLIENT: Tally(granted)})
        permit = await store.permit(Order(1, 1, 1.0))
        if isinstance(permit, Permit):
            await store.end(permit, Ending())
        sys.stdout.write(f"{granted} {int(isinstance(permit, Permit))}\n")
        sys.stdout.flush()
    await store.close()


if __name__ == "__main__":
    asyncio.run(hammer(Path(sys.argv[1]), sys.argv[2]))
