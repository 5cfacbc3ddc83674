"""The pool under any order of events, against a model that keeps its own books."""

from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.tokens.budget import MintBudget
from proxy.tokens.model import (
    Action,
    Inspect,
    Inspection,
    Lease,
    Mint,
    MintFault,
    Outcome,
    Reason,
    Revoke,
    Standing,
    Token,
    WakeAt,
)
from proxy.tokens.pool import TokenPool
from tokens.kit import FAILED, FATAL, REFUSED, SILENT, token

LIMIT = 6
OUTCOMES = [Outcome.USED, Outcome.NOT_SENT, Outcome.NOT_SENT, Outcome.REJECTED, *Outcome]
FAULTS = [
    FAILED,
    FATAL,
    REFUSED,
    SILENT,
    replace(FATAL, sent=False),
    MintFault("429", "status 429", retry_after=7.0),
]


def ticks(least: int, most: int) -> st.SearchStrategy[float]:
    """Seconds in sixteenths, which add up without rounding."""
    return st.integers(least, most).map(lambda count: count / 16)


@dataclass
class Account:
    """The model's book of one token: what Mobula gave, and what was charged to it."""

    token: Token
    generation: int
    allowed: int
    """Requests that may ever be charged; Mobula's word may lower it."""
    charged: int = 0
    open: int = 0
    barred: bool = False
    """Quarantined, or from before a rotation that was completed."""
    revoked: bool = False

    def usable(self, now: float, cost: int) -> bool:
        lifetime = self.token.expires_at - self.token.minted_at
        guard = min(30.0, max(2.0, 0.05 * lifetime))
        return (
            not self.barred
            and self.charged + cost <= self.allowed
            and now < self.token.expires_at - guard
        )


@dataclass
class Call:
    """A creation call that may have reached Mobula, at any time from start to end."""

    request: Mint
    start: float
    end: float | None = field(default=None)


class PoolMachine(RuleBasedStateMachine):
    """Drives a pool as a keeper might, and as none would."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.generation = 0
        self.accounts: dict[str, Account] = {}
        self.open: list[Lease] = []
        self.settled: list[Lease] = []
        self.calls: list[Call] = []
        self.minting: Call | None = None
        self.inspecting: Token | None = None

    @initialize(standby=st.integers(0, 2), seed=st.randoms(use_true_random=False))
    def build(self, standby: int, seed: Random) -> None:
        self.pool = TokenPool(limit=LIMIT, standby=standby, budget=MintBudget(), chance=seed.random)
        self.plan()
        self.tokens_come([(3600.0, LIMIT), (60.0, LIMIT)], late=False)
        self.plan()

    # Time

    @rule(seconds=st.one_of(ticks(0, 16), ticks(0, 16), ticks(16, 1600)), prompt=st.booleans())
    def wait(self, seconds: float, prompt: bool) -> None:
        self.now += seconds
        if prompt:
            self.plan()

    # Leases

    @rule(costs=st.lists(st.sampled_from([1, 1, 1, 2, 3]), min_size=1, max_size=4))
    def lease_some(self, costs: list[int]) -> None:
        for cost in costs:
            self.lease(cost, set())

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100))
    def lease_another(self, pick: int) -> None:
        self.lease(1, {self.open[pick % len(self.open)].token.id})

    def lease(self, cost: int, refused: set[str]) -> None:
        lease = self.pool.lease(self.now, cost, refused=refused)
        if lease is None:
            self.check_that_none_was_to_be_had(cost, refused)
            return
        account = self.accounts[lease.token.id]
        assert account.usable(self.now, cost), "a token that may not be used was leased"
        assert lease.token == account.token
        assert lease.token.id not in refused
        states = {each.id: each.state for each in self.pool.snapshot(self.now).tokens}
        if states[lease.token.id] == "set_aside":
            assert not refused, "a refused request got a token that is set aside"
            good = [name for name, state in states.items() if state != "set_aside"]
            assert not any(self.accounts[name].usable(self.now, cost) for name in good)
        account.charged += cost
        account.open += cost
        self.open.append(lease)

    def check_that_none_was_to_be_had(self, cost: int, refused: set[str]) -> None:
        states = {each.id: each.state for each in self.pool.snapshot(self.now).tokens}
        for name, state in states.items():
            if name not in refused and (state != "set_aside" or not refused):
                assert not self.accounts[name].usable(self.now, cost), f"{name} was to be had"

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100), outcome=st.sampled_from(OUTCOMES))
    def settle(self, pick: int, outcome: Outcome) -> None:
        lease = self.open.pop(pick % len(self.open))
        self.settled.append(lease)
        self.pool.settle(lease, outcome, self.now)
        account = self.accounts[lease.token.id]
        account.open -= lease.cost
        if outcome is Outcome.NOT_SENT:
            account.charged -= lease.cost
        if outcome is Outcome.EXHAUSTED:
            account.barred = True

    @precondition(lambda self: self.settled)
    @rule(pick=st.integers(0, 100), outcome=st.sampled_from(Outcome))
    def settle_again(self, pick: int, outcome: Outcome) -> None:
        before = self.pool.snapshot(self.now)
        self.pool.settle(self.settled[pick % len(self.settled)], outcome, self.now)
        assert self.pool.snapshot(self.now) == before

    # Acting

    @rule()
    def plan(self) -> None:
        for action in self.pool.plan(self.now):
            self.act(action)
        again = self.pool.plan(self.now)
        assert [type(each) for each in again] in ([], [WakeAt]), "plan is not idempotent"
        assert not self.pool.wants_plan

    def act(self, action: Action) -> None:
        match action:
            case Mint():
                self.start_mint(action)
            case Inspect(asked):
                assert self.inspecting is None, "two inspects at a time"
                self.inspecting = asked
            case Revoke(done):
                account = self.accounts[done.id]
                assert account.barred
                assert account.open == 0, "a token was revoked under a request"
                assert not account.revoked, "a token was revoked twice"
                account.revoked = True
            case WakeAt(at):
                assert at > self.now

    def start_mint(self, request: Mint) -> None:
        assert self.minting is None, "two creation calls at a time"
        assert 1 <= request.count <= 25
        assert request.generation == self.generation
        late = [call for call in self.calls if call.end is None or call.end > self.now - 60]
        assert len(late) < 5, "the mint budget is exceeded"
        self.minting = Call(request, self.now)
        self.calls.append(self.minting)

    def end_mint(self) -> Mint:
        assert self.minting is not None
        call, self.minting = self.minting, None
        call.end = self.now
        return call.request

    @precondition(lambda self: self.minting)
    @rule(
        given=st.lists(
            st.tuples(
                st.sampled_from([0.5, 2.0, 30.0, 60.0, 3600.0, 3600.0]),
                st.sampled_from([0, 1, LIMIT, LIMIT]),
            ),
            min_size=1,
            max_size=3,
        ),
        late=st.booleans(),
    )
    def tokens_come(self, given: list[tuple[float, int]], late: bool) -> None:
        assert self.minting is not None
        at = self.minting.start if late else self.now
        request = self.end_mint()
        made = [
            token(f"t{len(self.accounts) + number}", at, lives=lives, limit=LIMIT, left=left)
            for number, (lives, left) in enumerate(given)
        ]
        fault = self.pool.minted(request, made, self.now)
        accounts = [Account(each, request.generation, each.left) for each in made]
        self.accounts.update((each.token.id, each) for each in accounts)
        useful = any(each.usable(self.now, 1) for each in accounts)
        assert (fault is None) == useful
        if useful and request.generation == self.generation:
            self.retire_older()

    def retire_older(self) -> None:
        for account in self.accounts.values():
            account.barred |= account.generation < self.generation

    @precondition(lambda self: self.minting and self.accounts)
    @rule(pick=st.integers(0, 100))
    def a_token_comes_again(self, pick: int) -> None:
        request = self.end_mint()
        known = list(self.accounts.values())
        again = known[pick % len(known)].token
        again = token(again.id, again.minted_at, lives=again.expires_at - again.minted_at)
        assert self.pool.minted(request, [again], self.now) is not None

    @precondition(lambda self: self.minting)
    @rule(fault=st.sampled_from(FAULTS))
    def mint_fails(self, fault: MintFault) -> None:
        call = self.minting
        self.pool.mint_failed(self.end_mint(), fault, self.now)
        if not fault.sent and call is not None:
            self.calls.remove(call)

    # Trust

    @precondition(lambda self: self.accounts)
    @rule(pick=st.integers(0, 100))
    def ask(self, pick: int) -> None:
        names = list(self.accounts)
        self.pool.ask(names[pick % len(names)], self.now)
        self.plan()

    @precondition(lambda self: self.inspecting)
    @rule(standing=st.sampled_from(Standing), remaining=st.integers(1, LIMIT))
    def inspect_ends(self, standing: Standing, remaining: int) -> None:
        assert self.inspecting is not None
        asked, self.inspecting = self.inspecting, None
        account = self.accounts[asked.id]
        held = self.left_of(asked.id)
        alive = standing is Standing.ALIVE
        answer = Inspection(standing, remaining if alive else None)
        self.pool.inspected(asked.id, answer, self.now)
        if standing in (Standing.GONE, Standing.EXHAUSTED):
            account.barred = True
            assert asked.id not in {each.id for each in self.pool.snapshot(self.now).tokens}
        if alive and held is not None and remaining < held:
            account.allowed = account.charged - account.open + remaining

    def left_of(self, name: str) -> int | None:
        return next((e.left for e in self.pool.snapshot(self.now).tokens if e.id == name), None)

    @precondition(lambda self: len(self.accounts) > 3 * self.generation)
    @rule(reason=st.sampled_from([Reason.KEY_CHANGED, Reason.REQUESTED]))
    def replace(self, reason: Reason) -> None:
        self.pool.replace(reason, self.now)
        self.generation += 1

    # What always holds

    @invariant()
    def no_more_is_left_than_mobula_gave(self) -> None:
        if not hasattr(self, "pool"):
            return
        for each in self.pool.snapshot(self.now).tokens:
            account = self.accounts[each.id]
            assert each.left == max(0, account.allowed - account.charged)
            assert 0 <= each.left <= each.limit

    @invariant()
    def what_is_usable_is_what_can_be_leased(self) -> None:
        if not hasattr(self, "pool"):
            return
        usable = self.pool.usable(self.now)
        names = [each.id for each in self.pool.snapshot(self.now).tokens]
        assert usable == any(self.accounts[name].usable(self.now, 1) for name in names)


PoolMachine.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPoolMachine = PoolMachine.TestCase
