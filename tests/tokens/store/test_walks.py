"""Whatever is asked in whatever order: every store answers as the shelf in memory does.

Time moves by whole seconds only, so that the little that a server's own clock moves by itself
never reaches the next instant at which anything changes. That clock does decide what stands first
of two tokens that were added at once, so nothing here depends on their order.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.tokens.store.base import (
    Chore,
    Ending,
    Order,
    Permit,
    Report,
    Roll,
    Shelved,
    Store,
    Tally,
)
from tokens.store.fleets import FLEETS, Fleet, model_of

BESIDE = [name for name, kind in FLEETS.items() if kind.beside]
MEMBERS = 3
LIMIT = 10
DAY = 86_400
TOKENS = st.sampled_from(["a", "b", "c", "d"])
COUNTS = st.integers(0, LIMIT + 2)
SPANS = st.sampled_from([1, 3, 5, 9, 10, 14, 15, 16, 45, 50, 59, 60, 61, 100, 3600, 43_200])

SHELVED = st.builds(
    Shelved,
    id=TOKENS,
    sealed=st.binary(max_size=3),
    key=st.just("fingerprint"),
    age=st.sampled_from([0.0, 5.0]),
    lives=st.sampled_from([20.0, 70.0, 200.0, 3600.0]),
    limit=st.just(LIMIT),
    free=st.integers(0, LIMIT),
    generation=st.integers(0, 2),
    revocable=st.booleans(),
)
REPORTS = st.builds(
    Report,
    rate=st.integers(0, 9).map(float),
    holds=st.frozensets(TOKENS, max_size=2),
    wants_right=st.booleans(),
    inspect_every=st.sampled_from([10.0, 60.0]),
)
ORDERS = st.builds(
    Order, count=st.just(1), limit=st.just(LIMIT), lifetime=st.sampled_from([10.0, 100.0])
)
ENDINGS = st.builds(
    Ending,
    sent=st.sampled_from([True, True, True, False]),
    unclear=st.booleans(),
    closed_for=st.sampled_from([0.0, 0.0, 5.0, 90.0]),
    fault=st.sampled_from(["", "status 503"]),
)
CLIENTS = ["app", "batch", "x.y_z-1"]
TOLD = st.dictionaries(
    st.sampled_from(CLIENTS),
    st.builds(Tally, spent=st.integers(0, 9), known=st.sampled_from([0, 0, 0, 20, 30])),
    min_size=1,
)
DAYS_AGO = st.sampled_from([0, 0, 0, 1])
"""Of a tally: a process tells of yesterday what it could not tell before midnight."""
ASKED = dict.fromkeys(CLIENTS, Tally(0))
PERMITS = st.integers(0, 5)
"""Which of the permits so far, counted from the newest."""

Step = tuple[str, tuple[Any, ...]]


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.tuples(*arguments))


STEPS = st.one_of(
    step("pass_time", SPANS),
    step("attend", REPORTS),
    step("add", st.lists(SHELVED, min_size=1, max_size=3)),
    step("grant", TOKENS, COUNTS),
    step("give_back", TOKENS, COUNTS),
    step("retire", TOKENS),
    step("remove", TOKENS),
    step("report", TOKENS),
    step("observe", TOKENS, st.none() | st.integers(0, LIMIT), st.integers(0, 3)),
    step("chores", st.sampled_from([10.0, 60.0])),
    step("permit", ORDERS),
    step("end", PERMITS, ENDINGS),
    step("abandoned"),
    step("settle_abandoned", PERMITS),
    step("rotate"),
    step("tally", DAYS_AGO, TOLD),
    step("leave", st.dictionaries(TOKENS, st.integers(0, 3), max_size=2)),
)
WALKS = st.lists(st.tuples(st.integers(0, MEMBERS - 1), STEPS), max_size=60)


class Walk:
    """One fleet on a walk, which tells what it was answered."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._permits: list[Permit] = []
        self._seen: dict[tuple[str, object], int] = {}

    async def start(self) -> None:
        self._members = [await self._fleet.member() for _ in range(MEMBERS)]
        await self._members[0].attend(Report(rate=0.0, wants_right=False))  # the epoch begins

    async def take(self, member: int, step: Step) -> object:
        name, arguments = step
        if name == "pass_time":
            self._fleet.pass_time(*arguments)
            return None
        if name in ("end", "settle_abandoned"):
            permit = self._permit(arguments[0])
            arguments = (permit if name == "end" else permit.number, *arguments[1:])
        if name == "tally":
            arguments = (self._today() - arguments[0], arguments[1])
        if name == "chores":
            return self._plain(await self._chores(self._members[member], *arguments))
        answer = await getattr(self._members[member], name)(*arguments)
        if isinstance(answer, Permit):
            self._permits.append(answer)
        return self._plain(answer)

    async def look(self) -> object:
        """Look at all that can be seen without changing anything."""
        any_member = self._members[0]
        tokens = sorted(await any_member.load(), key=lambda each: each.id)
        tallies = [await any_member.tally(self._today() - ago, ASKED) for ago in (0, 1)]
        return self._plain([tokens, await any_member.abandoned(), tallies])

    def _today(self) -> int:
        return int(self._fleet.passed // DAY)

    async def _chores(self, member: Store, inspect_every: float) -> list[Chore]:
        """Take all that are due, and return them by token."""
        taken = []
        while (chore := await member.chore(inspect_every)) is not None:
            taken.append(chore)
        return sorted(taken, key=lambda each: each.token.id)

    def _permit(self, back: int) -> Permit:
        return self._permits[-1 - back] if back < len(self._permits) else Permit(-1)

    def _plain(self, answer: Any) -> Any:
        """Put an answer so that two stores' answers are equal: whole seconds, no chance names."""
        if isinstance(answer, Roll):
            epoch = str(self._serial("epoch", answer.epoch))
            version = self._serial("version", answer.version)
            answer = replace(answer, epoch=epoch, version=version)
        if isinstance(answer, float) and answer != float("inf"):
            return round(answer)
        if is_dataclass(answer) and not isinstance(answer, type):
            values = {each.name: getattr(answer, each.name) for each in fields(answer)}
            if "number" in values:
                values["number"] = self._serial("number", values["number"])
            return type(answer).__name__, self._plain(values)
        if isinstance(answer, dict):
            return {key: self._plain(value) for key, value in answer.items()}
        if isinstance(answer, list):
            return [self._plain(each) for each in answer]
        return answer.value if isinstance(answer, Enum) else answer

    def _serial(self, kind: str, value: object) -> int:
        """Return the how-manieth of its kind a value is."""
        count = sum(1 for each, _ in self._seen if each == kind)
        return self._seen.setdefault((kind, value), count)


@pytest.mark.parametrize("new_fleet", BESIDE, indirect=True)
@given(walk=WALKS)
@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_a_store_answers_as_the_model_does(
    new_fleet: Callable[[], Fleet], walk: list[tuple[int, Step]]
) -> None:
    fleet = new_fleet()
    real, model = Walk(fleet), Walk(model_of(fleet))
    await real.start()
    await model.start()
    for member, step in walk:
        assert await real.take(member, step) == await model.take(member, step), step
        assert await real.look() == await model.look(), step
    await fleet.close()
