"""One sending of a request: its connection, its lease, its upload, and the head of the answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.errors import Refusal, UpstreamClosed
from proxy.tokens.model import Lease
from proxy.traffic.body import RequestBody
from proxy.traffic.connection import Connection
from proxy.traffic.handshake import Handshake
from proxy.traffic.headers import authorization
from proxy.traffic.message import ResponseHead
from proxy.traffic.target import KeyFinder
from proxy.traffic.upstream import Upstream

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(slots=True)
class Outgoing:
    """A request as it goes upstream, but for its token."""

    upstream: Upstream
    method: str
    head: bytes
    body: RequestBody | None
    chunked: bool
    handshake: Handshake | None = None
    """That of a WebSocket, if it asks for one; its connection then serves nothing else."""
    is_foreign: bool = False
    """Whether it is for a host that is no upstream, which gets no token."""
    keys: KeyFinder = field(init=False)
    """Finds what must go no further, in the messages of a WebSocket too."""
    charge: Callable[[], None] = field(init=False)
    """Counts one such message more. Raises what its client is refused with."""

    def may_resend(self, status: int | None = None) -> bool:
        """Tell whether it may go again, after an answer of `status` or after none at all.

        A 401 says that nothing was done (RFC 9110, section 15.5.2), so any method may follow it.
        """
        safe = self.method in IDEMPOTENT or status == 401
        return safe and (self.body is None or self.body.replayable)


class Attempt:
    """One sending of a request: its connection, its lease, and the upload if one goes on."""

    __slots__ = ("_upstream", "connection", "failure", "head", "lease", "upload")

    head: ResponseHead

    def __init__(self, upstream: Upstream, connection: Connection, lease: Lease | None) -> None:
        """Take a connection of an upstream, and a lease unless the request is foreign."""
        self._upstream = upstream
        self.connection = connection
        self.lease = lease
        self.upload: asyncio.Task[None] | None = None
        self.failure: Exception | None = None

    async def send(self, out: Outgoing) -> None:
        """Send the request and receive the answer's head. Raises refusals."""
        lease = self.lease
        head = out.head + (authorization(lease.token.secret.reveal()) if lease else b"\r\n")
        head_only = out.method == "HEAD"
        body = out.body.whole() if out.body else b""
        if body is None:
            self.connection.begin(head, head_only=head_only, complete=False)
            self.upload = asyncio.create_task(self._upload(out))
        elif out.chunked:
            framed = b"%b%b0\r\n\r\n" % (head, chunk(body) if body else b"")
            self.connection.begin(framed, head_only=head_only, complete=True)
        else:
            upgrade = out.handshake is not None
            self.connection.begin(head + body, head_only=head_only, complete=True, upgrade=upgrade)
        try:
            self.head = await self.connection.head()
        except Refusal:
            if self.failure is not None:
                raise self.failure from None
            raise

    async def _upload(self, out: Outgoing) -> None:
        assert out.body is not None  # noqa: S101 - for the type checker
        try:
            async for piece in out.body.chunks():
                self.connection.write(chunk(piece) if out.chunked else piece)
                if self.connection.writing_paused:
                    await self.connection.drain()
            if out.chunked:
                self.connection.write(b"0\r\n\r\n")
            self.connection.end()
        except UpstreamClosed:
            pass  # head() or read() tells it, unless the answer had come before
        except Exception as error:  # noqa: BLE001 - send() raises it
            self.failure = error
            self.connection.abort()

    async def stop(self) -> None:
        """End the upload; what it has read of the body stays held."""
        if self.upload is not None and not self.upload.done():
            self.upload.cancel()
            await asyncio.wait({self.upload})
        # They hold all that the upload had at hand, this among it, and would keep it in memory.
        self.upload = self.failure = None

    async def discard(self) -> None:
        """End the upload and give the connection back."""
        try:
            await self.stop()
        finally:
            self._upstream.release(self.connection)


def chunk(data: bytes) -> bytes:
    """Frame data that is not empty as one chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
