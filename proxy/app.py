"""The wiring: settings and a static key become a running proxy, from bound sockets to the exit."""

import asyncio
import random
import resource
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import aiohttp.http_parser
import structlog

from proxy import __version__
from proxy.config import Address, ListenerSettings, Settings, UpstreamSettings
from proxy.network.dialer import Dialer, make_dialer
from proxy.network.errors import LoopError
from proxy.network.guard import Guard
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
from proxy.traffic.admission import Admission
from proxy.traffic.auth import Auth, only_for
from proxy.traffic.binding import listen
from proxy.traffic.dialing import dialing
from proxy.traffic.fact import Fact, Observer, Reread
from proxy.traffic.handler import Handler
from proxy.traffic.listeners import CLOSE_SECONDS, Listener
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.reception import Reception, read_roster
from proxy.traffic.server_certificate import ServerCertificate
from proxy.traffic.target import Names, Place
from proxy.traffic.tls import Terminator
from proxy.traffic.upstream import Upstream
from proxy.traffic.watched import Watched

if TYPE_CHECKING:
    from proxy.tokens.store.seal import Seal
    from proxy.traffic.ca import LocalCA

DRAIN_POLL_SECONDS = 0.02
FILES_BESIDE = 64
"""File descriptors for listeners, logs, probes and mints, beside those of clients and upstreams."""


class StartError(Exception):
    """The proxy cannot start on this machine; the text says why."""


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
        self._names = Names(self._upstreams)
        self._reception = self._build_reception()
        self._exclusive = self._build_exclusive(placeholder) if placeholder else None
        self._watched: list[Watched] = []
        self._ca: LocalCA | None = None
        self._handler = self._build_handler()
        self._listeners = self._build_listeners()
        self._stack = AsyncExitStack()
        self.admin_address = settings.admin.bind
        self._metrics.watch(
            self._keeper.snapshot,
            self._sharing.snapshot,
            lambda: [each.snapshot() for each in self._upstreams.values()],
            self.occupancy,
        )

    def __repr__(self) -> str:
        return f"<App {self._listeners!r}>"

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

    def _build_reception(self) -> Reception | None:
        settings = self._settings
        if not any(each.authenticate for each in settings.listeners):
            return None
        return Reception(
            settings.clients,
            settings.clients_file,
            settings.service_accounts,
            tally=self._sharing.tally,
            tell=self._tell_reread,
            tell_reviews=self._tell_reviews,
            clock=self._clock,
        )

    def _build_exclusive(self, placeholder: Secret) -> Auth:
        self._keeper.known_keys.keep(placeholder)
        through = self._settings.upstream_proxy
        return only_for(placeholder, guards_others=through is not None and through.hides)

    def _build_handler(self) -> Handler:
        settings = self._settings
        admission = Admission(
            upstreams=self._upstreams,
            names=self._names,
            foreign=self._foreign,
            keys=self._keeper.known_keys,
            limits=settings.limits,
            occupancy=self.occupancy,
            clock=self._clock,
        )
        return Handler(
            admission=admission,
            keeper=self._keeper,
            limits=settings.limits,
            occupancy=self.occupancy,
            token_wait=settings.token.wait,
            observe=self._observe,
            clock=self._clock,
        )

    def _foreign(self, place: Place, guard: Guard) -> Upstream:
        """Return what one request to a host goes through that is no upstream."""
        settings = UpstreamSettings(url=f"http://{place}", connections=1)
        return Upstream(str(place), settings, self._dialer, guard=guard)

    def _build_listeners(self) -> list[Listener]:
        settings = self._settings
        listeners = settings.listeners if settings.role != "minter" else ()
        return [
            Listener(
                each,
                self._handler,
                self._names,
                settings.limits,
                self.occupancy,
                self._observe,
                terminator=self._terminator(each),
                dial=self._dial_other,
                auth=self._auth(each),
            )
            for each in listeners
        ]

    async def _dial_other(self, place: Place, guard: Guard) -> socket.socket:
        """Connect to a host that is no upstream. Raises refusals."""
        async with dialing(str(place), UpstreamSettings().connect_timeout):
            return await self._dialer.connect(place.host, place.port or 443, guard=guard)

    def _tell_reread(self, event: Reread) -> None:
        if event.problem:
            self._log.error(
                "a file that changed cannot be used, what it said before stays",
                file=event.file,
                reason=event.problem,
            )
        else:
            self._log.info("a file that changed was read again", file=event.file)

    def _tell_reviews(self, why: str) -> None:
        if why:
            self._log.error("ServiceAccount tokens cannot be checked", reason=why)
        else:
            self._log.info("ServiceAccount tokens can be checked again")

    def _auth(self, listener: ListenerSettings) -> Auth | None:
        """Return what asks a listener's clients who they are; of a socket's its mode says it."""
        if listener.authenticate:
            assert self._reception is not None  # noqa: S101 - for the type checker
            return self._reception.auth
        return None if listener.bind.path else self._exclusive

    def _terminator(self, listener: ListenerSettings) -> Terminator | None:
        """Return where the TLS of a listener's clients ends, unless it has none."""
        if listener.mode != "reverse":
            return Terminator(self._leaf_context)
        certificate = ServerCertificate.of(listener.tls)
        if certificate is None:
            return None
        self._watched.append(Watched(certificate.files, certificate.take, self._tell_reread))
        return Terminator(certificate.context, pins=False)

    def _leaf_context(self, host: str) -> ssl.SSLContext:
        return self.local_ca.context(host)

    @property
    def local_ca(self) -> "LocalCA":
        """What forward and tls listeners have apps trust; there is one once these are bound."""
        assert self._ca is not None  # noqa: S101 - for the type checker
        return self._ca

    async def __aenter__(self) -> Self:
        """Bind every address, start to serve and then to mint. Raises BindError or StartError.

        A start that fails has minted nothing, so a restart loop costs none of the mint budget.
        """
        async with AsyncExitStack() as stack:
            for upstream in self._upstreams.values():
                stack.push_async_callback(upstream.close)
            await stack.enter_async_context(self._mobula)
            await self._open_ca()
            await self._open_store()
            stack.push_async_callback(self._sharing.close)
            for keeping in filter(None, (self._reception, *self._watched)):
                await stack.enter_async_context(keeping)
            for listener in self._listeners:
                await listener.bind()
                stack.push_async_callback(listener.close)
                self._dialer.own.add(listener.sockets)
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

    async def _open_ca(self) -> None:
        """Open the local CA if a listener ends TLS, and say if apps must read it again."""
        if all(each.mode == "reverse" for each in self._listeners):
            return
        from proxy.traffic.ca import CaError, open_ca  # noqa: PLC0415 - see above

        settings = self._settings
        try:
            self._ca = ca = await asyncio.to_thread(open_ca, settings.ca, settings.upstreams)
        except CaError as error:
            raise StartError(str(error)) from error
        if ca.change.concerns_apps:
            self._log.warning(
                "the local CA's certificate was made anew; have apps read it again",
                reason=ca.change.value,
                file=str(ca.files.certificate),
            )
        if ca.files.roots.place is None:
            self._log.warning("the bundle for apps has no roots of the system: none were found")

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
                f"{each.mode} {each.address} -> {self._settings.upstreams[name].url}"
                for each, name in self._served()
            ],
            admin=str(self.admin_address),
            key=self._keeper.fingerprint,
            role=self._settings.role,
            store=self._sharing.place,
        )

    def _served(self) -> list[tuple[Listener, str]]:
        return [(each, each.upstream) for each in self._listeners]

    # What is going on

    @property
    def addresses(self) -> list[Address]:
        """Where the listeners are bound, in the settings' order."""
        return [each.address for each in self._listeners]

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
                f"{each.mode} {each.address} -> {name}" for each, name in self._served()
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
        self._handler.drain()
        for listener in self._listeners:
            listener.drain()
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
    if settings.clients_file is not None:
        read_roster(settings.clients, settings.clients_file)
    for each in settings.listeners:
        if (certificate := ServerCertificate.of(each.tls)) is not None:
            certificate.take()


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
