"""The two ends that are ours, for a whole proxy in the middle: clients, and the upstream."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httptools

from fuzz.messages import Answer, Fields, read_answers
from fuzz.script import End, Reset, Script, Send, Wait

WAIT_SECONDS = 1.5
"""How long a Wait is; two of them outlast every timeout of a body."""
PATIENCE = 2000
"""Seconds within which whatever the proxy waits for has come or been given up, a thousand times."""

_NONCE = b"0b6d1ce5a1b24f7f"
"""What no fuzzer guesses."""

Tamper = Callable[[bytes], bytes]


async def quiet(seconds: float = 0.0) -> None:
    """Return when all that can happen has happened, timers within these seconds included."""
    await asyncio.sleep(seconds + 0.001)


async def waited_for(check: Callable[[], bool]) -> None:
    """Return once `check` is true; fail if it does not come true, however long it is waited for."""
    for _ in range(PATIENCE):
        if check():
            return
        await quiet(1.0)
    raise AssertionError("what is waited for does not come, and is not given up either")


class Peer(asyncio.Protocol):
    """Our end of a connection: what was said on it, and how it ended."""

    def __init__(self, tamper: Tamper) -> None:
        """`tamper` changes what is taken for received: a proxy that fails, for tests."""
        self.sent = bytearray()
        self.has_ended = False
        """Whether we have ended our stream in order."""
        self.received = bytearray()
        self.ended = False
        """Whether the other side has ended its stream in order."""
        self.lost = False
        self._tamper = tamper

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += self._tamper(data)

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's hook
        self.lost = True

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.sent += data
            self.transport.write(data)

    def end(self) -> None:
        self.has_ended = True
        self.transport.write_eof()

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def play(
        self, script: Script, before_each: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Do what the script says; after each step let all happen that follows from it."""
        for step in script.steps:
            if before_each is not None:
                await before_each()
            if self.transport.is_closing():
                return
            match step:
                case Send(data):
                    self.send(data)
                case End():
                    self.end()
                case Reset():
                    self.reset()
            await quiet(WAIT_SECONDS if isinstance(step, Wait) else 0.0)

    async def left_alone(self) -> None:
        """See that the other side ends a connection on which nothing happens any more."""
        await waited_for(lambda: self.lost)


@dataclass(slots=True)
class Exchange:
    """A request that reached the upstream; `serial` counts them in the order of their heads."""

    serial: int
    far: "Far" = field(repr=False)
    method: bytes
    target: bytes
    fields: Fields
    after: int
    """Bytes that the upstream had sent on the connection before the request came."""

    @property
    def of_bystander(self) -> bool:
        return (b"X-Bystander", _NONCE) in self.fields

    @property
    def credential(self) -> bytes:
        return dict(self.fields)[b"Authorization"]

    @property
    def mark(self) -> bytes:
        """A header line of its polite answer."""
        return b"X-Serial: %d %b\r\n" % (self.serial, _NONCE)

    @property
    def body(self) -> bytes:
        """The body of its polite answer, like which there is no other."""
        return b"%d %b %b" % (self.serial, self.method, self.target)

    def answer(self) -> None:
        """Answer politely."""
        body = self.body
        head = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (self.mark, len(body))
        self.far.send(head if self.method == b"HEAD" else head + body)


def serial_of(answer: Answer) -> int | None:
    """Return the serial of the exchange that a polite answer belongs to, None for any other."""
    serial, _, nonce = (answer.value(b"x-serial") or b"").partition(b" ")
    return int(serial) if nonce == _NONCE else None


def bystanders_request(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\nX-Bystander: %b\r\n\r\n" % (path, _NONCE)


class Manners:
    """How the upstream treats a client other than the bystander: here, politely."""

    def begun(self, exchange: Exchange) -> None:
        """The head of a request has come."""

    def completed(self, exchange: Exchange) -> None:
        """A request has come whole."""
        exchange.answer()


class Upstream:
    """All connections to the upstream, and the requests that came on them."""

    def __init__(self, tamper: Tamper) -> None:
        self.manners = Manners()
        self.fars: list[Far] = []
        self.exchanges: list[Exchange] = []
        self._tamper = tamper

    def connection(self) -> "Far":
        """Make the end of a new connection."""
        self.fars.append(Far(self, self._tamper))
        return self.fars[-1]

    def forget(self) -> None:
        """Check each connection, end it, and start anew."""
        for far in self.fars:
            far.check_reuse()
            far.transport.abort()
        self.manners, self.fars, self.exchanges = Manners(), [], []


class Far(Peer):
    """The upstream's end of a connection; what is wrong with a request, it leaves to a check."""

    def __init__(self, upstream: Upstream, tamper: Tamper) -> None:
        super().__init__(tamper)
        self.exchanges: list[Exchange] = []
        self._upstream = upstream
        self._target = b""
        self._fields: Fields = []
        self._parser = httptools.HttpRequestParser(self)
        self._broken = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        while data and not self._broken:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:  # which does not come about
                self._parser = httptools.HttpRequestParser(self)
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._broken = True

    def on_message_begin(self) -> None:
        self._target, self._fields = b"", []

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        exchange = Exchange(
            serial=len(self._upstream.exchanges),
            far=self,
            method=self._parser.get_method(),
            target=self._target,
            fields=self._fields,
            after=len(self.sent),
        )
        self.exchanges.append(exchange)
        self._upstream.exchanges.append(exchange)
        if not exchange.of_bystander:
            self._upstream.manners.begun(exchange)

    def on_message_complete(self) -> None:
        exchange = self.exchanges[-1]
        if exchange.of_bystander:
            exchange.answer()
        else:
            self._upstream.manners.completed(exchange)

    def check_reuse(self) -> None:
        """Check that each request came when the answers to those before it had ended just so."""
        methods = [each.method for each in self.exchanges]
        answers = read_answers(bytes(self.sent), methods, ended=False)
        in_order = [0, *answers.ends][: len(self.exchanges)]
        came = [each.after for each in self.exchanges]
        assert came == in_order, f"reused when it was not in order: {self.exchanges} {self.sent!r}"
