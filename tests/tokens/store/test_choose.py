"""Which store a URL names, and what is imported for it."""

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.config import StoreUrl
from proxy.tokens.model import Secret
from proxy.tokens.store.base import Store, Tally
from proxy.tokens.store.choose import make_store
from proxy.tokens.store.memory import MemoryStore
from proxy.tokens.store.redis import RedisStore
from proxy.tokens.store.sqlite import SqliteStore

SECRET, OTHER = (
    Secret("a-store-secret-of-32-characters!"),
    Secret("another-one-of-as-many-of-them!!"),
)


@contextlib.asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("url", "kind", "place"),
    [
        ("memory://", MemoryStore, "memory"),
        ("sqlite:////var/lib/x.db", SqliteStore, "sqlite file /var/lib/x.db"),
        ("sqlite:///x.db", SqliteStore, "sqlite file x.db"),
        ("redis://:pass@redis", RedisStore, "redis://redis:6379"),
    ],
)
def test_a_url_names_a_store_that_tells_where_it_is(url: str, kind: type, place: str) -> None:
    store = make_store(StoreUrl.parse(url), "shelf")
    assert (type(store), store.place) == (kind, place)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [(None, None, True), (SECRET, SECRET, True), (SECRET, None, False), (SECRET, OTHER, False)],
)
async def test_those_with_one_store_secret_or_none_count_together_on_whatever_shelf(
    tmp_path: Path, one: Secret | None, other: Secret | None, together: bool
) -> None:
    url = StoreUrl.parse(f"sqlite:///{tmp_path}/folder/store.db")
    async with (
        opened(make_store(url, "shelf of a key", secret=one)) as before,
        opened(make_store(url, "shelf of the next key", secret=other)) as after,
    ):
        await before.tally(20_000, {"client": Tally(5)})
        tallies = await after.tally(20_000, {"client": Tally(7)})
    assert tallies == {"client": 12 if together else 7}


def test_only_the_store_that_is_used_is_imported() -> None:
    code = (
        "import sys; from proxy.config import StoreUrl; "
        "from proxy.tokens.store.choose import make_store; "
        "make_store(StoreUrl.parse('memory://'), 'shelf'); "
        "print({'sqlite3', 'redis'} & {*sys.modules})"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert printed.stdout == "set()\n"
