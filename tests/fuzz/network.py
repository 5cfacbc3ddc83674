"""A network without a network, in virtual time: connections are pairs of sockets in one process.

Dialing a port that is served on this very loop makes a pair of sockets instead of a TCP connection,
so that nothing takes time and no port runs out. All the rest, transports, back-pressure and tasks,
is the real thing.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from virtual import VirtualLoop

Factory = Callable[[], asyncio.BaseProtocol]

KERNEL_BYTES = 4096
"""What is on the way at the most, about; so small that back-pressure sets in early."""


class End(socket.socket):
    """One end of a connection. To its user it is a TCP socket, and it models how TCP resets."""

    other: "End"
    resets = False
    """Whether closing it resets the connection instead of ending it in order (SO_LINGER of 0)."""

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if level == socket.SOL_SOCKET and option == socket.SO_LINGER:
            self.resets = True
        elif level == socket.SOL_SOCKET:
            super().setsockopt(level, option, *value)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        if not data and self.other.resets:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return data


def _pair() -> tuple[End, End]:
    one, other = (
        End(socket.AF_INET, socket.SOCK_STREAM, 0, each.detach()) for each in socket.socketpair()
    )
    one.other, other.other = other, one
    for each in (one, other):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    return one, other


class Loop(VirtualLoop):
    """An event loop in virtual time, and the network on which its servers can be dialed."""

    def __init__(self) -> None:
        super().__init__(silence=0.0)
        self._served: dict[int, Factory] = {}
        self._dialed: dict[int, int] = {}

    async def dial(self, port: int, factory: Factory) -> tuple[asyncio.Transport, Any]:
        """Connect to what is served on `port`. Raises ConnectionRefusedError."""
        served = self._served.get(port)
        if served is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        near, far = _pair()
        await self.connect_accepted_socket(served, far)
        return await super().create_connection(factory, sock=near)

    async def create_server(self, protocol_factory: Factory, *args: Any, **options: Any) -> Any:
        server = await super().create_server(protocol_factory, *args, **options)
        for each in server.sockets:
            self._served[each.getsockname()[1]] = protocol_factory
        return server

    # How clients of this loop dial: a socket, then a connection on it.

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self._dialed[sock.fileno()] = address[1]

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Factory, *, sock: socket.socket, **_: Any
    ) -> tuple[asyncio.Transport, Any]:
        port = self._dialed.pop(sock.fileno())
        sock.close()
        return await self.dial(port, protocol_factory)
