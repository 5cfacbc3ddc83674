"""The way through the proxy that a network has of its own: CONNECT (RFC 9110, section 9.3.6)."""

import asyncio
import re
import socket
from typing import Final

from proxy.config import ProxyUrl
from proxy.network.errors import ResolveError, UpstreamProxyError

HEAD_BYTES: Final = 8 * 1024
"""What the head of its answer may have at the most."""

_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")
_HEAD: Final = re.compile(
    rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*)?\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*\r\n"
)


def connect_request(proxy: ProxyUrl, host: str, port: int) -> bytes:
    """Return the request to connect to `host`. Raises ResolveError for what cannot be one."""
    if not _HOST.fullmatch(host):
        raise ResolveError("it is not a name")
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if credentials := proxy.authorization():
        lines.append(f"Proxy-Authorization: {credentials}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def pass_through(sock: socket.socket, request: bytes) -> None:
    """Have the proxy at the other end of `sock` do what is asked; raise UpstreamProxyError.

    Afterwards the socket is as if it had been connected to the host itself: the head of the answer
    is taken off it to its last byte, and no byte behind that.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    answer = _HEAD.fullmatch(await _read_head(loop, sock))
    if answer is None:
        raise UpstreamProxyError("gave an answer that is not valid HTTP")
    status = int(answer[1])
    if not 200 <= status < 300:
        raise UpstreamProxyError.refused(status)


async def _read_head(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    """Read up to the empty line, byte by byte: what follows is for others, and must stay there."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = await loop.sock_recv(sock, 1)
        if not byte:
            raise UpstreamProxyError("closed the connection before its answer")
        head += byte
        if len(head) > HEAD_BYTES:
            raise UpstreamProxyError(f"gave an answer of more than {HEAD_BYTES} bytes")
    return bytes(head)
