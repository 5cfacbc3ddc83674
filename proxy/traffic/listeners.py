"""The addresses clients connect to, each with its mode."""

from proxy.config import LimitSettings, ListenerSettings
from proxy.traffic.binding import Binding, listen
from proxy.traffic.fact import Observer
from proxy.traffic.front import FrontConnection, FrontServer
from proxy.traffic.handler import Handler
from proxy.traffic.occupancy import Occupancy

CLOSE_SECONDS = 0.01
"""How long a request that was not over in time may take to notice; to aiohttp, 0 means for ever."""


class Listener:
    """One bound address and the connections that came through it."""

    def __init__(
        self,
        settings: ListenerSettings,
        handler: Handler,
        limits: LimitSettings,
        occupancy: Occupancy,
        observe: Observer,
    ) -> None:
        self.mode = settings.mode
        self.address = settings.bind
        self.handler = handler
        self._front = FrontServer(handler, limits, occupancy, observe)
        self._binding: Binding | None = None

    def __repr__(self) -> str:
        return f"<Listener {self.mode} on {self.address}, {len(self._front.connections)} open>"

    async def bind(self) -> None:
        """Start to listen; `address` then holds the port taken. Raises BindError."""
        self._binding = await listen(self._front, self.address)
        self.address = self._binding.address

    def drain(self) -> None:
        """Refuse new connections, close idle ones, and let each request in flight be the last."""
        self.handler.drain()
        if self._binding is not None:
            self._binding.close()
        for connection in self._front.connections:
            if isinstance(connection, FrontConnection):
                connection.close_if_idle()

    async def close(self) -> None:
        """End every connection now."""
        self.drain()
        await self._front.shutdown(CLOSE_SECONDS)
        if self._binding is not None:
            self._binding.remove()
