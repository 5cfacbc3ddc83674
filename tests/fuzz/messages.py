"""HTTP/1.1 as h11 reads it, which is strict and not what the proxy reads it with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import h11

Fields = list[tuple[bytes, bytes]]

_LARGE = 1 << 24


@dataclass(slots=True)
class Message:
    """What requests and answers have in common; names of header fields are in lower case."""

    fields: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def value(self, name: bytes) -> bytes | None:
        return next(iter(self.values(name)), None)

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.fields if each == name]

    @property
    def options(self) -> set[bytes]:
        """What its Connection fields name, in lower case."""
        values = self.values(b"connection")
        return {each.strip() for value in values for each in value.lower().split(b",")}


@dataclass(slots=True)
class Request(Message):
    method: bytes = b""
    target: bytes = b""
    version: bytes = b""

    @property
    def begun(self) -> bool:
        return bool(self.version)

    @property
    def upgrades(self) -> bool:
        """Whether it offers to go on with another protocol."""
        return b"upgrade" in self.options and bool(self.values(b"upgrade"))

    @property
    def persistent(self) -> bool:
        """Whether another request may follow it (RFC 9112, section 9.3)."""
        if b"close" in self.options:
            return False
        return self.version == b"1.1" or b"keep-alive" in self.options


@dataclass(slots=True)
class Answer(Message):
    """A final answer; those before it are skipped."""

    status: int = 0
    reason: bytes = b""

    @property
    def begun(self) -> bool:
        return bool(self.status)


Kind = TypeVar("Kind", Request, Answer)


@dataclass(slots=True)
class Stream(Generic[Kind]):
    """The messages in a stream, of which only the last may be incomplete.

    `read` tells how many bytes they are; `fault` is why no more could be read, if something is
    wrong.
    """

    data: bytes
    messages: list[Kind] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Where each complete message ends in the stream."""
    read: int = 0
    fault: str = ""

    @property
    def rest(self) -> bytes:
        return self.data[self.read :]

    @property
    def sound(self) -> bool:
        """Whether there is nothing but messages in it."""
        return not self.fault and not self.rest


def read_requests(data: bytes, *, lenient: bool = False) -> Stream[Request]:
    """Read requests with h11, up to one that is the last on its connection.

    `lenient` is what a server may be (RFC 9112, sections 2.2 and 3): it takes empty lines before a
    request, and more than one space in the request line.
    """
    stream: Stream[Request] = Stream(data)
    while stream.rest and all(each.persistent for each in stream.messages[-1:]):
        if lenient:
            stream.data, stream.read = _tidied(stream.rest), 0
        if not _read(stream, h11.Connection(h11.SERVER, _LARGE), Request()):
            break
    return stream


def _tidied(data: bytes) -> bytes:
    line, mark, rest = data.lstrip(b"\r\n").partition(b"\r\n")
    return re.sub(rb" +", b" ", line) + mark + rest


def read_answers(data: bytes, methods: Sequence[bytes], *, ended: bool) -> Stream[Answer]:
    """Read final answers with h11, up to one that is the last on its connection.

    `methods` are those of the requests; one that is not known is GET. `ended` tells whether the
    stream has ended in order, which completes a body that is framed by it.
    """
    stream: Stream[Answer] = Stream(data)
    while stream.rest and all(b"close" not in each.options for each in stream.messages[-1:]):
        known = len(stream.messages) < len(methods)
        reader = h11.Connection(h11.CLIENT, _LARGE)
        method = methods[len(stream.messages)] if known else b"GET"
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        answer = Answer()
        if not _read(stream, reader, answer):
            if ended and answer.begun and not stream.fault:
                answer.complete = _ends_here(reader)
            break
        if method == b"HEAD" and _is_body_of_refusal(stream.rest, answer):
            answer.body += stream.rest
            stream.read = len(data)
    return stream


def _is_body_of_refusal(rest: bytes, answer: Answer) -> bool:
    """Tell whether what stands behind an answer to HEAD is the body that it should not have.

    What the proxy's parser refuses is answered before its method is known, so with a body.
    """
    refused = b"close" in answer.options and answer.value(b"x-mobula-proxy-error") is not None
    return refused and answer.values(b"content-length") == [b"%d" % len(rest)]


def _read(stream: Stream[Kind], reader: h11.Connection, message: Kind) -> bool:
    """Read one more message; tell whether it is complete."""
    reader.receive_data(stream.rest)
    try:
        while not message.complete and _take(reader.next_event(), message):
            pass
    except h11.RemoteProtocolError as error:
        stream.fault = str(error)
    if message.begun:
        stream.messages.append(message)
        stream.read = len(stream.data)
    if message.complete:
        stream.read -= len(reader.trailing_data[0])
        stream.ends.append(stream.read)
    return message.complete


def _take(event: object, message: Message) -> bool:
    """Put what h11 has read into a message; False if more would have to come."""
    match event:
        case h11.Request() if isinstance(message, Request):
            message.method, message.target = bytes(event.method), bytes(event.target)
            message.version, message.fields = bytes(event.http_version), list(event.headers)
        case h11.Response() if isinstance(message, Answer):
            message.status, message.reason = event.status_code, bytes(event.reason)
            message.fields = list(event.headers)
        case h11.Data():
            message.body += event.data
        case h11.EndOfMessage():
            message.complete = True
        case h11.InformationalResponse():
            pass
        case _:
            return False
    return True


def _ends_here(reader: h11.Connection) -> bool:
    reader.receive_data(b"")
    try:
        return isinstance(reader.next_event(), h11.EndOfMessage)
    except h11.RemoteProtocolError:
        return False
