"""Asking name servers, against a real one on this machine."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from harness import open_files
from name_server import AAAA, REFUSED, SERVFAIL, A, NameServer
from proxy.network.dns import LOOKUP_SECONDS, MOST_ADDRESSES, TRY_SECONDS, DnsResolver
from proxy.network.errors import ResolveError

pytestmark = pytest.mark.both_loops


async def addresses(server: NameServer, host: str) -> list[str]:
    return [info[4][0] for info in await DnsResolver([server.place]).resolve(host, 443)]


async def failure(*servers: NameServer, host: str = "api.test") -> str:
    with pytest.raises(ResolveError) as caught:
        await DnsResolver([each.place for each in servers]).resolve(host, 443)
    return str(caught.value)


def names_in_etc_hosts() -> list[str]:
    lines = Path("/etc/hosts").read_text().splitlines()
    words = [line.partition("#")[0].split()[1:] for line in lines]
    return [name for names in words for name in names if "localhost" not in name]


async def test_a_name_becomes_addresses_to_dial(name_server: NameServer) -> None:
    name_server.names["api.test"] = ("127.0.0.7",)
    assert await DnsResolver([name_server.place]).resolve("api.test", 443) == [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.7", 443))
    ]


async def test_both_families_are_asked_for(name_server: NameServer) -> None:
    name_server.names["api.test"] = ("127.0.0.7", "::1")
    infos = await DnsResolver([name_server.place]).resolve("api.test", 443)
    assert {info[4] for info in infos} == {("127.0.0.7", 443), ("::1", 443, 0, 0)}
    assert sorted(name_server.asked) == [("api.test", A), ("api.test", AAAA)]


@pytest.mark.parametrize("silent", [A, AAAA])
async def test_addresses_of_one_family_do_not_wait_long_for_the_others(
    name_server: NameServer, silent: int
) -> None:
    name_server.names["api.test"] = ("127.0.0.7", "::1")
    name_server.unanswered = {silent}
    async with asyncio.timeout(TRY_SECONDS):
        assert await addresses(name_server, "api.test") == ["::1" if silent == A else "127.0.0.7"]


async def test_an_alias_is_followed(name_server: NameServer) -> None:
    name_server.aliases |= {"api.test": "edge.test", "edge.test": "node.test"}
    name_server.names["node.test"] = ("127.0.0.7",)
    assert await addresses(name_server, "api.test") == ["127.0.0.7"]


async def test_an_answer_too_long_for_a_datagram_comes_over_tcp_and_is_bounded(
    name_server: NameServer,
) -> None:
    name_server.names["api.test"] = tuple(f"127.0.1.{number}" for number in range(200))
    found = await addresses(name_server, "api.test")
    assert len(set(found)) == MOST_ADDRESSES
    assert set(found) < set(name_server.names["api.test"])
    assert name_server.asked_by_tcp == 1


@pytest.mark.parametrize("host", ["127.0.0.7", "127.7", "0x7f000007", "2130706439"])
async def test_an_address_is_answered_at_once(name_server: NameServer, host: str) -> None:
    assert await addresses(name_server, host) == ["127.0.0.7"]
    assert name_server.asked == []


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "api.localhost"])
async def test_localhost_is_this_machine_whatever_name_servers_say(
    name_server: NameServer, host: str
) -> None:
    name_server.names["localhost"] = name_server.names["api.localhost"] = ("127.0.0.7",)
    assert await addresses(name_server, host) == ["::1", "127.0.0.1"]
    assert name_server.asked == []


async def test_a_name_in_etc_hosts_is_asked_for_like_any_other(name_server: NameServer) -> None:
    for name in names_in_etc_hosts():
        name_server.names[name] = ("127.0.0.7",)
        assert await addresses(name_server, name) == ["127.0.0.7"]


# What goes wrong


async def test_a_name_that_nobody_knows_is_said_to_be_unknown(name_server: NameServer) -> None:
    assert await failure(name_server) == "its name could not be resolved: no name server knows it"


async def test_a_name_without_an_address_is_said_to_have_none(name_server: NameServer) -> None:
    name_server.names["api.test"] = ()
    assert await failure(name_server) == "its name could not be resolved: it has no address"


@pytest.mark.parametrize(
    ("code", "said"),
    [(SERVFAIL, "the name servers failed"), (REFUSED, "the name servers refused to answer")],
)
async def test_a_name_server_that_fails_is_told_of(
    name_server: NameServer, code: int, said: str
) -> None:
    name_server.fails = code
    assert await failure(name_server) == f"its name could not be resolved: {said}"


async def test_a_name_server_that_fails_is_passed_over(name_server: NameServer) -> None:
    name_server.names["api.test"] = ("127.0.0.7",)
    async with NameServer() as broken:
        broken.fails = SERVFAIL
        resolver = DnsResolver([broken.place, name_server.place])
        assert len(await resolver.resolve("api.test", 443)) == 1
        assert broken.asked


async def test_a_silent_name_server_is_passed_over_in_time(
    name_server: NameServer,
) -> None:
    name_server.names["api.test"] = ("127.0.0.7",)
    async with NameServer() as mute:
        mute.silent = True
        resolver = DnsResolver([mute.place, name_server.place])
        assert len(await resolver.resolve("api.test", 443)) == 1
        assert mute.asked


async def test_a_name_server_that_is_not_there_cannot_be_reached(name_server: NameServer) -> None:
    async with NameServer() as gone:
        pass
    assert await failure(gone) == "its name could not be resolved: no name server can be reached"
    name_server.names["api.test"] = ("127.0.0.7",)
    resolver = DnsResolver([gone.place, name_server.place])
    assert len(await resolver.resolve("api.test", 443)) == 1


@pytest.mark.parametrize(
    "host", ["a..test", "x" * 64 + ".test", "a b.test", "b\xfccher.test", "a\0.test"]
)
async def test_what_cannot_be_a_name_is_not_asked_for(name_server: NameServer, host: str) -> None:
    said = await failure(name_server, host=host)
    assert said == "its name could not be resolved: it is not a name"
    assert name_server.asked == []


@pytest.mark.parametrize("rubbish", [b"\0" * 11, bytes(range(256)), b"\xff" * 512])
async def test_an_answer_that_is_none_is_told_of(name_server: NameServer, rubbish: bytes) -> None:
    name_server.rubbish = rubbish
    said = await failure(name_server)
    assert said == "its name could not be resolved: the answer of the name servers makes no sense"


@pytest.mark.virtual_time
async def test_a_look_up_without_an_answer_ends_in_time(name_server: NameServer) -> None:
    name_server.silent = True
    said = await failure(name_server)
    assert said == "its name could not be resolved: no name server answered in time"
    assert asyncio.get_running_loop().time() == pytest.approx(LOOKUP_SECONDS, abs=0.1)


@pytest.mark.parametrize("server", ["fe80::1%nowhere", "nonsense"])
async def test_a_name_server_that_cannot_be_one_is_told_of(server: str) -> None:
    with pytest.raises(ResolveError, match="resolved: no name server can be asked"):
        await DnsResolver([server]).resolve("api.test", 443)


# What is left


async def test_a_look_up_leaves_nothing_open(name_server: NameServer) -> None:
    name_server.names["api.test"] = ("127.0.0.7",)
    await addresses(name_server, "api.test")  # the first one starts a thread that frees memory
    tasks, files, threads = asyncio.all_tasks(), open_files(), threading.active_count()
    for _ in range(3):
        await addresses(name_server, "api.test")
        await failure(name_server, host="nowhere.test")
    assert (asyncio.all_tasks(), open_files()) == (tasks, files)
    assert threading.active_count() == threads


async def test_a_look_up_that_is_given_up_leaves_nothing_open(name_server: NameServer) -> None:
    name_server.silent = True
    tasks, files = asyncio.all_tasks(), open_files()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await addresses(name_server, "api.test")
    assert (asyncio.all_tasks(), open_files()) == (tasks, files)


def test_it_tells_whom_it_asks() -> None:
    assert repr(DnsResolver(["127.0.0.1:53"])) == "<DnsResolver asks 127.0.0.1:53>"
    assert repr(DnsResolver()) == "<DnsResolver asks those of the system>"
