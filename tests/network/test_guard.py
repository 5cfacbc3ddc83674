"""Which addresses clients may reach: pure rules on addresses."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.network.address import AddressInfo
from proxy.network.errors import AddressRefused
from proxy.network.guard import Guard

STRICT, LENIENT = Guard(), Guard(private=True)

KINDS = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],  # noqa: S104 - nothing is bound
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "link-local": ["169.254.1.1", "fe80::1", "fe80::1%eth0", "febf::1"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1"],
    "broadcast": ["255.255.255.255"],
    "cloud metadata": [
        "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42",
        "168.63.129.16", "192.0.0.192", "100.100.100.200",
        "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42", "fd00:a9fe:a9fe::1",
        "fd00:c1::a9fe:a9fe", "fd00:100::100:200",
    ],
    "private": [
        "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.0.1",
        "198.18.0.1", "198.19.255.255", "fc00::1", "fd00::1", "fec0::1", "2001:2::1",
        "64:ff9b:1::808:808",
    ],
    "reserved": [
        "240.0.0.1", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1",
        "2001:db8::1", "3fff::1", "2001:10::1", "100::1", "4000::1", "5f00::1", "::8.8.8.8",
        "::ffff:0:8.8.8.8",
    ],
}  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1",
    "169.253.255.255", "169.255.0.1", "168.63.129.15", "192.0.1.1", "198.17.255.255", "223.1.1.1",
    "2606:4700::1111", "2a00:1450::1", "2001:4860::1", "2001:20::1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "kind"), [(each, kind) for kind, addresses in KINDS.items() for each in addresses]
)
def test_an_address_is_refused_for_its_kind(address: str, kind: str) -> None:
    assert STRICT.refuses(address) == kind
    assert LENIENT.refuses(address) == (None if kind == "private" else kind)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_that_all_the_world_may_reach_is_let_through(address: str) -> None:
    assert STRICT.refuses(address) is None


# Addresses that carry an IPv4 address


def _teredo(server: int, client: int) -> IPv6Address:
    return IPv6Address((0x2001_0000 << 96) | (server << 64) | (client ^ 0xFFFF_FFFF))


def _behind_prefix(prefix: int, four: bytes) -> IPv6Address:
    """Put an IPv4 address behind a prefix of so many bits, over the byte that stays 0."""
    raw = IPv6Address("64:ff9b:1::").packed[: prefix // 8] + four
    raw = raw if prefix == 96 else raw[:8] + b"\0" + raw[8:]
    return IPv6Address(raw.ljust(16, b"\0"))


CARRIERS = {
    "mapped": lambda ip: IPv6Address((0xFFFF << 32) | int(ip)),
    "6to4": lambda ip: IPv6Address((0x2002 << 112) | (int(ip) << 80) | 1),
    "NAT64": lambda ip: IPv6Address((0x0064_FF9B << 96) | int(ip)),
    "Teredo server": lambda ip: _teredo(int(ip), int(IPv4Address("8.8.8.8"))),
    "Teredo client": lambda ip: _teredo(int(IPv4Address("8.8.8.8")), int(ip)),
}
PREFIXES = (48, 56, 64, 96)
FOURS = [each for kind in KINDS.values() for each in kind if ":" not in each] + PUBLIC[:12]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("four", FOURS)
def test_an_address_that_carries_another_is_judged_by_that_one_too(carrier: str, four: str) -> None:
    six = str(CARRIERS[carrier](IPv4Address(four)))
    for guard in (STRICT, LENIENT):
        assert guard.refuses(six) == guard.refuses(four)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("four", ["169.254.169.254", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_nat64_for_local_use_is_judged_behind_each_length_of_prefix(prefix: int, four: str) -> None:
    six = str(_behind_prefix(prefix, IPv4Address(four).packed))
    assert LENIENT.refuses(six) == LENIENT.refuses(four)
    assert STRICT.refuses(six) == "private"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("four", ["8.8.8.8", "10.1.2.3"])
def test_nat64_for_local_use_leads_to_where_one_may_go(prefix: int, four: str) -> None:
    assert LENIENT.refuses(str(_behind_prefix(prefix, IPv4Address(four).packed))) is None


# What Python's own tables say

JUDGED_OTHERWISE = [
    ip_network(each)
    for each in (
        "168.63.129.16/32", "192.88.99.0/24",  # global to them, and refused here
        "192.0.0.0/24", "3fff::/20", "5f00::/16",  # as the version of Python has it
        "2001::/23", "2002::/16", "64:ff9b::/96", "64:ff9b:1::/48",  # as above; or they carry one
    )
]  # fmt: skip


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_what_is_not_global_to_python_is_refused_and_nothing_else(
    ip: IPv4Address | IPv6Address,
) -> None:
    assume(not any(ip in each for each in JUDGED_OTHERWISE))
    assume(getattr(ip, "ipv4_mapped", None) is None)
    all_may = ip.is_global and not ip.is_multicast and not ip.is_reserved and not _site_local(ip)
    assert (STRICT.refuses(str(ip)) is None) == all_may


def _site_local(ip: IPv4Address | IPv6Address) -> bool:
    return ip in IPv6Network("fec0::/10") if ip.version == 6 else False


# Lists of addresses


def info(address: str) -> AddressInfo:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443))


def test_of_several_addresses_the_good_ones_stay_in_their_order() -> None:
    infos = [info(each) for each in ("10.0.0.1", "8.8.8.8", "127.0.0.1", "1.1.1.1")]
    assert STRICT.allowed(infos) == [infos[1], infos[3]]
    assert LENIENT.allowed(infos) == [infos[0], infos[1], infos[3]]


def test_without_a_good_one_it_is_said_what_they_are() -> None:
    infos = [info(each) for each in ("10.0.0.1", "127.0.0.1", "10.0.0.2")]
    with pytest.raises(AddressRefused, match=r"may not be reached: it is private, loopback$"):
        STRICT.allowed(infos)
    with pytest.raises(AddressRefused, match=r"may not be reached: it is loopback$") as caught:
        LENIENT.allowed(infos[1:2])
    assert caught.value.kind == "loopback"


@given(st.ip_addresses(v=4))
def test_every_address_is_judged_as_its_mapped_form(ip: IPv4Address) -> None:
    assert STRICT.refuses(f"::ffff:{ip}") == STRICT.refuses(str(ip))
