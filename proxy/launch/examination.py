"""A look at all that a proxy needs, beside its settings and its credentials.

What does not depend on each other is looked at at once, and each look is bounded in time. Nothing
is changed by it, but that one token is made, and revoked again.
"""

import asyncio
import resource
import time
from asyncio import Task
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from proxy.app import files_wanted
from proxy.config import Settings
from proxy.launch.adapt import adapted, passed_over_proxy
from proxy.launch.checks import (
    authority,
    clients,
    clock,
    handshakes,
    listeners,
    mint,
    names,
    store,
    trust,
)
from proxy.launch.checks.authority import Outlook
from proxy.launch.checks.destination import Destination, destinations
from proxy.launch.checks.handshakes import Handshake, shake_hands
from proxy.launch.checks.names import Lookup, look_up
from proxy.launch.exec import Credentials
from proxy.launch.report import Line, fail, has_failed, merged, ok, skip
from proxy.network.dialer import Dialer, make_dialer_beside
from proxy.ops.tokens import open_desk
from proxy.tokens.store.base import StoreError
from proxy.traffic.ca import CaError

MOST_SECONDS = 12.0
"""How long one look may take; most have shorter times of their own."""

Look = Coroutine[Any, Any, Iterable[Line]]


@dataclass(frozen=True, slots=True)
class Reached:
    """How far one upstream was reached; no handshake is tried where its name is no good."""

    lookup: Lookup
    handshake: Handshake | None

    @property
    def is_well(self) -> bool:
        return self.handshake is not None and self.handshake.trouble is None

    @property
    def keeps_from_starting(self) -> bool:
        """Whether no proxy starts with such an upstream, be it one that nobody calls."""
        unread = self.handshake is not None and self.handshake.trouble == "authorities"
        return unread or bool(self.lookup.loop)


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found; `is_fit` if a proxy would start and get a token."""

    lines: list[Line]
    is_fit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What is looked at, and for what it is to be good."""

    settings: Settings
    credentials: Credentials
    environ: Mapping[str, str]
    mints: bool
    """Whether a token may be made."""
    for_command: bool
    """Whether it is for an `exec`, which finds addresses and tells its command whom to trust."""

    async def run(self) -> "Examined":
        """Look at it all."""
        dialer = make_dialer_beside(self.settings)
        places = destinations(self.settings.upstreams)
        async with asyncio.TaskGroup() as group:
            storing = group.create_task(bounded(store.CHECK, self._store()))
            reaching = [group.create_task(_reach(each, dialer)) for each in places]
            timing = group.create_task(bounded(clock.CHECK, _clock(places[0], dialer, reaching[0])))
            minting = group.create_task(bounded(mint.CHECK, self._mint(storing, reaching[0])))
            listening = group.create_task(bounded(listeners.CHECK, self._listeners()))
            trusting = group.create_task(bounded(authority.CHECK, self._authority()))
        reached = [each.result() for each in reaching]
        needed = [*storing.result(), *minting.result(), *trusting.result()]
        return Examined(
            lines=[
                *storing.result(),
                *self._network(reached),
                *timing.result(),
                *minting.result(),
                *listening.result(),
                self._files(),
                *trusting.result(),
            ],
            is_fit=reached[0].is_well
            and not any(each.keeps_from_starting for each in reached)
            and not has_failed(needed),
        )

    async def _store(self) -> list[Line]:
        return [await store.examine(self.settings.store.url, self.credentials.seal)]

    def _network(self, reached: list[Reached]) -> Iterator[Line]:
        total, settings = len(reached), self.settings
        goes_direct = passed_over_proxy(settings, self.environ) is not None
        lookups = [it.lookup for it in reached]
        yield from merged(names.judge(lookups, settings, goes_direct=goes_direct), total)
        shaken = [it.handshake for it in reached if it.handshake is not None]
        ca_files = {name: each.ca_file for name, each in settings.upstreams.items()}
        yield from merged(handshakes.judge(shaken, ca_files, goes_direct=goes_direct), total)
        if untried := total - len(shaken):
            subject = f"{untried} upstream{'s' if untried > 1 else ''}"
            yield skip(handshakes.CHECK, subject, "not tried: see dns")

    async def _mint(self, storing: Task[list[Line]], reaching: Task[Reached]) -> list[Line]:
        name = next(iter(self.settings.upstreams))
        key, source = self.credentials.key, self.credentials.source
        if not self.mints:
            return [skip(mint.CHECK, name, "left out, as --no-mint says")]
        if key is None or source is None:
            is_member = self.settings.role == "member"
            why = "a member makes no creation calls" if is_member else "there is no static key"
            return [skip(mint.CHECK, name, f"not tried: {why}")]
        if not (await reaching).is_well:
            return [skip(mint.CHECK, name, "not tried: it was not reached")]
        if has_failed(await storing):
            return [skip(mint.CHECK, name, "not tried: the store counts such calls, and failed")]
        try:
            async with open_desk(self.settings, key, self.credentials.store_secret) as desk:
                return [mint.judge(await mint.make_probe(desk), name, source.name)]
        except StoreError as error:
            return [skip(mint.CHECK, name, f"not tried: {error}")]

    async def _listeners(self) -> Iterable[Line]:
        if self.for_command:
            return []
        attempts, running = await asyncio.gather(
            listeners.attempt_all(self.settings), listeners.find_running(self.settings.admin.bind)
        )
        found = await asyncio.to_thread(lambda: list(clients.look(self.settings)))
        return [*listeners.judge(attempts, running), *found]

    def _files(self) -> Line:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = float("inf") if most == resource.RLIM_INFINITY else most
        return listeners.judge_files(limit, files_wanted(self.settings))

    async def _authority(self) -> list[Line]:
        """Look at what makes apps trust the listeners that end their TLS, where there are some."""
        if self.for_command:
            settings = adapted(self.settings, Path(gettempdir()), self.environ)
            if settings.ca != self.settings.ca:
                return [ok(authority.CHECK, "none", "one is made for the command alone")]
        elif all(each.mode == "reverse" for each in self.settings.listeners):
            return []
        try:
            outlook = await asyncio.to_thread(authority.look, self.settings, time.time())
        except CaError as error:
            return [authority.refused(self.settings, error)]
        lines = [*authority.judge(outlook)]
        return lines if self.for_command else [*lines, *await self._trust(outlook)]

    async def _trust(self, outlook: Outlook) -> Iterable[Line]:
        if not outlook.is_there:
            why = "not looked at: there is no local CA yet"
            return [skip(trust.CHECK, "environment", why)]
        return trust.judge(await asyncio.to_thread(trust.look, outlook, self.environ), outlook)


async def bounded(check: str, look: Look, seconds: float = MOST_SECONDS) -> list[Line]:
    """Return the lines of one look, or one that says that it did not come to an end."""
    try:
        async with asyncio.timeout(seconds):
            return list(await look)
    except TimeoutError:
        found = f"not known within {seconds:g} s"
        return [fail(check, "", found, step="run doctor again; report it if it stays so")]
    except Exception as error:  # noqa: BLE001 - the other lines are worth having all the same
        # Its text may hold anything.
        found = f"doctor itself failed: {type(error).__name__}"
        return [fail(check, "", found, step="report it as a defect of mobula-proxy")]


async def _reach(place: Destination, dialer: Dialer) -> Reached:
    lookup = await look_up(place, dialer)
    return Reached(lookup, await shake_hands(place, dialer) if lookup.is_well else None)


async def _clock(place: Destination, dialer: Dialer, reaching: Task[Reached]) -> list[Line]:
    if not (await reaching).is_well:
        return [skip(clock.CHECK, place.name, "not compared: it was not reached")]
    return [clock.judge(place.name, await clock.compare(place, dialer))]
