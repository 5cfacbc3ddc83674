"""How a client gets in through a listener of each mode, up to where it can send requests."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from proxy.app import App
from wire import Wire, client

Enter = Callable[[], AbstractAsyncContextManager[Wire]]
"""Opens a connection on which requests can be sent, as if to an origin server."""

Serve = Callable[..., AbstractAsyncContextManager[tuple[App, Enter]]]
"""Has a proxy serve an upstream, with sections of settings; gives it and a client's way in."""

HOST = "a"
"""What the requests of the tables have as their Host, and so the upstream's name."""


def trust(folder: Path) -> ssl.SSLContext:
    """What a client trusts that was told of the local CA in this folder."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.set_alpn_protocols(["http/1.1"])
    return context


def _reverse(app: App, _: Path) -> Enter:
    return lambda: client(app)


def _forward(app: App, folder: Path) -> Enter:
    """Behind a CONNECT, in TLS: what comes without either is what a reverse listener gets."""

    @contextlib.asynccontextmanager
    async def enter() -> AsyncIterator[Wire]:
        async with client(app) as wire:
            wire.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
            assert await wire.head() == b"HTTP/1.1 200 Connection Established\r\n\r\n"
            await wire.start_tls(trust(folder), HOST)
            yield wire

    return enter


def _tls(app: App, folder: Path) -> Enter:
    @contextlib.asynccontextmanager
    async def enter() -> AsyncIterator[Wire]:
        async with client(app) as wire:
            await wire.start_tls(trust(folder), HOST)
            yield wire

    return enter


DOORS: dict[str, Callable[[App, Path], Enter]] = {
    "reverse": _reverse,
    "forward": _forward,
    "tls": _tls,
}
