"""Whether the names of upstreams become addresses, and whether those are somebody else's."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.config import Settings
from proxy.launch.checks.destination import Destination
from proxy.launch.report import Line, fail, ok
from proxy.network.address import ip_of
from proxy.network.dialer import Dialer
from proxy.network.errors import LoopError
from proxy.network.reason import reason
from proxy.network.resolver import known

CHECK = "dns"
UPSTREAM_PROXY = "upstream_proxy"
MOST_SECONDS = 5.0
SHOWN = 3
"""How many addresses a line names."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What became of the name that is dialled for an upstream: its own, or its proxy's."""

    name: str
    by: str = ""
    """What said it, if nobody was asked."""
    addresses: tuple[str, ...] = ()
    fault: str = ""
    """Why there is no address, in words."""
    loop: str = ""
    """Why nobody may dial it, in words: a listener of ours is there."""

    @property
    def leads_back(self) -> bool:
        """Whether it leads to this machine, as for the apps' sake a name may."""
        asked = not self.by and self.name != UPSTREAM_PROXY
        here = asked and any(ip_of(each).is_loopback for each in self.addresses)
        return here or bool(self.loop)

    @property
    def is_well(self) -> bool:
        return not (self.fault or self.leads_back)


async def look_up(destination: Destination, dialer: Dialer) -> Lookup:
    """Look up what the proxy would dial."""
    host, port, address = destination.host, destination.port, destination.settings.address
    name, proxy = destination.name, dialer.proxy_for(destination.host)
    if proxy is not None:
        name, host, port, address = UPSTREAM_PROXY, proxy.place.host, proxy.place.port, None
    by = "address" if address else "url" if known(host, port) else ""
    addresses: tuple[str, ...] = ()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            infos = await dialer.resolve(host, port, address)
        addresses = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
        dialer.own.others(infos)
    except LoopError as error:
        return Lookup(name, by, addresses, loop=str(error))
    except TimeoutError:
        return Lookup(name, by, fault=f"no address was found within {MOST_SECONDS:g} s")
    except OSError as error:
        return Lookup(name, by, fault=reason(error))
    return Lookup(name, by, addresses)


def judge(lookups: Sequence[Lookup], settings: Settings, *, goes_direct: bool) -> Iterator[Line]:
    """Say how they are, in one line for those that are well.

    `goes_direct` tells that there is no upstream proxy though the environment names one.
    """
    different = list({each.name: each for each in lookups}.values())
    if well := [each for each in different if each.is_well]:
        subject = well[0].name if len(well) == 1 else f"{len(well)} upstreams"
        yield ok(CHECK, subject, _described(well, settings))
    for each in different:
        if each.leads_back:
            found = each.loop or f"its address, {each.addresses[0]}, is this machine's own"
            yield fail(CHECK, each.name, found, step=_way_out(each, settings))
        elif each.fault:
            yield fail(CHECK, each.name, each.fault, step=_way_on(each, goes_direct=goes_direct))


def _described(lookups: Sequence[Lookup], settings: Settings) -> str:
    addresses = list(dict.fromkeys(it for each in lookups for it in each.addresses))
    more = len(addresses) - SHOWN
    shown = ", ".join(addresses[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    means = {f"its {each.by}" if each.by else _resolver(settings) for each in lookups}
    return f"{shown}, by {' and '.join(sorted(means))}"


def _resolver(settings: Settings) -> str:
    if settings.resolver == "system":
        return "the system"
    return f"name servers {', '.join(settings.nameservers)}".rstrip()


def _way_out(lookup: Lookup, settings: Settings) -> str:
    if lookup.name == UPSTREAM_PROXY:
        return "name another proxy in upstream_proxy, or none"
    address = "the API's address beside its url in upstreams"
    if settings.resolver == "dns" or lookup.by:
        return f"set {address}"
    return f"set resolver: dns, which looks past /etc/hosts, or {address}"


def _way_on(lookup: Lookup, *, goes_direct: bool) -> str:
    if lookup.name == UPSTREAM_PROXY:
        return "correct upstream_proxy, or the DNS of this machine"
    if goes_direct:
        return "set upstream_proxy, as HTTPS_PROXY is set here: the proxy does not read that"
    return "see whether this machine has DNS at all; else correct its url, or leave it out"
