"""Both ends of the wire, byte by byte: a scripted upstream and a client, with a proxy between."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol, Self

from harness import SecretScan, running
from proxy.app import App
from proxy.config import Address
from proxy.sandbox import Sandbox

PATIENCE = 5.0
"""Seconds that anything may take before a test fails."""

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

ELSEWHERE = b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"

TURNS_TO_ARRIVE = 3
"""Turns of the loop after which what one end has written has been read at the other."""

Start = Callable[..., contextlib.AbstractAsyncContextManager[App]]
"""Starts a proxy with sections of settings; `listener` is what is special about its listener."""

_BEARER = b"Authorization: Bearer "


class Wire:
    """One end of a connection; every wait is bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.token = b""
        self._reader = reader
        self._writer = writer

    def __repr__(self) -> str:
        return f"<Wire {self._writer.get_extra_info('peername')}>"

    @property
    def is_open(self) -> bool:
        return not self._writer.is_closing()

    def send(self, data: bytes) -> None:
        """Send bytes; once the other end has broken the connection, this does nothing."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def send_in_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send each piece only after the other end, in this process, has read the one before."""
        for piece in pieces:
            self.send(piece)
            for _ in range(TURNS_TO_ARRIVE):
                await asyncio.sleep(0)

    async def start_tls(self, context: ssl.SSLContext, name: str | None) -> None:
        """Go on in TLS, as a client that asks for a server name."""
        async with asyncio.timeout(PATIENCE):
            await self._writer.start_tls(context, server_hostname=name)

    @property
    def tls(self) -> ssl.SSLObject:
        """What was agreed on in TLS."""
        tls: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return tls

    @property
    def unsent(self) -> int:
        """Bytes that even the kernel has not taken."""
        return self._writer.transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until the other end has taken about all that was sent."""
        async with asyncio.timeout(PATIENCE):
            await self._writer.drain()

    async def head(self, patience: float | None = PATIENCE) -> bytes:
        """Read up to the empty line."""
        async with asyncio.timeout(patience):
            return await self._reader.readuntil(b"\r\n\r\n")

    async def request(self, patience: float | None = PATIENCE) -> bytes:
        """Read a request's head; its token is taken out and kept in `token`."""
        head = await self.head(patience)
        lines = head.split(b"\r\n")
        place = next(i for i, line in enumerate(lines) if line.startswith(_BEARER))
        self.token = lines[place].removeprefix(_BEARER)
        lines[place] = _BEARER + b"*"
        return b"\r\n".join(lines)

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readexactly(size)

    async def some(self, patience: float | None = PATIENCE) -> bytes:
        """Read what comes next; b"" is the end."""
        async with asyncio.timeout(patience):
            return await self._reader.read(65536)

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readuntil(end)

    async def rest(self) -> bytes:
        """Read all that comes until the other end closes in order."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    async def body(self, head: bytes) -> bytes:
        """Read the body that belongs to a head and return it without its framing."""
        if b"\r\ntransfer-encoding: chunked\r\n" in head.lower():
            return await self._chunks()
        if b"\r\ncontent-length: " in head.lower():
            return await self.exactly(length_of(head))
        return await self.rest()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.until(b"\r\n"), 16):
            body += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        assert await self.exactly(2) == b"\r\n"
        return body

    async def answer(self) -> tuple[bytes, bytes]:
        """Read a head, and the body that its Content-Length tells of."""
        head = await self.head()
        return head, await self.exactly(length_of(head))

    async def ended(self) -> bool:
        """Wait for the end, and tell whether it was an orderly one."""
        _, orderly = await self.everything()
        return orderly

    async def everything(self) -> tuple[bytes, bool]:
        """Read all that comes until the end, and tell whether that was an orderly one."""
        data = bytearray()
        try:
            while part := await self.some():
                data += part
        except ConnectionError:
            return bytes(data), False
        return bytes(data), True

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> None:
        """Wait until the connection that was closed here is closed indeed."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    def drop(self) -> None:
        """End the connection without TLS's own goodbye, its close_notify."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """End the connection with a reset instead of an orderly end, if it has not ended yet."""
        if self._writer.is_closing():
            return
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()


@contextlib.asynccontextmanager
async def trickle(wire: Wire, data: bytes, pause: float) -> AsyncIterator[None]:
    """Send a byte of `data` now and then, over and over, while the block runs."""

    async def send() -> None:
        while True:
            for byte in data:
                wire.send(bytes((byte,)))
                await asyncio.sleep(pause)

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()


def length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name.lower() == b"content-length":
            return int(value)
    raise AssertionError(f"no Content-Length in {head!r}")


class Far:
    """An upstream that says what the test says, and nothing by itself.

    Its port stays its own, also while it does not listen.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.accepted = 0
        self._wires: asyncio.Queue[Wire] = asyncio.Queue()
        self._all: list[Wire] = []
        self._place = bound((host, 0))
        self._server: asyncio.Server | None = None
        self._line: list[socket.socket] = []

    @property
    def port(self) -> int:
        port: int = self._place.getsockname()[1]
        return port

    @property
    def authority(self) -> str:
        return "{}:{}".format(*self._place.getsockname())

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self.close()
        self._place.close()

    async def listen(self, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections, at first or again."""
        self.refuse()
        sock = bound(self._place.getsockname())
        self._server = await asyncio.start_server(self._accept, sock=sock, ssl=tls)

    @property
    def unseen(self) -> int:
        """Connections that no test has looked at."""
        return self._wires.qsize()

    def refuse(self) -> None:
        """Accept no more connections."""
        while self._line:
            self._line.pop().close()
        if self._server is not None:
            self._server.close()

    def stall(self) -> None:
        """Neither accept connections nor refuse them: the kernel's line of them is full."""
        self.refuse()
        listener = bound(self._place.getsockname())
        listener.listen(0)
        self._line = [listener, socket.create_connection(listener.getsockname())]

    def close(self) -> None:
        """Close every connection."""
        for wire in self._all:
            wire.close()

    async def leave(self) -> None:
        """Close every connection, and return when that is done."""
        self.close()
        for wire in self._all:
            await wire.closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._all = [*(wire for wire in self._all if wire.is_open), Wire(reader, writer)]
        self._wires.put_nowait(self._all[-1])

    async def wire(self, patience: float | None = PATIENCE) -> Wire:
        """Return the next connection."""
        async with asyncio.timeout(patience):
            return await self._wires.get()


async def let_through(way_out: Far, behind: bytes = b"") -> Wire:
    """Play the upstream proxy for the next connection; return the far end that it leads to.

    That end says what is `behind` the proxy's answer at once.
    """
    wire = await way_out.wire()
    await wire.head()
    wire.send(b"HTTP/1.1 200 OK\r\n\r\n" + behind)
    return wire


class Upstream(Protocol):
    """Anything that listens; `authority` is its host and port."""

    @property
    def authority(self) -> str: ...


def bound(address: tuple[str, int]) -> socket.socket:
    """A socket at an address that others of ours are bound to as well, if only one listens."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    return sock


@contextlib.asynccontextmanager
async def served(far: Far, serve: Callable[[Wire], Awaitable[None]]) -> AsyncIterator[None]:
    """Have each connection of `far` served until it ends, and close all of them at the end."""

    async def until_it_ends(wire: Wire) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(wire)

    async def accept() -> None:
        while True:
            group.create_task(until_it_ends(await far.wire(patience=None)))

    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(accept())
        try:
            yield
        finally:
            accepting.cancel()
            far.close()


async def used_before(near: Wire, far: Far) -> Wire:
    """Have one request served; return the upstream connection that carried it."""
    near.send(GET)
    up = await far.wire()
    await up.head()
    up.send(OK)
    assert (await near.answer())[1] == b"ok"
    return up


async def is_served(near: Wire, far: Far, data: bytes) -> bytes:
    """Have a request served on an upstream connection of its own; return its head as it went up."""
    near.send(data)
    up = await far.wire()
    head = await up.request()
    up.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    up.close()
    assert (await near.answer())[1] == b"ok"
    return head


async def refused(near: Wire) -> tuple[int, str]:
    """Read one of our problem documents; return its status and code."""
    problem = problem_of(*await near.answer())
    return problem["status"], problem["code"]


@contextlib.asynccontextmanager
async def between(
    far: Upstream,
    sandbox: Sandbox,
    scan: SecretScan,
    *,
    name: str = "far.test",
    prefix: str = "",
    **sections: Any,
) -> AsyncIterator[App]:
    """A proxy whose listeners lead to `far`, and whose tokens come from `sandbox`.

    `name` is what `far` is called in the settings; `upstreams` in them come beside it.
    """
    listener = {"bind": "127.0.0.1:0"} | sections.pop("listener", {})
    listeners = sections.pop("listeners", [listener])
    upstreams = {
        "mint.test": {"url": sandbox.url},
        name: {"url": f"http://{far.authority}{prefix}"} | sections.pop("upstream", {}),
    } | sections.pop("upstreams", {})
    async with running(
        sandbox.url,
        scan,
        upstreams=upstreams,
        listeners=[{"upstream": name} | each for each in listeners],
        **sections,
    ) as app:
        yield app


@contextlib.asynccontextmanager
async def client(app: App, listener: int = 0) -> AsyncIterator[Wire]:
    """A connection to one of the proxy's listeners."""
    wire = await connect(app.addresses[listener])
    try:
        yield wire
    finally:
        wire.close()


async def connect(address: Address) -> Wire:
    if address.path:
        return Wire(*await asyncio.open_unix_connection(address.path))
    return Wire(*await asyncio.open_connection(address.host, address.port))


def fields_of(head: bytes) -> dict[str, str]:
    """Return the fields of a head, by their names in small letters."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}


def problem_of(head: bytes, body: bytes) -> dict[str, Any]:
    """Check that an answer is one of our problem documents, and return it."""
    fields = fields_of(head)
    problem: dict[str, Any] = json.loads(body)
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert fields["content-type"] == "application/problem+json"
    assert fields["x-mobula-proxy-error"] == problem["code"]
    assert head.startswith(f"HTTP/1.1 {problem['status']} {problem['title']}\r\n".encode())
    assert problem["type"] == f"urn:mobula-proxy:error:{problem['code']}"
    return problem
