"""Asks name servers, and nothing else: no /etc/hosts, in which an app may find this very proxy.

The asking itself, with its retries, search domains, aliases and answers over TCP, is that of
c-ares. Each look-up has a channel of its own: so none shares its fate with another, the system's
name servers may change at any time, and between two look-ups nothing is open.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import pycares

from proxy.network.address import AddressInfo
from proxy.network.errors import ResolveError
from proxy.network.resolver import known

LOOKUP_SECONDS: Final = 2.5
"""How long a look-up may take in all: less than whoever wants a connection waits for that."""
TRY_SECONDS: Final = 0.75
"""How long a name server has for its answer before the next one is asked; later, twice as long."""
TRIES: Final = 2
"""How often each name server is asked."""
MOST_ADDRESSES: Final = 32
"""How many addresses of a name are looked at."""

_REASONS: Final[Mapping[int | None, str]] = {
    pycares.errno.ARES_ENOTFOUND: "no name server knows it",
    pycares.errno.ARES_ENODATA: "it has no address",
    pycares.errno.ARES_ETIMEOUT: "no name server answered in time",
    pycares.errno.ARES_ECONNREFUSED: "no name server can be reached",
    pycares.errno.ARES_ESERVFAIL: "the name servers failed",
    pycares.errno.ARES_EREFUSED: "the name servers refused to answer",
    pycares.errno.ARES_EBADNAME: "it is not a name",
    pycares.errno.ARES_EBADRESP: "the answer of the name servers makes no sense",
}


class DnsResolver:
    """Asks these name servers (`IP`, `IP:port` or `[v6]:port`), or else those of the system."""

    def __init__(self, nameservers: Sequence[str] = ()) -> None:
        self._nameservers = tuple(nameservers)

    def __repr__(self) -> str:
        return f"<DnsResolver asks {', '.join(self._nameservers) or 'those of the system'}>"

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        if infos := known(host, port):
            return infos
        if not host.isascii() or not host.isprintable():
            raise _failed(pycares.errno.ARES_EBADNAME)
        try:
            lookup = _Lookup(self._nameservers)
        except pycares.AresError:
            raise _failed(None) from None
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await lookup.addresses(host, port)
        except TimeoutError:
            raise _failed(pycares.errno.ARES_ETIMEOUT) from None
        finally:
            lookup.close()


def _failed(error: int | None) -> ResolveError:
    return ResolveError(_REASONS.get(error, "no name server can be asked"))


class _Lookup:
    """One look-up: tells c-ares when its sockets are ready, and when to try again."""

    def __init__(self, nameservers: Sequence[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[pycares.AddrInfoResult] = self._loop.create_future()
        self._channel = pycares.Channel(
            servers=nameservers or None,
            lookups="b",  # name servers and no files
            timeout=TRY_SECONDS,
            tries=TRIES,
            sock_state_cb=self._watch,
        )

    async def addresses(self, host: str, port: int) -> list[AddressInfo]:
        self._channel.getaddrinfo(host, port, type=socket.SOCK_STREAM, callback=self._done)
        while not self._answer.done():
            seconds = self._channel.timeout()  # type: ignore[no-untyped-call]
            await asyncio.wait({self._answer}, timeout=seconds)
            self._channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
        return [_info(node) for node in self._answer.result().nodes[:MOST_ADDRESSES]]

    def close(self) -> None:
        """Close every socket now; pycares has a thread of the process that frees the memory."""
        self._answer.cancel()
        self._channel.cancel()
        self._channel.close()

    def _watch(self, fd: int, readable: bool, writable: bool) -> None:
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        if readable:
            self._loop.add_reader(fd, self._channel.process_fd, fd, pycares.ARES_SOCKET_BAD)
        if writable:
            self._loop.add_writer(fd, self._channel.process_fd, pycares.ARES_SOCKET_BAD, fd)

    def _done(self, result: pycares.AddrInfoResult, error: int | None) -> None:
        if self._answer.done():
            return
        if error is None:
            self._answer.set_result(result)
        else:
            self._answer.set_exception(_failed(error))


def _info(node: pycares.AddrInfoNode) -> AddressInfo:
    ip, *rest = node.addr
    return (node.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip.decode(), *rest))
