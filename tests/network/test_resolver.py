"""The system's look-ups, which nobody can cancel: one that hangs must hold up nothing else."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest

from harness import until
from proxy.network.address import AddressInfo
from proxy.network.dialer import Dialer
from proxy.network.errors import ResolveError
from proxy.network.guard import Guard
from proxy.network.resolver import JOIN_SECONDS, MOST_FOREIGN, SystemResolver, known
from wire import Far

pytestmark = pytest.mark.both_loops

HERE = known("127.0.0.1", 443)
SLOW = [f"h{number}.slow.test" for number in range(MOST_FOREIGN)]
"""As many names as clients may have looked up at once."""


class NameService:
    """What the system asks: names below slow.test hang until `released`, the rest is here."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()

    def getaddrinfo(self, host: str, port: int, **_: object) -> Sequence[AddressInfo]:
        self.asked.append(host)
        if host.endswith("slow.test"):
            self.released.wait()
        if host == "nowhere.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known("127.0.0.1", port)


@pytest.fixture
def service() -> Iterator[NameService]:
    service = NameService()
    yield service
    service.released.set()


@pytest.fixture
def resolver(service: NameService) -> SystemResolver:
    return SystemResolver(service.getaddrinfo)


async def give_up(resolver: SystemResolver, *hosts: str, foreign: bool = False) -> None:
    """Have hosts looked up whose look-ups hang, and wait for none."""
    looking_up = [asyncio.create_task(resolver.resolve(each, 1, foreign=foreign)) for each in hosts]
    _, pending = await asyncio.wait(looking_up, timeout=0.01)
    assert len(pending) == len(hosts)
    for each in looking_up:
        each.cancel()
    await asyncio.wait(looking_up)


# What holds up what


async def test_slow_names_of_clients_hold_up_no_upstream(
    service: NameService, resolver: SystemResolver, far: Far
) -> None:
    dialer = Dialer(resolver)
    dialing = [asyncio.create_task(dialer.connect(each, 443, guard=Guard())) for each in SLOW]
    await until(lambda: len(service.asked) == MOST_FOREIGN)
    with await dialer.connect("far.test", far.port):
        await far.wire()
    assert not any(each.done() for each in dialing)
    service.released.set()
    await asyncio.gather(*dialing, return_exceptions=True)


async def test_slow_upstreams_hold_up_no_other(resolver: SystemResolver) -> None:
    await give_up(resolver, *SLOW, "another.slow.test")
    assert await resolver.resolve("api.test", 443) == HERE


async def test_slow_upstreams_hold_up_no_name_of_a_client(resolver: SystemResolver) -> None:
    await give_up(resolver, *SLOW)
    assert await resolver.resolve("other.test", 443, foreign=True) == HERE


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.1"])
async def test_an_ip_address_is_asked_of_nobody(
    service: NameService, resolver: SystemResolver, host: str
) -> None:
    assert await resolver.resolve(host, 443) == known(host, 443)
    assert service.asked == []


async def test_localhost_is_what_the_system_takes_it_for(
    service: NameService, resolver: SystemResolver
) -> None:
    assert await resolver.resolve("localhost", 443) == HERE  # and ::1 is not beside it
    assert service.asked == ["localhost"]


# The bound


async def test_one_too_many_is_refused_at_once_though_nobody_waits_for_the_others(
    service: NameService, resolver: SystemResolver
) -> None:
    await give_up(resolver, *SLOW, foreign=True)
    with pytest.raises(ResolveError, match=r"resolved: too many other names are being looked up$"):
        await Dialer(resolver).connect("other.test", 443, guard=Guard())
    assert "other.test" not in service.asked


async def test_a_look_up_that_returns_makes_room(
    service: NameService, resolver: SystemResolver
) -> None:
    await give_up(resolver, *SLOW, foreign=True)
    service.released.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await resolver.resolve("other.test", 443, foreign=True) == HERE
                break
            except ResolveError:  # the threads are about to end
                await asyncio.sleep(0.005)


async def test_no_thread_left_is_told_of(service: NameService, resolver: SystemResolver) -> None:
    usual = threading.stack_size(2**46)  # more than there are addresses for
    try:
        with pytest.raises(ResolveError, match=r"resolved: no thread could be started$"):
            await resolver.resolve("api.test", 443)
    finally:
        threading.stack_size(usual)
    assert await resolver.resolve("api.test", 443) == HERE
    assert service.asked == ["api.test"]


# What is shared


async def test_those_who_want_the_same_share_a_look_up_and_none_ends_it_for_the_rest(
    service: NameService, resolver: SystemResolver
) -> None:
    first, *rest = [asyncio.create_task(resolver.resolve("slow.test", 443)) for _ in range(3)]
    await until(lambda: service.asked == ["slow.test"])
    first.cancel()
    await asyncio.wait([first])
    service.released.set()
    assert await asyncio.gather(*rest) == [HERE, HERE]
    assert service.asked == ["slow.test"]


async def test_those_who_want_the_same_are_told_the_same_error(resolver: SystemResolver) -> None:
    asking = [resolver.resolve("nowhere.test", 443) for _ in range(2)]
    for each in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(each, socket.gaierror)


@pytest.mark.virtual_time
async def test_a_look_up_that_takes_long_is_joined_by_nobody(
    service: NameService, resolver: SystemResolver
) -> None:
    await give_up(resolver, "slow.test")
    await asyncio.sleep(JOIN_SECONDS)
    await give_up(resolver, "slow.test")
    await until(lambda: service.asked == ["slow.test", "slow.test"], seconds=60)


# What is left

HANGING = """
import asyncio, threading, time
from proxy.network.resolver import SystemResolver
from proxy.run import run

asked = threading.Event()

def hang(*_, **__):
    asked.set()
    time.sleep(3600)

async def work():
    resolver = SystemResolver(hang)
    looking_up = asyncio.create_task(resolver.resolve("slow.test", 443))
    await asyncio.to_thread(asked.wait)
    return 7

run(work())
"""


def test_a_look_up_that_hangs_holds_up_no_exit() -> None:
    process = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=10, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (7, "", "")
