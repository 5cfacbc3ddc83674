"""What is decided of a request before anything is sent: where it goes, whose it is, what goes."""

import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial, reduce

from aiohttp import hdrs

from proxy.config import LimitSettings
from proxy.errors import AuthPathDenied, TooManyRequests, UpgradeUnsupported
from proxy.network.guard import Guard
from proxy.traffic import headers as fields
from proxy.traffic.attempt import Outgoing
from proxy.traffic.auth import Auth, Guest, Visit
from proxy.traffic.body import RequestBody
from proxy.traffic.fact import OTHER_HOSTS, Fact
from proxy.traffic.handshake import pass_on
from proxy.traffic.occupancy import Occupancy
from proxy.traffic.request import FrontRequest
from proxy.traffic.shown import TO_A_PROXY, TO_AN_API, AndShown, shown_in
from proxy.traffic.target import (
    KeyFinder,
    Names,
    Place,
    Route,
    manages_tokens,
    select,
    without_keys,
)
from proxy.traffic.upstream import Upstream


class Admission:
    """Checks the requests of all listeners, and makes of each what goes upstream."""

    def __init__(
        self,
        *,
        upstreams: Mapping[str, Upstream],
        names: Names,
        foreign: Callable[[Place, Guard], Upstream],
        keys: KeyFinder,
        limits: LimitSettings,
        occupancy: Occupancy,
        clock: Callable[[], float],
    ) -> None:
        """`foreign` makes what a request to another host goes through, once."""
        self._names = names
        self._upstreams = upstreams
        self._foreign = foreign
        self._keys = keys
        self._limits = limits
        self._occupancy = occupancy
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Admission to {', '.join(self._upstreams)}>"

    async def admit(self, request: FrontRequest, fact: Fact) -> Outgoing:
        """Check a request and turn it into what goes upstream. Raises refusals."""
        if self._occupancy.too_many_requests:
            raise TooManyRequests(
                "As many requests as are allowed are being served already.", retry_after=1
            )
        route = self._route(request)
        is_foreign = route.other is not None
        fact.upstream = route.upstream or OTHER_HOSTS
        keys: KeyFinder = self._keys
        guest, auth = None, request.auth
        if auth is not None and (auth.guards_others or not is_foreign):
            guest = await self._recognised(auth, request, route, fact)
            keys = reduce(AndShown, auth.shown_by(guest), keys)
        target, places = without_keys(route.target, keys, by_name=not is_foreign)
        fact.path = _path_of(target)
        charge = _free if auth is None or guest is None else _let_in(auth, guest, request, target)
        found = fields.read_request(
            request.raw_headers,
            request.version,
            keys,
            self._limits.header_bytes,
            is_foreign=is_foreign,
        )
        fact.stripped = found.stripped + places
        if route.other is not None:
            out = self._admit_foreign(request, self._foreign(*route.other), target, found)
        else:
            out = self._admit_own(request, self._upstreams[route.upstream], target, found)
        out.keys, out.charge = keys, charge
        return out

    async def _recognised(
        self, auth: Auth, request: FrontRequest, route: Route, fact: Fact
    ) -> Guest:
        """Return whose request it is. Raises the refusal that fits."""
        visit = _visit(request, route)
        try:
            guest = auth.recognise(visit) or await auth.ask(visit)
        except BaseException:
            # The log tells of it, but of nothing that was shown. To cut out what a stranger has
            # shown is no way: it may be short, and nested in the path a thousand times.
            shown: KeyFinder = reduce(AndShown, visit.tokens, self._keys)
            path = _path_of(without_keys(route.target, self._keys)[0])
            fact.path = "" if shown.occur_in(path.encode("latin-1")) else path
            raise
        fact.client = guest.client.name
        return guest

    def _route(self, request: FrontRequest) -> Route:
        host = request.headers.get(hdrs.HOST)
        return select(
            self._names,
            request.entrance,
            request.method,
            request.raw_path.encode("utf-8", "surrogateescape"),
            None if host is None else host.encode("utf-8", "surrogateescape"),
        )

    def _admit_own(
        self,
        request: FrontRequest,
        upstream: Upstream,
        target: bytes,
        found: fields.RequestHeaders,
    ) -> Outgoing:
        handshake = None
        if found.upgrade:
            own_key = b64encode(os.urandom(16))
            handshake = pass_on(request.method, request.version, found, own_key)
        prefix = b"" if target == b"*" else upstream.prefix
        if manages_tokens(target) or (prefix and manages_tokens(prefix + target)):
            raise AuthPathDenied(
                "The proxy mints and revokes tokens itself; /api/2/auth is not for its clients."
            )
        body = self._body_of(request, found)
        head = fields.request_head(request.method, prefix + target, upstream.authority, found)
        return Outgoing(upstream, request.method, head, body, found.chunked, handshake)

    def _admit_foreign(
        self,
        request: FrontRequest,
        upstream: Upstream,
        target: bytes,
        found: fields.RequestHeaders,
    ) -> Outgoing:
        if found.upgrade:
            raise UpgradeUnsupported("Upgrades of other hosts' connections need a CONNECT.")
        body = self._body_of(request, found)
        head = fields.request_head(request.method, target, upstream.authority, found)
        return Outgoing(upstream, request.method, head, body, found.chunked, is_foreign=True)

    def _body_of(self, request: FrontRequest, found: fields.RequestHeaders) -> RequestBody | None:
        if not found.chunked and found.length in (None, b"0"):
            return None
        return RequestBody(
            request,
            limits=self._limits,
            length=None if found.length is None else int(found.length),
            expected=found.expects_continue,
            clock=self._clock,
        )


def _let_in(auth: Auth, guest: Guest, request: FrontRequest, target: bytes) -> Callable[[], None]:
    """Let a client's request in; return what counts its messages.

    Its rights are judged by what goes upstream: what is cut out of a path can make it lead up.
    """
    auth.admit(guest, request.method, target)
    return partial(auth.admit_more, guest)


def _free() -> None:
    """Count nothing, where nobody asks for whose a message is."""


def _path_of(target: bytes) -> str:
    return target.partition(b"?")[0].decode("latin-1")


def _visit(request: FrontRequest, route: Route) -> Visit:
    """Return what a request shows of who sends it; to another host its credentials are not ours."""
    asks_a_proxy = request.entrance.forwards and not request.raw_path.startswith("/")
    if route.other is None:
        shown = shown_in(request.raw_headers, TO_AN_API, route.target.partition(b"?")[2])
    else:
        shown = shown_in(request.raw_headers, TO_A_PROXY)
    return Visit(request.evidence, tuple(shown), asks_a_proxy)
