"""The short version of `make fuzz`: all inputs found so far, and a few that follow from them.

That a target notices a broken promise is shown by having the proxy seem to break it.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.parsers import UnreadableError
from frames import PING, TEXT, frame
from fuzz import request_path, response_path, settings_loader, websocket_path
from fuzz.script import End, Reset, Send, Wait, parse
from fuzz.seeds import CUT, END, GET, OK, POST, SEEDS
from fuzz.world import World
from harness import KEY
from proxy.config import Problem, SettingsError

CORPUS = Path(__file__).parent / "corpus"
TARGETS = {
    "request_path": request_path.target,
    "response_path": response_path.target,
    "websocket_path": websocket_path.target,
    "settings_loader": settings_loader.target,
}
MUTATIONS = 200
LOG = logging.getLogger("proxy")


def inputs(name: str) -> list[bytes]:
    return [*SEEDS[name], *(file.read_bytes() for file in sorted((CORPUS / name).glob("*")))]


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_found_so_far_breaks_a_promise(name: str) -> None:
    with TARGETS[name]() as one_input:
        for data in inputs(name):
            replay(one_input, data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_near_to_those_breaks_a_promise(name: str) -> None:
    chance = random.Random(name)  # noqa: S311 - the same inputs each time
    known = inputs(name)
    with TARGETS[name]() as one_input:
        for _ in range(MUTATIONS):
            replay(one_input, mutated(chance, chance.choice(known), chance.choice(known)))


def replay(one_input: Callable[[bytes], None], data: bytes) -> None:
    try:
        one_input(data)
    except AssertionError as error:
        pytest.fail(f"{data!r}: {error}")


def mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Return `data` with a piece of itself or of `other` in place of a piece of it."""
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    source = chance.choice((data, other, b"\xff|", b""))
    begin = chance.randrange(len(source) + 1)
    piece = source[begin : begin + chance.choice((1, 2, 8, 64))]
    return data[:start] + piece + data[min(end, start + 8) :]


# An input is a script


def test_commands_split_an_input_into_steps() -> None:
    script = parse(b"\x05ab\xff|c\xff\xff~d\xff.e")
    assert script.steps == (Send(b"ab"), Send(b"c\xff"), Wait(), Send(b"d"), End())
    assert [script.option(bit) for bit in range(3)] == [True, False, True]
    assert parse(b"\0a\xff|\xff!").in_one_breath().steps == (Send(b"a"), Reset())


def test_segment_is_repeated_once_only() -> None:
    assert [
        len(step.data) for step in parse(b"\0ab\xff*c\xff*").steps if isinstance(step, Send)
    ] == [
        2000,
        1,
    ]


# What a target notices

PLAIN = b"\0"


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new)


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [
        (replaced(b"Authorization: Bearer ", b"Authorization: Bearer x"), "not our token"),
        (replaced(b"Authorization: ", b"X-Api-Key: mine\r\nAuthorization: "), "x-api-key"),
        (replaced(b"X-A: 1", b"X-A: " + KEY.encode()), "static key"),
        (replaced(b"Host: ", b"Host: evil."), "another Host"),
        (replaced(b"X-A: 1\r\n", b"X-A: 1\r\nX-A: 2\r\n"), "nobody sent"),
        (replaced(b"X-A: 1\r\n", b"X-A: 1\r\nKeep-Alive: 2\r\n"), "keep-alive"),
        (replaced(b"/a", b"/b"), "nobody sent"),
        (replaced(b"hello", b"hallo"), "nobody sent"),
        (replaced(b"X-A: 1", b"X-A:\x0b1"), "refuses what went up"),
        (replaced(b"Content-Length: 5", b"Content-Length: 4"), "llhttp: Invalid method"),
    ],
)
def test_request_that_arrives_otherwise_is_noticed(
    seen: Callable[[bytes], bytes], complaint: str
) -> None:
    data = PLAIN + POST + b"X-A: 1\r\nContent-Length: 5\r\n\r\nhello"
    with (
        request_path.target(to_upstream=seen) as one_input,
        pytest.raises((AssertionError, UnreadableError), match=complaint),
    ):
        one_input(data)


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [
        (replaced(b"/a", b"/b"), "another body"),
        (replaced(b"X-Serial: 3 ", b"X-Serial: 2 "), "somebody else's"),
        (replaced(b"X-Serial: 3 ", b"X-Serial: 1 "), "another body"),
        (replaced(b"3 GET /a", b"3 GET "), "cut short"),
        (replaced(b"3 GET /a", b"3 GET /a+"), "malformed"),
        (
            replaced(b"X-Serial: 3 ", b"X-Mobula-Proxy-Error: internal_error\r\nA: "),
            "internal_error",
        ),
        (lambda data: b"" if b"3 GET" in data else data, "not answered"),
        (lambda data: data * 3 if b"3 GET" in data else data, "more answers"),
        (replaced(b"bystander/1", b"bystander/2"), "the bystander got"),
    ],
)
def test_answer_that_is_not_the_clients_own_or_not_whole_is_noticed(
    seen: Callable[[bytes], bytes], complaint: str
) -> None:
    data = PLAIN + GET + b"\r\n" + CUT + GET + b"\r\n"
    with (
        request_path.target(to_client=seen) as one_input,
        pytest.raises(AssertionError, match=complaint),
    ):
        one_input(data)


HELLO = PLAIN + OK + b"X-A: 1\r\nContent-Length: 5\r\n\r\nhel" + CUT + b"lo"


@pytest.mark.parametrize(
    ("data", "seen", "complaint"),
    [
        (HELLO, replaced(b"X-A: 1", b"X-A: 2"), "other header fields"),
        (HELLO, replaced(b"hel", b"hal"), "another body"),
        (HELLO, replaced(b"lo", b"lo\r\n"), "malformed"),
        (HELLO, lambda data: b"" if b"X-A" in data else data, "malformed"),
        (HELLO, lambda data: b"" if data == b"lo" else data, "segments make a difference"),
        (HELLO + END, replaced(b": 5\r\n\r\nhel", b": 3\r\n\r\nhel"), "malformed"),
        (HELLO.replace(b"lo", b"l") + END, replaced(b": 5", b": 4"), "it looks whole"),
    ],
)
def test_answer_that_is_not_the_upstreams_is_noticed(
    data: bytes, seen: Callable[[bytes], bytes], complaint: str
) -> None:
    with (
        response_path.target(to_client=seen) as one_input,
        pytest.raises(AssertionError, match=complaint),
    ):
        one_input(data)


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [
        (replaced(b"hello", b"hallo"), "not what was said"),
        (replaced(b"hello", b"hello" + frame(TEXT, b"more")), "more than was said"),
        (lambda data: b"" if data == frame(PING) else data, "not sent on"),
        (lambda data: data[:-1] if data.startswith(b"\x88") else data, "a part of a frame"),
        (replaced(b"\x81\x05hello", b"\x83\x05hello"), "breaks the protocol"),
        (replaced(b"101 Switching", b"200 OK"), "not switched"),
    ],
)
def test_message_that_is_heard_otherwise_is_noticed(
    seen: Callable[[bytes], bytes], complaint: str
) -> None:
    data = b"\1" + frame(TEXT, b"hello") + CUT + frame(PING)
    with (
        websocket_path.target(to_client=seen) as one_input,
        pytest.raises(AssertionError, match=complaint),
    ):
        one_input(data)


@pytest.mark.parametrize(
    ("leave", "complaint"),
    [
        (lambda: asyncio.create_task(asyncio.sleep(60.0), name="left"), "left"),
        (lambda: LOG.error("The handler failed"), "The handler failed"),
        (lambda: LOG.debug(KEY), "a secret was logged"),
        (lambda: asyncio.get_running_loop().call_exception_handler({"message": "oh"}), "oh"),
    ],
    ids=["task", "error", "secret", "exception"],
)
def test_what_an_input_leaves_behind_is_noticed(
    leave: Callable[[], object], complaint: str
) -> None:
    async def play(world: World) -> None:
        left = leave()
        try:
            await world.settle()
        finally:
            if isinstance(left, asyncio.Task):
                left.cancel()

    with World() as world, pytest.raises(AssertionError, match=complaint):
        world.run(play(world))


def test_secret_in_a_refusal_of_settings_is_noticed() -> None:
    error = SettingsError([Problem("api_key", settings_loader.SECRET)])
    with pytest.raises(AssertionError, match="the secret is told"):
        settings_loader.check_refusal(error)
