"""Names of upstreams: what is said of each way in which they become addresses, or do not."""

from typing import Any

import pytest

from harness import settings_for
from name_server import SERVFAIL, NameServer
from proxy.config import Settings, UpstreamSettings
from proxy.launch.checks.destination import Destination, destinations
from proxy.launch.checks.names import Lookup, judge, look_up
from proxy.launch.report import Line, fail, ok
from proxy.network.dialer import Dialer, make_dialer_beside
from proxy.network.dns import DnsResolver

SYSTEM = settings_for("https://api.test")
DNS = settings_for("https://api.test", resolver="dns", nameservers=["10.0.0.1"])


def judged(*lookups: Lookup, settings: Settings = SYSTEM, goes_direct: bool = False) -> list[Line]:
    return list(judge(lookups, settings, goes_direct=goes_direct))


# What is said


def test_one_that_is_well_is_told_with_its_addresses_and_who_said_them() -> None:
    lookup = Lookup("api.test", addresses=("203.0.113.7", "203.0.113.8"))
    assert judged(lookup) == [ok("dns", "api.test", "203.0.113.7, 203.0.113.8, by the system")]
    assert judged(lookup, settings=DNS)[0].found.endswith(", by name servers 10.0.0.1")


@pytest.mark.parametrize("by", ["url", "address"])
def test_one_that_nobody_had_to_look_up_says_so(by: str) -> None:
    assert judged(Lookup("api.test", by, ("127.0.0.1",))) == [
        ok("dns", "api.test", f"127.0.0.1, by its {by}")
    ]


def test_several_that_are_well_are_one_line_with_a_few_addresses() -> None:
    lookups = [Lookup(str(n), addresses=(f"203.0.113.{n}",)) for n in range(1, 6)]
    assert judged(*lookups) == [
        ok("dns", "5 upstreams", "203.0.113.1, 203.0.113.2, 203.0.113.3 and 2 more, by the system")
    ]


LOST = Lookup("api.test", fault="its name could not be resolved")
HERE = Lookup("api.test", addresses=("127.0.0.1",))
LOOP = Lookup("api.test", addresses=("10.0.0.7",), loop="its address is ours")
PROXY = Lookup("upstream_proxy", fault="its name could not be resolved")
PROXY_LOOP = Lookup("upstream_proxy", addresses=("127.0.0.1",), loop="its address is ours")

WRONG = {
    "lost": (LOST, "its name could not be resolved", "see whether this machine has DNS at all"),
    "here": (HERE, "its address, 127.0.0.1, is this machine's own", "set resolver: dns, which"),
    "loop": (LOOP, "its address is ours", "set resolver: dns, which looks past /etc/hosts, or"),
    "proxy": (PROXY, "its name could not be resolved", "correct upstream_proxy"),
    "proxy loop": (PROXY_LOOP, "its address is ours", "name another proxy in upstream_proxy"),
}


@pytest.mark.parametrize(("lookup", "found", "step"), WRONG.values(), ids=WRONG)
def test_one_that_is_no_good_is_told_with_the_next_step(
    lookup: Lookup, found: str, step: str
) -> None:
    (line,) = judged(lookup)
    assert line == fail("dns", lookup.name, found, step=line.step)
    assert line.step.startswith(step)


def test_who_looks_past_etc_hosts_already_is_not_told_to() -> None:
    (line,) = judged(HERE, settings=DNS)
    assert line.step == "set the API's address beside its url in upstreams"


def test_a_proxy_that_only_the_environment_knows_is_pointed_out() -> None:
    (line,) = judged(LOST, goes_direct=True)
    assert line.step.startswith("set upstream_proxy, as HTTPS_PROXY is set here")


def test_a_proxy_on_this_machine_is_well() -> None:
    assert judged(Lookup("upstream_proxy", addresses=("127.0.0.1",)))[0].grade.value == "ok"


def test_what_all_have_in_common_is_told_once() -> None:
    assert len(judged(PROXY, PROXY, PROXY)) == 1


# What is looked up


def destination(url: str, **upstream: Any) -> Destination:
    (found,) = destinations({"api.test": UpstreamSettings(url=url, **upstream)})
    return found


@pytest.mark.parametrize(
    ("url", "host", "port", "is_tls"),
    [
        ("https://api.test", "api.test", 443, True),
        ("http://127.0.0.1:8081/v1", "127.0.0.1", 8081, False),
        ("https://[::1]:8443", "::1", 8443, True),
    ],
)
def test_a_destination_is_what_the_url_says(
    url: str, host: str, port: int, *, is_tls: bool
) -> None:
    found = destination(url)
    assert (found.host, found.port, found.is_tls) == (host, port, is_tls)


async def test_a_name_is_asked_of_the_resolver_that_the_proxy_asks() -> None:
    async with NameServer() as server:
        server.names["api.test"] = ("203.0.113.7", "2001:db8::7")
        dialer = Dialer(DnsResolver([server.place]))
        found = await look_up(destination("https://api.test"), dialer)
    assert found.by == ""
    assert sorted(found.addresses) == ["2001:db8::7", "203.0.113.7"]


async def test_what_the_resolver_says_of_its_failure_is_told() -> None:
    async with NameServer() as server:
        server.fails = SERVFAIL
        dialer = Dialer(DnsResolver([server.place]))
        found = await look_up(destination("https://api.test"), dialer)
    assert found == Lookup(
        "api.test", fault="its name could not be resolved: the name servers failed"
    )


async def test_a_fixed_address_is_looked_at_in_place_of_the_name() -> None:
    found = await look_up(destination("https://api.test", address="203.0.113.7"), Dialer())
    assert found == Lookup("api.test", "address", ("203.0.113.7",))


async def test_a_name_of_this_machine_is_none_of_the_apis() -> None:
    async with NameServer() as server:
        server.names["api.test"] = ("127.0.0.7",)
        dialer = Dialer(DnsResolver([server.place]))
        assert (await look_up(destination("https://api.test"), dialer)).leads_back
    assert not (await look_up(destination("http://localhost:1"), Dialer())).leads_back
    assert not (await look_up(destination("http://127.0.0.1:1"), Dialer())).leads_back


async def test_an_address_that_a_listener_of_ours_has_is_a_loop() -> None:
    settings = settings_for("https://api.test", listeners=[{"bind": "127.0.0.1:8443"}])
    found = await look_up(destination("https://127.0.0.1:8443"), make_dialer_beside(settings))
    assert found.loop == "its address, 127.0.0.1:8443, is a listener of this proxy itself"
    assert found.leads_back


async def test_behind_an_upstream_proxy_its_name_is_looked_up_and_no_other() -> None:
    settings = settings_for(
        "https://api.test", upstream_proxy="http://user:pass4711@127.0.0.1:3128"
    )
    found = await look_up(destination("https://api.test"), make_dialer_beside(settings))
    assert found == Lookup("upstream_proxy", "url", ("127.0.0.1",))
