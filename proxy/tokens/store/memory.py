"""The store in this process's memory: forgotten when it ends."""

from collections.abc import Callable
from typing import TypeVar

from proxy.tokens.clock import steady
from proxy.tokens.store.member import Member
from proxy.tokens.store.shelf import Shelf
from proxy.tokens.store.tallies import Tallies

T = TypeVar("T")


class MemoryStore(Member):
    """A shelf and tallies in memory, as one process uses them; those not given are its own."""

    place = "memory"

    def __init__(
        self,
        shelf: Shelf | None = None,
        clock: Callable[[], float] = steady,
        tallies: Tallies | None = None,
    ) -> None:
        super().__init__()
        self.private = shelf is None
        self._shelf = shelf or Shelf(clock)
        self._tallies = tallies or Tallies(clock)

    def __repr__(self) -> str:
        return f"<MemoryStore of {self._shelf!r}>"

    async def open(self) -> int:
        return 0

    async def close(self) -> None:
        pass

    async def _ask(self, question: Callable[[Shelf], T], *, durable: bool = False) -> T:  # noqa: ARG002 - memory ends with us
        return question(self._shelf)

    async def _count(self, question: Callable[[Tallies], T]) -> T:
        return question(self._tallies)
