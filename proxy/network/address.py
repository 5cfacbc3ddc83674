"""IP addresses, as they come from looking up a name."""

import ipaddress
from typing import Any

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""Family, type, protocol, canonical name and socket address, as `socket.getaddrinfo` has them."""

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_of(text: str) -> Ip:
    """Return the address without its zone; an IPv4-mapped one is an IPv4 address to the system.

    Raises ValueError for anything else.
    """
    ip = ipaddress.ip_address(text.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip
