"""IP addresses in the settings: a fixed one for an upstream, and those of name servers."""

import ipaddress
from typing import Annotated

from proxy.settings.places import Address
from proxy.settings.values import Leaf, Wrong


def _ip_address(value: object) -> str | None:
    if value is None:
        return None
    try:
        if isinstance(value, str) and "%" not in value:  # a zone would be lost on the way
            return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    raise Wrong("must be an IP address, as in 203.0.113.7 or 2001:db8::7, or null")


IpAddress = Annotated[
    str | None,
    Leaf(_ip_address, {"type": ["string", "null"], "pattern": "^[0-9A-Fa-f.:]+$"}),
]
"""An IP address in its shortest form, IPv6 without brackets, or null."""


def _name_servers(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise Wrong("must be a list of IP addresses, each with or without a port")
    return tuple(_name_server(each, number) for number, each in enumerate(value, 1))


def _name_server(value: object, number: int) -> str:
    """Return `IP` or `IP:port`, IPv6 in brackets if it has a port; a name would need a server."""
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        pass
    try:
        place = Address.parse(value)
        ipaddress.ip_address(place.host)
    except ValueError:
        place = Address()
    if not place.port:
        form = "an IP address, as in 10.96.0.10, 10.96.0.10:53, fd00::a or [fd00::a]:53"
        raise Wrong(f"must have {form}, for its entry {number}")
    return str(place)


NameServers = Annotated[
    tuple[str, ...],
    Leaf(_name_servers, {"type": "array", "items": {"type": "string"}}, write=list),
]
"""IP addresses of name servers, each `IP` or `IP:port`."""
