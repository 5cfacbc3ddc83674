"""How a client's connection opens before requests run on it: with a CONNECT, with TLS, or both."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from proxy.config import LimitSettings
from proxy.errors import (
    HandshakeFailed,
    HeadersTooLarge,
    Refusal,
    RequestTimeout,
    ServerNameUnknown,
    TlsRequired,
    TooManyConnections,
)
from proxy.network.guard import Guard
from proxy.traffic.auth import NO_EVIDENCE, Auth, Guest, Visit, evidence_of
from proxy.traffic.connect import Connect, read_connect
from proxy.traffic.fact import OTHER_HOSTS, Fact, Observer
from proxy.traffic.front import FAREWELLS, HEAD_END, FrontServer
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.shown import TO_AN_API, shown_in
from proxy.traffic.target import Entrance, Names, Place, guard_of
from proxy.traffic.tls import HANDSHAKE, Hello, Terminator, shake_hands, why_it_failed
from proxy.traffic.tunnel import Tunnel

CONNECT = b"CONNECT "
ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
HANDSHAKE_SECONDS = 10.0
"""How long each part of a client's TLS may take: to begin behind a CONNECT, its hello, the rest."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What the connections of one listener have in common while they open."""

    front: FrontServer
    """Takes over once requests come."""
    entrance: Entrance
    names: Names
    terminator: Terminator
    dial: Callable[[Place, Guard], Awaitable[socket.socket]]
    """Connects to another host. Raises refusals."""
    limits: LimitSettings
    occupancy: Occupancy
    observe: Observer
    auth: Auth | None
    """Asks for whose a connection is; None where nobody does."""
    opens_with_tls: bool
    """Whether clients speak TLS from the first byte on; else it is HTTP, as to a proxy."""


class Opening(asyncio.Protocol):
    """A connection until it is known what runs on it; the rules:

    - Bytes are held until they tell enough, in bounded number and time.
    - A connection that carries HTTP, in TLS that ended here or without, becomes a `FrontConnection`
      of which is known what it is for (`Entrance`).
    - One to another host becomes a `Tunnel`; here nothing is read of it.
    """

    def __init__(self, gate: Gate, opened: Callable[["Opening"], None]) -> None:
        """`opened` is called once, when the connection is no longer this object's to look after."""
        self._gate = gate
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._entrance = gate.entrance
        self._evidence = NO_EVIDENCE
        self._held = b""
        """What came and is not judged yet."""
        self._judge: Callable[[], None]
        self._judge = self._await_tls if gate.opens_with_tls else self._await_head
        self._host = ""
        """What a CONNECT has named, once there was one."""
        self._hello: Hello | None = None
        """The client's first message in TLS, while it comes."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[Guest] | None = None
        """Asks whose it is."""
        self._tunnel: Tunnel | None = None

    def __repr__(self) -> str:
        return f"<Opening {len(self._held)} bytes held>"

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        occupancy = self._gate.occupancy
        occupancy.connections += 1
        if occupancy.connections > occupancy.most_connections + FAREWELLS:
            self._transport.abort()
        self._give(self._gate.limits.client_idle_timeout)

    def data_received(self, data: bytes) -> None:
        # In TLS that ends here it is no head yet, but what a front connection takes in a moment.
        if self._task is None and not self._held and data.strip(b"\r\n"):
            self._give(self._gate.limits.header_timeout)
        self._held += data
        self._judge()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's hook
        if self._hello is not None:
            self._report(HandshakeFailed("The client broke off within its hello."))
        if self._asking is not None:
            self._asking.cancel()
        self._let_go()

    # What the listener calls

    def close_if_idle(self) -> None:
        """Close what has asked for nothing yet, and tunnels that nothing passes."""
        if self._tunnel is not None:
            self._tunnel.leave()
        elif not (self._held or self._task or self._asking) and self._transport is not None:
            self._transport.close()

    async def close(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()
        for task in filter(None, (self._task, self._asking)):
            task.cancel()
            await asyncio.wait({task})

    # What comes

    def _await_head(self) -> None:
        """Tell a CONNECT from a request at once."""
        self._held = self._held.lstrip(b"\r\n")
        limits = self._gate.limits
        head, end, behind = self._held.partition(HEAD_END)
        if not (self._held.startswith(CONNECT) or CONNECT.startswith(self._held)):
            self._serve()
        elif len(head) > limits.target_bytes + limits.header_bytes:
            self._refuse(HeadersTooLarge("The head of the CONNECT is longer than heads may be."))
        elif end:
            self._held = behind
            self._begin(head + end)

    def _begin(self, head: bytes) -> None:
        """Let a CONNECT in, if need be once it is known whose it is."""
        try:
            asked = read_connect(head, self._gate.limits.header_count)
            name = self._gate.names.find(str(asked.place).encode())
            visit = self._visit(asked)
            auth = self._gate.auth
            if auth is None or not (auth.guards_others if name is None else auth.guards_connects):
                self._proceed(asked, name, None)
            elif (guest := auth.recognise(visit)) is not None:
                self._proceed(asked, name, guest)
            else:
                self._ask(auth.ask(visit), partial(self._proceed, asked, name))
        except Refusal as refusal:
            self._refuse(refusal)

    def _visit(self, asked: Connect) -> Visit:
        """Return what a CONNECT shows of whose it is, and keep it for the requests behind it."""
        assert self._transport is not None  # noqa: S101 - for the type checker
        shown = tuple(shown_in(asked.headers, TO_AN_API)) if self._gate.auth is not None else ()
        self._evidence = replace(evidence_of(self._transport, NO_EVIDENCE), shown=shown)
        return Visit(self._evidence, (), asks_a_proxy=True)

    def _proceed(self, asked: Connect, name: str | None, guest: Guest | None) -> None:
        if name is not None:
            self._intercept(asked.place.host, name)
            return
        guard = guard_of(asked.place, self._entrance)
        if guest is not None and self._gate.auth is not None:
            self._gate.auth.admit(guest, "CONNECT", b"")
        self._tunnel_to(asked.place, guard, guest.client.name if guest is not None else "")

    def _ask(self, asking: Coroutine[None, None, Guest], proceed: Callable[[Guest], None]) -> None:
        """Go on once it is known whose the connection is; nothing is read meanwhile."""
        self._pause()
        self._asking = self._loop.create_task(asking)
        self._asking.add_done_callback(partial(self._learn, proceed))

    def _learn(self, proceed: Callable[[Guest], None], asking: asyncio.Task[Guest]) -> None:
        self._asking = None
        if asking.cancelled():
            return
        try:
            guest = asking.result()
            if self._transport is not None:
                self._transport.resume_reading()
                proceed(guest)
        except Refusal as refusal:
            self._refuse(refusal)
        except Exception:
            LOG.exception("It could not be learned whose a connection is")
            if self._transport is not None:
                self._transport.abort()

    def _intercept(self, host: str, name: str) -> None:
        """Answer a CONNECT to an upstream as if it had been made."""
        self._host = host
        self._entrance = replace(self._entrance, upstream=name, pinned=frozenset({name}))
        self._judge = self._await_tls
        self._give(HANDSHAKE_SECONDS)
        assert self._transport is not None  # noqa: S101 - for the type checker
        self._transport.write(ESTABLISHED)
        if self._held:
            self._judge()

    def _await_tls(self) -> None:
        """Tell TLS from plain HTTP, as which some clients send what is for port 80."""
        if self._held[0] == HANDSHAKE:
            self._give(HANDSHAKE_SECONDS)
            self._hello = self._gate.terminator.hello()
            self._judge = partial(self._await_hello, self._hello)
            self._judge()
        elif self._host:
            self._serve()
        else:
            self._refuse(TlsRequired("Use https:// here, or a listener of mode reverse."))

    def _await_hello(self, hello: Hello) -> None:
        """Learn for which host the client speaks TLS."""
        assert self._transport is not None  # noqa: S101 - for the type checker
        try:
            if not hello.read(self._held):
                return
            host = self._host or hello.name or self._gate.names.host_of(self._entrance.upstream)
            if self._gate.terminator.pins:
                self._entrance = self._agreed(hello.name, host)
            self._start(partial(self._end_tls, host))
        except Refusal as refusal:
            self._report(refusal)
            self._transport.write(hello.alert())
            self._transport.close()
        self._hello = None

    def _agreed(self, asked: str | None, host: str) -> Entrance:
        """Return what a connection is for whose client has asked for a server name, or for none."""
        if self._host:
            agrees = asked in (None, host)
            return self._entrance if agrees else replace(self._entrance, pinned=frozenset())
        pinned = self._gate.names.on(host)
        if not pinned:
            raise ServerNameUnknown("The client asks for a server name that is no upstream's.")
        first = self._entrance.upstream
        return replace(
            self._entrance, upstream=first if first in pinned else min(pinned), pinned=pinned
        )

    def _tunnel_to(self, place: Place, guard: Guard, client: str) -> None:
        self._entrance = replace(self._entrance, upstream=OTHER_HOSTS)
        if self._gate.occupancy.too_many_connections:
            raise TooManyConnections("As many clients as are allowed are connected.", retry_after=1)
        self._tunnel = Tunnel(self._gate.limits.tunnel_timeout)
        fact = Fact(OTHER_HOSTS, method="CONNECT", path=str(place), attempts=1, client=client)
        self._start(partial(self._run_tunnel, self._tunnel, place, guard, fact))

    def _give(self, seconds: float) -> None:
        """Give the client so long for what is to come next."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        """Refuse a head that is too slow, and end what has brought nothing or half a hello."""
        if self._held and self._hello is None:
            limit = self._gate.limits.header_timeout
            self._refuse(RequestTimeout(f"The request's head took longer than {limit:g} s."))
        elif self._transport is not None:
            self._transport.abort()

    # What becomes of it

    def _serve(self) -> None:
        """Have requests run on it."""
        assert self._transport is not None  # noqa: S101 - for the type checker
        self._hand_over(self._transport)

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse it, and never read what else the client has sent."""
        self._held = b""
        if self._transport is not None and not self._transport.is_closing():
            self._hand_over(self._transport, refusal)

    def _hand_over(self, transport: asyncio.Transport, refusal: Refusal | None = None) -> None:
        held, self._held = self._held, b""
        self._let_go()
        connection = self._gate.front.enter(self._entrance, self._evidence)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if refusal is not None:
            connection.turn_away(refusal)
        elif held:
            connection.data_received(held)

    def _let_go(self) -> None:
        """Look after it no longer: it is gone, or another object's."""
        if self._transport is None:
            return
        self._transport = None
        self._gate.occupancy.connections -= 1
        if self._timer is not None:
            self._timer.cancel()
        self._opened(self)

    def _start(self, work: Callable[[asyncio.Transport], Awaitable[None]]) -> None:
        """Go on with what takes time; nothing is read so far."""
        self._task = self._loop.create_task(self._survive(work, self._pause()))

    def _pause(self) -> asyncio.Transport:
        """Read nothing while something goes on that takes time, and has a limit of its own."""
        assert self._transport is not None  # noqa: S101 - for the type checker
        self._transport.pause_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._judge = lambda: None
        return self._transport

    async def _survive(
        self, work: Callable[[asyncio.Transport], Awaitable[None]], transport: asyncio.Transport
    ) -> None:
        try:
            await work(transport)
        except Exception:
            LOG.exception("A connection could not be opened")
            transport.abort()
        finally:
            self._let_go()

    # TLS

    async def _end_tls(self, host: str, transport: asyncio.Transport) -> None:
        context = self._gate.terminator.context(host)
        held, self._held = self._held, b""
        try:
            tls = await shake_hands(transport, self, context, came=held, seconds=HANDSHAKE_SECONDS)
        except OSError as error:
            self._report(why_it_failed(error))
            return
        if tls is None or tls.is_closing():
            self._report(HandshakeFailed("The client broke the TLS handshake off."))
        else:
            self._hand_over(tls)

    def _report(self, refusal: Refusal) -> None:
        self._gate.observe(Fact(self._entrance.upstream, code=refusal.code))

    # Tunnels

    async def _run_tunnel(
        self, tunnel: Tunnel, place: Place, guard: Guard, fact: Fact, transport: asyncio.Transport
    ) -> None:
        occupancy, started = self._gate.occupancy, self._loop.time()
        occupancy.tunnels += 1
        try:
            far = await self._gate.dial(place, guard)
            fact.status = 200
            transport.write(ESTABLISHED)
            await tunnel.run(transport, far, self._held)
        except Refusal as refusal:
            self._refuse(refusal)
        finally:
            occupancy.tunnels -= 1
            if fact.status:
                fact.seconds = self._loop.time() - started
                self._gate.observe(fact)
