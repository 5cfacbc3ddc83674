"""Listening sockets: TCP addresses and Unix socket files, bound and let go of."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proxy.config import Address

BACKLOG = 1024
UNIX_MODE = 0o660

Factory = Callable[[], asyncio.BaseProtocol]


class BindError(Exception):
    """An address cannot be listened on; the text names it."""


class Binding:
    """An address that is being listened on; `address` holds the port that was taken."""

    def __init__(self, server: asyncio.Server, address: Address) -> None:
        self.address = address
        self.sockets = [] if address.path else [each.getsockname()[:2] for each in server.sockets]
        """IP address and port of each TCP socket: a name may stand for several."""
        self._server = server
        self._file = _identity(address.path) if address.path else None

    def close(self) -> None:
        """Refuse new connections; those that are open stay so."""
        self._server.close()

    def remove(self) -> None:
        """Remove the socket file, unless another process has put its own there meanwhile."""
        self.close()
        if self._file is not None and _identity(self.address.path) == self._file:
            with suppress(OSError):
                Path(self.address.path).unlink()
        self._file = None


async def listen(factory: Factory, address: Address) -> Binding:
    """Listen on an address, with a protocol of `factory` for each connection. Raises BindError."""
    loop = asyncio.get_running_loop()
    try:
        if address.path:
            return Binding(await _listen_unix(loop, factory, address.path), address)
        server = await loop.create_server(factory, address.host, address.port, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise BindError(f"cannot listen on {address}: {_reason(error)}") from error
    port = server.sockets[0].getsockname()[1]
    return Binding(server, Address(address.host, port))


async def _listen_unix(
    loop: asyncio.AbstractEventLoop, factory: Factory, path: str
) -> asyncio.Server:
    if answers(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    server = await loop.create_unix_server(factory, path, backlog=BACKLOG)
    Path(path).chmod(UNIX_MODE)  # noqa: ASYNC240 - once, at the start
    return server


def answers(path: str) -> bool:
    """Tell whether a process listens on a socket file; one that a crash left behind does not."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (0, errno.EAGAIN)


def _identity(path: str) -> tuple[int, int, int] | None:
    """Tell socket files apart; the number of one that is gone may be given to the next."""
    try:
        found = os.stat(path)  # noqa: PTH116 - as os.unlink would find it
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the name could not be resolved"
    return os.strerror(error.errno) if error.errno else str(error)
