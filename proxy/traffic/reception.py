"""The reception: keeps what is known of clients up to date while `Auth` lets them in.

It reads the file of clients again when that changes, and tells the store what clients have used of
their day, so that all processes that share it count together.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path
from typing import Self

from proxy.config import ClientSettings, ServiceAccountSettings, read_clients
from proxy.settings.problems import SettingsError
from proxy.tokens.store.base import Tally
from proxy.traffic.auth import Auth
from proxy.traffic.clients import Roster
from proxy.traffic.fact import Reread
from proxy.traffic.service_accounts import ServiceAccounts
from proxy.traffic.usage import Usage
from proxy.traffic.watched import Watched

TALLY_SECONDS = 1.0
"""How often the store is told what clients have used of their day."""
FAREWELL_SECONDS = 1.0
"""How long the last time of it may take."""


class Reception(AbstractAsyncContextManager["Reception"]):
    """What all listeners that authenticate have in common; `async with` keeps it up to date."""

    def __init__(
        self,
        clients: Mapping[str, ClientSettings],
        clients_file: str | None,
        service_accounts: ServiceAccountSettings,
        *,
        tally: Callable[[int, Mapping[str, Tally]], Awaitable[Mapping[str, int]]],
        tell: Callable[[Reread], None],
        tell_reviews: Callable[[str], None],
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Read the file of clients, if there is one. Raises ValueError for one that is wrong.

        `tally` is `Sharing.tally`; `tell_reviews` is told as `ServiceAccounts` tells.
        """
        self._clients = clients
        self._clients_file = clients_file
        self._tally = tally
        self._wall = wall
        self._usage = Usage()
        self._reviews = ServiceAccounts(service_accounts, clock=clock, wall=wall, tell=tell_reviews)
        self.auth = Auth(
            Roster(clients), reviews=self._reviews, usage=self._usage, clock=clock, wall=wall
        )
        self._watched = Watched([clients_file], self._take, tell) if clients_file else None
        self._closing = asyncio.Event()
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Reception {self.auth!r}>"

    def _take(self) -> None:
        assert self._clients_file is not None  # noqa: S101 - for the type checker
        self.auth.roster = read_roster(self._clients, self._clients_file)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._reviews)
            if self._watched is not None:
                await stack.enter_async_context(self._watched)
            telling = asyncio.create_task(self._tell_store())
            stack.push_async_callback(self._finish_telling, telling)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _tell_store(self) -> None:
        """Tell the store what it has not been told, now and then and at the end."""
        is_last = False
        while not is_last:
            with suppress(TimeoutError):
                async with asyncio.timeout(TALLY_SECONDS):
                    is_last = await self._closing.wait()
            day, untold = self._usage.untold(self._wall())
            if untold:
                self._usage.told(day, await self._tally(day, untold))

    async def _finish_telling(self, telling: asyncio.Task[None]) -> None:
        """Let it come to its end: what breaks off may have been told, and is not told twice."""
        self._closing.set()
        await asyncio.wait({telling}, timeout=FAREWELL_SECONDS)
        telling.cancel()
        await asyncio.wait({telling})


def read_roster(clients: Mapping[str, ClientSettings], clients_file: str) -> Roster:
    """Return the clients of the settings and of the file. Raises ValueError for a wrong one."""
    try:
        return Roster(read_clients(Path(clients_file), clients))
    except SettingsError as error:
        raise ValueError(f"clients_file has {error}") from None
