"""The WebSocket path: behind a good handshake, one side says whatever the fuzzer says.

The other side must hear the very messages that were said, as a parser reads them that is not the
proxy's, up to where the protocol was broken: none more, none other, none in part. What goes up has
a token in place of each credential, and no static key.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator

from frames import (
    CLOSE,
    HANDSHAKE,
    TEXT,
    accept,
    close,
    frame,
)
from fuzz.frame_reader import Frames, Item, read
from fuzz.peers import Exchange, Far, Manners, quiet
from fuzz.script import Script, Wait, parse
from fuzz.world import MESSAGE_BYTES, NARROW, WIDE, Bystander, World
from harness import KEY as STATIC_KEY

UPSTREAM_SPEAKS, WIDELY = range(2)
"""Options: whether the upstream says what the fuzzer says, and which listener is used."""

_MEMBER = "authorization"


@contextlib.contextmanager
def target(**options: Callable[[bytes], bytes]) -> Iterator[Callable[[bytes], None]]:
    """Give the function that takes one input and raises if a promise is broken."""
    with World(**options) as world:
        yield lambda data: _one_input(world, parse(data))


def _one_input(world: World, script: Script) -> None:
    heard = world.run(_play(world, script))
    if script.in_segments and Wait() not in script.steps:
        at_once = world.run(_play(world, script.in_one_breath()))
        assert heard == at_once, f"segments make a difference: {heard}, at once {at_once}"


async def _play(world: World, script: Script) -> list[Item]:
    """Have one side say what the script says; return what the other one heard."""
    listener = WIDE if script.option(WIDELY) else NARROW
    bystander = Bystander(world, listener)
    await bystander.ask()
    client = await world.connect(listener)
    world.upstream.manners = manners = _Switching()
    client.send(HANDSHAKE)
    await quiet()
    assert client.received.startswith(b"HTTP/1.1 101 "), f"not switched: {client.received!r}"
    far, going_down = manners.far, script.option(UPSTREAM_SPEAKS)
    speaker, hearer = (far, client) if going_down else (client, far)
    before = len(speaker.sent), len(hearer.received)
    await speaker.play(script)
    await bystander.ask()
    hearer.send(frame(CLOSE, close(1000), mask=b"mask" if going_down else b""))
    await bystander.check()
    await client.left_alone()
    said, heard = (
        read(bytes(stream), MESSAGE_BYTES, from_client=not going_down)
        for stream in (speaker.sent[before[0] :], hearer.received[before[1] :])
    )
    _check(said, heard, [] if going_down else world.tokens(), whole=script.steady)
    await world.settle()
    return [_without_token(item, world.tokens()) for item in heard.items]


class _Switching(Manners):
    """Takes a handshake, and then says nothing by itself."""

    far: Far

    def completed(self, exchange: Exchange) -> None:
        self.far = exchange.far
        exchange.far.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n"
            % accept(dict(exchange.fields)[b"Sec-WebSocket-Key"])
        )


def _check(said: Frames, heard: Frames, tokens: Collection[str], *, whole: bool) -> None:
    """Check what was heard; all of it must be, if `whole`, up to what the proxy may deny."""
    assert not heard.fault, f"what is sent on breaks the protocol: {heard}"
    assert not heard.rest, f"a part of a frame, or something behind a Close: {heard}"
    *passed, last = [*heard.items, (CLOSE, b"")]
    if heard.closed:
        passed, last = heard.items[:-1], heard.items[-1]
    assert len(passed) <= len(said.items), f"more than was said: {said} {heard}"
    for item, other in zip(said.items, passed, strict=False):
        assert _same(item, other, tokens), f"not what was said: {item} {other}"
    left = said.items[len(passed) :]
    if left and whole:
        kind, data = left[0]
        assert kind == CLOSE or _may_be_denied(data), f"not sent on: {said} {heard}"
        if kind == CLOSE:
            assert last[1] == (data or close(1000)), f"another close: {said} {heard}"


def _same(said: Item, heard: Item, tokens: Collection[str]) -> bool:
    if not tokens or said[0] != TEXT:
        return said == heard
    assert STATIC_KEY not in heard[1].decode(), "the static key went up"
    members, others = _members(said[1]), _members(heard[1])
    assert STATIC_KEY not in str(others), "the static key went up in escapes"
    if _shows_none(members):
        return said == heard
    replaced = [(name, "*" if _is_credential(name, value) else value) for name, value in members]
    expected = [
        (name, "*" if _is_credential(name, value) and value in tokens else value)
        for name, value in others
    ]
    return replaced == expected


def _members(text: bytes) -> list[tuple[str, object]]:
    """Return the members of a JSON object, in their order; none if it is not one."""
    try:
        found = json.loads(
            text,
            object_pairs_hook=lambda pairs: pairs,
            parse_int=str,
            parse_float=str,
            parse_constant=str,
        )
    except (ValueError, RecursionError):
        return []
    return found if text.lstrip(b" \t\r\n").startswith(b"{") else []


def _is_credential(name: str, value: object) -> bool:
    return name == _MEMBER and isinstance(value, str)


def _shows_none(members: list[tuple[str, object]]) -> bool:
    return not any(_is_credential(name, value) for name, value in members)


def _may_be_denied(data: bytes) -> bool:
    """Tell whether the proxy may take a message for one that holds a static key, or a bomb."""
    return b"key" in data.lower() or b"\\" in data or max(data.count(b"["), data.count(b"{")) > 100


def _without_token(item: Item, tokens: Collection[str]) -> Item:
    data = item[1]
    for token in tokens:
        data = data.replace(token.encode(), b"*")
    return item[0], data
