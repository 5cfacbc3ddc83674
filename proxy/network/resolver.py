"""Names become addresses: as the system does it, or by asking name servers only."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Final, Literal, Protocol

from proxy.network.address import AddressInfo
from proxy.network.errors import ResolveError

MOST_FOREIGN: Final = 32
"""How many look-ups of names that clients came up with may be under way at once."""
JOIN_SECONDS: Final = 1.0
"""How long others join a look-up: the system is slow to ask again when a packet has been lost."""

GetAddrInfo = Callable[..., Sequence[AddressInfo]]
"""What `socket.getaddrinfo` is."""


class Resolver(Protocol):
    """Looks up names; holds nothing between two look-ups that would have to be closed."""

    async def resolve(
        self, host: str, port: int, *, foreign: bool = False
    ) -> Sequence[AddressInfo]:
        """Return where to connect to, best first and at least one; IP addresses at once.

        `foreign` tells that a client came up with the name: those must not delay the others.

        Raises OSError, or ValueError for what cannot be a name.
        """
        ...


class SystemResolver:
    """Asks the system: /etc/hosts, then name servers, or whatever /etc/nsswitch.conf says."""

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._own = _Lookups(getaddrinfo)
        self._foreign = _Lookups(getaddrinfo, most=MOST_FOREIGN)

    def __repr__(self) -> str:
        return "<SystemResolver>"

    async def resolve(
        self, host: str, port: int, *, foreign: bool = False
    ) -> Sequence[AddressInfo]:
        if infos := _numeric(host, port):
            return infos
        lookups = self._foreign if foreign else self._own
        return await asyncio.wrap_future(lookups.of(host, port))


class _Lookups:
    """What the system is being asked, each look-up on a thread of its own.

    A pool would have them wait for each other, and the system cannot be told to give one up: it
    keeps its thread, and its place among the `most`, until it returns. The threads are daemons, so
    that the process does not wait for them either.
    """

    def __init__(self, getaddrinfo: GetAddrInfo, *, most: int | None = None) -> None:
        self._getaddrinfo = getaddrinfo
        self._most = most
        self._underway: list[_Lookup] = []

    def of(self, host: str, port: int) -> Future[Sequence[AddressInfo]]:
        """Return what will be found, by a look-up that has only begun or by a new one.

        Nobody can cancel it. Raises ResolveError if no more can be under way.
        """
        now = asyncio.get_running_loop().time()
        self._underway = [each for each in self._underway if not each.found.done()]
        for each in self._underway:
            if (each.host, each.port) == (host, port) and now < each.joinable_until:
                return each.found
        if len(self._underway) == self._most:
            raise ResolveError("too many other names are being looked up")
        lookup = _Lookup(host, port, now + JOIN_SECONDS)
        lookup.begin(self._getaddrinfo)
        self._underway.append(lookup)
        return lookup.found


class _Lookup:
    """One question to the system."""

    def __init__(self, host: str, port: int, joinable_until: float) -> None:
        self.host = host
        self.port = port
        self.joinable_until = joinable_until
        self.found: Future[Sequence[AddressInfo]] = Future()
        self.found.set_running_or_notify_cancel()

    def begin(self, getaddrinfo: GetAddrInfo) -> None:
        """Start the thread. Raises ResolveError if the system has none left."""
        try:
            Thread(target=self._run, args=[getaddrinfo], name="look-up", daemon=True).start()
        except RuntimeError as error:
            raise ResolveError("no thread could be started") from error

    def _run(self, getaddrinfo: GetAddrInfo) -> None:
        try:
            infos = getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001 - it is for those who wait
            self.found.set_exception(error)
        else:
            self.found.set_result(infos)


def make_resolver(kind: Literal["system", "dns"], nameservers: Sequence[str]) -> Resolver:
    """Return the resolver of the settings `resolver` and `nameservers`."""
    if kind == "system":
        return SystemResolver()
    from proxy.network.dns import DnsResolver  # noqa: PLC0415 - it takes memory, and most need none

    return DnsResolver(nameservers)


def known(host: str, port: int) -> Sequence[AddressInfo]:
    """Return where a host is without asking anybody: an IP address or localhost, else nothing.

    Old spellings, such as 127.1, are addresses too; a name below localhost is this machine's
    whatever name servers say (RFC 6761, section 6.3).
    """
    if host.lower().removesuffix(".").rpartition(".")[2] == "localhost":
        return [*_numeric("::1", port), *_numeric("127.0.0.1", port)]
    return _numeric(host, port)


def _numeric(host: str, port: int) -> Sequence[AddressInfo]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
