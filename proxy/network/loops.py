"""Connections that would come back: a proxy that calls itself would call itself again.

It happens where the name of an upstream was pointed at the proxy for the apps' sake, in /etc/hosts
say, and the proxy looks it up in the same place.
"""

import ipaddress
import socket
from collections.abc import Iterable, Sequence

from proxy.network.address import AddressInfo, Ip, ip_of
from proxy.network.errors import LoopError


class OwnListeners:
    """The TCP addresses that this process listens on; nothing can be dialled onto a Unix socket."""

    def __init__(self) -> None:
        self._bound: set[tuple[Ip, int]] = set()

    def __repr__(self) -> str:
        return f"<OwnListeners {sorted(f'{ip}:{port}' for ip, port in self._bound)}>"

    def add(self, sockets: Iterable[tuple[str, int]]) -> None:
        """Remember the IP address, or a wildcard, and the port of each."""
        self._bound.update((ip_of(address), port) for address, port in sockets)

    def uses(self, port: int) -> bool:
        """Tell whether any of them has this port; if not, nothing on it can be a loop."""
        return any(each == port for _, each in self._bound)

    def others(self, infos: Sequence[AddressInfo]) -> list[AddressInfo]:
        """Return those that lead elsewhere; raise LoopError if all of them lead back."""
        elsewhere = [info for info in infos if not self._has(info)]
        if infos and not elsewhere:
            host, port = infos[0][4][:2]
            raise LoopError(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return elsewhere

    def _has(self, info: AddressInfo) -> bool:
        ip, port = _reached(ip_of(info[4][0])), info[4][1]
        if not self.uses(port):
            return False
        if (ip, port) in self._bound:
            return True
        wildcard = ipaddress.ip_address("0.0.0.0" if ip.version == 4 else "::")  # noqa: S104
        return (wildcard, port) in self._bound and _is_here(ip, info)


def _reached(ip: Ip) -> Ip:
    """Return where a connection to this address goes: to loopback from an unspecified one."""
    if not ip.is_unspecified:
        return ip
    return ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")


def _is_here(ip: Ip, info: AddressInfo) -> bool:
    """Tell whether an address is this machine's: only to those it speaks from the same address.

    Connecting a datagram socket sends nothing.
    """
    if ip.is_loopback:
        return True
    with socket.socket(info[0], socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(info[4])
            return ip_of(probe.getsockname()[0]) == ip
        except OSError:  # no way there
            return False
