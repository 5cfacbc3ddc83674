"""A fleet under any order of events, against a Mobula that keeps its own books.

What is asserted as things happen stands in `fleet_world`: no token is sent too often, or after its
expiry, or once it is quarantined, and no more creation calls arrive than the mint budget allows.
"""

from itertools import cycle
from typing import Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.tokens.budget import WINDOW
from proxy.tokens.model import MintFault, Outcome
from proxy.tokens.store.base import Tally
from tokens.fleet_world import CLIENT, DAY, LIMIT, Account, Process, Role, Way, World
from tokens.kit import FAILED, FATAL, REFUSED, SILENT

MOST = 4
CALM_SECONDS = 180
"""Within so many seconds after the last fault all are served: two windows, and a slow retry."""
PICKS = st.integers(0, 1000)
ROLES: st.SearchStrategy[Role] = st.sampled_from(["both", "both", "both", "member", "minter"])
ON_OUTAGE: st.SearchStrategy[Literal["local", "stop"]] = st.sampled_from(["local", "local", "stop"])
CHANCES = st.lists(st.integers(0, 16).map(lambda count: count / 16), min_size=1, max_size=3)
OUTCOMES = [Outcome.USED, Outcome.NOT_SENT, Outcome.REJECTED, *Outcome]
FAULTS = [FAILED, FATAL, REFUSED, SILENT, MintFault("429", "status 429", retry_after=7.0)]


class FleetMachine(RuleBasedStateMachine):
    """Lets a fleet serve, and everything around it go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []

    @initialize(first=ON_OUTAGE, blind=st.booleans(), old=st.booleans(), chances=CHANCES)
    def build(
        self, first: Literal["local", "stop"], blind: bool, old: bool, chances: list[float]
    ) -> None:
        self.world = World(blind=blind, chance=cycle(chances).__next__)
        self.start("both", first)
        if old:
            self.leap(WINDOW + 1)
            self.wait(32)
            self.start("both", first)

    def pick(self, pick: int) -> Process:
        return self.processes[pick % len(self.processes)]

    # Processes

    @precondition(lambda self: len(self.processes) < MOST)
    @rule(role=ROLES, on_outage=ON_OUTAGE)
    def start(self, role: Role, on_outage: Literal["local", "stop"]) -> None:
        self.processes.append(Process(self.world, role=role, on_outage=on_outage))
        self.world.run()

    @precondition(lambda self: len(self.staying()) > 1)
    @rule(pick=PICKS)
    def crash(self, pick: int) -> None:
        self.pick(pick).kill()
        self.bury()

    @precondition(lambda self: len(self.staying()) > 1)
    @rule(pick=PICKS, revoke=st.booleans())
    def leave(self, pick: int, revoke: bool) -> None:
        staying = self.staying()
        staying[pick % len(staying)].leave(revoke=revoke)
        self.world.run()

    @rule(pick=PICKS)
    def rotate(self, pick: int) -> None:
        self.pick(pick).keeper.rotate()
        self.world.run()

    def staying(self) -> list[Process]:
        return [each for each in self.processes if not each.leaving]

    def bury(self) -> None:
        self.processes = [each for each in self.processes if each.lives()]

    # Time

    @rule(sixteenths=st.one_of(st.integers(0, 16), st.integers(0, 64)))
    def wait(self, sixteenths: int) -> None:
        self.world.run(sixteenths / 16)

    @rule(seconds=st.sampled_from([1.0, 4.0, 9.0, 16.0, 45.0, 61.0, 61.0, 1800.0, 3700.0]))
    def leap(self, seconds: float) -> None:
        self.world.leap(seconds)

    @precondition(lambda self: self.in_hand())
    @rule(pick=PICKS, before=st.sampled_from([31.0, 3.5, 0.5, -0.5]))
    def leap_to_an_end(self, pick: int, before: float) -> None:
        """To when a token is not leased any more, is about to expire, or just has."""
        seconds = self.account(pick).token.expires_at - before - self.world.now
        self.world.leap(max(0.0, seconds))

    # Requests

    @rule(pick=PICKS, requests=st.integers(1, 2 * LIMIT), outcome=st.sampled_from(OUTCOMES))
    def spend(self, pick: int, requests: int, outcome: Outcome) -> None:
        self.pick(pick).spend(1 if outcome is Outcome.NOT_SENT else requests, outcome)
        self.world.run()

    @rule(seconds=st.integers(1, 90))
    def spend_all(self, seconds: int) -> None:
        """As much as can be had, so that creation calls are made as often as may be."""
        for _ in range(seconds):
            for each in self.processes:
                each.spend(4 * LIMIT)
            self.world.run(1.0)

    @rule(pick=PICKS, others=st.booleans())
    def lease(self, pick: int, others: bool) -> None:
        process = self.pick(pick)
        under_way = {each.token.id for each in process.leases}
        process.lease(frozenset(under_way if others else ()))
        self.world.run()

    @rule(pick=PICKS, outcome=st.sampled_from(OUTCOMES))
    def settle(self, pick: int, outcome: Outcome) -> None:
        leases = [(each, lease) for each in self.processes for lease in each.leases]
        if leases:
            process, lease = leases[pick % len(leases)]
            process.settle(lease, outcome)
            self.world.run()

    @rule(pick=PICKS, requests=st.integers(0, LIMIT))
    def a_client_spends(self, pick: int, requests: int) -> None:
        self.pick(pick).serve_client(requests)
        self.world.run()

    # The store

    @rule(pick=PICKS, way=st.sampled_from([*Way, Way.HELD]))
    def one_line_changes(self, pick: int, way: Way) -> None:
        self.pick(pick).line.way = way

    @rule(way=st.sampled_from([Way.OPEN, Way.OPEN, Way.HELD, Way.CUT]))
    def all_lines_change(self, way: Way) -> None:
        for each in self.processes:
            each.line.way = way

    @precondition(lambda self: self.world.questions)
    @rule(pick=PICKS, heard=st.sampled_from([True, True, True, False]))
    def a_question_arrives(self, pick: int, heard: bool) -> None:
        questions = self.world.questions
        questions.pop(pick % len(questions)).arrive(self.world.shelf, heard=heard)
        self.world.run()

    @precondition(lambda self: self.world.questions)
    @rule(pick=PICKS)
    def a_question_vanishes(self, pick: int) -> None:
        questions = self.world.questions
        questions.pop(pick % len(questions)).vanish()
        self.world.run()

    @precondition(lambda self: self.world.blind)
    @rule()
    def the_store_comes_back_empty(self) -> None:
        self.world.come_back_empty()

    # Mobula

    @rule(count=st.integers(1, 4), lifetime=st.sampled_from([60.0, 300.0, 3600.0]))
    def mobula_gives(self, count: int, lifetime: float) -> None:
        self.world.gives, self.world.lifetime = count, lifetime

    @rule(fault=st.sampled_from([None, None, None, *FAULTS]))
    def mobula_answers(self, fault: MintFault | None) -> None:
        self.world.fault, self.world.slow = fault, False

    @rule(early=st.booleans(), silent=st.booleans())
    def mobula_is_slow(self, early: bool, silent: bool) -> None:
        self.world.slow, self.world.early, self.world.silent = True, early, silent

    @precondition(lambda self: self.world.under_way())
    @rule(pick=PICKS, fault=st.sampled_from([None, None, *FAULTS]))
    def a_creation_call_ends(self, pick: int, fault: MintFault | None) -> None:
        calls = self.world.under_way()
        self.world.end(calls[pick % len(calls)], fault)

    @precondition(lambda self: self.in_hand())
    @rule(pick=PICKS)
    def a_token_is_revoked(self, pick: int) -> None:
        self.account(pick).revoked = True

    @precondition(lambda self: self.in_hand())
    @rule(pick=PICKS, requests=st.integers(1, LIMIT // 3))
    def mobula_counts_more(self, pick: int, requests: int) -> None:
        self.account(pick).elsewhere += requests

    def account(self, pick: int) -> Account:
        """Pick a token that somebody has in hand."""
        in_hand = self.in_hand()
        name, _ = in_hand[pick % len(in_hand)]
        return self.world.accounts[name]

    def in_hand(self) -> list[tuple[str, int]]:
        return [
            (each.id, each.left)
            for process in self.processes
            for each in process.keeper.snapshot().tokens
        ]

    # What always holds

    @invariant()
    def no_process_has_failed(self) -> None:
        self.bury()

    @invariant()
    def no_request_is_granted_twice(self) -> None:
        in_hand = self.in_hand()
        for name, account in self.world.accounts.items():
            entry = self.world.shelf.book.entries.get(name)
            theirs = sum(left for held, left in in_hand if held == name)
            free = entry.free if entry else 0
            assert account.sent + theirs + free <= account.token.left

    @invariant()
    def what_a_client_spent_is_counted(self) -> None:
        """By each process whatever the store forgets, and by the store until it does."""
        for each in self.processes:
            assert each.known + each.untold >= each.spent
        if not self.world.emptied:
            untold = sum(each.untold for each in self.processes)
            (counted,) = self.world.tallies.tell(DAY, {CLIENT: Tally(0)}).values()
            assert counted + untold >= sum(each.spent for each in self.processes)

    # What holds once nothing is amiss any more

    @rule()
    def calm(self) -> None:
        self.world.heal(each.line for each in self.processes)
        for _ in range(CALM_SECONDS):
            self.world.run(1.0)
            self.bury()
            if self.of_one_accord() and self.all_served():
                return
        assert self.of_one_accord(), "a process does not know what the shelf has"
        assert self.all_served(), "a process starves"

    @precondition(lambda self: self.world.blind)
    @rule()
    def what_is_in_hand_outlives_the_store(self) -> None:
        """Of those who can ask Mobula: others must take its silence for an answer."""
        self.calm()
        good = {name for name, each in self.world.accounts.items() if each.good(self.world.now)}
        asking = [each for each in self.staying() if each.role != "member"]
        had = {each: good & each.in_hand() for each in asking}
        self.world.come_back_empty()
        self.world.run(2.0)
        for process, names in had.items():
            assert not names & process.quarantined, "a share was thrown away"

    def of_one_accord(self) -> bool:
        entries = self.world.shelf.book.entries
        free = {name: each.free for name, each in entries.items()}
        return all(
            each.free == free.get(each.id, 0)
            for process in self.staying()
            for each in process.keeper.snapshot().tokens
        )

    def all_served(self) -> bool:
        """Tell whether each can serve that takes requests, if there is anybody who mints."""
        minted = any(each.role != "member" for each in self.staying())
        return not minted or all(each.keeper.ready() for each in self.staying())

    def teardown(self) -> None:
        for each in self.processes:
            each.kill()
        if hasattr(self, "world"):
            self.world.loop.close()


FleetMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestFleetMachine = FleetMachine.TestCase
