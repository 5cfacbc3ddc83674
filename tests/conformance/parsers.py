"""Three parsers that were written apart, and what each makes of the bytes an upstream received."""

import asyncio
from dataclasses import dataclass, field

import h11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParserPy
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

LARGEST = 1 << 20


@dataclass
class Request:
    """One request as a parser understood it; names of fields are in lower case."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = False


class UnreadableError(Exception):
    """A parser does not take these bytes for HTTP."""


def read_h11(data: bytes) -> list[Request]:
    """Read requests with h11. Raises UnreadableError."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST)
    parser.receive_data(data)
    found: list[Request] = []
    try:
        while not isinstance(event := parser.next_event(), type(h11.NEED_DATA)):
            match event:
                case h11.Request():
                    found.append(Request(event.method, event.target, list(event.headers)))
                case h11.Data():
                    found[-1].body += event.data
                case h11.EndOfMessage():
                    found[-1].complete = True
                    _go_on(parser)
    except h11.RemoteProtocolError as error:
        raise UnreadableError(f"h11: {error}") from error
    return found


def _go_on(parser: h11.Connection) -> None:
    parser.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
    parser.send(h11.EndOfMessage())
    parser.start_next_cycle()


@dataclass
class _Sink:
    found: list[Request] = field(default_factory=list)

    def on_message_begin(self) -> None:
        self.found.append(Request(b"", b"", []))

    def on_url(self, part: bytes) -> None:
        self.found[-1].target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found[-1].fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, part: bytes) -> None:
        self.found[-1].body += part

    def on_message_complete(self) -> None:
        self.found[-1].complete = True


class _LlhttpSink(_Sink):
    parser: HttpRequestParser

    def on_headers_complete(self) -> None:
        self.found[-1].method = self.parser.get_method()


def read_llhttp(data: bytes) -> list[Request]:
    """Read requests with llhttp, as httptools has it, as if no upgrade in them came about.

    Raises UnreadableError.
    """
    sink = _LlhttpSink()
    while data:
        sink.parser = HttpRequestParser(sink)
        try:
            sink.parser.feed_data(data)
            break
        except HttpParserUpgrade as upgrade:
            data = data[upgrade.args[0] :]
        except HttpParserError as error:
            raise UnreadableError(f"llhttp: {error}") from error
    return sink.found


async def read_aiohttp(data: bytes) -> list[Request]:
    """Read requests with aiohttp's parser in pure Python. Raises UnreadableError."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParserPy(
        BaseProtocol(loop),
        loop,
        LARGEST,
        max_line_size=LARGEST,
        max_field_size=LARGEST,
        max_headers=LARGEST,
    )
    try:
        messages, upgraded, tail = parser.feed_data(data)
    except HttpProcessingError as error:
        raise UnreadableError(f"aiohttp: {error}") from error
    if upgraded or tail:
        raise UnreadableError("aiohttp: there is something behind the requests")
    return [
        Request(
            message.method.encode(),
            message.path.encode("utf-8", "surrogateescape"),
            [(name.lower(), value) for name, value in message.raw_headers],
            payload.read_nowait(),
            payload.is_eof(),
        )
        for message, payload in messages
    ]
