"""The wiring: settings and a static key become a running proxy, from bound sockets to the exit."""

import asyncio
import random
import resource
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import aiohttp.http_parser
import structlog

from proxy import __version__, listening
from proxy.config import Address, Settings
from proxy.listening import Listening, StartError
from proxy.network.dialer import Dialer, make_dialer
from proxy.network.errors import LoopError
from proxy.ops.admin import Admin, Status
from proxy.ops.logs import AccessLog, TokenLog, TrafficLog
from proxy.ops.metrics import Metrics
from proxy.tokens.budget import MintBudget
from proxy.tokens.clock import steady
from proxy.tokens.events import Event
from proxy.tokens.keeper import Keeper
from proxy.tokens.key import KeySource, StaticKey
from proxy.tokens.mobula import MobulaClient
from proxy.tokens.model import PoolSnapshot, Secret
from proxy.tokens.pool import TokenPool
from proxy.tokens.sharing import Sharing
from proxy.tokens.store.base import StoreRefused
from proxy.tokens.store.choose import make_seal, make_store
from proxy.traffic.binding import listen
from proxy.traffic.fact import Fact, Observer
from proxy.traffic.listeners import CLOSE_SECONDS
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.upstream import Upstream

if TYPE_CHECKING:
    from proxy.tokens.store.seal import Seal
    from proxy.traffic.ca import LocalCA

DRAIN_POLL_SECONDS = 0.02
FILES_BESIDE = 64
"""File descriptors for listeners, logs, probes and mints, beside those of clients and upstreams."""


class App:
    """One proxy: `async with` binds and serves, `finish` drains, revokes and returns."""

    def __init__(
        self,
        settings: Settings,
        *,
        source: KeySource | None,
        key: StaticKey | None,
        secret: Secret | None = None,
        placeholder: Secret | None = None,
        observe: Observer | None = None,
        clock: Callable[[], float] = steady,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """A member of a fleet has no `key`, but the store's `secret`; others may have both.

        With a `placeholder`, only clients that show it are served on listeners that do not ask for
        others. `observe` is told each fact beside metrics and log. Raises ValueError for a file
        that the settings name and that is of no use.
        """
        _require_c_extensions()
        self._settings = settings
        self._born = clock()
        self._clock = clock
        self._draining = False
        self._quit = asyncio.Event()
        self._log: Any = structlog.get_logger("mobula_proxy")
        limits = settings.limits
        self.occupancy = Occupancy(limits.connections, limits.requests)
        self._metrics = Metrics()
        self._observe = _announcer(self._metrics, observe, access=settings.log.access)
        self._dialer = make_dialer(settings)
        self._upstreams = _upstreams(settings, self._dialer)
        self._mobula, self._sharing, self._keeper = self._build_tokens(source, key, secret, chance)
        self._listening = Listening(
            settings,
            upstreams=self._upstreams,
            dialer=self._dialer,
            keeper=self._keeper,
            tally=self._sharing.tally,
            occupancy=self.occupancy,
            observe=self._observe,
            placeholder=placeholder,
            log=self._log,
            clock=clock,
        )
        self._stack = AsyncExitStack()
        self.admin_address = settings.admin.bind
        self._metrics.watch(
            self._keeper.snapshot,
            self._sharing.snapshot,
            lambda: [each.snapshot() for each in self._upstreams.values()],
            self.occupancy,
        )

    def __repr__(self) -> str:
        return f"<App {self._listening!r}>"

    def _build_tokens(
        self,
        source: KeySource | None,
        key: StaticKey | None,
        secret: Secret | None,
        chance: Callable[[], float],
    ) -> tuple[MobulaClient, Sharing, Keeper]:
        settings, role = self._settings.token, self._settings.role
        minting = next(iter(self._settings.upstreams.values()))
        mobula = MobulaClient(
            minting.url,
            address=minting.address,
            ca_file=minting.ca_file,
            dialer=self._dialer,
            clock=self._clock,
        )
        token_log = TokenLog()

        def tell(event: Event) -> None:
            self._metrics.observe_token(event)
            token_log(event)

        url = self._settings.store.url
        sharing = Sharing(
            make_store=partial(make_store, url, clock=self._clock, secret=secret),
            seal_with=self._seal_with(secret),
            key=key,
            on_outage=self._settings.store.on_outage,
            tell=tell,
            clock=self._clock,
        )
        pool = TokenPool(
            limit=settings.request_limit,
            standby=settings.standby,
            budget=MintBudget(),
            chance=chance,
            tell=tell,
            private=sharing.private,
            mints=role != "member",
            takes=role != "minter",
        )
        keeper = Keeper(
            pool=pool,
            sharing=sharing,
            mobula=mobula,
            source=source,
            key=key,
            settings=settings,
            tell=tell,
            clock=self._clock,
            chance=chance,
        )
        return mobula, sharing, keeper

    def _seal_with(self, secret: Secret | None) -> Callable[[StaticKey | None], "Seal | None"]:
        """Return how the store is sealed: by the store's secret, or else by the static key."""
        if self._settings.store.url.in_memory:
            return lambda _: None

        def seal(key: StaticKey | None) -> "Seal | None":
            by = secret or (key.secret if key else None)
            return make_seal(by) if by else None

        return seal

    async def __aenter__(self) -> Self:
        """Bind every address, start to serve and then to mint. Raises BindError or StartError.

        A start that fails has minted nothing, so a restart loop costs none of the mint budget.
        """
        async with AsyncExitStack() as stack:
            for upstream in self._upstreams.values():
                stack.push_async_callback(upstream.close)
            await stack.enter_async_context(self._mobula)
            await self._open_store()
            stack.push_async_callback(self._sharing.close)
            await stack.enter_async_context(self._listening)
            await self._bind_admin(stack)
            await self._refuse_loops()
            await self._keeper.__aenter__()
            # Not told of an error here, which its task group would wrap as if it were its own.
            stack.push_async_callback(self._keeper.__aexit__, None, None, None)
            self._stack = stack.pop_all()
        self._raise_file_limit()
        self._say_what_is_served()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def _open_store(self) -> None:
        try:
            await self._sharing.open()
        except StoreRefused as error:
            raise StartError(f"the token store cannot be used: {error}") from error

    async def _bind_admin(self, stack: AsyncExitStack) -> None:
        front = Admin(self, self._metrics).server()
        binding = await listen(front, self._settings.admin.bind)
        self.admin_address = binding.address
        self._dialer.own.add(binding.sockets)
        stack.push_async_callback(front.shutdown, CLOSE_SECONDS)
        stack.callback(binding.remove)

    async def _refuse_loops(self) -> None:
        loops = await asyncio.gather(*(each.find_loop() for each in self._upstreams.values()))
        for name, loop in zip(self._upstreams, loops, strict=True):
            if loop is not None:
                raise StartError(
                    f"upstream {name} leads back to this proxy: {loop}; {_remedy(name, loop)}"
                )

    def _raise_file_limit(self) -> None:
        """Each request in flight takes two descriptors; the usual limit of 1024 is soon reached."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError):  # macOS refuses an unlimited soft limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        wanted = files_wanted(self._settings)
        if resource.RLIM_INFINITY != most < wanted:
            self._log.warning("the limit of open files is low", limit=most, wanted=wanted)

    def _say_what_is_served(self) -> None:
        self._log.info(
            "serving",
            version=__version__,
            listeners=[
                f"{each.mode} {each.address} -> {self._settings.upstreams[each.upstream].url}"
                for each in self._listening.listeners
            ],
            admin=str(self.admin_address),
            key=self._keeper.fingerprint,
            role=self._settings.role,
            store=self._sharing.place,
        )

    # What is going on

    @property
    def addresses(self) -> list[Address]:
        """Where the listeners are bound, in the settings' order."""
        return [each.address for each in self._listening.listeners]

    @property
    def local_ca(self) -> "LocalCA":
        """What forward and tls listeners have apps trust; there is one once these are bound."""
        return self._listening.local_ca

    @property
    def active(self) -> int:
        """Requests being served, and tunnels."""
        return self.occupancy.requests + self.occupancy.tunnels

    def status(self) -> Status:
        tokens = self._keeper.snapshot()
        usable = self._keeper.ready()
        if self._draining:
            reason = "draining"
        elif usable:
            reason = ""
        else:
            reason = self._why_no_token(tokens)
        return Status(
            ready=usable and not self._draining,
            started=self._keeper.started,
            draining=self._draining,
            reason=reason,
            uptime=round(self._clock() - self._born, 3),
            key=self._keeper.fingerprint,
            role=self._settings.role,
            listeners=tuple(
                f"{each.mode} {each.address} -> {each.upstream}"
                for each in self._listening.listeners
            ),
            active=self.active,
            tokens=tokens,
            store=self._sharing.snapshot(),
            upstreams=tuple(each.snapshot() for each in self._upstreams.values()),
        )

    def _why_no_token(self, tokens: PoolSnapshot) -> str:
        if tokens.fault is not None:
            return tokens.fault.detail
        if not self._keeper.started:
            return "the first token has not arrived"
        return self._keeper.why_none()

    async def wait_for_token(self, seconds: float) -> None:
        """Return once a token is in hand. Raises TokenUnavailable, see `Keeper.wait_for_token`."""
        await self._keeper.wait_for_token(seconds)

    def rotate(self) -> bool:
        """Have every token replaced and the old ones revoked; see `Keeper.rotate`."""
        return self._keeper.rotate()

    def quit(self) -> None:
        """Ask for an orderly end; `finish` then goes on."""
        self._quit.set()

    # The end

    async def wait_quit(self) -> None:
        """Return when an end was asked for."""
        await self._quit.wait()

    async def finish(self) -> None:
        """Drain, then revoke the tokens, each within its time."""
        self._draining = True
        started = time.monotonic()
        self._log.info("draining", active=self.active)
        self._listening.drain()
        deadline = started + self._settings.shutdown.drain
        while self.active and time.monotonic() < deadline:  # noqa: ASYNC110 - no event on the hot path
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        cut_off = self.active
        await self._keeper.retire(
            self._settings.shutdown.revoke, revoke=self._settings.token.on_exit == "revoke"
        )
        self._log.info(
            "stopped", seconds=round(time.monotonic() - started, 3), requests_cut_off=cut_off
        )


def _announcer(metrics: Metrics, other: Observer | None, *, access: bool) -> Observer:
    """Return what tells each fact to all who observe them."""
    observers: list[Observer] = [metrics.observe_request, TrafficLog()]
    if access:
        observers.append(AccessLog())
    if other is not None:
        observers.append(other)

    def observe(fact: Fact) -> None:
        for observer in observers:
            observer(fact)

    return observe


def _remedy(name: str, loop: LoopError) -> str:
    if loop.proxied:
        return "name another proxy in upstream_proxy, or none"
    return f"set resolver: dns, which looks past /etc/hosts, or upstreams.{name}.url or .address"


def check_authorities(settings: Settings) -> None:
    """Raise ValueError for an upstream whose certificate authorities cannot be read."""
    _upstreams(settings, make_dialer(settings))


def check_files(settings: Settings) -> None:
    """Raise ValueError for a file that listeners or upstreams need and that is of no use."""
    check_authorities(settings)
    listening.check_files(settings)


def _upstreams(settings: Settings, dialer: Dialer) -> dict[str, Upstream]:
    return {name: Upstream(name, each, dialer) for name, each in settings.upstreams.items()}


def files_wanted(settings: Settings) -> int:
    """Return how many files may be open when all that the settings allow is in use."""
    upstreams = sum(each.connections for each in settings.upstreams.values())
    return settings.limits.connections + upstreams + FILES_BESIDE


def _require_c_extensions() -> None:
    if aiohttp.http_parser.HttpRequestParser is aiohttp.http_parser.HttpRequestParserPy:
        raise StartError(
            "aiohttp was installed without its C extensions, whose HTTP parser this proxy relies "
            "on. Install a binary wheel, and unset AIOHTTP_NO_EXTENSIONS."
        )
