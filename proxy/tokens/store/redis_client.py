"""The connection to a Redis server, through redis-py: never a second try, and errors for people.

redis-py would send a command again whose answer did not arrive, in several places; here none may
be: it would grant, or give back, twice. Only `EVALSHA` is followed by `EVAL`, after the server said
that it ran nothing.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any

from redis import exceptions
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from proxy.settings.redis_url import RedisUrl
from proxy.tokens.store.base import StoreError

STEP_SECONDS = 1.0
"""How long connecting may take, and how long an answer."""
CALL_SECONDS = 3.0
"""How long a call may take in all: it may wait for its turn, ask Sentinels, and connect."""
CONNECTIONS = 4

_Option = Any  # redis-py's options are of many types
_FAILURES = {
    "SSLCertVerificationError": "has a TLS certificate that is not trusted",
    "Authentication required": "asks for a password",
    "unauthenticated": "asks for a password",
    "AuthenticationError": "refused the password",
    "NoPermissionError": "does not allow its user what is needed",
    "NOPERM": "does not allow its user what is needed",
    "can't run this command": "does not allow its user what is needed",
    "can't access at least one of the keys": "does not allow its user what is needed",
    "ReadOnlyError": "is a replica and takes no writes",
    "READONLY": "is a replica and takes no writes",
    "OutOfMemoryError": "is out of memory",
    "OOM": "is out of memory",
    "NOREPLICAS": "misses replicas, and takes no writes",
    "MISCONF": "cannot save its data, and takes no writes",
    "NOHISTORY": "does not tell its replication id",
    "BusyLoadingError": "is still loading its data",
    "ClusterDownError": "is a Cluster that is down",
    "max number of clients": "has too many clients",
    "DB index": "has no database of that number",
    "TimeoutError": "gave no answer in time",
    "ResponseError": "refused the call",
}
"""What may stand in an error of redis-py or in what led to it, and what that says to people."""


class Script:
    """A Lua script, and the digest by which a server that has it knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisClient:
    """Runs scripts on the server that a URL names; connects, also again, when one is run."""

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._sentinels: list[Redis] = []
        self._redis = self._made()
        self._turn = asyncio.Semaphore(CONNECTIONS)

    def __repr__(self) -> str:
        return f"<RedisClient {self._url}>"

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[object]) -> Any:
        """Run a script and return its answer; raise StoreError, and then it may have run or not."""
        try:
            async with asyncio.timeout(CALL_SECONDS), self._turn:
                return await self._evaluated(script, [len(keys), *keys, *args])
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise StoreError(f"the store {_what_failed(error)}") from None

    async def close(self) -> None:
        for client in (self._redis, *self._sentinels):
            with contextlib.suppress(exceptions.RedisError, OSError):
                await client.aclose()

    async def _evaluated(self, script: Script, parts: Sequence[_Option]) -> Any:
        try:
            return await self._redis.execute_command("EVALSHA", script.digest, *parts)
        except exceptions.NoScriptError:
            return await self._redis.execute_command("EVAL", script.text, *parts)

    def _made(self) -> "Redis | RedisCluster":
        url, options = self._url, self._options()
        match url.kind:
            case "cluster":
                nodes = [ClusterNode(host, port) for host, port in url.hosts]
                return RedisCluster(startup_nodes=nodes, **options)
            case "sentinel":
                return self._master(db=url.db, **options)
            case "unix":
                return Redis(unix_socket_path=url.path, db=url.db, **options)
        (host, port) = url.hosts[0]
        return Redis(host=host, port=port, db=url.db, **options)

    def _master(self, **options: _Option) -> Redis:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self._url.hosts, sentinel_kwargs=self._sentinel_options(), **options
        )
        self._sentinels = sentinel.sentinels
        master: Redis = sentinel.master_for(self._url.service)
        return master

    def _options(self) -> dict[str, _Option]:
        return self._transport() | _login(self._url.username, self._url.password)

    def _sentinel_options(self) -> dict[str, _Option]:
        url = self._url
        return self._transport() | _login(url.sentinel_username, url.sentinel_password)

    def _transport(self) -> dict[str, _Option]:
        """RESP 2 and no driver info: then connecting needs no command but AUTH and SELECT."""
        tls = {"ssl": True, "ssl_ca_certs": self._url.ca_file or None} if self._url.tls else {}
        return {
            "protocol": 2,
            "driver_info": None,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": STEP_SECONDS,
            "socket_timeout": STEP_SECONDS,
            "max_connections": CONNECTIONS,
            **tls,
        }


def _login(username: str, password: str) -> dict[str, _Option]:
    given = {"username": username, "password": password}
    return {name: value for name, value in given.items() if value}


def _what_failed(error: BaseException) -> str:
    """Say it without redis-py's texts, which may name users, commands and arguments."""
    said = " ".join(f"{type(each).__name__} {each}" for each in _led_to(error))
    return next((text for word, text in _FAILURES.items() if word in said), "cannot be reached")


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and what led to it: redis-py says most of them once more, as another."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
