"""The one place that makes connections, against real servers on this machine."""

import asyncio
import socket
from pathlib import Path

import pytest
import trustme

from name_server import NameServer
from proxy.config import ProxyUrl
from proxy.network.dialer import CHECK_SECONDS, NEXT_ADDRESS_DELAY, Dialer
from proxy.network.dns import DnsResolver
from proxy.network.errors import AddressRefused, LoopError, ResolveError
from proxy.network.guard import Guard, Kind
from wire import Far, bound

pytestmark = pytest.mark.both_loops


class OnlyOne(Guard):
    """Lets clients reach 127.0.0.1, which the real guard never does, and nothing else."""

    def refuses(self, address: str) -> Kind | None:
        return None if address == "127.0.0.1" else "reserved"


@pytest.fixture
def dialer(name_server: NameServer) -> Dialer:
    """A dialer that asks the test's own name server."""
    return Dialer(DnsResolver([name_server.place]))


async def reaches(
    dialer: Dialer, far: Far, *, address: str | None = None, guard: Guard | None = None
) -> None:
    """Connect to far.test, and see that it ends at `far`, which has the address 127.0.0.1."""
    with await dialer.connect("far.test", far.port, address=address, guard=guard) as sock:
        assert sock.getpeername() == ("127.0.0.1", far.port)
        await far.wire()


async def test_a_connection_is_ready_for_a_loop_and_waits_for_no_acknowledgement(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.1",)
    with await dialer.connect("far.test", far.port) as sock:
        await far.wire()
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_where_the_first_address_refuses_the_next_is_tried(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.2", "127.0.0.3", "127.0.0.1")
    await reaches(dialer, far)


async def test_where_the_first_address_says_nothing_the_next_is_tried_beside_it(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.2", "127.0.0.1")
    loop = asyncio.get_running_loop()
    started = loop.time()
    with bound(("127.0.0.2", far.port)) as full:
        full.listen(0)
        with socket.create_connection(("127.0.0.2", far.port)):
            await reaches(dialer, far)
    assert NEXT_ADDRESS_DELAY <= loop.time() - started < 4 * NEXT_ADDRESS_DELAY


async def test_no_address_that_answers_is_the_systems_own_error(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    far.refuse()
    name_server.names["far.test"] = ("127.0.0.1", "127.0.0.2")
    with pytest.raises(ConnectionRefusedError):
        await dialer.connect("far.test", far.port)


async def test_a_fixed_address_is_connected_to_and_the_name_asked_of_nobody(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.2",)
    await reaches(dialer, far, address="127.0.0.1")
    assert name_server.asked == []


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "127.0.0.1\0.test"])
async def test_what_the_system_cannot_take_for_a_name_is_none(host: str) -> None:
    with pytest.raises(ResolveError, match="it is not a name"):
        await Dialer().connect(host, 443)


# Addresses that clients may not reach


async def test_of_two_addresses_only_the_one_that_may_be_reached_is_dialled(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.2", "127.0.0.1")
    with bound(("127.0.0.2", far.port)) as forbidden:
        forbidden.listen()
        forbidden.setblocking(False)
        await reaches(dialer, far, guard=OnlyOne())
        with pytest.raises(BlockingIOError):
            forbidden.accept()


@pytest.mark.parametrize(
    "host", ["far.test", "127.0.0.1", "127.1", "localhost", "::ffff:127.0.0.1"]
)
async def test_an_address_that_may_not_be_reached_gets_no_packet(
    dialer: Dialer, name_server: NameServer, far: Far, host: str
) -> None:
    name_server.names["far.test"] = ("127.0.0.1",)
    with pytest.raises(AddressRefused, match="may not be reached: it is loopback"):
        await dialer.connect(host, far.port, guard=Guard(private=True))
    assert far.accepted == 0


async def test_a_name_that_changes_its_address_gains_nothing(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    for address, kind in [("127.0.0.1", None), ("127.0.0.2", "reserved"), ("127.0.0.1", None)]:
        name_server.names["far.test"] = (address,)
        if kind is None:
            await reaches(dialer, far, guard=OnlyOne())
        else:
            with pytest.raises(AddressRefused, match=kind):
                await dialer.connect("far.test", far.port, guard=OnlyOne())


# Loops


async def test_a_connection_to_ourselves_is_not_made(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.1",)
    dialer.own.add([("127.0.0.1", far.port)])
    with pytest.raises(LoopError) as caught:
        await dialer.connect("far.test", far.port)
    assert str(caught.value) == f"its address, {far.authority}, is a listener of this proxy itself"
    assert far.accepted == 0


async def test_where_a_name_leads_elsewhere_too_it_leads_there(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.1", "127.0.0.2")
    dialer.own.add([("127.0.0.2", far.port)])
    await reaches(dialer, far)
    assert await dialer.find_loop("far.test", far.port) is None


async def test_a_loop_is_found_without_a_connection(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.names["far.test"] = ("127.0.0.1",)
    assert await dialer.find_loop("far.test", far.port) is None
    dialer.own.add([("127.0.0.1", far.port)])
    found = await dialer.find_loop("far.test", far.port)
    assert found is not None
    assert (found.place, found.proxied) == (far.authority, False)
    assert await dialer.find_loop("far.test", far.port, "127.0.0.2") is None
    assert far.accepted == 0


async def test_nobody_is_asked_where_no_listener_has_the_port(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    dialer.own.add([("127.0.0.1", far.port)])
    assert await dialer.find_loop("far.test", far.port - 1) is None
    assert name_server.asked == []


async def test_a_name_that_nobody_knows_is_no_loop(dialer: Dialer, far: Far) -> None:
    dialer.own.add([("127.0.0.1", far.port)])
    assert await dialer.find_loop("far.test", far.port) is None


@pytest.mark.virtual_time
async def test_looking_for_a_loop_ends_in_time(
    dialer: Dialer, name_server: NameServer, far: Far
) -> None:
    name_server.silent = True
    dialer.own.add([("127.0.0.1", far.port)])
    assert await dialer.find_loop("far.test", far.port) is None
    assert asyncio.get_running_loop().time() == pytest.approx(CHECK_SECONDS, abs=0.1)


async def test_an_upstream_proxy_that_is_ourselves_is_a_loop(far: Far) -> None:
    dialer = Dialer(upstream_proxy=ProxyUrl.parse(f"http://{far.authority}"))
    dialer.own.add([("127.0.0.1", far.port)])
    with pytest.raises(LoopError, match=r"^the upstream proxy's address, ") as caught:
        await dialer.connect("api.test", 443)
    assert caught.value.proxied
    found = await dialer.find_loop("api.test", 443)
    assert str(found) == str(caught.value)
    assert await dialer.find_loop("localhost", 443) is None
    assert far.accepted == 0


# What connections share


def test_connections_that_trust_the_same_authorities_share_a_context(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.write_to_path(str(path))
    dialer = Dialer()
    assert dialer.tls_context(None) is dialer.tls_context(None)
    assert dialer.tls_context(str(path)) is dialer.tls_context(str(path))
    assert dialer.tls_context(str(path)) is not dialer.tls_context(None)


def test_it_tells_how_it_connects_and_no_password() -> None:
    proxy = ProxyUrl.parse("http://user:pass4711@proxy.test:3128")
    assert repr(Dialer(upstream_proxy=proxy)) == (
        "<Dialer <SystemResolver> through http://***@proxy.test:3128>"
    )
    assert repr(Dialer()) == "<Dialer <SystemResolver>>"
