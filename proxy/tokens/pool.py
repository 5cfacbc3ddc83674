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
7. A refused token is set aside and inspected; what that leads to, `trust` says.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence

from proxy.tokens.budget import MintBudget
from proxy.tokens.events import Event
from proxy.tokens.holding import Holding, endurance, hold
from proxy.tokens.model import (
    Action,
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
from proxy.tokens.stock import Stock
from proxy.tokens.store.base import Report, Roll, Wait
from proxy.tokens.trust import Trust

MAX_COUNT = 25
"""Tokens that one creation call may give (Mobula's token page)."""
LEAD = 15.0
"""Seconds of stock below which more is minted; also the outage that stock alone survives."""
COVER = 20.0
"""Seconds that one minted batch lasts beyond LEAD: three calls a minute, two in reserve."""
FLEET_COVER = 60.0
"""The same for tokens that are shared: the store holds more calls back."""
SHARE_SPAN = 1.0
"""Seconds over which the rate is measured that shares are for: a burst must not make one hoard."""
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
        self._jitter = chance()
        """Spreads the refreshes of many proxies; those of tokens minted together fall together."""
        self.takes = takes
        """Whether requests are served from it."""
        self._private = private
        self._mints = mints
        self._shares = Shares(takes=takes and not private)
        self._others_rate = 0.0
        self._others_mint = False
        self._blind = False
        self._fleet_fault: MintFault | None = None
        self._stock = Stock(tell)
        self._trust = Trust(self._stock, tell)
        self._replace_reason = Reason.REQUESTED
        self._open: dict[int, Holding] = {}
        self._settled = dict.fromkeys(Outcome, 0)
        self._serial = 0
        self._generation = 0
        self._seen: dict[str, float] = {}  # token id: its expiry
        self._let_go: dict[str, float] = {}  # token id: its expiry
        self._to_revoke: list[Holding] = []
        self._minting: Mint | None = None
        self._budget = budget
        self._outage_budget = MintBudget(calls=1)
        self._pace = Pace(budget, chance)
        self._spent = RateMeter()
        self._spent_lately = RateMeter(SHARE_SPAN)
        self._plan_at_spent = 0

    def __repr__(self) -> str:
        ready = sum(1 for each in self._stock if each.suspect_from is None and each.left)
        quarantined, left = len(self._trust.quarantined), self._stock.left
        return f"<TokenPool {ready} ready, {quarantined} quarantined, {left} left>"

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
        holding = self._stock.current
        if holding is None or refused or not holding.can_serve(now, cost):
            holding = self._stock.select(now, cost, refused)
            if holding is None:
                self.wants_plan = True
                return None
            if not refused and holding.suspect_from is None:
                self._stock.make_current(holding)
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
            if self._trust.clear(holding, lease.serial):
                self.wants_plan = True
        elif outcome is Outcome.REJECTED:
            self._trust.set_aside(holding, self._serial, now)
            self.wants_plan = True
        elif outcome is Outcome.EXHAUSTED:
            self._trust.quarantine(holding, Standing.EXHAUSTED)
            self.wants_plan = True
        if holding.open == 0 and self._to_revoke:
            self.wants_plan = True

    def usable(self, now: float, refused: Collection[str] = ()) -> bool:
        """Tell whether `lease` would give one right now."""
        return self._stock.select(now, 1, refused) is not None

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
        awaited = any(each.free for each in self._stock) or self._others_mint or not self._mints
        return self.minting or (joined and awaited)

    @property
    def in_stock(self) -> bool:
        """Whether there are requests for a sharer to take, or in hand."""
        return any(each.counts and each.stock for each in self._stock)

    # What the keeper asks and feeds back

    def plan(self, now: float) -> list[Action]:
        """Return what to do now; the same instant asked again asks for nothing new."""
        self.wants_plan = False
        self._forget(now)
        self._measure(now)
        held = list(self._stock)
        actions: list[Action] = [*self._plan_revokes(now), *self._trust.due(now)]
        if self.reach is Reach.JOINED:
            actions += self._shares.plan(held, self._spent_lately.rate, now)
        wake = [each.usable_until for each in held]
        wake += [each.refresh_at for each in held if each.refresh_at > now]
        wake += self._trust.wakes(now)
        need = self._need(now)
        if need is not None and self._minting is None and not self._others_mint:
            at = self.next_mint_at(now)
            if at <= now:
                actions.append(self._start_mint(need, now))
            else:
                wake.append(at)
        self._plan_at_spent = self._spent.total + max(1, self._stock.left // 20)
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
                joined = self.reach is Reach.JOINED
                each.shared, each.free = True, each.remaining if joined else 0
                each.remaining = 0
        self._stock.add(usable)
        if request.generation == self._generation:
            self._retire_older(now)
            self._pace.forgive()
            self._fleet_fault = None
        return None

    def reconsider(self, now: float) -> Mint | None:
        """Return the creation call under way as it is wanted now, before it is made.

        None if it is not any more, after what `attended` and `stocked` told; it is then not made.
        """
        need = self._need(now)
        if need is None or self.reach is not Reach.JOINED:
            self._end_unmade(now)
        else:
            self._minting = Mint(self._count(now), self._generation, need)
        return self._minting

    def mint_refused(self, wait: Wait, now: float) -> None:
        """Note that the store permits no creation call now: another mints, or none is left."""
        self._end_unmade(now)
        self._others_mint = wait.minting
        if not wait.minting:
            self._budget.heed(0, now + wait.seconds)

    def _end_unmade(self, now: float) -> None:
        self._minting = None
        self._pace.end(now, sent=False)
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
        self.wants_plan = True
        return self._trust.ask(token_id, now)

    def inspected(self, token_id: str, answer: Inspection, now: float) -> None:
        """Take in what the inspect call said; Mobula's lower count wins over ours."""
        self._forget(now)
        self._trust.inspected(token_id, answer, self._serial, now)
        self.wants_plan = True

    def replace(self, reason: Reason, now: float) -> None:
        """Have every token in hand replaced: they serve until their successors are there."""
        self._generation += 1
        self._replace_reason = reason
        self._pace.forgive()
        for each in self._stock:
            each.refresh_at = min(each.refresh_at, now)
        self.wants_plan = True

    def live_tokens(self, *, shared: bool) -> list[Token]:
        """Return the tokens that Mobula still honours as far as we know, for revoking at exit.

        Only those that are all ours, unless `shared` ones are wanted too.
        """
        held = (*self._stock, *self._to_revoke)
        return [each.token for each in held if each.whole or (shared and each.shared)]

    # What the fleet shares

    def reached(self, reach: Reach) -> None:
        """Note whether the store can be reached, and what may be done while it cannot."""
        if reach is self.reach:
            return
        self.reach = reach
        self._shares.asking = False
        self._others_mint = False
        self._stock.set_free({})  # until the store is heard again
        self._pace.use(self._outage_budget if reach is Reach.LOCAL else self._budget)
        self.wants_plan = True

    def lost(self, now: float, *, whole: bool = False, found: Sequence[Stocked] = ()) -> None:
        """Note that the shelf is gone, save what was `found`; see `Stock.lose_shelf`.

        If nobody else has a share of them, tokens that we have none of serve nobody any more.
        """
        self._forget(now)
        self._stock.lose_shelf({each.token.id for each in found}, whole=whole)
        for each in self._stock:
            if each.whole and not each.left:
                self._part_with(each, Reason.EXHAUSTED)
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
        self._stock.set_free(roll.free)
        self.wants_plan = True

    def stocked(self, shelf: Sequence[Stocked], now: float) -> None:
        """Take in what is on the shelf, and let go of what is not any more."""
        self._forget(now)
        gone = {*self._trust.quarantined, *self._let_go}
        here = {each.token.id for each in shelf}
        self._stock.add([self._shelve(each) for each in shelf if self._is_new(each, gone)])
        for each in self._stock:
            if each.shared and each.token.id not in here:
                standing = Standing.GONE if each.left else Standing.EXHAUSTED
                self._trust.quarantine(each, standing)
        self._retire_older(now)
        self.wants_plan = True

    def granted(self, token_id: str, count: int, free: int, now: float) -> None:
        """Take in a share; one of a token that was let go of meanwhile is lost."""
        self._shares.asking = False
        self.wants_plan = True
        holding = self._stock.find(token_id)
        if holding is not None and holding.shared:
            holding.remaining += count
            holding.free = free
            self._retire_older(now)

    def offer(self, now: float) -> list[tuple[Token, int]]:
        """Return what is all ours, and is now to be shared; see `Stock.offer`."""
        self._forget(now)
        return self._stock.offer(self._generation)

    def report(self, now: float) -> Report:
        """Return what this process tells the fleet of itself."""
        self._measure(now)
        held = (*self._stock, *self._to_revoke)
        holds = frozenset(each.token.id for each in held if each.left or each.open)
        return Report(self._spent.rate, holds)

    def give_all_back(self) -> dict[str, int]:
        """Let go of every share that is in hand, and return them by token id."""
        return self._stock.give_all_back()

    def has_off_shelf(self, token_id: str) -> bool:
        """Tell whether a token is in hand of which the fleet's shelf knows nothing."""
        holding = self._stock.find(token_id)
        return holding is not None and not holding.shared

    def in_hand(self, token_id: str) -> int:
        """Return what of a token this process may still send, what is under way included."""
        holding = self._stock.find(token_id)
        return holding.remaining if holding is not None else 0

    def snapshot(self, now: float) -> PoolSnapshot:
        return PoolSnapshot(
            tokens=tuple(
                TokenSnapshot(
                    id=each.token.id,
                    state=self._stock.state(each),
                    left=each.left,
                    free=each.free,
                    limit=each.token.limit,
                    expires_in=each.token.expires_at - now,
                )
                for each in self._stock
            ),
            leases=len(self._open),
            settled={outcome.value: count for outcome, count in self._settled.items()},
            quarantined=len(self._trust.quarantined),
            left=sum(each.left for each in self._stock if each.can_serve(now, 1)),
            rate=self._spent.rate,
            drift=self._trust.drift,
            minting=self.minting,
            permits=self._pace.permits(now),
            next_mint_in=None if math.isinf(at := self.next_mint_at(now)) else at - now,
            fault=self.fault,
        )

    # Stock

    def _need(self, now: float) -> Need | None:
        """Return why more tokens are needed, None when the stock is enough."""
        if not self._mints or self.reach is Reach.CUT:
            return None
        if self.reach is Reach.LOCAL:
            return Need.DEMAND if self._lasts(now) < OUTAGE_LEAD else None
        if self._missing(now) > 0:
            ages = any(
                each.ages(now) for each in self._stock if each.generation == self._generation
            )
            return Need.EXPIRY if ages else Need.STOCK
        return Need.DEMAND if self._lasts(now) < LEAD else None

    def _missing(self, now: float) -> int:
        return self._wanted - sum(1 for each in self._stock if each.fresh(now))

    def _count(self, now: float) -> int:
        """Return how many tokens to mint, once there is a need.

        Tokens that are being replaced do not count: they go when their successors come, or when
        they expire, which for those in hand may be at the same time. A call that must do for a
        whole minute, at a rate that nobody knows yet, asks for all it can have. So does the last
        one that the budget allows, if the stock is short: the rate may still rise.
        """
        rate = self._rate()
        if self.reach is Reach.LOCAL:
            return min(MAX_COUNT, math.ceil(OUTAGE_COVER * rate / self._limit) or 1)
        if self._blind or (self._pace.permits(now) == 1 and self._lasts(now) < LEAD):
            return MAX_COUNT
        staying = [each for each in self._stock if self._stays(each, now)]
        cover = LEAD + (COVER if self._private else FLEET_COVER)
        demand = (cover - endurance(staying, rate, now)) * rate
        return min(MAX_COUNT, max(self._missing(now), math.ceil(demand / self._limit), 1))

    def _stays(self, holding: Holding, now: float) -> bool:
        return holding.generation == self._generation and holding.fresh(now)

    def _lasts(self, now: float) -> float:
        """Return for how many seconds the stock lasts at the observed rate."""
        return endurance(self._stock, self._rate(), now)

    def _rate(self) -> float:
        """Return the rate at which the stock that can be reached is spent."""
        others = self._others_rate if self.reach is Reach.JOINED else 0.0
        return self._spent.rate + others

    def _measure(self, now: float) -> None:
        self._spent.measure(now)
        self._spent_lately.total = self._spent.total
        self._spent_lately.measure(now)

    def _start_mint(self, need: Need, now: float) -> Mint:
        alone = self.reach is Reach.LOCAL
        self._minting = Mint(self._count(now), self._generation, need, alone)
        self._pace.start(now)
        return self._minting

    # Taking in and letting go

    def _hold(self, token: Token, request: Mint) -> Holding | None:
        if token.id in self._seen:
            return None
        self._seen[token.id] = token.expires_at
        holding = hold(token, request.generation, self._jitter)
        holding.born = self._serial
        if request.generation < self._generation:
            holding.refresh_at = token.minted_at
        return holding

    def _is_new(self, found: Stocked, gone: Collection[str]) -> bool:
        """Bring what is held of a token in line with the shelf; tell whether nothing is."""
        holding = self._stock.find(found.token.id)
        if holding is not None:
            holding.free = found.free
            self._age(holding, found)
        return holding is None and found.token.id not in gone

    def _shelve(self, found: Stocked) -> Holding:
        holding = hold(found.token, self._generation, self._jitter)
        holding.shared, holding.remaining, holding.born = True, 0, self._serial
        holding.free = found.free
        self._age(holding, found)
        return holding

    def _age(self, holding: Holding, found: Stocked) -> None:
        if not found.current:
            holding.generation = min(holding.generation, self._generation - 1)
            holding.refresh_at = found.token.minted_at

    def _retire_older(self, now: float) -> None:
        """Stop drawing from tokens that were replaced, once their successors can serve."""
        older = [each for each in self._stock if each.generation < self._generation]
        newer = (each for each in self._stock if each.generation == self._generation)
        if not older or not any(each.can_serve(now, 1) for each in newer):
            return
        for each in older:
            self._part_with(each, self._replace_reason)

    def _part_with(self, holding: Holding, reason: Reason) -> None:
        self._stock.remove(holding, reason)
        self._let_go[holding.token.id] = holding.token.expires_at
        self._to_revoke.append(holding)

    def _plan_revokes(self, now: float) -> Iterator[Revoke]:
        done = [each for each in self._to_revoke if each.open == 0]
        self._to_revoke = [each for each in self._to_revoke if each.open]
        for each in done:
            if now < each.token.expires_at and (each.token.revocable or each.shared):
                yield Revoke(each.token, shared=not each.whole)

    def _forget(self, now: float) -> None:
        """Let go of what can serve nobody any more."""
        self._stock.forget(now)
        self._trust.forget(now)
        for ids in (self._seen, self._let_go):
            for token_id in [each for each, expiry in ids.items() if now >= expiry]:
                del ids[token_id]
