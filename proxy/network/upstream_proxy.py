"""The way through the proxy that a network has of its own: CONNECT (RFC 9110, section 9.3.6)."""

import asyncio
import re
import socket
from typing import Final

from proxy.config import ProxyUrl
from proxy.network.errors import UpstreamProxyError

HEAD_BYTES: Final = 8 * 1024
"""What the head of its answer may have at the most."""

_HEAD: Final = re.compile(
    rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*)?\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*\r\n"
)


async def pass_through(sock: socket.socket, proxy: ProxyUrl, host: str, port: int) -> None:
    """Have the proxy at the other end of `sock` connect it to `host`; raise UpstreamProxyError.

    Afterwards the socket is as if it had been connected to `host` itself: the head of the answer
    is taken off it to its last byte, and no byte behind that.
    """
    loop = asyncio.get_running_loop()
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if credentials := proxy.authorization():
        lines.append(f"Proxy-Authorization: {credentials}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode("ascii"))
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
