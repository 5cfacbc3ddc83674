"""A client that can tell a whole answer from one that broke off."""

import contextlib
from asyncio import IncompleteReadError
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from proxy.config import Address
from wire import Wire, connect, fields_of

BROKEN_OFF = "broken off"
NOTHING = "nothing"
PATIENCE = 15.0
"""Seconds that a client waits for an answer: longer than a request may wait for a token."""


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """One answer as far as it came; of nothing at all, the status is 0."""

    status: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    def __repr__(self) -> str:
        return f"<Answer {self.seen}, {len(self.body)} bytes: {self.body[:200]!r}>"

    @property
    def seen(self) -> str:
        """What the client saw: `200`, `502 upstream_closed` if the proxy speaks, `broken off`."""
        if not self.whole:
            return BROKEN_OFF if self.status else NOTHING
        return f"{self.status} {self.fields.get('x-mobula-proxy-error', '')}".rstrip()


class Client:
    """One connection to the proxy; `open` tells whether it may send another request."""

    def __init__(self, wire: Wire) -> None:
        self.open = True
        self.wire = wire

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and read its answer."""
        self.wire.send(request)
        return await self.answer(head_only=request.startswith(b"HEAD "))

    async def answer(self, *, head_only: bool = False) -> Answer:
        """Read the next answer, be it broken off. TimeoutError if it stays out."""
        self.open = False
        status, fields = 0, dict[str, str]()
        with contextlib.suppress(IncompleteReadError, ConnectionError):
            head = await self._final_head()
            status, fields = int(head[9:12]), fields_of(head)
            body = b"" if head_only else await self.wire.body(head)
            self.open = head.startswith(b"HTTP/1.1") and fields.get("connection") != "close"
            return Answer(status, fields, body, whole=True)
        return Answer(status, fields)

    async def _final_head(self) -> bytes:
        """Read up to the first head that is not an interim one."""
        while (head := await self.wire.head(PATIENCE)).startswith(b"HTTP/1.1 1"):
            pass
        return head


@contextlib.asynccontextmanager
async def visiting(address: Address) -> AsyncIterator[Client]:
    """A client with a connection of its own."""
    wire = await connect(address)
    try:
        yield Client(wire)
    finally:
        wire.close()
