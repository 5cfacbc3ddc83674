"""One request and its answer as transcripts at both ends, and what plays them."""

from collections.abc import Callable
from dataclasses import dataclass

from conformance.doors import Enter
from wire import Far, Wire, problem_of


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What the client sends, what goes up, what the upstream answers, what comes down.

    In `goes_up`, `*` stands for the upstream's authority and for the token; empty, nothing goes up.
    Bodies are given without their framing, which the heads tell of; None is no body at all.
    """

    row: str
    """Which row of the conformance table it belongs to, and how it differs from its neighbours."""
    sent: bytes
    goes_up: bytes = b""
    body_up: bytes | None = None
    answer: bytes = b""
    comes_down: bytes = b""
    body_down: bytes | None = None
    refusal: tuple[int, str] | None = None
    """Status and code of the problem that comes down instead."""
    asks: bool = False
    """Whether the client sends its body only once it has been told a status, 100 or final."""
    closes: bool = False
    """Whether the upstream closes the connection behind its answer."""
    cut: bool = False
    """Whether the answer must not look complete to the client."""
    ends: bool = False
    """Whether the client's connection is closed in order behind it."""

    def __repr__(self) -> str:
        return f"<Exchange {self.row}>"


BEHIND = Exchange(
    row="a request behind another one",
    sent=b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n",
    goes_up=b"GET /behind HTTP/1.1\r\nHost: *\r\nAuthorization: Bearer *\r\n\r\n",
    answer=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbehind",
    comes_down=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n",
    body_down=b"behind",
)

Pieces = Callable[[bytes], list[bytes]]
"""How bytes are cut before they are sent, each piece by itself."""


def whole(data: bytes) -> list[bytes]:
    return [data]


@dataclass
class Stage:
    """A client's way in, and the scripted upstream at the other end of the proxy."""

    enter: Enter
    far: Far

    async def play(
        self, exchange: Exchange, *, request: Pieces = whole, answer: Pieces = whole
    ) -> None:
        """Play an exchange, with its bytes cut as told, and check every byte at both ends."""
        async with self.enter() as near:
            await near.send_in_pieces(request(exchange.sent))
            up = await self._go_up(exchange, near, answer) if exchange.goes_up else None
            await self._come_down(exchange, near)
            if up is not None:
                await _leave(up)
            if exchange.ends:
                assert await near.rest() == b""
            elif not exchange.cut:
                near.send(BEHIND.sent)
                up = await self._go_up(BEHIND, near)
                await self._come_down(BEHIND, near)
                await _leave(up)
        assert self.far.unseen == 0

    async def _go_up(self, exchange: Exchange, near: Wire, answer: Pieces = whole) -> Wire:
        """Check what goes up and answer it."""
        up = await self.far.wire()
        host = b"Host: " + self.far.authority.encode()
        assert (await up.request()).replace(host, b"Host: *", 1) == exchange.goes_up
        if exchange.asks:
            assert await near.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            near.send(exchange.body_up or b"")
        if exchange.body_up is not None:
            assert await up.body(exchange.goes_up) == exchange.body_up
        await up.send_in_pieces(answer(exchange.answer))
        if exchange.closes:
            up.close()
        return up

    async def _come_down(self, exchange: Exchange, near: Wire) -> None:
        """Check what comes down."""
        if exchange.refusal:
            problem = problem_of(*await near.answer())
            assert (problem["status"], problem["code"]) == exchange.refusal
            near.send(exchange.body_up if exchange.asks and exchange.body_up else b"")
        else:
            assert await near.head() == exchange.comes_down
        if exchange.cut:
            assert not await near.ended()
        elif exchange.body_down is not None:
            assert await near.body(exchange.comes_down) == exchange.body_down


async def _leave(up: Wire) -> None:
    """End an upstream connection, so that the next request makes a new one."""
    up.close()
    await up.ended()
