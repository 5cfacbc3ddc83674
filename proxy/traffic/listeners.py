"""The addresses clients connect to, each with its mode."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from proxy.config import LimitSettings, ListenerSettings
from proxy.network.guard import Guard
from proxy.traffic.auth import Auth
from proxy.traffic.binding import Binding, listen
from proxy.traffic.fact import Observer
from proxy.traffic.front import FrontConnection, FrontServer
from proxy.traffic.handler import Handler
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.opening import Gate, Opening
from proxy.traffic.target import Entrance, Names, Place
from proxy.traffic.tls import Terminator

CLOSE_SECONDS = 0.01
"""How long a request that was not over in time may take to notice; to aiohttp, 0 means for ever."""


class Listener:
    """One bound address and the connections that came through it."""

    def __init__(
        self,
        settings: ListenerSettings,
        handler: Handler,
        names: Names,
        limits: LimitSettings,
        occupancy: Occupancy,
        observe: Observer,
        *,
        terminator: Terminator | None = None,
        dial: Callable[[Place, Guard], Awaitable[socket.socket]],
        auth: Auth | None = None,
    ) -> None:
        """A listener whose clients speak TLS, to it or to upstreams, needs a `terminator`."""
        self.mode = settings.mode
        self.address = settings.bind
        self.upstream = settings.upstream
        entrance = _entrance(settings)
        self._front = FrontServer(handler, entrance, limits, occupancy, observe, auth)
        self._gate: Gate | None = None
        if terminator is not None:
            self._gate = Gate(
                front=self._front,
                entrance=entrance,
                names=names,
                terminator=terminator,
                dial=dial,
                limits=limits,
                occupancy=occupancy,
                observe=observe,
                auth=auth,
                opens_with_tls=settings.mode != "forward",
            )
        self._openings: set[Opening] = set()
        self._binding: Binding | None = None

    def __repr__(self) -> str:
        return f"<Listener {self.mode} on {self.address}, {len(self._front.connections)} open>"

    async def bind(self) -> None:
        """Start to listen; `address` then holds the port taken. Raises BindError."""
        self._binding = await listen(self._accept, self.address)
        self.address = self._binding.address

    def _accept(self) -> asyncio.BaseProtocol:
        if self._gate is None:
            return self._front()
        opening = Opening(self._gate, self._openings.discard)
        self._openings.add(opening)
        return opening

    @property
    def sockets(self) -> list[tuple[str, int]]:
        """IP address and port of each TCP socket that it listens on."""
        return self._binding.sockets if self._binding else []

    def drain(self) -> None:
        """Refuse new connections, close idle ones, and let each request in flight be the last."""
        if self._binding is not None:
            self._binding.close()
        for opening in list(self._openings):
            opening.close_if_idle()
        for connection in self._front.connections:
            if isinstance(connection, FrontConnection):
                connection.close_if_idle()

    async def close(self) -> None:
        """End every connection now."""
        self.drain()
        for opening in list(self._openings):
            await opening.close()
        await self._front.shutdown(CLOSE_SECONDS)
        if self._binding is not None:
            self._binding.remove()


def _entrance(settings: ListenerSettings) -> Entrance:
    """Return what is known of every connection to a listener."""
    others = None
    if settings.mode == "forward" and settings.other_hosts == "tunnel":
        others = Guard(private=settings.private_hosts == "tunnel")
    return Entrance(settings.upstream, forwards=settings.mode == "forward", others=others)
