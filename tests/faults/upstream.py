"""An upstream that fails in one phase of an exchange, and counts what reaches it."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from faults.kinds import LAST_CHUNK, Answer
from faults.phases import Phase
from wire import OK, Far, Wire, fields_of, length_of


@dataclass
class Copy:
    """A request whose head has come: the token in it, and whether its body has come too."""

    token: str
    whole: bool = False


class Upstream:
    """Fails from `fail` to `heal`, and is in order before and after.

    Meanwhile `phase` is what the first request on each connection meets with, or the second one if
    it is about `reused` connections; all others get `answer`.
    """

    def __init__(
        self,
        far: Far,
        phase: Phase,
        answer: Answer,
        certificates: Mapping[str, ssl.SSLContext],
        *,
        reused: bool,
    ) -> None:
        self.copies: list[Copy] = []
        """What came while it failed."""
        self.said = b""
        """What it made of its last answer."""
        self._far = far
        self._phase = phase
        self._answer = answer
        self._certificates = certificates
        self._victim = int(reused)
        self._failing = False

    def __repr__(self) -> str:
        state = "fails" if self._failing else "is in order"
        return f"<Upstream {state}: {self._phase}, {len(self.copies)} copies>"

    async def fail(self) -> None:
        self._failing = True
        if self._phase.connects:
            return
        await self._far.leave()
        if self._phase.port:
            self._phase.port(self._far)
        else:
            await self._far.listen(self._certificates.get(self._phase.shows))

    async def heal(self) -> None:
        """Be in order, at first or again."""
        self._failing = False
        await self._far.listen(self._certificates["good"] if self._phase.secure else None)

    async def serve(self, wire: Wire) -> None:
        if self._failing and self._phase.meets:
            await self._phase.meets(wire)
            return
        number = 0
        while await self._exchange(wire, number):
            number += 1

    async def _exchange(self, wire: Wire, number: int) -> bool:
        """Take a request, and tell whether another one can follow."""
        head = await wire.request()
        if not self._failing:
            wire.send(OK)
            return True
        copy = Copy(wire.token.decode())
        self.copies.append(copy)
        strikes = number == self._victim
        if self._phase.reads or not strikes or not _has_body(head):
            await _read_body(wire, head)
            copy.whole = True
        self.said = self._phase.says(self._answer) if strikes else self._answer.whole
        wire.send(self.said)
        if strikes and self._phase.then:
            await self._phase.then(wire)
        return copy.whole


def _has_body(head: bytes) -> bool:
    return not fields_of(head).keys().isdisjoint({"content-length", "transfer-encoding"})


async def _read_body(wire: Wire, head: bytes) -> None:
    if "transfer-encoding" in fields_of(head):
        await wire.until(LAST_CHUNK)
    elif _has_body(head):
        await wire.exactly(length_of(head))
