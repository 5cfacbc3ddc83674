"""Where connections are made: to upstreams, to the token endpoints, and to where clients want.

The store is the one thing that is reached otherwise: its client dials by itself.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import aiohappyeyeballs

from proxy.config import ProxyUrl, Settings
from proxy.network.address import AddressInfo, ip_of
from proxy.network.errors import DialError, LoopError, ResolveError, UpstreamProxyError
from proxy.network.guard import Guard
from proxy.network.loops import OwnListeners
from proxy.network.reason import reason
from proxy.network.resolver import Resolver, SystemResolver, known, make_resolver
from proxy.network.upstream_proxy import connect_request, pass_through

NEXT_ADDRESS_DELAY: Final = 0.25
"""Seconds that one address has before the next is tried beside it (RFC 8305, section 5)."""
CHECK_SECONDS: Final = 2.0
"""How long looking for a loop may take."""


class Dialer:
    """Makes connections, through the upstream proxy if there is one, and never onto ourselves."""

    def __init__(
        self, resolver: Resolver | None = None, upstream_proxy: ProxyUrl | None = None
    ) -> None:
        self.own = OwnListeners()
        self._resolver = resolver or SystemResolver()
        self._proxy = upstream_proxy
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    def __repr__(self) -> str:
        through = f" through {self._proxy}" if self._proxy else ""
        return f"<Dialer {self._resolver!r}{through}>"

    async def connect(
        self, host: str, port: int, *, address: str | None = None, guard: Guard | None = None
    ) -> socket.socket:
        """Return a socket that is connected to `host`, non-blocking and without Nagle's delay.

        It connects to the IP `address` if there is one, whatever `host` resolves to. `guard` judges
        every address before the first packet goes there; what has one is a client's wish, and its
        look-up never delays those of other hosts. An upstream proxy resolves names itself:
        behind one there is no `address`, and `guard` judges a host that is an IP address, and no
        other. It takes its time: bound it.

        Raises AddressRefused, LoopError, UpstreamProxyError or another OSError.
        """
        proxy = self.proxy_for(host)
        if proxy is None:
            return await self._open(host, port, address, guard)
        if guard and (infos := known(host, port)):
            guard.allowed(infos)
        request = connect_request(proxy, host, port)
        sock = await self._open_proxy(proxy)
        try:
            await pass_through(sock, request)
        except BaseException:
            sock.close()
            raise
        return sock

    def proxy_for(self, host: str) -> ProxyUrl | None:
        """Return the upstream proxy, unless there is none or `host` is this machine."""
        return None if self._proxy is None or _is_loopback(host) else self._proxy

    async def find_loop(self, host: str, port: int, address: str | None = None) -> LoopError | None:
        """Return the error that `connect` would end with if it led to ourselves.

        It takes CHECK_SECONDS at the most; a name that cannot be looked up by then is no loop.
        """
        proxy = self.proxy_for(host)
        if proxy is not None:
            host, port, address = proxy.place.host, proxy.place.port, None
        if not self.own.uses(port):
            return None
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                self.own.others(await self.resolve(host, port, address))
        except LoopError as error:
            return LoopError(error.place, proxied=proxy is not None)
        except OSError:
            pass
        return None

    async def resolve(
        self, host: str, port: int, address: str | None = None, *, foreign: bool = False
    ) -> Sequence[AddressInfo]:
        """Return where to connect to for `host`; `foreign`: a client named it. Raises OSError."""
        if address is not None:
            return known(address, port)
        try:
            if host.isprintable():  # the system would take a NUL for the end of the name
                return await self._resolver.resolve(host, port, foreign=foreign)
        except UnicodeError:
            pass
        raise ResolveError("it is not a name")

    def tls_context(self, ca_file: str | None) -> ssl.SSLContext:
        """Return the context of all connections that trust these authorities; None: the system's.

        The first one of each kind takes some 16 ms. Raises OSError for a file without certificates.
        """
        if ca_file not in self._contexts:
            context = ssl.create_default_context(cafile=ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            self._contexts[ca_file] = context
        return self._contexts[ca_file]

    async def _open_proxy(self, proxy: ProxyUrl) -> socket.socket:
        try:
            return await self._open(proxy.place.host, proxy.place.port)
        except LoopError as error:
            raise LoopError(error.place, proxied=True) from None
        except OSError as error:
            raise UpstreamProxyError(f"cannot be reached: {reason(error)}") from error

    async def _open(
        self, host: str, port: int, address: str | None = None, guard: Guard | None = None
    ) -> socket.socket:
        infos = await self.resolve(host, port, address, foreign=guard is not None)
        if guard:
            infos = guard.allowed(infos)
        try:
            sock = await aiohappyeyeballs.start_connection(
                self.own.others(infos), happy_eyeballs_delay=NEXT_ADDRESS_DELAY
            )
        except RuntimeError as error:  # uvloop has it for some addresses that the system refuses
            raise DialError("no connection could be made") from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def make_dialer(settings: Settings) -> Dialer:
    """Return the dialer of these settings."""
    return Dialer(make_resolver(settings.resolver, settings.nameservers), settings.upstream_proxy)


def make_dialer_beside(settings: Settings) -> Dialer:
    """Return a dialer for other processes: it leads to no proxy that serves by these settings."""
    dialer = make_dialer(settings)
    binds = [settings.admin.bind, *(each.bind for each in settings.listeners)]
    for bind in (each for each in binds if each.port):
        dialer.own.add(info[4][:2] for info in known(bind.host, bind.port))
    return dialer


def _is_loopback(host: str) -> bool:
    return any(ip_of(info[4][0]).is_loopback for info in known(host, 0))
