"""Never two answers: wherever the network cuts the bytes, and whoever else uses the upstream."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.corpus import CORPUS
from conformance.doors import Enter, Serve
from conformance.exchange import Exchange, Pieces, Stage
from wire import Far, Wire


def cut_at(place: int) -> Pieces:
    return lambda data: [data[:place], data[place:]]


@pytest.mark.parametrize("exchange", CORPUS, ids=lambda each: each.row)
async def test_request_cut_at_any_byte_is_the_same_request(
    stage: Stage, exchange: Exchange
) -> None:
    for place in range(1, len(exchange.sent)):
        await stage.play(exchange, request=cut_at(place))


@pytest.mark.parametrize(
    "exchange", [each for each in CORPUS if each.answer], ids=lambda each: each.row
)
async def test_answer_cut_at_any_byte_is_the_same_answer(stage: Stage, exchange: Exchange) -> None:
    for place in range(1, len(exchange.answer)):
        await stage.play(exchange, answer=cut_at(place))


# Two clients over one upstream pool

SERVED = [each for each in CORPUS if each.comes_down and not each.asks]


@dataclass(frozen=True)
class Plan:
    """What two clients do in turn, the sizes of the pieces, and how long each piece is held back.

    A hold is a number of turns of the event loop.
    """

    first: list[Exchange]
    second: list[Exchange]
    sizes: list[int]
    holds: list[int]


PLANS = st.builds(
    Plan,
    first=st.lists(st.sampled_from(SERVED), min_size=1, max_size=3),
    second=st.lists(st.sampled_from(SERVED), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    holds=st.lists(st.integers(0, 4), min_size=1, max_size=8),
)


class Crowd:
    """Two clients and an upstream that answers each request with the mark that it came with."""

    def __init__(self, plan: Plan, enter: Enter, far: Far) -> None:
        self._enter = enter
        self._far = far
        self._sizes: Iterator[int] = cycle(plan.sizes)
        self._holds: Iterator[int] = cycle(plan.holds)
        self._exchanges = {
            b"%b%d" % (client, number): exchange
            for client, exchanges in ((b"a", plan.first), (b"b", plan.second))
            for number, exchange in enumerate(exchanges)
        }

    async def play(self) -> None:
        async with asyncio.TaskGroup() as group:
            upstream = group.create_task(self._upstream(group))
            clients = [group.create_task(self._client(name)) for name in (b"a", b"b")]
            await asyncio.wait(clients)
            upstream.cancel()
            self._far.close()

    async def _client(self, name: bytes) -> None:
        async with contextlib.AsyncExitStack() as stack:
            near = await stack.enter_async_context(self._enter())
            for mark in (each for each in self._exchanges if each.startswith(name)):
                exchange = self._exchanges[mark]
                await self._send(near, marked(exchange.sent, mark))
                assert await near.head() == marked(exchange.comes_down, mark)
                if exchange.cut:
                    assert not await near.ended()
                elif exchange.body_down is not None:
                    assert await near.body(exchange.comes_down) == exchange.body_down
                if exchange.cut or exchange.ends:
                    near = await stack.enter_async_context(self._enter())

    async def _upstream(self, group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(self._serve(await self._far.wire(patience=None)))

    async def _serve(self, up: Wire) -> None:
        async for mark in marks(up):
            exchange = self._exchanges[mark]
            if exchange.body_up is not None:
                assert await up.body(exchange.goes_up) == exchange.body_up
            await self._send(up, marked(exchange.answer, mark))
            if exchange.closes:
                up.close()
                return

    async def _send(self, wire: Wire, data: bytes) -> None:
        while data:
            size = next(self._sizes)
            wire.send(data[:size])
            data = data[size:]
            for _ in range(next(self._holds)):
                await asyncio.sleep(0)


def marked(message: bytes, mark: bytes) -> bytes:
    """Put a mark into each head, behind its first line."""
    return re.sub(rb"(HTTP/1\.[01].*\r\n)", rb"\1X-Mark: %b\r\n" % mark, message)


async def marks(up: Wire) -> AsyncIterator[bytes]:
    """Read the heads of requests as they come; yield the mark of each."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while head := await up.request(patience=None):
            yield head.partition(b"\r\nX-Mark: ")[2].partition(b"\r\n")[0]


@pytest.mark.parametrize("connections", [1, 2])
async def test_each_of_two_clients_gets_its_own_answers_whole(
    serve: Serve, far: Far, connections: int
) -> None:
    async with serve(far, upstream={"connections": connections}) as (app, enter):

        @settings(max_examples=200)
        @given(plan=PLANS)
        def play(plan: Plan) -> None:
            asyncio.run_coroutine_threadsafe(Crowd(plan, enter, far).play(), loop).result()

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(play)
        assert app.status().tokens.leases == 0
