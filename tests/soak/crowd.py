"""All the clients of a soak: they come at random, and what they see is counted and judged."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness import KEY
from proxy.config import Address
from soak.chance import Card, deal, source
from soak.client import Answer, Client, visiting
from soak.rogue import Rogue

ECHO = "/api/1/sandbox/echo"
STREAM = "/api/1/sandbox/stream"
LARGE = "/api/1/sandbox/large"
UPLOAD = "/api/1/sandbox/upload"

FIELDS = f"Host: soak.test\r\nAuthorization: {KEY}\r\nUser-Agent: soak\r\n"
"""Every client shows a static key, which must not come through."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the proxy listens; the first two lead to the sandbox."""

    tcp: Address
    unix: Address
    rogue: Address
    wayward: Address


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of client: what it does in one visit, and how often it comes beside the others."""

    visit: Callable[["Crowd"], Awaitable[None]]
    share: int


class Crowd:
    """Counts `visits` by kind and `answers` by what was seen; `findings` tell what was wrong.

    `struck(trouble, since)` tells whether that trouble was on at any moment since then.
    """

    def __init__(
        self, doors: Doors, rogue: Rogue, struck: Callable[[str, float], bool], seed: int
    ) -> None:
        self.doors = doors
        self.rogue = rogue
        self.struck = struck
        self.rng = source(seed, "what clients do")
        self.visits: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.findings: list[str] = []
        self._arrivals = source(seed, "when clients come")
        self._markers = 0
        self._decks: dict[str, Iterator[Any]] = {}

    async def visit(self, kinds: Mapping[str, Kind], seconds: float, rate: float) -> None:
        """Let about `rate` visits a second begin, for so long, and see the last ones out."""
        end = now() + seconds
        names = deal(self._arrivals, {name: kind.share for name, kind in kinds.items()})
        async with asyncio.TaskGroup() as group:
            while now() < end:
                name = next(names)
                group.create_task(self._visit(name, kinds[name]))
                await asyncio.sleep(self._arrivals.expovariate(rate))

    async def _visit(self, name: str, kind: Kind) -> None:
        self.visits[name] += 1
        try:
            await kind.visit(self)
        except (AssertionError, ValueError, TimeoutError, OSError, EOFError) as error:
            self.findings.append(f"{name}: {error!r}")

    @contextlib.asynccontextmanager
    async def client(self, door: Address | None = None) -> AsyncIterator[Client]:
        """A new connection; by either way to the sandbox, unless a door is named."""
        door = door or self.rng.choice((self.doors.tcp, self.doors.unix))
        async with visiting(door) as client:
            yield client

    def judge(self, answer: Answer, *expected: str, to: str = "") -> None:
        """Count an answer; fail the visit if it is none of those expected."""
        self.answers[answer.seen] += 1
        assert answer.seen in expected, f"{to} {answer!r} is not {' or '.join(expected)}"

    def draw(self, deck: str, cards: Iterable[Card]) -> Card:
        """Draw a card from the deck of that name, which holds one of each."""
        card: Card = next(self._decks.setdefault(deck, deal(self.rng, dict.fromkeys(cards, 1))))
        return card

    def marker(self) -> str:
        self._markers += 1
        return f"marker-{self._markers:08}"

    async def pause(self, most: float) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, most))

    def leave(self, client: Client) -> None:
        """End a connection in one of the ways in which clients do."""
        self.rng.choice((client.wire.close, client.wire.reset))()


def now() -> float:
    return asyncio.get_running_loop().time()


def request(
    method: str, target: str, *, body: bytes = b"", fields: str = "", version: str = "HTTP/1.1"
) -> bytes:
    """A whole request, its body framed by its length."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} {version}\r\n{FIELDS}{length}{fields}\r\n".encode() + body
