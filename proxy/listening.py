"""The listeners and what stands behind them: where TLS ends, who is let in, and what serves."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from proxy.config import ListenerSettings, Settings, UpstreamSettings
from proxy.network.dialer import Dialer
from proxy.network.guard import Guard
from proxy.tokens.keeper import Keeper
from proxy.tokens.model import Secret
from proxy.tokens.store.base import Tally
from proxy.traffic.admission import Admission
from proxy.traffic.auth import Auth, only_for
from proxy.traffic.dialing import dialing
from proxy.traffic.fact import Observer, Reread
from proxy.traffic.handler import Handler
from proxy.traffic.listeners import Listener
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.reception import Reception, read_roster
from proxy.traffic.server_certificate import ServerCertificate
from proxy.traffic.target import Names, Place
from proxy.traffic.tls import Terminator
from proxy.traffic.upstream import Upstream
from proxy.traffic.watched import Watched

if TYPE_CHECKING:
    from proxy.traffic.ca import LocalCA


class StartError(Exception):
    """The proxy cannot start on this machine; the text says why."""


class Listening:
    """All listeners of a proxy: `async with` binds them, and ends them."""

    def __init__(
        self,
        settings: Settings,
        *,
        upstreams: Mapping[str, Upstream],
        dialer: Dialer,
        keeper: Keeper,
        tally: Callable[[int, Mapping[str, Tally]], Awaitable[Mapping[str, int]]],
        occupancy: Occupancy,
        observe: Observer,
        placeholder: Secret | None,
        log: Any,
        clock: Callable[[], float],
    ) -> None:
        """With a `placeholder`, listeners that do not ask for clients serve only who shows it.

        Raises ValueError for a file that the settings name and that is of no use.
        """
        self._settings = settings
        self._upstreams = upstreams
        self._dialer = dialer
        self._keeper = keeper
        self._tally = tally
        self._occupancy = occupancy
        self._observe = observe
        self._log = log
        self._clock = clock
        self._bound = settings.listeners if settings.role != "minter" else ()
        self._names = Names(upstreams)
        self._reception = self._build_reception()
        self._exclusive = self._build_exclusive(placeholder) if placeholder else None
        self._watched: list[Watched] = []
        self._ca: LocalCA | None = None
        self._handler = self._build_handler()
        self.listeners = [self._build_listener(each) for each in self._bound]
        """In the settings' order."""
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Listening {self.listeners!r}>"

    def _build_reception(self) -> Reception | None:
        settings = self._settings
        if not any(each.authenticate for each in self._bound):
            return None
        return Reception(
            settings.clients,
            settings.clients_file,
            settings.service_accounts,
            tally=self._tally,
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
            occupancy=self._occupancy,
            clock=self._clock,
        )
        return Handler(
            admission=admission,
            keeper=self._keeper,
            limits=settings.limits,
            occupancy=self._occupancy,
            token_wait=settings.token.wait,
            observe=self._observe,
            clock=self._clock,
        )

    def _foreign(self, place: Place, guard: Guard) -> Upstream:
        """Return what one request to a host goes through that is no upstream."""
        settings = UpstreamSettings(url=f"http://{place}", connections=1)
        return Upstream(str(place), settings, self._dialer, guard=guard)

    def _build_listener(self, settings: ListenerSettings) -> Listener:
        return Listener(
            settings,
            self._handler,
            self._names,
            self._settings.limits,
            self._occupancy,
            self._observe,
            terminator=self._terminator(settings),
            dial=self._dial_other,
            auth=self._auth(settings),
        )

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
        """Begin to keep what listeners show and know up to date, and bind them.

        Raises BindError or StartError.
        """
        async with AsyncExitStack() as stack:
            await self._open_ca()
            for keeping in filter(None, (self._reception, *self._watched)):
                await stack.enter_async_context(keeping)
            for listener in self.listeners:
                await listener.bind()
                stack.push_async_callback(listener.close)
                self._dialer.own.add(listener.sockets)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def drain(self) -> None:
        """Refuse what is new, and let each connection's request be its last."""
        self._handler.drain()
        for listener in self.listeners:
            listener.drain()

    async def _open_ca(self) -> None:
        """Open the local CA if a listener ends TLS, and say if apps must read it again."""
        if all(each.mode == "reverse" for each in self.listeners):
            return
        # It loads cryptography, for which only those who end TLS with it pay.
        from proxy.traffic.ca import CaError, open_ca  # noqa: PLC0415

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


def check_files(settings: Settings) -> None:
    """Raise ValueError for a file that listeners need and that is of no use."""
    if settings.clients_file is not None:
        read_roster(settings.clients, settings.clients_file)
    for each in settings.listeners:
        if (certificate := ServerCertificate.of(each.tls)) is not None:
            certificate.take()
