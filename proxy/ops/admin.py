"""The admin listener: health, metrics, status and the few things an operator may ask for."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Protocol

from aiohttp import web

from proxy import __version__
from proxy.ops.metrics import CONTENT_TYPE, Metrics
from proxy.tokens.model import PoolSnapshot
from proxy.tokens.sharing import SharingSnapshot
from proxy.traffic.upstream import UpstreamSnapshot

SERVER = "mobula-proxy"
"""How an admin listener names itself; its client relies on it."""

_CONNECTION: dict[str, Any] = {"access_log": None, "keepalive_timeout": 75.0}


@dataclass(frozen=True, slots=True)
class Status:
    """What `/status` tells; times in seconds."""

    ready: bool
    started: bool
    draining: bool
    reason: str
    uptime: float
    key: str
    role: str
    listeners: tuple[str, ...]
    active: int
    tokens: PoolSnapshot
    store: SharingSnapshot
    upstreams: tuple[UpstreamSnapshot, ...]


class Operated(Protocol):
    """What the admin listener needs of the running proxy."""

    def status(self) -> Status: ...

    def rotate(self) -> bool: ...

    def quit(self) -> None: ...


class Admin:
    """Answers operators; probes never call upstream."""

    def __init__(self, proxy: Operated, metrics: Metrics) -> None:
        self._proxy = proxy
        self._metrics = metrics
        self._routes: dict[str, tuple[str, Callable[[], web.Response]]] = {
            "/livez": ("GET", lambda: _answer(200, {"live": True})),
            "/readyz": ("GET", self._ready),
            "/startupz": ("GET", self._started),
            "/metrics": ("GET", self._scrape),
            "/status": ("GET", self._status),
            "/rotate": ("POST", self._rotate),
            "/quitquitquit": ("POST", self._quit),
        }

    def server(self) -> web.Server:
        """Return the protocol factory to listen with; needs a running loop."""
        return AdminServer(self._serve)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        route = self._routes.get(request.path)
        if route is None:
            return _answer(404, {"detail": f"known paths: {', '.join(sorted(self._routes))}"})
        method, answer = route
        if request.method not in (method, "HEAD" if method == "GET" else method):
            allowed = "GET, HEAD" if method == "GET" else method
            return _answer(405, {"detail": f"use {method}"}, Allow=allowed)
        if method == "POST" and (why := _not_allowed(request)):
            return _answer(403, {"detail": why})
        return answer()

    def _ready(self) -> web.Response:
        status = self._proxy.status()
        return _answer(
            200 if status.ready else 503, {"ready": status.ready, "reason": status.reason}
        )

    def _started(self) -> web.Response:
        status = self._proxy.status()
        return _answer(
            200 if status.started else 503, {"started": status.started, "reason": status.reason}
        )

    def _scrape(self) -> web.Response:
        return web.Response(
            body=self._metrics.exposition(),
            headers={"Content-Type": CONTENT_TYPE, "Server": f"{SERVER}/{__version__}"},
        )

    def _status(self) -> web.Response:
        return _answer(200, {"version": __version__, **asdict(self._proxy.status())})

    def _rotate(self) -> web.Response:
        if self._proxy.rotate():
            return _answer(202, {"rotating": True})
        return _answer(503, {"detail": "the token store cannot be reached, so nothing is rotated"})

    def _quit(self) -> web.Response:
        self._proxy.quit()
        return _answer(202, {"quitting": True})


def _not_allowed(request: web.BaseRequest) -> str:
    """Say why a request may not change anything, or return nothing.

    Probes and metrics must be reachable from other machines; control is for this one, and not for
    a web page that a browser on it has open: browsers send Origin with every POST.
    """
    if "Origin" in request.headers:
        return "requests from web pages are not taken"
    peer = request.transport and request.transport.get_extra_info("peername")
    if peer and isinstance(peer, tuple) and not ip_address(peer[0].split("%")[0]).is_loopback:
        return "only this machine may ask for that"
    return ""


def _answer(status: int, body: dict[str, Any], **headers: str) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps(body, indent=2, default=str) + "\n",
        content_type="application/json",
        headers={"Cache-Control": "no-store", "Server": f"{SERVER}/{__version__}", **headers},
    )


class AdminServer(web.Server):
    """Makes an `AdminConnection` for each client."""

    def __call__(self) -> web.RequestHandler:
        return AdminConnection(self)


class AdminConnection(web.RequestHandler):
    """A connection whose errors are ours: aiohttp would log and repeat the bytes that came."""

    __slots__ = ()

    def __init__(self, server: AdminServer) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **_CONNECTION)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's hook
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes what came
    ) -> web.StreamResponse:
        """Answer what the parser refused or where we failed, and close."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.logger.error("The admin listener failed", exc_info=exc)
        response = _answer(status, {"detail": HTTPStatus(status).phrase})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - aiohttp's hook
        """Say what kind of error broke the connection; its text may hold the bytes that came."""
        self.logger.debug("admin connection: %s", type(kw.get("exc_info")).__name__)
