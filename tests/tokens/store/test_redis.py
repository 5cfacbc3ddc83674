"""The store on a real Redis server: what only that can do wrong, beside what every store can."""

import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from harness import KEY, until
from proxy.tokens.model import Secret
from proxy.tokens.store.base import (
    COMMON,
    DAY_SECONDS,
    SHARER_SECONDS,
    Ending,
    Granted,
    Order,
    Permit,
    Report,
    Roll,
    Shelved,
    Store,
    StoreError,
    Tally,
    Wait,
)
from proxy.tokens.store.redis import ENROL_SECONDS, KEEP_SECONDS, RedisStore, no_skew
from proxy.tokens.store.seal import Seal
from redis_server import RedisServer, running_redis
from wire import Far

BOUND_SECONDS = 2.5
"""A call takes no longer, whatever the server does: a second to connect, and one to answer."""
DAY = 20_000
ORDER = Order(count=2, limit=5000, lifetime=3600.0)
TALLIES = f"mobula-proxy:{{{COMMON}}}:tallies:{DAY}".encode()
"""The key of a day."""


@contextlib.asynccontextmanager
async def opened(
    url: str, shelf: str = "", skew: Callable[[], float] = no_skew
) -> AsyncIterator[RedisStore]:
    """One process's view of a shelf, by default of one that no other test uses."""
    store = RedisStore(url, shelf or uuid.uuid4().hex, skew=skew)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(redis_server.url) as store:
        yield store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop."""
    with running_redis(tmp_path / "redis") as server:
        yield server


def token(name: str = "t", free: int = 100, **fields: Any) -> Shelved:
    given: dict[str, Any] = {
        "sealed": b"\x00\xff sealed",
        "key": "print",
        "age": 0.0,
        "lives": 3600.0,
    }
    given |= {"limit": 5000, "generation": 0, "revocable": True} | fields
    return Shelved(id=name, free=free, **given)


async def refusal(call: Any) -> str:
    """Return why a call failed, which it must within the bound."""
    before = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await call
    assert time.monotonic() - before < BOUND_SECONDS
    return str(caught.value)


async def test_none_of_5000_requests_is_granted_twice_to_eight_at_once(
    redis_server: RedisServer,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        shelf = uuid.uuid4().hex
        stores = [
            await stack.enter_async_context(opened(redis_server.url, shelf)) for _ in range(8)
        ]
        await stores[0].add([token(free=5000)])

        async def all_it_gets(store: Store) -> int:
            total = 0
            while (granted := await store.grant("t", 9)).count:
                total += granted.count
            return total

        totals = await asyncio.gather(*map(all_it_gets, stores))
        assert sum(totals) == 5000
        assert all(totals)


# --- Epochs --------------------------------------------------------------------------------------


async def restarted(server: RedisServer) -> None:
    """Restart it while this loop goes on, and so sees that its connections have ended."""
    await asyncio.to_thread(server.restart)


async def fleet_has_tokens(store: Store) -> Roll:
    await store.add([token("a"), token("b")])
    await store.grant("a", 60)
    await store.retire("b")
    return await store.attend(Report(rate=3.0, holds=frozenset("a")))


async def begins_anew(store: Store, before: Roll) -> None:
    """Nothing is granted of what was, and only the calls that are held back may be made."""
    assert await store.grant("a", 1) == Granted(0, 0)
    assert await store.load() == []
    roll = await store.attend(Report(rate=1.0))
    assert roll.epoch != before.epoch
    assert (roll.permits, roll.right, roll.sharers) == (1, False, 1)
    assert isinstance(await store.permit(ORDER), Permit)
    wait = await store.permit(ORDER)
    assert isinstance(wait, Wait)


async def test_a_server_that_comes_back_empty_begins_an_epoch(server: RedisServer) -> None:
    async with opened(server.url) as store:
        before = await fleet_has_tokens(store)
        await restarted(server)
        await begins_anew(store, before)


async def test_a_server_that_was_emptied_begins_an_epoch(server: RedisServer) -> None:
    async with opened(server.url) as store:
        before = await fleet_has_tokens(store)
        server.ask("FLUSHALL")
        await begins_anew(store, before)


async def test_nothing_is_granted_from_an_old_snapshot(server: RedisServer) -> None:
    async with opened(server.url) as store:
        before = await fleet_has_tokens(store)
        server.ask("SAVE")
        await store.grant("a", 40)
        await restarted(server)
        assert server.ask("DBSIZE") > 2  # it did come back with what it had saved
        await begins_anew(store, before)


async def test_nothing_is_granted_after_a_failover_there_and_back(
    server: RedisServer, tmp_path: Path
) -> None:
    """The first server then runs as it ran, and knows its own shelf, but with the other's data."""
    with running_redis(tmp_path / "other") as other:
        async with opened(server.url) as store:
            before = await fleet_has_tokens(store)
            await follows(other, server)
            other.ask("REPLICAOF", "NO", "ONE")
            await store.grant("a", 40)
            await follows(server, other)
            server.ask("REPLICAOF", "NO", "ONE")
            await begins_anew(store, before)


async def follows(server: RedisServer, master: RedisServer) -> None:
    """Have a server take another's data, and return when it has."""
    server.ask("REPLICAOF", "127.0.0.1", master.port)
    await until(lambda: server.ask("INFO", "replication")["master_link_status"] == "up", 10.0)


async def test_a_call_of_an_old_epoch_ends_none_of_a_new_one(server: RedisServer) -> None:
    async with opened(server.url) as store:
        old = await store.permit(ORDER)
        assert isinstance(old, Permit)
        server.ask("FLUSHALL")
        assert isinstance(await store.permit(ORDER), Permit)
        await store.end(old, Ending())
        assert (await store.attend(Report(rate=1.0))).minting


async def test_tallies_go_on_from_what_is_known_when_a_server_comes_back_empty(
    server: RedisServer,
) -> None:
    async with opened(server.url) as store:
        assert await store.tally(DAY, {"client": Tally(5)}) == {"client": 5}
        await restarted(server)
        assert await store.tally(DAY, {"client": Tally(1, known=5)}) == {"client": 6}


# --- Outages -------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there(server: RedisServer) -> None:
    server.kill()
    store = RedisStore(server.url, "shelf")
    assert await refusal(store.open()) == "the store cannot be reached"
    await store.close()


async def test_a_server_that_hangs_is_given_up_in_time_and_used_again(server: RedisServer) -> None:
    async with opened(server.url) as store:
        before = await fleet_has_tokens(store)
        await is_sent_once(store, server)
        assert (await store.attend(Report(rate=1.0))).epoch == before.epoch


async def test_what_is_told_again_for_want_of_an_answer_counts_twice_and_never_not_at_all(
    server: RedisServer,
) -> None:
    told = {"client": Tally(5)}
    async with opened(server.url) as store:
        await store.tally(DAY, told)
        server.freeze()
        assert await refusal(store.tally(DAY, told)) == "the store gave no answer in time"
        server.thaw()
        assert await store.tally(DAY, told) == {"client": 15}


async def test_a_server_that_does_not_even_accept(far: Far) -> None:
    far.stall()
    store = RedisStore(f"redis://{far.authority}", "shelf")
    assert await refusal(store.open()) == "the store gave no answer in time"
    await store.close()


async def test_a_server_without_memory_changes_nothing(server: RedisServer) -> None:
    shelf, passed = uuid.uuid4().hex, 0.0
    async with opened(server.url, shelf, lambda: passed) as store:
        await everything(store)
        await fleet_has_tokens(store)
        server.ask("CONFIG", "SET", "maxmemory", 1)
        before = contents(server, shelf)
        passed = SHARER_SECONDS
        calls: list[Coroutine[Any, Any, object]] = [
            store.attend(Report(rate=1.0)),
            store.add([token("d")]),
            store.grant("b", 1),
            store.retire("a"),
            store.remove("a"),
            store.report("a"),
            store.observe("a", 1, 0),
            store.permit(ORDER),
            store.end(Permit(1), Ending(sent=False)),
            store.leave({"a": 1}),
            store.tally(DAY, {"client": Tally(1), "other": Tally(1)}),
        ]
        for call in calls:
            assert await refusal(call) == "the store is out of memory"
        assert contents(server, shelf) == before


def contents(server: RedisServer, shelf: str) -> dict[bytes, bytes]:
    """What lies in the keys of a shelf, and in those of the tallies."""
    keys = [*server.ask("KEYS", f"*{shelf}*"), TALLIES]
    return {key: server.ask("DUMP", key) for key in keys}


async def test_a_call_that_was_given_up_leaves_no_answer_for_the_next(store: RedisStore) -> None:
    await store.add([token(free=5000)])
    for _ in range(50):
        call = asyncio.create_task(store.load())
        await asyncio.sleep(0)
        call.cancel()
        assert (await store.grant("t", 1)).count == 1


async def test_a_call_that_the_connection_breaks_off_is_not_made_again(far: Far) -> None:
    store = RedisStore(f"redis://{far.authority}", "shelf")
    call = asyncio.create_task(refusal(store.grant("t", 1)))
    wire = await far.wire()
    assert b"EVALSHA" in await wire.some()
    wire.drop()
    assert await call == "the store cannot be reached"
    assert far.unseen == 0
    await store.close()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("WRONGPASS invalid username-password pair", "the store refused the password"),
        ("NOAUTH Authentication required.", "the store asks for a password"),
        ("LOADING Redis is loading the dataset in memory", "the store is still loading its data"),
        ("READONLY You can't write against a read only replica.", "the store is a replica"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "the store is out of memory"),
        ("NOREPLICAS Not enough good replicas to write.", "the store misses replicas"),
        ("MISCONF Redis is configured to save RDB snapshots", "the store cannot save its data"),
        ("ERR max number of clients reached", "the store has too many clients"),
        ("CLUSTERDOWN Hash slot not served", "the store is a Cluster that is down"),
        ("ERR unknown command `EVALSHA`", "the store refused the call"),
    ],
)
async def test_a_refusal_is_told_in_plain_words(far: Far, said: str, text: str) -> None:
    store = RedisStore(f"redis://{far.authority}", "shelf")
    call = asyncio.create_task(refusal(store.grant("t", 1)))
    wire = await far.wire()
    await wire.some()
    wire.send(f"-{said}\r\n".encode())
    assert (await call).startswith(text)
    await store.close()


@pytest.mark.parametrize(
    "said",
    [
        *(b":1", b":x", b"+OK", b"$-1", b"*1\r\n$1\r\n\xff", b"*2\r\n:1\r\n$1\r\n2"),
        *(b"$1\r\n\xff", b"$2\r\n\x91\x01"),
    ],
)
async def test_an_answer_that_is_not_our_scripts_is_an_outage(far: Far, said: bytes) -> None:
    store = RedisStore(f"redis://{far.authority}", "shelf")
    for question in (
        store.grant("t", 1),
        store.permit(ORDER),
        store.load(),
        store.abandoned(),
        store.tally(DAY, {"client": Tally(1), "other": Tally(1)}),
    ):
        call = asyncio.create_task(refusal(question))
        wire = await far.wire()
        await wire.some()
        wire.send(said + b"\r\n")
        assert await call == "the store gave an answer that cannot be read"
        await store.close()


async def test_the_end_of_a_store_that_cannot_be_reached_is_quiet(server: RedisServer) -> None:
    async with opened(server.url):
        server.kill()


async def test_a_server_that_forgot_the_scripts_is_sent_them_again(server: RedisServer) -> None:
    async with opened(server.url) as store:
        before = await fleet_has_tokens(store)
        server.ask("SCRIPT", "FLUSH")
        assert (await store.attend(Report(rate=1.0))).epoch == before.epoch


# --- Who may come in -----------------------------------------------------------------------------


async def test_a_wrong_password(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", password="right") as server:
        where = f"127.0.0.1:{server.port}"
        async with opened(f"redis://:right@{where}/3") as store:
            assert store.place == f"redis://{where}/3"
        wrong = RedisStore(f"redis://:wrong-password@{where}", "shelf")
        assert await refusal(wrong.open()) == "the store refused the password"
        assert "wrong-password" not in repr(wrong) + repr(vars(wrong))
        await wrong.close()
        none = RedisStore(f"redis://{where}", "shelf")
        assert await refusal(none.open()) == "the store asks for a password"
        await none.close()


COMMANDS = [
    *("eval", "evalsha", "info", "time", "unlink", "pexpire"),
    *("hget", "hset", "hdel", "hexists", "hincrby", "hkeys", "hmget", "hgetall"),
    *("zadd", "zrem", "zscore", "zcard", "zrange", "zrangebyscore", "zremrangebyscore"),
    *("zlexcount", "zremrangebylex", "sadd", "srem", "sismember", "smembers"),
]
"""All that a user of the store must be allowed, on keys that begin with mobula-proxy:."""


async def test_a_user_may_be_allowed_what_is_needed_and_no_more(server: RedisServer) -> None:
    allowed = [f"+{name}" for name in COMMANDS]
    server.ask("ACL", "SETUSER", "proxy", "on", ">word", "~mobula-proxy:*", "-@all", *allowed)
    async with opened(server.url.replace("//", "//proxy:word@")) as store:
        await everything(store)


async def test_a_user_that_is_allowed_too_little(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "proxy", "on", ">word", "~other:*", "-@all", "+eval", "+evalsha")
    store = RedisStore(server.url.replace("//", "//proxy:word@"), "shelf")
    assert await refusal(store.open()) == "the store does not allow its user what is needed"
    await store.close()


async def everything(store: Store) -> None:
    """Ask for all that a store can, so that it writes all that it can write."""
    await store.add([token("a"), token("b", 10), token("c")])
    await store.grant("a", 5)
    await store.give_back("a", 2)
    await store.attend(Report(rate=3.0, holds=frozenset("ab"), inspect_every=0.0))
    await store.grant("b", 10)
    await store.attend(Report(rate=3.0, holds=frozenset("a")))
    await store.retire("c")
    await store.report("a")
    await store.observe("a", 50, 5)
    await store.report("a")
    await store.chore(0.0)
    await store.load()
    permit = await store.permit(ORDER)
    assert isinstance(permit, Permit)
    await store.end(permit, Ending(unclear=True, fault="status 503"))
    await store.settle_abandoned(permit.number)
    await store.abandoned()
    await store.rotate()
    await store.tally(DAY, {"client": Tally(1)})
    await store.leave({"a": 1})
    await store.attend(Report(rate=3.0, holds=frozenset("a")))


# --- What lies there -----------------------------------------------------------------------------


async def test_every_key_is_marked_and_expires_by_itself(server: RedisServer) -> None:
    async with opened(server.url, "f1ee7") as store:
        await everything(store)
    keys = server.ask("KEYS", "*")
    of_the_shelf = {key for key in keys if key.startswith(b"mobula-proxy:{f1ee7}:")}
    beside = {b"mobula-proxy:shelves": KEEP_SECONDS, TALLIES: DAY_SECONDS}
    assert set(keys) - of_the_shelf == beside.keys()
    assert len(of_the_shelf) == 12
    for key in keys:
        kept = beside.get(key, KEEP_SECONDS)
        assert kept - 60 < server.ask("TTL", key) <= kept, key


async def test_a_day_of_which_something_is_told_is_kept_anew(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.tally(DAY, {"client": Tally(1)})
        server.ask("EXPIRE", TALLIES, 100)
        await store.tally(DAY, {"client": Tally(1)})
        assert server.ask("TTL", TALLIES) > 100


async def test_a_day_that_is_only_asked_about_is_not_kept(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.tally(DAY, {"client": Tally(0)})
        assert not server.ask("EXISTS", TALLIES)


async def test_a_shelf_that_is_in_use_stays_known(server: RedisServer) -> None:
    passed = 0.0
    async with opened(server.url, "one", lambda: passed) as store, opened(server.url) as other:
        server.ask("DEL", "mobula-proxy:shelves")
        passed = ENROL_SECONDS
        await store.attend(Report(rate=1.0))
        assert await other.open() == 1


def test_redis_py_is_only_needed_for_this_store() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from proxy.tokens.store.redis import RedisStore\n"
        "RedisStore('redis://host', 'shelf')"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "StoreRefused: a Redis store needs redis-py; install it with" in ended.stderr


async def test_no_secret_lies_there(tmp_path: Path) -> None:
    secret, seal = "eyJ0b2tlbg.c2VjcmV0", Seal(Secret(KEY))
    with running_redis(tmp_path / "redis", "rdbcompression no") as server:
        async with opened(server.url, seal.shelf) as store:
            await everything(store)
            await store.add([token("sealed", sealed=seal.close("sealed", Secret(secret)))])
        dumps = b"".join(key + server.ask("DUMP", key) for key in server.ask("KEYS", "*"))
    assert b"sealed" in dumps
    assert secret.encode() not in dumps
    assert KEY.encode() not in dumps


# --- Several servers, and TLS --------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisServer]:
    """A Cluster of one node."""
    lines = ("cluster-enabled yes", "cluster-config-file nodes.conf")
    with running_redis(tmp_path / "node", *lines) as server:
        server.ask("CLUSTER", "ADDSLOTS", *range(16384))
        yield server


async def ready(cluster: RedisServer) -> str:
    """Return the Cluster's URL once it is up."""
    await until(lambda: b"cluster_state:ok" in cluster.ask("CLUSTER", "INFO"), 10.0)
    return f"redis+cluster://127.0.0.1:{cluster.port}"


async def is_sent_once(store: Store, server: RedisServer) -> None:
    """A call that is given up because the server hangs reaches it once, when it hangs no more."""

    def calls() -> int:
        count: int = server.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
        return count

    before = calls()
    server.freeze()
    assert await refusal(store.grant("a", 1)) == "the store gave no answer in time"
    server.thaw()
    await store.load()
    assert calls() == before + 2


async def test_a_cluster(cluster: RedisServer) -> None:
    async with opened(await ready(cluster)) as store:
        await everything(store)
        await is_sent_once(store, cluster)


async def test_a_cluster_that_is_not_there(server: RedisServer) -> None:
    server.kill()
    store = RedisStore(server.url.replace("redis:", "redis+cluster:"), "shelf")
    assert await refusal(store.open()) == "the store cannot be reached"
    await store.close()


@pytest.fixture
async def sentinel(server: RedisServer, tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A Sentinel that watches the server and its replica, and asks for a password itself."""
    lines = (
        f"sentinel monitor fleet 127.0.0.1 {server.port} 1",
        "sentinel failover-timeout fleet 2000",
    )
    folder, password = tmp_path / "sentinel", "guarded"
    with running_redis(tmp_path / "replica") as replica:
        await follows(replica, server)
        with running_redis(folder, *lines, sentinel=True, password=password) as sentinel:
            yield sentinel


async def test_a_master_that_a_sentinel_names_and_its_successor(
    server: RedisServer, sentinel: RedisServer
) -> None:
    place = f"redis+sentinel://127.0.0.1:{sentinel.port}/fleet"
    async with opened(f"{place}?sentinel_password=guarded") as store:
        assert store.place == place
        await everything(store)
        await is_sent_once(store, server)
        before = await fleet_has_tokens(store)
        sentinel.ask("SENTINEL", "SET", "fleet", "down-after-milliseconds", 200)
        server.kill()
        await answers(store)
        await begins_anew(store, before)


async def answers(store: Store) -> None:
    """Return once a call succeeds; until then each fails within its bound."""
    async with asyncio.timeout(15.0):
        while True:
            with contextlib.suppress(StoreError):
                await store.load()
                return
            await asyncio.sleep(0.01)


async def test_a_master_that_no_sentinel_knows(sentinel: RedisServer) -> None:
    where = f"127.0.0.1:{sentinel.port}"
    store = RedisStore(f"redis+sentinel://{where}/other?sentinel_password=guarded", "shelf")
    assert await refusal(store.open()) == "the store cannot be reached"
    await store.close()


@contextlib.asynccontextmanager
async def tls_in_front_of(server: RedisServer, ca: trustme.CA) -> AsyncIterator[int]:
    """A port at which the server is reached through TLS, as behind stunnel."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(carry(reader, inner[1]), carry(inner[0], writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    door = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with door:
        yield door.sockets[0].getsockname()[1]


async def test_tls_with_a_certificate_of_an_own_authority(
    server: RedisServer, tmp_path: Path
) -> None:
    ca, file = trustme.CA(), tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(file)
    async with (
        tls_in_front_of(server, ca) as port,
        opened(f"rediss://localhost:{port}?ssl_ca_certs={file}") as store,
    ):
        assert store.place == f"rediss://localhost:{port}"
        await everything(store)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_tls_with_a_certificate_that_nobody_trusts_or_of_another_host(
    server: RedisServer, tmp_path: Path, host: str
) -> None:
    ca, other, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    (other if host == "localhost" else ca).cert_pem.write_to_path(file)
    async with tls_in_front_of(server, ca) as port:
        store = RedisStore(f"rediss://{host}:{port}?ssl_ca_certs={file}", "shelf")
        said = await refusal(store.open())
        assert said == "the store has a TLS certificate that is not trusted"
        await store.close()
