"""Which store a URL names, and its seal. Only what is used is imported: it takes memory.

Redis is an extra besides.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config import StoreUrl
from proxy.tokens.clock import steady
from proxy.tokens.model import Secret
from proxy.tokens.store.base import COMMON, Store
from proxy.tokens.store.memory import MemoryStore

if TYPE_CHECKING:
    from proxy.tokens.store.seal import Seal


def make_store(
    url: StoreUrl,
    shelf: str,
    clock: Callable[[], float] = steady,
    *,
    secret: Secret | None = None,
) -> Store:
    """Return the store at `url`, not open yet, for the shelf of that name.

    Its tallies are those of all who share the store `secret`, or who have none: they outlive the
    static key, which the shelf may be named by. `clock` is for stores that have none of their own.
    Raises StoreError where it cannot be had on this machine at all.
    """
    if url.in_memory:
        return MemoryStore(clock=clock)
    tallies = make_seal(secret).shelf if secret else COMMON
    if url.file is not None:
        from proxy.tokens.store.sqlite import SqliteStore  # noqa: PLC0415 - most have no file

        return SqliteStore(Path(url.file), shelf, clock=clock, tallies=tallies)
    from proxy.tokens.store.redis import RedisStore  # noqa: PLC0415 - an extra

    return RedisStore(url.reveal(), shelf, tallies=tallies)


def make_seal(secret: Secret) -> "Seal":
    """Return the seal of those who share this secret."""
    from proxy.tokens.store.seal import Seal  # noqa: PLC0415 - nothing is sealed in memory

    return Seal(secret)
