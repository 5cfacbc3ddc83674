"""How aiohttp's client dials: names, addresses, loops and the upstream proxy as for all the rest.

It is for calls that are not on the hot path, and may carry the static key.
"""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from proxy.network.address import AddressInfo
from proxy.network.dialer import Dialer
from proxy.network.reason import reason


class SessionResolver(AbstractResolver):
    """Looks names up for aiohttp; with an `address` it finds that one for every name."""

    def __init__(self, dialer: Dialer, address: str | None) -> None:
        self._dialer = dialer
        self._address = address

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - all are wanted
    ) -> list[ResolveResult]:
        """Return the addresses that do not lead back to ourselves; raises LoopError and others."""
        infos = await self._dialer.resolve(host, port, self._address)
        return [_result(host, info) for info in self._dialer.own.others(infos)]

    async def close(self) -> None:
        """There is nothing to close."""


def make_connector(
    dialer: Dialer, *, address: str | None, ca_file: str | None
) -> aiohttp.TCPConnector:
    """Return a connector that keeps no connection. Raises OSError for a wrong `ca_file`."""

    def make_socket(info: AddressInfo) -> socket.socket:
        dialer.own.others([info])  # the host of the URL was an IP address, and nobody looked it up
        return socket.socket(*info[:3])

    return aiohttp.TCPConnector(
        resolver=SessionResolver(dialer, address),
        use_dns_cache=False,
        socket_factory=make_socket,
        ssl=dialer.tls_context(ca_file) if ca_file else True,
        force_close=True,
    )


def through_proxy(dialer: Dialer, url: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options and the headers by which a request to `url` takes the upstream proxy.

    Both are empty without one. To https:// aiohttp has the proxy connect it; what is for http:// it
    asks of the proxy itself, which then reads the request's headers. Credentials are in headers
    either way, because aiohttp shows the URL of a proxy in its errors.
    """
    parts = urlsplit(url)
    proxy = dialer.proxy_for(parts.hostname or "")
    if proxy is None:
        return {}, {}
    credentials = proxy.authorization()
    headers = {"Proxy-Authorization": credentials} if credentials else {}
    options = {"proxy": f"http://{proxy.place}", "proxy_headers": headers}
    return options, headers if parts.scheme == "http" else {}


async def read_json(response: aiohttp.ClientResponse, most_bytes: int) -> Any:
    """Read an answer to its end; return what its JSON says, None if it is none.

    Raises ClientPayloadError for one that is longer, beside what aiohttp raises.
    """
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > most_bytes:
            raise aiohttp.ClientPayloadError("answer too long")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def why_broken(error: BaseException) -> str:
    """Say in a few words, fit for clients, how a call broke; never what it was about."""
    match error:
        case aiohttp.ServerDisconnectedError():
            return "the connection ended before the answer"
        case aiohttp.ClientPayloadError():
            return "the answer could not be read to its end"
        case aiohttp.ClientResponseError():
            return "the answer is not valid HTTP"
        case OSError(errno=int()):
            return reason(error)
        case _:
            return "the connection broke"


def _result(host: str, info: AddressInfo) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=info[4][0],
        port=info[4][1],
        family=info[0],
        proto=info[2],
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
