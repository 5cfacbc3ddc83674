"""TokenPool: every rule about tokens, pure and synchronous; `now` and chance are handed in.

The rules:

1. A lease is charged when it is given. Settling refunds it only if nothing was sent. Each lease is
   settled once; a second settle does nothing.
2. Nobody gets a lease on a token that is spent, within GUARD of its expiry, quarantined, or from
   before a rotation that has been completed. A token set aside is leased only when there is no
   other, and never to a request that it was refused for.
3. Requests draw from the token that expires first, so little is wasted.
4. The stock is `1 + standby` fresh tokens, and enough requests for LEAD seconds at the observed
   rate. A token is fresh until about two thirds of its lifetime; from there on its successor is
   minted while it is still drawn from, so an outage of the last third goes unnoticed.
5. One creation call at a time, within the mint budget. The budget's last call is kept for when the
   stock would run out before the next one could be made.
6. A refused token is set aside and inspected, one inspect at a time. It is quarantined only if
   Mobula says that it is used up or gone. Once one is gone, the others must prove themselves: until
   then they do not count as stock.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from proxy.tokens.budget import MintBudget
from proxy.tokens.events import Drifted, Event, Quarantined, Rotated
from proxy.tokens.model import (
    Action,
    Inspect,
    Inspection,
    Lease,
    Mint,
    MintFault,
    Need,
    Outcome,
    PoolSnapshot,
    Reason,
    Revoke,
    Standing,
    Token,
    TokenSnapshot,
    WakeAt,
)

MAX_COUNT = 25
"""Tokens that one creation call may give (Mobula's token page)."""
LEAD = 15.0
"""Seconds of stock below which more is minted; also the outage that stock alone survives."""
COVER = 20.0
"""Seconds that one minted batch lasts beyond LEAD: three calls a minute, two in reserve."""
LAST_TRY = 1.2
"""Seconds before the stock ends at which the last attempt to mint is made."""
SLOW_RETRY = 60.0
"""Seconds between attempts once Mobula refused the key or the plan."""
ASK_AGAIN = 5.0
"""Seconds until a token that Mobula gave no word on is inspected again."""
RATE_MEMORY = 20.0
"""Seconds over which a past rate is forgotten."""
RATE_SPAN = 0.05
"""Seconds over which a rate is measured at the least."""


@dataclass(slots=True)
class _Holding:
    """The ledger of one token."""

    token: Token
    remaining: int
    """Requests that Mobula may still count, those under way included."""
    refresh_at: float
    usable_until: float
    generation: int
    open: int = 0
    """Requests under way: charged and not yet settled."""
    suspect_from: int | None = None
    """Serial of the last lease given before the token was refused; None when in good standing."""
    counts: bool = True
    """Whether the stock relies on it."""

    @property
    def left(self) -> int:
        """Requests that may still be leased."""
        return max(0, self.remaining - self.open)

    def can_serve(self, now: float, cost: int) -> bool:
        return self.left >= cost and now < self.usable_until

    def fresh(self, now: float) -> bool:
        return self.counts and self.left > 0 and now < min(self.refresh_at, self.usable_until)


@dataclass(slots=True)
class _Pace:
    """When the next creation call may start, after failures."""

    failures: int = 0
    retry_at: float = field(default=-math.inf)
    fault: MintFault | None = None


def _ignore(_: Event) -> None:
    """Tell nobody."""


class TokenPool:
    """Holds the tokens and decides; the keeper acts and feeds back what came of it."""

    def __init__(
        self,
        *,
        limit: int,
        standby: int,
        budget: MintBudget,
        chance: Callable[[], float],
        tell: Callable[[Event], None] = _ignore,
    ) -> None:
        self.wants_plan = True
        """Set when something happened that `plan` should see before its next time."""
        self._limit = limit
        self._wanted = 1 + standby
        self._budget = budget
        self._chance = chance
        self._tell = tell
        self._held: list[_Holding] = []  # by expiry
        self._current: _Holding | None = None
        self._reason = Reason.FIRST
        self._replace_reason = Reason.REQUESTED
        self._open: dict[int, _Holding] = {}
        self._serial = 0
        self._generation = 0
        self._seen: dict[str, float] = {}  # token id: its expiry
        self._quarantined: dict[str, float] = {}  # token id: its expiry
        self._to_inspect: dict[str, float] = {}  # token id: not before this time
        self._inspecting: str | None = None
        self._to_revoke: list[_Holding] = []
        self._minting: Mint | None = None
        self._minting_from = -math.inf
        self._pace = _Pace()
        self._spent = 0
        self._plan_at_spent = 0
        self._rate = 0.0
        self._sample = (-math.inf, 0)
        self._drift = 0

    def __repr__(self) -> str:
        ready = sum(1 for each in self._held if each.suspect_from is None and each.left)
        left = sum(each.left for each in self._held)
        return f"<TokenPool {ready} ready, {len(self._quarantined)} quarantined, {left} left>"

    # Leases

    def lease(
        self,
        now: float,
        cost: int = 1,
        *,
        refused: Collection[str] = (),
    ) -> Lease | None:
        """Charge and return a lease, or None when no token can be had right now.

        `refused` names tokens that this request must not be sent with again; it then gets only a
        token in good standing.
        """
        holding = self._current
        if holding is None or refused or not holding.can_serve(now, cost):
            holding = self._select(now, cost, refused)
            if holding is None:
                self.wants_plan = True
                return None
            if not refused and holding.suspect_from is None:
                self._make_current(holding)
        holding.open += cost
        self._serial += 1
        self._open[self._serial] = holding
        self._spent += cost
        if self._spent >= self._plan_at_spent or holding.left == 0:
            self.wants_plan = True
        return Lease(self._serial, holding.token, cost)

    def settle(self, lease: Lease, outcome: Outcome, now: float) -> None:
        """Note what became of a lease; a second call for the same lease does nothing."""
        holding = self._open.pop(lease.serial, None)
        if holding is None:
            return
        holding.open -= lease.cost
        if outcome is Outcome.NOT_SENT:
            self._spent -= lease.cost
        else:
            holding.remaining -= lease.cost
        if outcome is Outcome.USED:
            self._clear(holding, lease.serial)
        elif outcome is Outcome.REJECTED:
            self._set_aside(holding, now)
        elif outcome is Outcome.EXHAUSTED:
            self._quarantine(holding, Standing.EXHAUSTED)
        if holding.open == 0 and self._to_revoke:
            self.wants_plan = True

    def usable(self, now: float, refused: Collection[str] = ()) -> bool:
        """Tell whether `lease` would give one right now."""
        return self._select(now, 1, refused) is not None

    @property
    def fault(self) -> MintFault | None:
        """Why the last creation call failed; None since one succeeded."""
        return self._pace.fault

    # What the keeper asks and feeds back

    def plan(self, now: float) -> list[Action]:
        """Return what to do now; the same instant asked again asks for nothing new."""
        self.wants_plan = False
        self._forget(now)
        self._measure(now)
        actions: list[Action] = [*self._plan_revokes(now), *self._plan_inspect(now)]
        wake = [each.usable_until for each in self._held]
        wake += [each.refresh_at for each in self._held if each.refresh_at > now]
        wake += [at for at in self._to_inspect.values() if at > now]
        need = self._need(now)
        if need is not None and self._minting is None:
            at = self._mint_at(now)
            if at <= now:
                actions.append(self._start_mint(need, now))
            else:
                wake.append(at)
        left = sum(each.left for each in self._held)
        self._plan_at_spent = self._spent + max(1, left // 20)
        if wake:
            actions.append(WakeAt(min(wake)))
        return actions

    def minted(self, request: Mint, tokens: Sequence[Token], now: float) -> MintFault | None:
        """Take in the tokens that a creation call gave; return a fault if none is of use."""
        found = [each for each in (self._hold(token, request) for token in tokens) if each]
        usable = [each for each in found if each.can_serve(now, 1)]
        if not usable:
            detail = "no token that Mobula gave is of use: expired, used up, or given before"
            fault = MintFault("useless", detail)
            self.mint_failed(request, fault, now)
            return fault
        self._end_mint(now)
        self.wants_plan = True
        self._held = sorted([*self._held, *usable], key=lambda each: each.token.expires_at)
        if request.generation == self._generation:
            self._retire_older()
            self._pace = _Pace()
        return None

    def mint_failed(self, request: Mint, fault: MintFault, now: float) -> None:
        """Note why a creation call gave no token."""
        self._end_mint(now)
        self.wants_plan = True
        if not fault.sent:
            self._budget.refund()
        if request.generation == self._generation:
            self._fail(fault, now - self._minting_from, now)

    def next_mint_at(self, now: float) -> float:
        """Return when the next creation call may start, if one is needed."""
        return max(now, self._mint_at(now))

    def ask(self, token_id: str, now: float) -> bool:
        """Queue an inspect without setting the token aside; False when the pool lacks it."""
        if self._find(token_id) is None:
            return False
        if token_id != self._inspecting:
            self._to_inspect[token_id] = now
            self.wants_plan = True
        return True

    def inspected(self, token_id: str, answer: Inspection, now: float) -> None:
        """Take in what the inspect call said; Mobula's lower count wins over ours."""
        self._inspecting = None
        self.wants_plan = True
        self._forget(now)
        holding = self._find(token_id)
        if holding is None:
            return
        if answer.standing is Standing.UNKNOWN:
            self._keep_aside(holding, now)
        elif answer.standing is Standing.ALIVE:
            self._clear(holding, None)
            self._reconcile(holding, answer.remaining)
        else:
            self._quarantine(holding, answer.standing)
            if answer.standing is Standing.GONE:
                self._doubt_all(now)

    def replace(self, reason: Reason, now: float) -> None:
        """Have every token in hand replaced: they serve until their successors are there."""
        self._generation += 1
        self._replace_reason = reason
        self._pace = _Pace()
        for each in self._held:
            each.refresh_at = min(each.refresh_at, now)
        self.wants_plan = True

    def live_tokens(self) -> list[Token]:
        """Return the tokens that Mobula still honours as far as we know, for revoking at exit."""
        return [each.token for each in (*self._held, *self._to_revoke)]

    def snapshot(self, now: float) -> PoolSnapshot:
        return PoolSnapshot(
            tokens=tuple(
                TokenSnapshot(
                    id=each.token.id,
                    state=self._state(each),
                    left=each.left,
                    limit=each.token.limit,
                    expires_in=each.token.expires_at - now,
                )
                for each in self._held
            ),
            quarantined=len(self._quarantined),
            left=sum(each.left for each in self._held if each.can_serve(now, 1)),
            rate=self._rate,
            drift=self._drift,
            minting=self._minting is not None,
            permits=self._budget.left(now),
            next_mint_in=self.next_mint_at(now) - now,
            fault=self._pace.fault,
        )

    # Choosing a token

    def _select(self, now: float, cost: int, refused: Collection[str]) -> _Holding | None:
        suspect = None
        for each in self._held:
            if not each.can_serve(now, cost):
                continue
            if each.suspect_from is None:
                if each.token.id not in refused:
                    return each
            elif suspect is None and not refused:
                suspect = each
        return suspect

    def _make_current(self, holding: _Holding) -> None:
        if holding is self._current:
            return
        if self._current is not None:
            spent = self._current.left < 1
            self._reason = Reason.EXHAUSTED if spent else Reason.EXPIRY
        self._current = holding
        self._tell(Rotated(holding.token.id, self._reason))

    def _drop_current(self, holding: _Holding, reason: Reason) -> None:
        if holding is self._current:
            self._current = None
            self._reason = reason

    # Trust and distrust

    def _set_aside(self, holding: _Holding, now: float) -> None:
        if self._find(holding.token.id) is None or now >= holding.usable_until:
            return
        if holding.suspect_from is None:
            holding.suspect_from = self._serial
        self._drop_current(holding, Reason.REJECTED)
        self.ask(holding.token.id, now)

    def _keep_aside(self, holding: _Holding, now: float) -> None:
        if holding.suspect_from is not None:
            holding.counts = False
            self._to_inspect[holding.token.id] = now + ASK_AGAIN

    def _clear(self, holding: _Holding, serial: int | None) -> None:
        """Restore good standing: by inspect, or by a lease given after the suspicion arose."""
        if holding.suspect_from is None or (serial is not None and serial <= holding.suspect_from):
            return
        holding.suspect_from = None
        holding.counts = True
        self._to_inspect.pop(holding.token.id, None)
        self.wants_plan = True

    def _doubt_all(self, now: float) -> None:
        for each in self._held:
            if each.suspect_from is None:
                each.suspect_from = self._serial
            each.counts = False
            self._to_inspect.setdefault(each.token.id, now)
        if self._current is not None:
            self._drop_current(self._current, Reason.REJECTED)

    def _quarantine(self, holding: _Holding, standing: Standing) -> None:
        if not self._remove(holding):
            return
        exhausted = standing is Standing.EXHAUSTED
        self._drop_current(holding, Reason.EXHAUSTED if exhausted else Reason.REJECTED)
        self._quarantined[holding.token.id] = holding.token.expires_at
        self.wants_plan = True
        self._tell(Quarantined(holding.token.id, standing))

    def _reconcile(self, holding: _Holding, remaining: int | None) -> None:
        if remaining is not None and remaining < holding.left:
            drift = holding.left - remaining
            holding.remaining = remaining  # those under way may not have arrived yet
            self._drift += drift
            self._tell(Drifted(holding.token.id, drift))

    # Stock

    def _need(self, now: float) -> Need | None:
        """Return why more tokens are needed, None when the stock is enough."""
        if self._missing(now) > 0:
            return Need.EXPIRY if any(self._ages(each, now) for each in self._held) else Need.STOCK
        return Need.DEMAND if self._endurance(now) < LEAD else None

    def _ages(self, holding: _Holding, now: float) -> bool:
        ours = holding.counts and holding.generation == self._generation
        return ours and holding.left > 0 and now >= holding.refresh_at

    def _missing(self, now: float) -> int:
        return self._wanted - sum(1 for each in self._held if each.fresh(now))

    def _count(self, now: float) -> int:
        """Return how many tokens to mint, once there is a need."""
        demand = (LEAD + COVER - self._endurance(now)) * self._rate
        return min(MAX_COUNT, max(self._missing(now), math.ceil(demand / self._limit), 1))

    def _endurance(self, now: float) -> float:
        """Return for how many seconds the stock lasts at the observed rate."""
        at = now
        for each in self._held:
            if each.counts and each.left and each.usable_until > at:
                span = each.left / self._rate if self._rate else math.inf
                at += min(span, each.usable_until - at)
        return at - now

    def _mint_at(self, now: float) -> float:
        """Return when the next creation call may start."""
        earliest = max(self._pace.retry_at, self._budget.next_at(now))
        if self._budget.left(now) == 1 and self._reserved(now):
            return max(earliest, self._budget.refill_at(now))
        return earliest

    def _reserved(self, now: float) -> bool:
        """Tell whether the budget's last call can stay in reserve: the stock outlasts the wait."""
        return self._endurance(now) > self._budget.refill_at(now) - now + LAST_TRY

    def _start_mint(self, need: Need, now: float) -> Mint:
        self._minting = Mint(self._count(now), self._generation, need)
        self._minting_from = now
        self._budget.start(now)
        return self._minting

    def _end_mint(self, now: float) -> None:
        self._minting = None
        self._budget.end(now)

    def _fail(self, fault: MintFault, took: float, now: float) -> None:
        failures = self._pace.failures + 1
        self._pace = _Pace(failures, now + self._retry_in(fault, failures, took, now), fault)

    def _retry_in(self, fault: MintFault, failures: int, took: float, now: float) -> float:
        """Return the pause after a failure that took so long, in seconds.

        While tokens are in hand, there is a try just before they end, and none that would still be
        under way then if it took as long as this one.
        """
        if fault.fatal:
            return SLOW_RETRY * (0.8 + 0.4 * self._chance())
        if fault.retry_after is not None:
            self._budget.close(now + fault.retry_after)
            return fault.retry_after
        lasts = self._endurance(now) - LAST_TRY
        pause = self._pause(fault, failures, lasts, now)
        return lasts if lasts > 0 and pause > lasts - took else pause

    def _pause(self, fault: MintFault, failures: int, lasts: float, now: float) -> float:
        """Return the pause after a failure, in seconds, for a stock that `lasts` for so many.

        Full jitter, but calls that Mobula may have counted are also spread over the time that is
        left: evenly while tokens are in hand, and ever wider when none is, so that an early
        recovery is noticed early.
        """
        backoff = min(5.0, 0.5 * 2.0 ** min(failures, 8)) * self._chance()
        calls = self._budget.left(now)
        if not fault.sent or not calls:
            return max(0.1, backoff)
        if lasts > 0:
            spread = 1.0 if calls == 1 else 0.8 + 0.2 * self._chance()
            return max(backoff, min(15.0, lasts / calls * spread))
        wait: float = (self._budget.refill_at(now) - now) / 2.0 ** (calls + 1)
        return max(backoff, wait)

    # Taking in and letting go

    def _hold(self, token: Token, request: Mint) -> _Holding | None:
        if token.id in self._seen:
            return None
        self._seen[token.id] = token.expires_at
        lifetime = token.expires_at - token.minted_at
        fresh_for = lifetime * (0.60 + 0.05 * self._chance())
        if request.generation < self._generation:
            fresh_for = 0.0
        guard = min(30.0, max(2.0, 0.05 * lifetime))
        return _Holding(
            token=token,
            remaining=min(token.left, token.limit),
            refresh_at=token.minted_at + fresh_for,
            usable_until=token.expires_at - guard,
            generation=request.generation,
        )

    def _retire_older(self) -> None:
        """Stop drawing from tokens that `replace` meant, now that their successors are there."""
        older = [each for each in self._held if each.generation < self._generation]
        for each in older:
            self._remove(each)
            self._drop_current(each, self._replace_reason)
            self._to_revoke.append(each)

    def _plan_revokes(self, now: float) -> Iterator[Revoke]:
        done = [each for each in self._to_revoke if each.open == 0]
        self._to_revoke = [each for each in self._to_revoke if each.open]
        for each in done:
            if now < each.token.expires_at and each.token.revocable:
                yield Revoke(each.token)

    def _plan_inspect(self, now: float) -> Iterator[Inspect]:
        due = (each for each in self._held if self._to_inspect.get(each.token.id, math.inf) <= now)
        holding = next(due, None)
        if holding is not None and self._inspecting is None:
            self._inspecting = holding.token.id
            del self._to_inspect[holding.token.id]
            yield Inspect(holding.token)

    def _forget(self, now: float) -> None:
        """Let go of what can serve nobody any more."""
        for each in list(self._held):
            if now >= each.usable_until:
                self._drop_current(each, Reason.EXPIRY)
                self._remove(each)
            elif each.left == 0 and each.open == 0:
                self._drop_current(each, Reason.EXHAUSTED)
                self._remove(each)
        for ids in (self._seen, self._quarantined):
            for token_id in [each for each, expiry in ids.items() if now >= expiry]:
                del ids[token_id]

    def _remove(self, holding: _Holding) -> bool:
        held = len(self._held)
        self._held = [each for each in self._held if each is not holding]
        self._to_inspect.pop(holding.token.id, None)
        return len(self._held) < held

    def _find(self, token_id: str) -> _Holding | None:
        return next((each for each in self._held if each.token.id == token_id), None)

    def _state(self, holding: _Holding) -> str:
        if holding.suspect_from is not None:
            return "set_aside"
        return "current" if holding is self._current else "standby"

    def _measure(self, now: float) -> None:
        """Follow the rate of leases: up at once, down over RATE_MEMORY."""
        at, spent = self._sample
        if at == -math.inf:
            self._sample = (now, self._spent)
        elif now - at >= RATE_SPAN:
            seen = max(0.0, (self._spent - spent) / (now - at))
            weight = 1.0 if seen > self._rate else 1.0 - math.exp((at - now) / RATE_MEMORY)
            self._rate += (seen - self._rate) * weight
            self._sample = (now, self._spent)
