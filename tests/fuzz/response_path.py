"""The response path: the upstream answers whatever the fuzzer says; its client is a polite one.

What the client gets must be that answer, as a parser reads it that is not the proxy's, or an error:
never a part of it as if it were whole, never another client's. Said in one breath, it must come out
the same as said in segments.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fuzz.messages import Answer, Fields, read_answers
from fuzz.peers import Exchange, Manners, Peer, quiet, serial_of, waited_for
from fuzz.script import Script, Wait, parse
from fuzz.world import HEAD_BYTES, NARROW, REPLAY_BYTES, WIDE, Bystander, World, is_refusal

OLD, LAST, WIDELY, FRESH, SLOW, REVOKED = range(2, 8)
"""Options behind the first two bits, which choose the request: whether the client speaks HTTP/1.0,
wants the connection closed, uses the listener with many connections, gets a new one upstream, and
reads only when all has been said; and whether all tokens are revoked as soon as the request is
there."""


class _Asked(NamedTuple):
    """A request; the second part of its body is held back until the upstream has said all."""

    method: bytes
    fields: bytes = b""
    body: bytes = b""
    later: bytes = b""


_REQUESTS = (
    _Asked(b"GET"),
    _Asked(b"HEAD"),
    _Asked(b"POST", b"Content-Length: 5\r\n", b"hello"),
    _Asked(b"POST", b"Content-Length: %d\r\n" % (5 + REPLAY_BYTES), b"hello", b"w" * REPLAY_BYTES),
)
_NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
_COMPARED_BYTES = HEAD_BYTES
"""What is longer may be refused for its size, and in segments the size is noticed earlier."""
_NOT_PASSED = {
    b"connection",
    b"content-length",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"x-mobula-proxy-error",
}


@contextlib.contextmanager
def target(**options: Callable[[bytes], bytes]) -> Iterator[Callable[[bytes], None]]:
    """Give the function that takes one input and raises if a promise is broken."""
    with World(**options) as world:
        yield lambda data: _one_input(world, parse(data))


def _one_input(world: World, script: Script) -> None:
    outcome = world.run(_play(world, script))
    comparable = Wait() not in script.steps and len(script.sent) <= _COMPARED_BYTES
    if script.in_segments and comparable:
        at_once = world.run(_play(world, script.in_one_breath()))
        assert outcome == at_once, f"segments make a difference: {outcome}, at once {at_once}"


async def _play(world: World, script: Script) -> object:
    """Have one request answered as the script says; return what became of it."""
    listener = WIDE if script.option(WIDELY) else NARROW
    bystander = Bystander(world, listener)
    if not script.option(FRESH):
        await bystander.ask()
    client = await world.connect(listener)
    asked = _REQUESTS[script.options & 3]
    world.upstream.manners = manners = _Scripted()
    client.send(_request(asked, script))
    await quiet()
    if script.option(REVOKED):
        manners.revoked = world.revoke_all()
    if script.option(SLOW):
        client.transport.pause_reading()
    await manners.first.far.play(script)
    if script.option(SLOW):
        client.transport.resume_reading()
        await quiet()
    client.send(asked.later)
    await waited_for(lambda: _is_over(client, asked.method))
    client.send(_NEXT)
    await bystander.ask()
    await bystander.check()
    await client.left_alone()
    answer = _check(client, asked.method, manners)
    await world.settle()
    return _outcome(answer)


class _Scripted(Manners):
    """Leaves the first request to the script, and answers the others politely."""

    def __init__(self) -> None:
        self.revoked: list[bytes] = []
        """Credentials that are good no more."""
        self._own: list[Exchange] = []

    @property
    def first(self) -> Exchange:
        assert self._own, "the request did not arrive"
        return self._own[0]

    @property
    def others(self) -> set[int]:
        return {each.serial for each in self._own[1:]}

    def begun(self, exchange: Exchange) -> None:
        self._own.append(exchange)

    def completed(self, exchange: Exchange) -> None:
        if exchange is self.first:
            return
        if exchange.credential in self.revoked:
            head = b"HTTP/1.1 401 Unauthorized\r\n%bContent-Length: 0\r\n\r\n" % exchange.mark
            exchange.far.send(head)
        else:
            exchange.answer()


def _request(asked: _Asked, script: Script) -> bytes:
    version = 0 if script.option(OLD) else 1
    option = b"close" if script.option(LAST) else b"keep-alive"
    head = b"%b /own HTTP/1.%d\r\nHost: a\r\nConnection: %b\r\n%b\r\n"
    return head % (asked.method, version, option, asked.fields) + asked.body


def _is_over(client: Peer, method: bytes) -> bool:
    """Tell whether the answer has come whole, or will not come any more."""
    answers = read_answers(bytes(client.received), [method], ended=client.ended)
    return client.lost or bool(answers.ends)


def _check(client: Peer, method: bytes, manners: _Scripted) -> Answer:
    """Check what the client got, and return the answer to its first request."""
    stream = read_answers(bytes(client.received), [method, b"GET"], ended=client.ended)
    assert stream.sound, f"the client got what is malformed: {stream}"
    assert stream.messages, "the client got no answer at all"
    answer, *others = stream.messages
    if serial_of(answer) is not None:  # the request went up once more
        others.append(answer)
    elif not is_refusal(answer):
        _check_relayed(answer, manners.first)
    for each in others:
        assert serial_of(each) in manners.others, f"somebody else's answer: {each}"
        assert each.complete, f"cut short: {each}"
    return answer


def _check_relayed(answer: Answer, asked: Exchange) -> None:
    far = asked.far
    said = read_answers(bytes(far.sent[asked.after :]), [asked.method], ended=far.has_ended)
    assert said.messages, f"the upstream never said {answer}"
    original = said.messages[0]
    assert (answer.status, answer.reason) == (original.status, original.reason), (answer, said)
    assert _passed(answer) == _passed(original), f"other header fields: {answer} {said}"
    if answer.status == 205:  # has no body, whatever the upstream says
        return
    assert original.complete or not answer.complete, f"cut short, but it looks whole: {answer}"
    assert original.body.startswith(answer.body), f"another body: {answer} {said}"
    assert len(original.body) == len(answer.body) or not answer.complete, (answer, said)


def _passed(answer: Answer) -> Fields:
    dropped = _NOT_PASSED | answer.options
    return [field for field in answer.fields if field[0] not in dropped]


def _outcome(answer: Answer) -> object:
    """Return what must not depend on how the upstream's bytes were split."""
    if not answer.complete or is_refusal(answer):
        return "failed"
    if serial_of(answer) is not None:
        return "sent once more"
    return answer.status, answer.reason, _passed(answer), bytes(answer.body)
