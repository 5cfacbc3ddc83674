"""Names become addresses: as the system does it, or by asking name servers only."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Literal, Protocol

from proxy.network.address import AddressInfo


class Resolver(Protocol):
    """Looks up names; holds nothing between two look-ups that would have to be closed."""

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Return where to connect to, best first and at least one; IP addresses at once.

        Raises OSError, or ValueError for what cannot be a name.
        """
        ...


class SystemResolver:
    """Asks the system: /etc/hosts, then name servers, or whatever /etc/nsswitch.conf says."""

    def __repr__(self) -> str:
        return "<SystemResolver>"

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


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
        return [*known("::1", port), *known("127.0.0.1", port)]
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
