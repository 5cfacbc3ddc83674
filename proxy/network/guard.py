"""Which addresses clients may not reach through us: rules on the address dialled, never on names.

What a name says is no evidence: whoever owns it can have it say something else the next moment.
An address that carries an IPv4 address is judged by that one too, because something on the way may
send its packets there.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from proxy.network.address import AddressInfo, Ip, ip_of
from proxy.network.errors import AddressRefused

Kind = Literal[
    "broadcast",
    "cloud metadata",
    "link-local",
    "loopback",
    "multicast",
    "private",
    "reserved",
    "unspecified",
]

_RANGES: Final[Sequence[tuple[Kind, str]]] = (
    # The addresses that clouds document for what their machines may ask about themselves
    ("cloud metadata", "169.254.169.254/32"),  # AWS, Azure, Google, Oracle and most others
    ("cloud metadata", "169.254.170.2/32 169.254.170.23/32"),  # AWS: credentials in ECS and EKS
    ("cloud metadata", "fd00:ec2::/32"),  # AWS: the same over IPv6, with its DNS and NTP
    ("cloud metadata", "fd20:ce::254/128"),  # Google, over IPv6
    ("cloud metadata", "168.63.129.16/32"),  # Azure: the WireServer, though at a public address
    ("cloud metadata", "192.0.0.192/32 fd00:c1::a9fe:a9fe/128"),  # Oracle: Classic; over IPv6
    ("cloud metadata", "100.100.100.200/32 fd00:100::100:200/128"),  # Alibaba
    ("cloud metadata", "169.254.0.23/32"),  # Tencent
    ("cloud metadata", "169.254.42.42/32 fd00:42::42/128"),  # Scaleway
    ("cloud metadata", "fd00:a9fe:a9fe::1/128"),  # Akamai, over IPv6
    # The registries of special-purpose addresses (RFC 6890)
    ("unspecified", "0.0.0.0/8 ::/128"),  # RFC 791, section 3.2; RFC 4291, section 2.5.2
    ("loopback", "127.0.0.0/8 ::1/128"),  # RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3
    ("link-local", "169.254.0.0/16 fe80::/10"),  # RFC 3927; RFC 4291, section 2.5.6
    ("multicast", "224.0.0.0/4 ff00::/8"),  # RFC 5771; RFC 4291, section 2.7
    ("broadcast", "255.255.255.255/32"),  # RFC 919, section 7
    ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"),  # RFC 1918
    ("private", "fc00::/7 fec0::/10"),  # RFC 4193; RFC 3879
    ("private", "100.64.0.0/10"),  # RFC 6598: shared by the customers of a carrier
    ("private", "198.18.0.0/15 2001:2::/48"),  # RFC 2544 and 5180: benchmarks
    ("private", "64:ff9b:1::/48"),  # RFC 8215: NAT64 for local use
    ("reserved", "240.0.0.0/4"),  # RFC 1112, section 4
    ("reserved", "192.0.0.0/24"),  # RFC 6890, section 2.1: protocol assignments
    ("reserved", "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24"),  # RFC 5737: documentation
    ("reserved", "2001:db8::/32 3fff::/20"),  # RFC 3849 and 9637: documentation
    ("reserved", "192.88.99.0/24"),  # RFC 7526: relays of 6to4, given up
    ("reserved", "2001:10::/28"),  # RFC 4843: ORCHID, given up
)
"""Kinds and their networks; the first match counts."""
_NETWORKS: Final = [
    (kind, ipaddress.ip_network(each)) for kind, ranges in _RANGES for each in ranges.split()
]
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")  # RFC 4291, section 2.4

_CARRIERS: Final = [
    (ipaddress.IPv6Network(network), first)
    for network, first in (
        ("64:ff9b::/96", 12),  # RFC 6052, section 2.1: NAT64
        ("2002::/16", 2),  # RFC 3056, section 2: 6to4
        ("2001::/32", 4),  # RFC 4380, section 4: Teredo, the server's
    )
]
"""Networks whose addresses carry an IPv4 address, and its first byte."""
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_LOCAL_NAT64_FORMS: Final = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))
"""Where the IPv4 address stands behind a prefix of 48, 56, 64 or 96 bits (RFC 6052, 2.2).

Which of them it is cannot be seen: where several make sense, each must be one to go to.
"""


@dataclass(frozen=True, slots=True)
class Guard:
    """Says where clients may not get; `private` tells whether they may reach private addresses."""

    private: bool = False

    def allowed(self, infos: Sequence[AddressInfo]) -> list[AddressInfo]:
        """Return those that may be reached; raise AddressRefused if there is none."""
        refused = {info: kind for info in infos if (kind := self.refuses(info[4][0]))}
        allowed = [info for info in infos if info not in refused]
        if not allowed:
            raise AddressRefused(", ".join(dict.fromkeys(refused.values())))
        return allowed

    def refuses(self, address: str) -> Kind | None:
        """Return the kind for which an IP address may not be reached, None if it may."""
        ip = ip_of(address)
        kinds = (_kind(each) for each in (ip, *_carried(ip)))
        return next((kind for kind in kinds if kind and not self._lets(kind)), None)

    def _lets(self, kind: Kind) -> bool:
        return self.private and kind == "private"


def _kind(ip: Ip) -> Kind | None:
    """Return what kind of address it is by itself; None if all the world may reach it."""
    for kind, network in _NETWORKS:
        if ip in network:
            return kind
    if ip.version == 4 or ip in _GLOBAL_UNICAST or any(ip in each for each, _ in _CARRIERS):
        return None
    return "reserved"


def _carried(ip: Ip) -> Iterator[ipaddress.IPv4Address]:
    """Yield every IPv4 address that may be meant by an IPv6 one."""
    if ip.version == 4:
        return
    raw = ip.packed
    for network, first in _CARRIERS:
        if ip in network:
            yield ipaddress.IPv4Address(raw[first : first + 4])
    if ip in _TEREDO:  # the client's, every bit turned over
        yield ipaddress.IPv4Address(bytes(255 - byte for byte in raw[12:]))
    if ip in _LOCAL_NAT64:
        for places in _LOCAL_NAT64_FORMS:
            four = bytes(raw[place] for place in places)
            if any(four) and not any(raw[places[-1] + 1 :]):
                yield ipaddress.IPv4Address(four)
