"""TokenPool: every rule about tokens, pure and synchronous; `now` and chance are handed in.

The rules:

1. A lease is charged when it is given. Settling refunds it only if nothing was sent. Each lease is
   settled once; a second settle does nothing.
2. Nobody gets a lease on a token that is spent, about to expire, quarantined, or from
   before a rotation that has been completed. A token set aside is leased only when there is no
   other, and never to a request that it was refused for.
3. Requests draw from the token that expires first, so little is wasted.
4. The stock is `1 + standby` fresh tokens, and enough requests for LEAD seconds at the observed
   rate. A token is fresh until about two thirds of its lifetime; from there on its successor is
   minted while it is still drawn from, so an outage of the last third goes unnoticed.
5. One creation call at a time, within the mint budget. The budget's last call is kept for when the
   stock would run out before the next one could be made.
6. Of tokens that a fleet shares, it spends its shares, and takes more in time; a stock is then what
   all have left, and a rate that of all. Cut off from the store it spends what it has in hand; if
   it may, it then mints for itself, one creation call a minute.
7. A refused token is set aside and inspected, one inspect at a time. It is quarantined only if
   Mobula says that it is used up or gone. Once one is gone, the others must prove themselves, but
   for those that came after it had fallen under suspicion: until then they do not count as stock.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence

from proxy.tokens.budget import MintBudget
from proxy.tokens.events import Drifted, Event, Quarantined, Rotated
from proxy.tokens.holding import Holding, endurance, hold
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
    Reach,
    Reason,
    Revoke,
    Standing,
    Stocked,
    Token,
    TokenSnapshot,
    WakeAt,
)
from proxy.tokens.pace import Pace
from proxy.tokens.rate import RateMeter
from proxy.tokens.shares import Shares
from proxy.tokens.store.base import Report, Roll, Wait

MAX_COUNT = 25
"""Tokens that one creation call may give (Mobula's token page)."""
LEAD = 15.0
"""Seconds of stock below which more is minted; also the outage that stock alone survives."""
COVER = 20.0
"""Seconds that one minted batch lasts beyond LEAD: three calls a minute, two in reserve."""
ASK_AGAIN = 5.0
"""Seconds until a token that Mobula gave no word on is inspected again."""
DRIFT_SECONDS = 60.0
"""Seconds until a token of which Mobula counted more than we is inspected again."""
OUTAGE_COVER = 75.0
"""Seconds that one call lasts then: until the next one is allowed, and some more."""
OUTAGE_LEAD = 5.0
"""Seconds of stock below which a process that is cut off from the store mints for itself."""


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
        private: bool = True,
        mints: bool = True,
        takes: bool = True,
    ) -> None:
        """`private` tokens are all ours; of others it `takes` shares. A member mints none."""
        self.wants_plan = True
        """Set when something happened that `plan` should see before its next time."""
        self.reach = Reach.JOINED if private else Reach.CUT
        self._limit = limit
        self._wanted = 1 + standby
        self._chance = chance
        self._tell = tell
        self.takes = takes
        """Whether requests are served from it."""
        self._private = private
        self._mints = mints
        self._shares = Shares(takes=takes and not private)
        self._others_rate = 0.0
        self._others_mint = False
        self._blind = False
        self._fleet_fault: MintFault | None = None
        self._held: list[Holding] = []  # by expiry
        self._current: Holding | None = None
        self._reason = Reason.FIRST
        self._replace_reason = Reason.REQUESTED
        self._open: dict[int, Holding] = {}
        self._settled = dict.fromkeys(Outcome, 0)
        self._serial = 0
        self._generation = 0
        self._seen: dict[str, float] = {}  # token id: its expiry
        self._quarantined: dict[str, float] = {}  # token id: its expiry
        self._let_go: dict[str, float] = {}  # token id: its expiry
        self._to_inspect: dict[str, float] = {}  # token id: not before this time
        self._inspecting: str | None = None
        self._to_revoke: list[Holding] = []
        self._minting: Mint | None = None
        self._budget = budget
        self._outage_budget = MintBudget(calls=1)
        self._pace = Pace(budget, chance)
        self._spent = RateMeter()
        self._plan_at_spent = 0
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
        self._spent.total += cost
        if self._spent.total >= self._plan_at_spent or holding.left == 0:
            self.wants_plan = True
        return Lease(self._serial, holding.token, cost)

    def settle(self, lease: Lease, outcome: Outcome, now: float) -> None:
        """Note what became of a lease; a second call for the same lease does nothing."""
        holding = self._open.pop(lease.serial, None)
        if holding is None:
            return
        holding.open -= lease.cost
        self._settled[outcome] += 1
        if outcome is Outcome.NOT_SENT:
            self._spent.total -= lease.cost
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
        """Why the last creation call failed, ours or the fleet's; None since one succeeded."""
        return self._pace.fault or self._fleet_fault

    @property
    def minting(self) -> bool:
        """Whether a creation call is under way."""
        return self._minting is not None

    @property
    def hopeful(self) -> bool:
        """Whether a token may come at any time: a call is under way, a share, or others mint."""
        joined = self.reach is Reach.JOINED
        awaited = any(each.free for each in self._held) or self._others_mint or not self._mints
        return self.minting or (joined and awaited)

    @property
    def in_stock(self) -> bool:
        """Whether there are requests for a sharer to take, or in hand."""
        return any(each.counts and each.stock for each in self._held)

    # What the keeper asks and feeds back

    def plan(self, now: float) -> list[Action]:
        """Return what to do now; the same instant asked again asks for nothing new."""
        self.wants_plan = False
        self._forget(now)
        self._spent.measure(now)
        actions: list[Action] = [*self._plan_revokes(now), *self._plan_inspect(now)]
        wake = [each.usable_until for each in self._held]
        wake += [each.refresh_at for each in self._held if each.refresh_at > now]
        if self.reach is Reach.JOINED:
            actions += self._shares.plan(self._held, self._spent.rate, now)
        wake += [at for at in self._to_inspect.values() if at > now]
        need = self._need(now)
        if need is not None and self._minting is None and not self._others_mint:
            at = self.next_mint_at(now)
            if at <= now:
                actions.append(self._start_mint(need, now))
            else:
                wake.append(at)
        left = sum(each.left for each in self._held)
        self._plan_at_spent = self._spent.total + max(1, left // 20)
        if wake:
            actions.append(WakeAt(min(wake)))
        return actions

    def minted(
        self, request: Mint, tokens: Sequence[Token], now: float, *, shelved: bool = False
    ) -> MintFault | None:
        """Take in the tokens that a creation call gave; return a fault if none is of use.

        When they are `shelved`, shares of them are yet to be taken; else they are all ours.
        """
        found = [each for each in (self._hold(token, request) for token in tokens) if each]
        usable = [each for each in found if each.can_serve(now, 1)]
        if not usable:
            detail = "no token that Mobula gave is of use: expired, used up, or given before"
            fault = MintFault("useless", detail)
            self.mint_failed(request, fault, now)
            return fault
        self._minting = None
        self._pace.end(now)
        self.wants_plan = True
        for each in usable:
            each.whole = not shelved
            if shelved:
                each.shared, each.free, each.remaining = True, each.remaining, 0
        self._take_in(usable)
        if request.generation == self._generation:
            self._retire_older(now)
            self._pace.forgive()
            self._fleet_fault = None
        return None

    def mint_refused(self, wait: Wait, now: float) -> None:
        """Note that the store permits no creation call now: another mints, or none is left."""
        self._minting = None
        self._pace.end(now, sent=False)
        self._others_mint = wait.minting
        if not wait.minting:
            self._budget.heed(0, now + wait.seconds)
        self.wants_plan = True

    def mint_failed(self, request: Mint, fault: MintFault, now: float) -> None:
        """Note why a creation call gave no token."""
        self._minting = None
        self._pace.end(now, sent=fault.sent)
        self.wants_plan = True
        if request.generation == self._generation:
            self._pace.fail(fault, self._lasts(now), now)

    def next_mint_at(self, now: float) -> float:
        """Return when the next creation call may start, if one is needed; inf for never."""
        if self.reach is Reach.CUT or not self._mints:
            return math.inf
        return self._pace.next_at(self._lasts(now), now)

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
            self._reconcile(holding, answer.remaining, now)
        else:
            self._quarantine(holding, answer.standing)
            if answer.standing is Standing.GONE:
                self._doubt_others(holding, now)

    def replace(self, reason: Reason, now: float) -> None:
        """Have every token in hand replaced: they serve until their successors are there."""
        self._generation += 1
        self._replace_reason = reason
        self._pace.forgive()
        for each in self._held:
            each.refresh_at = min(each.refresh_at, now)
        self.wants_plan = True

    def live_tokens(self, *, shared: bool) -> list[Token]:
        """Return the tokens that Mobula still honours as far as we know, for revoking at exit.

        Only those that are all ours, unless `shared` ones are wanted too.
        """
        held = (*self._held, *self._to_revoke)
        return [each.token for each in held if each.whole or (shared and each.shared)]

    # What the fleet shares

    def reached(self, reach: Reach) -> None:
        """Note whether the store can be reached, and what may be done while it cannot."""
        if reach is self.reach:
            return
        self.reach = reach
        self._shares.asking = False
        self._others_mint = False
        for each in self._held:
            each.free = 0  # until the store is heard again
        self._pace.use(self._outage_budget if reach is Reach.LOCAL else self._budget)
        self.wants_plan = True

    def lost(self, now: float, *, whole: bool = False) -> None:
        """Note that there is no shelf any more: what is in hand of its tokens is all there is.

        `whole` if nobody else has a share of them. If others have, stock does not rely on them.
        """
        self._forget(now)
        for each in self._held:
            if each.shared:
                each.shared, each.free = False, 0
                each.whole = each.counts = whole
        self.wants_plan = True

    def attended(self, roll: Roll, now: float) -> None:
        """Take in how the fleet is."""
        self._shares.sharers = roll.sharers
        self._blind = roll.blind
        self._others_rate = max(0.0, roll.rate - self._spent.rate)
        self._others_mint = roll.minting and self._minting is None
        if not self._private:
            self._fleet_fault = MintFault("elsewhere", roll.fault) if roll.fault else None
            self._budget.heed(roll.permits, now + roll.next_permit_in)
            if not roll.fault and self._minting is None:
                self._pace.forgive()
        for each in self._held:
            each.free = roll.free.get(each.token.id, 0) if each.shared else 0
        self.wants_plan = True

    def stocked(self, shelf: Sequence[Stocked], now: float) -> None:
        """Take in what is on the shelf, and let go of what is not any more."""
        self._forget(now)
        held = {each.token.id: each for each in self._held}
        found = [
            self._shelve(each, held.get(each.token.id))
            for each in shelf
            if each.token.id not in self._quarantined and each.token.id not in self._let_go
        ]
        here = {each.token.id for each in shelf}
        for each in self._held:
            if each.shared and each.token.id not in here:
                self._quarantine(each, Standing.GONE if each.left else Standing.EXHAUSTED)
        self._take_in([each for each in found if each.token.id not in held])
        self._retire_older(now)
        self.wants_plan = True

    def granted(self, token_id: str, count: int, free: int, now: float) -> None:
        """Take in a share; one of a token that was let go of meanwhile is lost."""
        self._shares.asking = False
        self.wants_plan = True
        holding = self._find(token_id)
        if holding is not None and holding.shared:
            holding.remaining += count
            holding.free = free
            self._retire_older(now)

    def offer(self, now: float) -> list[tuple[Token, int]]:
        """Return tokens that are all ours, with what of each the fleet may have; it is then gone.

        They are taken to be on the shelf from now on.
        """
        self._forget(now)
        offers = []
        for each in self._held:
            stays = each.suspect_from is None and each.generation == self._generation
            if each.whole and stays:
                given = each.left // 2
                each.shared, each.whole = True, False
                each.free, each.remaining = given, each.remaining - given
                offers.append((each.token, given))
        return offers

    def report(self, now: float) -> Report:
        """Return what this process tells the fleet of itself."""
        self._spent.measure(now)
        held = (*self._held, *self._to_revoke)
        holds = frozenset(each.token.id for each in held if each.left or each.open)
        return Report(self._spent.rate, holds)

    def give_all_back(self) -> dict[str, int]:
        """Let go of every share that is in hand, and return them by token id."""
        shares = {each.token.id: each.left for each in self._held if each.shared and each.left}
        for each in self._held:
            if each.shared:
                each.remaining -= each.left
        return shares

    def in_hand(self, token_id: str) -> int:
        """Return what of a token this process may still send, what is under way included."""
        holding = self._find(token_id)
        return holding.remaining if holding is not None else 0

    def snapshot(self, now: float) -> PoolSnapshot:
        return PoolSnapshot(
            tokens=tuple(
                TokenSnapshot(
                    id=each.token.id,
                    state=self._state(each),
                    left=each.left,
                    free=each.free,
                    limit=each.token.limit,
                    expires_in=each.token.expires_at - now,
                )
                for each in self._held
            ),
            leases=len(self._open),
            settled={outcome.value: count for outcome, count in self._settled.items()},
            quarantined=len(self._quarantined),
            left=sum(each.left for each in self._held if each.can_serve(now, 1)),
            rate=self._spent.rate,
            drift=self._drift,
            minting=self.minting,
            permits=self._pace.permits(now),
            next_mint_in=None if math.isinf(at := self.next_mint_at(now)) else at - now,
            fault=self.fault,
        )

    # Choosing a token

    def _select(self, now: float, cost: int, refused: Collection[str]) -> Holding | None:
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

    def _make_current(self, holding: Holding) -> None:
        if holding is self._current:
            return
        if self._current is not None:
            spent = self._current.left < 1
            self._reason = Reason.EXHAUSTED if spent else Reason.EXPIRY
        self._current = holding
        self._tell(Rotated(holding.token.id, self._reason))

    def _drop_current(self, holding: Holding, reason: Reason) -> None:
        if holding is self._current:
            self._current = None
            self._reason = reason

    # Trust and distrust

    def _set_aside(self, holding: Holding, now: float) -> None:
        if self._find(holding.token.id) is None or now >= holding.usable_until:
            return
        if holding.suspect_from is None:
            holding.suspect_from = self._serial
        self._drop_current(holding, Reason.REJECTED)
        self.ask(holding.token.id, now)

    def _keep_aside(self, holding: Holding, now: float) -> None:
        if holding.suspect_from is not None:
            holding.counts = False
            self._to_inspect[holding.token.id] = now + ASK_AGAIN

    def _clear(self, holding: Holding, serial: int | None) -> None:
        """Restore good standing: by inspect, or by a lease given after the suspicion arose."""
        if holding.suspect_from is None or (serial is not None and serial <= holding.suspect_from):
            return
        holding.suspect_from = None
        holding.counts = True
        self._to_inspect.pop(holding.token.id, None)
        self.wants_plan = True

    def _doubt_others(self, gone: Holding, now: float) -> None:
        since = math.inf if gone.suspect_from is None else gone.suspect_from
        for each in self._held:
            if each.born >= since:
                continue
            if each.suspect_from is None:
                each.suspect_from = self._serial
                self._drop_current(each, Reason.REJECTED)
            each.counts = False
            self._to_inspect.setdefault(each.token.id, now)

    def _quarantine(self, holding: Holding, standing: Standing) -> None:
        if not self._remove(holding):
            return
        exhausted = standing is Standing.EXHAUSTED
        self._drop_current(holding, Reason.EXHAUSTED if exhausted else Reason.REJECTED)
        self._quarantined[holding.token.id] = holding.token.expires_at
        self.wants_plan = True
        self._tell(Quarantined(holding.token.id, standing))

    def _reconcile(self, holding: Holding, remaining: int | None, now: float) -> None:
        if remaining is not None and remaining < holding.stock:
            drift = holding.stock - remaining
            # Those under way may not have arrived yet, so they are not taken off.
            holding.remaining = min(holding.remaining, remaining)
            holding.free = remaining - min(holding.left, remaining)
            self._drift += drift
            self._to_inspect[holding.token.id] = now + DRIFT_SECONDS
            self._tell(Drifted(holding.token.id, drift))

    # Stock

    def _need(self, now: float) -> Need | None:
        """Return why more tokens are needed, None when the stock is enough."""
        if not self._mints or self.reach is Reach.CUT:
            return None
        if self.reach is Reach.LOCAL:
            return Need.DEMAND if self._lasts(now) < OUTAGE_LEAD else None
        if self._missing(now) > 0:
            ages = any(each.ages(now) for each in self._held if each.generation == self._generation)
            return Need.EXPIRY if ages else Need.STOCK
        return Need.DEMAND if self._lasts(now) < LEAD else None

    def _missing(self, now: float) -> int:
        return self._wanted - sum(1 for each in self._held if each.fresh(now))

    def _count(self, now: float) -> int:
        """Return how many tokens to mint, once there is a need.

        Tokens that are being replaced do not count: they go when their successors come. A call that
        must do for a whole minute, at a rate that nobody knows yet, asks for all it can have.
        """
        staying = [each for each in self._held if each.generation == self._generation]
        rate = self._rate()
        if self.reach is Reach.LOCAL:
            return min(MAX_COUNT, math.ceil(OUTAGE_COVER * rate / self._limit) or 1)
        if self._blind:
            return MAX_COUNT
        demand = (LEAD + COVER - endurance(staying, rate, now)) * rate
        return min(MAX_COUNT, max(self._missing(now), math.ceil(demand / self._limit), 1))

    def _lasts(self, now: float) -> float:
        """Return for how many seconds the stock lasts at the observed rate."""
        return endurance(self._held, self._rate(), now)

    def _rate(self) -> float:
        """Return the rate at which the stock that can be reached is spent."""
        others = self._others_rate if self.reach is Reach.JOINED else 0.0
        return self._spent.rate + others

    def _start_mint(self, need: Need, now: float) -> Mint:
        self._minting = Mint(self._count(now), self._generation, need)
        self._pace.start(now)
        return self._minting

    # Taking in and letting go

    def _hold(self, token: Token, request: Mint) -> Holding | None:
        if token.id in self._seen:
            return None
        self._seen[token.id] = token.expires_at
        holding = hold(token, request.generation, self._chance())
        holding.born = self._serial
        if request.generation < self._generation:
            holding.refresh_at = token.minted_at
        return holding

    def _take_in(self, found: Sequence[Holding]) -> None:
        self._held = sorted([*self._held, *found], key=_order)

    def _shelve(self, found: Stocked, holding: Holding | None) -> Holding:
        """Return what is held of a token on the shelf, made anew if nothing is."""
        if holding is None:
            holding = hold(found.token, self._generation, self._chance())
            holding.shared, holding.remaining, holding.born = True, 0, self._serial
        holding.free = found.free
        if not found.current:
            holding.generation = min(holding.generation, self._generation - 1)
            holding.refresh_at = found.token.minted_at
        return holding

    def _retire_older(self, now: float) -> None:
        """Stop drawing from tokens that were replaced, once their successors can serve."""
        older = [each for each in self._held if each.generation < self._generation]
        if older and any(
            each.generation == self._generation and each.can_serve(now, 1) for each in self._held
        ):
            for each in older:
                self._remove(each)
                self._drop_current(each, self._replace_reason)
                self._let_go[each.token.id] = each.token.expires_at
                self._to_revoke.append(each)

    def _plan_revokes(self, now: float) -> Iterator[Revoke]:
        done = [each for each in self._to_revoke if each.open == 0]
        self._to_revoke = [each for each in self._to_revoke if each.open]
        for each in done:
            if now < each.token.expires_at and (each.token.revocable or each.shared):
                yield Revoke(each.token, shared=not each.whole)

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
            elif each.stock == 0 and each.open == 0 and not each.shared:
                self._drop_current(each, Reason.EXHAUSTED)
                self._remove(each)
        for ids in (self._seen, self._quarantined, self._let_go):
            for token_id in [each for each, expiry in ids.items() if now >= expiry]:
                del ids[token_id]

    def _remove(self, holding: Holding) -> bool:
        held = len(self._held)
        self._held = [each for each in self._held if each is not holding]
        self._to_inspect.pop(holding.token.id, None)
        return len(self._held) < held

    def _find(self, token_id: str) -> Holding | None:
        return next((each for each in self._held if each.token.id == token_id), None)

    def _state(self, holding: Holding) -> str:
        if holding.suspect_from is not None:
            return "set_aside"
        return "current" if holding is self._current else "standby"


def _order(holding: Holding) -> tuple[float, str]:
    """Sort by expiry; all who share tokens that were minted together draw from the same one."""
    return round(holding.token.expires_at, 1), holding.token.id
