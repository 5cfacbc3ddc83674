"""Upstream: where requests go, and the connections to it.

A request takes the connection that was used last, or dials while there is room, or waits in line.
Idle connections have no task and one timer together. The rules:

- `connections` counts all that are dialing, busy or idle. A busy one holds its place until it is
  released, whatever became of its socket.
- While requests wait there is neither room nor an idle connection: whatever is freed goes to the
  request that has waited longest.
- Whoever is cancelled, in line or dialing, gives back what it was granted.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from proxy.config import UpstreamSettings
from proxy.errors import UpstreamBusy
from proxy.network.dialer import Dialer
from proxy.network.errors import LoopError
from proxy.network.guard import Guard
from proxy.network.reason import reason
from proxy.settings.places import DEFAULT_PORTS
from proxy.traffic.connection import Connection
from proxy.traffic.dialing import dialing

SWEEP_PAUSE: Final = 0.1
"""Seconds at least between two looks at the idle connections."""
KEEP_ALIVE_MARGIN: Final = 1.0
"""Seconds before the end of an upstream's own keep-alive from which it is not relied upon."""


@dataclass(frozen=True, slots=True)
class UpstreamSnapshot:
    """How many connections of an upstream are in which state, and how many requests wait."""

    name: str
    idle: int
    busy: int
    dialing: int
    waiting: int


class Upstream:
    """One upstream and its pool of connections; of one event loop, and not usable after `close`."""

    def __init__(
        self, name: str, settings: UpstreamSettings, dialer: Dialer, *, guard: Guard | None = None
    ) -> None:
        """Parse the URL and load the certificate authorities; raise ValueError if one is wrong.

        `guard` is for a host that a client named: it says to which addresses that may lead.
        """
        url = _parse_url(name, settings.url)
        self.name = name
        self.prefix = url.path.rstrip("/").encode()
        self._host: str = url.hostname or ""
        self._port = url.port or DEFAULT_PORTS[url.scheme]
        self.authority = _authority(url.scheme, self._host, self._port)
        self._tls = _tls_context(name, settings, dialer) if url.scheme == "https" else None
        self._settings = settings
        self._dialer = dialer
        self._guard = guard
        self._idle: dict[Connection, None] = {}
        self._busy: set[Connection] = set()
        self._dialing = 0
        self._line: dict[asyncio.Future[Connection | None], None] = {}
        """Requests in line; each gets a connection, or None: room to dial one."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Upstream {self.name} {len(self._busy)} busy, {len(self._idle)} idle, "
            f"{self._dialing} dialing, {len(self._line)} waiting>"
        )

    def snapshot(self) -> UpstreamSnapshot:
        return UpstreamSnapshot(
            name=self.name,
            idle=len(self._idle),
            busy=len(self._busy),
            dialing=self._dialing,
            waiting=len(self._line),
        )

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """Return a connection that is not known to be closed; `release` it, whatever happens.

        `fresh` asks for none that idled: when one of them turns out to be dead, all may be.
        Raises UpstreamBusy, UpstreamUnreachable or UpstreamTimeout.
        """
        if self._closed:
            raise self._closing()
        if fresh:
            self._make_room()
        elif (conn := self._take_idle()) is not None:
            return conn
        if self._has_room():
            self._dialing += 1
            return await self._dial()
        return await self._wait_in_line(fresh=fresh)

    def release(self, conn: Connection) -> None:
        """Give a connection back, in any state; only the first call counts."""
        if conn not in self._busy:
            return
        self._busy.remove(conn)
        now = asyncio.get_running_loop().time()
        if conn.expires is None:
            conn.expires = self._expiry(conn, now)
        if not conn.reusable or conn.expires <= now:
            conn.discard()
            self._offer_room()
        elif (waiter := self._next_in_line()) is not None:
            self._busy.add(conn)
            waiter.set_result(conn)
        else:
            self._idle[conn] = None
            self._sweep_at(conn.expires)

    async def find_loop(self) -> LoopError | None:
        """Return what would keep all connections from coming about, if it leads to ourselves."""
        return await self._dialer.find_loop(self._host, self._port, self._settings.address)

    async def close(self) -> None:
        """Close all connections, busy ones too, and refuse all requests in line and to come."""
        self._closed = True
        while (waiter := self._next_in_line()) is not None:
            waiter.set_exception(self._closing())
        for conn in [*self._idle, *self._busy]:
            conn.abort()
        self._busy.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.sleep(0)  # the transports close their sockets in the loop's next turn

    # Idle connections

    def _take_idle(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            conn, _ = self._idle.popitem()
            if conn.expires is not None and conn.expires > now and conn.is_quiet():
                self._busy.add(conn)
                return conn
            conn.abort()
        return None

    def _make_room(self) -> None:
        """Close the connection that has idled longest, if its place is needed."""
        if self._idle and not self._has_room():
            next(iter(self._idle)).abort()

    def _expiry(self, conn: Connection, now: float) -> float:
        keepalive = self._settings.keepalive
        if conn.keep_alive_timeout is not None:
            keepalive = min(keepalive, conn.keep_alive_timeout - KEEP_ALIVE_MARGIN)
        return min(now + keepalive, conn.born + self._settings.max_age)

    def _sweep_at(self, when: float) -> None:
        """See to it that the idle connections are looked at by `when`, or a little later."""
        loop = asyncio.get_running_loop()
        when = max(when, loop.time() + SWEEP_PAUSE)
        if self._sweeper is not None:
            if self._sweeper.when() <= when:
                return
            self._sweeper.cancel()
        self._sweeper = loop.call_at(when, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for conn in [conn for conn in self._idle if (conn.expires or 0.0) <= now]:
            conn.abort()
        if self._idle:
            self._sweep_at(min(conn.expires or 0.0 for conn in self._idle))

    def _forget(self, conn: Connection) -> None:
        """Drop a connection that broke; a busy one is dropped when it is released."""
        self._idle.pop(conn, None)

    # The line

    def _has_room(self) -> bool:
        return len(self._busy) + len(self._idle) + self._dialing < self._settings.connections

    def _next_in_line(self) -> asyncio.Future[Connection | None] | None:
        while self._line:
            waiter = next(iter(self._line))
            del self._line[waiter]
            if not waiter.done():
                return waiter
        return None

    def _offer_room(self) -> None:
        while self._has_room() and (waiter := self._next_in_line()) is not None:
            self._dialing += 1
            waiter.set_result(None)

    async def _wait_in_line(self, *, fresh: bool) -> Connection:
        if len(self._line) >= self._settings.queue:
            raise UpstreamBusy(f"Too many requests wait for {self.name}.", retry_after=1)
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._line[waiter] = None
        timer = loop.call_later(self._settings.queue_timeout, self._give_up, waiter)
        try:
            conn = await waiter
        except asyncio.CancelledError:
            self._return_grant(waiter)
            raise
        finally:
            timer.cancel()
            self._line.pop(waiter, None)
        if conn is None:
            return await self._dial()
        if conn.reusable:
            return conn
        self.release(conn)  # it broke on the way here
        return await self.acquire(fresh=fresh)

    def _give_up(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            limit = self._settings.queue_timeout
            detail = f"No connection to {self.name} became free within {limit:g} s."
            waiter.set_exception(UpstreamBusy(detail, retry_after=1))

    def _return_grant(self, waiter: asyncio.Future[Connection | None]) -> None:
        """Give back what a waiter was granted in the very moment in which it was cancelled."""
        if waiter.cancelled() or waiter.exception() is not None:
            return
        if (conn := waiter.result()) is not None:
            self.release(conn)
        else:
            self._dialing -= 1
            self._offer_room()

    def _closing(self) -> UpstreamBusy:
        return UpstreamBusy(f"The connections to {self.name} are being closed.", retry_after=1)

    # Dialing

    async def _dial(self) -> Connection:
        """Connect, on a place that the caller has counted as dialing."""
        try:
            conn = await self._connect()
            if self._closed:
                conn.abort()
                raise self._closing()
            self._busy.add(conn)
            return conn
        finally:
            self._dialing -= 1
            self._offer_room()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        async with dialing(self.name, self._settings.connect_timeout):
            sock = await self._dialer.connect(
                self._host, self._port, address=self._settings.address, guard=self._guard
            )
            _, conn = await loop.create_connection(
                lambda: Connection(self._settings, loop, self._forget),
                sock=sock,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        return conn


def _parse_url(name: str, text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        sound = (
            url.scheme in DEFAULT_PORTS
            and bool(url.hostname)
            and url.port != 0
            and "@" not in url.netloc
            and not any(mark in text for mark in "?#\\")
            and text.isascii()
            and text.isprintable()
            and " " not in text
        )
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(
            f"upstreams.{name}.url: {text!r} is not http://host[:port][/prefix] or https://…"
        )
    return url


def _authority(scheme: str, host: str, port: int) -> bytes:
    literal = f"[{host}]" if ":" in host else host
    return (literal if port == DEFAULT_PORTS[scheme] else f"{literal}:{port}").encode()


def _tls_context(name: str, settings: UpstreamSettings, dialer: Dialer) -> ssl.SSLContext:
    try:
        return dialer.tls_context(settings.ca_file)
    except OSError as error:
        raise ValueError(
            f"upstreams.{name}.ca_file: {settings.ca_file!r} does not hold certificates in PEM "
            f"({reason(error)})"
        ) from error
