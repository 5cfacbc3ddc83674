"""Which store a URL names, and what is imported for it."""

import subprocess
import sys

import pytest

from proxy.config import StoreUrl
from proxy.tokens.store.choose import make_store
from proxy.tokens.store.memory import MemoryStore
from proxy.tokens.store.redis import RedisStore
from proxy.tokens.store.sqlite import SqliteStore


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
