"""Asks name servers, and nothing else: no /etc/hosts, in which an app may find this very proxy.

The asking itself, with its retries, aliases and answers over TCP, is that of c-ares. It is asked
for records: where it looks up hosts by itself, it must be told to leave files out, by a text that
pycares frees before c-ares reads it. So names are taken as they are, without search domains.

Each look-up has a channel of its own: so none shares its fate with another, the system's name
servers may change at any time, and between two look-ups nothing is open.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
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
OTHER_FAMILY_SECONDS: Final = 0.05
"""How long the addresses of one family wait for those of the other (RFC 8305, section 3)."""
MOST_ADDRESSES: Final = 32
"""How many addresses of a name are looked at, of each family."""
_RECORDS: Final[Mapping[int, type[pycares.AAAARecordData | pycares.ARecordData]]] = {
    pycares.QUERY_TYPE_AAAA: pycares.AAAARecordData,
    pycares.QUERY_TYPE_A: pycares.ARecordData,
}
"""What is asked for; whoever connects takes from both by turns, and begins with the first."""

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

    async def resolve(
        self,
        host: str,
        port: int,
        *,
        foreign: bool = False,  # noqa: ARG002 - no look-up delays another
    ) -> Sequence[AddressInfo]:
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
        self._found: dict[int, list[str]] = {}
        self._errors: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._channel = pycares.Channel(
            servers=nameservers or None,
            timeout=TRY_SECONDS,
            tries=TRIES,
            sock_state_cb=self._watch,
        )

    async def addresses(self, host: str, port: int) -> list[AddressInfo]:
        for kind in _RECORDS:
            self._ask(host, kind)
        while not self._over.done():
            seconds = self._channel.timeout()  # type: ignore[no-untyped-call]
            await asyncio.wait({self._over}, timeout=seconds)
            self._channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
        found = [ip for kind in _RECORDS for ip in self._found.get(kind, ())]
        if not found:
            raise _failed(self._worst())
        return [info for ip in found for info in known(ip, port)]

    def close(self) -> None:
        """Close every socket now; pycares has a thread of the process that frees the memory."""
        if self._timer is not None:
            self._timer.cancel()
        self._over.cancel()
        self._channel.cancel()
        self._channel.close()

    def _ask(self, host: str, kind: int) -> None:
        try:
            self._channel.query(host, kind, callback=partial(self._answered, kind))
        except pycares.AresError as error:
            self._answered(kind, None, error.args[0])

    def _watch(self, fd: int, readable: bool, writable: bool) -> None:
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        if readable:
            self._loop.add_reader(fd, self._channel.process_fd, fd, pycares.ARES_SOCKET_BAD)
        if writable:
            self._loop.add_writer(fd, self._channel.process_fd, pycares.ARES_SOCKET_BAD, fd)

    def _answered(self, kind: int, result: pycares.DNSResult | None, error: int | None) -> None:
        if result is None:
            self._errors[kind] = error or pycares.errno.ARES_EBADRESP
        else:
            data = [each.data for each in result.answer]
            addresses = [each.addr for each in data if isinstance(each, _RECORDS[kind])]
            self._found[kind] = addresses[:MOST_ADDRESSES]
        if len(self._found) + len(self._errors) == len(_RECORDS):
            self._end()
        elif self._found.get(kind):
            self._timer = self._loop.call_later(OTHER_FAMILY_SECONDS, self._end)

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _worst(self) -> int:
        """Return why there is no address; that there is none is the least that can be said."""
        none = pycares.errno.ARES_ENODATA
        return next((each for each in self._errors.values() if each != none), none)
