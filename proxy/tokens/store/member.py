"""A process of a fleet, wherever its shelf is kept."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from proxy.tokens.store.base import (
    Abandoned,
    Chore,
    Ending,
    Granted,
    Order,
    Permit,
    Report,
    Roll,
    Shelved,
    Tally,
    Wait,
)
from proxy.tokens.store.shelf import Shelf
from proxy.tokens.store.tallies import Tallies

T = TypeVar("T")


class Member(ABC):
    """What of a `Store` is the same however a `Shelf` and `Tallies` are kept."""

    def __init__(self) -> None:
        self._me = uuid.uuid4().hex

    @abstractmethod
    async def _ask(self, question: Callable[[Shelf], T], *, durable: bool = False) -> T:
        """Return what the shelf answers; no other process asks it meanwhile.

        What is `durable` must not be forgotten, not even when the power fails.
        """

    @abstractmethod
    async def _count(self, question: Callable[[Tallies], T]) -> T:
        """Return what the tallies answer; no other process asks them meanwhile."""

    async def attend(self, report: Report) -> Roll:
        return await self._ask(lambda shelf: shelf.attend(self._me, report))

    async def load(self) -> list[Shelved]:
        return await self._ask(lambda shelf: shelf.load())

    async def add(self, tokens: Sequence[Shelved]) -> None:
        await self._ask(lambda shelf: shelf.add(tokens))

    async def grant(self, token_id: str, count: int) -> Granted:
        return await self._ask(lambda shelf: shelf.grant(self._me, token_id, count))

    async def give_back(self, token_id: str, count: int) -> None:
        await self._ask(lambda shelf: shelf.give_back(token_id, count))

    async def retire(self, token_id: str) -> None:
        await self._ask(lambda shelf: shelf.retire(token_id))

    async def remove(self, token_id: str) -> None:
        await self._ask(lambda shelf: shelf.remove(token_id))

    async def report(self, token_id: str) -> None:
        await self._ask(lambda shelf: shelf.report(token_id))

    async def observe(self, token_id: str, remaining: int | None, mine: int) -> None:
        await self._ask(lambda shelf: shelf.observe(token_id, remaining, mine))

    async def chore(self, inspect_every: float) -> Chore | None:
        return await self._ask(lambda shelf: shelf.chore(inspect_every))

    async def permit(self, order: Order) -> Permit | Wait:
        return await self._ask(lambda shelf: shelf.permit(order), durable=True)

    async def end(self, permit: Permit, ending: Ending) -> None:
        await self._ask(lambda shelf: shelf.end(permit, ending))

    async def abandoned(self) -> list[Abandoned]:
        return await self._ask(lambda shelf: shelf.abandoned())

    async def settle_abandoned(self, number: int) -> None:
        await self._ask(lambda shelf: shelf.settle_abandoned(number))

    async def rotate(self) -> int:
        return await self._ask(lambda shelf: shelf.rotate())

    async def leave(self, shares: Mapping[str, int]) -> bool:
        return await self._ask(lambda shelf: shelf.leave(self._me, shares))

    async def tally(self, day: int, told: Mapping[str, Tally]) -> dict[str, int]:
        return await self._count(lambda tallies: tallies.tell(day, told))
