"""The request path: a client sends whatever the fuzzer says, to an upstream that is strict.

What reaches the upstream must be what the client sent, as parsers read it that are not the proxy's:
no request more, none other, and with our token as its only credential. What comes back must be the
client's own answers, whole and in order.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from itertools import zip_longest
from urllib.parse import unquote_to_bytes

from conformance import parsers
from fuzz.messages import Fields, Request, read_answers, read_requests
from fuzz.peers import Exchange, Manners, Peer, serial_of
from fuzz.script import Reset, Script, parse
from fuzz.world import NARROW, WIDE, Bystander, World, is_refusal
from harness import KEY
from proxy.traffic.front import HTTP2_PREFACE, HTTP2_REFUSAL

EARLY, CHUNKED, CLOSING, INTERIM, WIDELY, LATE, UNREAD = range(7)
"""Options: how the upstream answers, which listener is used, and whether the upstream answers after
a second only, and reads nothing but heads until the script is over."""

LATE_SECONDS = 1.0

_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_UPGRADE = {b"connection": [b"Upgrade"], b"upgrade": [b"websocket"]}
_OWN_HANDSHAKE = {b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"}
_CREDENTIALS = {b"authorization", b"proxy-authorization", b"x-api-key"}
_FRAMING = {b"content-length", b"transfer-encoding"}
_NOT_PASSED = _HOP_BY_HOP | _CREDENTIALS | _FRAMING | {b"expect", b"host"}


@contextlib.contextmanager
def target(**options: Callable[[bytes], bytes]) -> Iterator[Callable[[bytes], None]]:
    """Give the function that takes one input and raises if a promise is broken."""
    with World(**options) as world:
        yield lambda data: world.run(_one_input(world, parse(data)))


async def _one_input(world: World, script: Script) -> None:
    listener = WIDE if script.option(WIDELY) else NARROW
    world.upstream.manners = manners = _Answering(script)
    bystander = Bystander(world, listener)
    client = await world.connect(listener)
    await client.play(script, bystander.ask)
    manners.reads = True
    for far in world.upstream.fars:
        far.transport.resume_reading()
    await bystander.ask()
    await bystander.check()
    await client.left_alone()
    arrived = _arrived(world)
    for _, request in arrived:
        _check_credentials(request, world)
    own = [pair for pair in arrived if not pair[0].of_bystander]
    _check(client, script, sorted(own, key=lambda pair: pair[0].serial))
    await world.settle()


class _Answering(Manners):
    """Answers as the options say."""

    def __init__(self, script: Script) -> None:
        self.reads = not script.option(UNREAD)
        self._script = script

    def begun(self, exchange: Exchange) -> None:
        if not self.reads:
            exchange.far.transport.pause_reading()
        if self._script.option(INTERIM):
            exchange.far.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        if self._script.option(EARLY):
            self._answer_in_time(exchange)

    def completed(self, exchange: Exchange) -> None:
        if not self._script.option(EARLY):
            self._answer_in_time(exchange)

    def _answer_in_time(self, exchange: Exchange) -> None:
        if self._script.option(LATE):
            asyncio.get_running_loop().call_later(LATE_SECONDS, self._answer, exchange)
        else:
            self._answer(exchange)

    def _answer(self, exchange: Exchange) -> None:
        body = exchange.body
        if self._script.option(CHUNKED):
            framing = b"Transfer-Encoding: chunked"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif self._script.option(CLOSING):
            framing = b"Connection: close"
        else:
            framing = b"Content-Length: %d" % len(body)
        head = b"HTTP/1.1 200 OK\r\n%b%b\r\n\r\n" % (exchange.mark, framing)
        exchange.far.send(head if exchange.method == b"HEAD" else head + body)
        if self._script.option(CLOSING):
            exchange.far.transport.close()


# What reached the upstream

Arrived = tuple[Exchange, Request]


def _arrived(world: World) -> list[Arrived]:
    """Return the requests that reached the upstream, which two parsers read alike, to the end."""
    pairs: list[Arrived] = []
    for far in world.upstream.fars:
        stream = bytes(far.received)
        one = read_requests(stream)
        assert one.sound, f"h11 refuses what went up: {one}"
        other = parsers.read_llhttp(stream)
        alike = list(map(_plain, one.messages)) == list(map(_plain, other))
        assert alike, f"it can be read in two ways: {one} {other}"
        pairs += zip(far.exchanges, one.messages, strict=True)
    return pairs


def _plain(request: Request | parsers.Request) -> tuple[object, ...]:
    body = bytes(request.body)
    return request.method, request.target, request.fields, body, request.complete


def _check_credentials(request: Request, world: World) -> None:
    """Check that a request names its upstream, and shows one of our tokens and nothing else."""
    assert request.values(b"host") == [world.authority.encode()], f"another Host: {request}"
    shown = request.values(b"authorization")
    assert shown in [[each] for each in world.credentials()], f"not our token: {request}"
    for name in (_HOP_BY_HOP - _FRAMING) | (_CREDENTIALS - {b"authorization"}):
        expected = _UPGRADE.get(name, []) if request.upgrades else []
        assert request.values(name) == expected, f"{name!r} went up: {request}"
    assert not _holds_key(request.target), f"the static key went up: {request}"
    assert not any(map(_is_about_key, request.fields)), f"the static key went up: {request}"


def _holds_key(data: bytes) -> bool:
    return KEY.encode() in unquote_to_bytes(data)


def _is_about_key(field: tuple[bytes, bytes]) -> bool:
    return _holds_key(b"%b: %b" % field)


def _same(sent: Request, arrived: Request) -> bool:
    """Tell whether a request arrived as it was sent: whole, or in part if it is not complete."""
    whole = sent.complete and sent.body == arrived.body
    return (
        sent.method == arrived.method
        and _same_target(sent, arrived.target)
        and _passed(sent) == _passed(arrived)
        and all(sent.values(name) == arrived.values(name) for name in _FRAMING)
        and (whole or (not arrived.complete and sent.body.startswith(arrived.body)))
    )


def _same_target(sent: Request, arrived: bytes) -> bool:
    target = sent.target
    if absolute := re.fullmatch(rb"(?i:https?)://[^/?#]*(.*)", target, re.DOTALL):
        star = sent.method == b"OPTIONS" and not absolute[1]
        target = b"*" if star else b"/" + absolute[1].removeprefix(b"/")
    if b"key" not in unquote_to_bytes(target).lower():
        return target == arrived
    # A key is cut out, and a parameter that holds one or is named like one is left out.
    parts, kept = (re.split(rb"[?&]", each) for each in (target, arrived))
    return set(kept) <= set(parts) or _holds_key(target)


def _passed(request: Request) -> Fields:
    dropped = _NOT_PASSED | request.options | (_OWN_HANDSHAKE if request.upgrades else set())
    return [each for each in request.fields if each[0] not in dropped and not _is_about_key(each)]


# What came back


def _check(client: Peer, script: Script, arrived: Collection[Arrived]) -> None:
    """Check that what arrived was sent, in this order, and that all of it is answered."""
    if client.received == HTTP2_REFUSAL:
        assert script.sent.startswith(HTTP2_PREFACE), "refused for a version that it does not speak"
        assert not arrived, "something arrived of what was refused"
        return
    stream = read_requests(script.sent, lenient=True)
    left = iter(stream.messages)
    for _, request in arrived:  # what was refused is missing among them
        assert any(_same(each, request) for each in left), f"nobody sent {request}: {stream}"
    methods = [each.method for each in stream.messages]
    if stream.rest.startswith(b"HEAD "):  # no request to h11, but the proxy knows its method
        methods.append(b"HEAD")
    answered = _check_answers(client, methods, arrived, whole=Reset() not in script.steps)
    if script.steady and all(_may_be_followed(each) for each in stream.messages):
        complete = sum(each.complete for each in stream.messages)
        assert answered >= complete, f"not answered: {stream} {client.received!r}"


def _check_answers(
    client: Peer, methods: list[bytes], arrived: Collection[Arrived], *, whole: bool
) -> float:
    """Check each answer; return how many requests they answer: all, if the last one says so."""
    stream = read_answers(bytes(client.received), methods, ended=client.ended)
    assert stream.sound, f"the client got what is malformed: {stream}"
    assert len(stream.messages) <= len(methods) + 1, f"more answers than requests: {stream}"
    bodies = {exchange.serial: exchange.body for exchange, _ in arrived}
    serials: list[int] = []
    for answer, method in zip_longest(stream.messages, methods[: len(stream.messages)]):
        assert answer.complete or not whole, f"cut short: {answer}"
        if not is_refusal(answer):
            serial = serial_of(answer)
            assert serial in bodies, f"somebody else's answer: {answer}"
            body = b"" if method == b"HEAD" else bodies[serial]
            assert answer.body == body or not answer.complete, f"another body: {answer}"
            serials.append(serial)
    assert serials == sorted(set(serials)), f"not in order: {stream}"
    closes = any(b"close" in answer.options for answer in stream.messages[-1:])
    return float("inf") if closes else len(stream.messages)


def _may_be_followed(request: Request) -> bool:
    """Tell whether the proxy must serve what comes behind it; else it may close instead."""
    return not request.values(b"transfer-encoding") and not request.values(b"upgrade")
