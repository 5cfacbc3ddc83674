"""The keeper: the only driver of the pool. It acts, waits and feeds back; it decides nothing."""

import asyncio
import math
import random
from collections.abc import Callable, Collection, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self

from proxy.config import TokenSettings
from proxy.errors import TokenUnavailable
from proxy.tokens.clock import steady
from proxy.tokens.events import (
    Event,
    KeyChanged,
    KeyUnreadable,
    Minted,
    MintFailed,
    Revoked,
)
from proxy.tokens.fleet import Fleet
from proxy.tokens.key import KeyRefusedError, KeySource, StaticKey
from proxy.tokens.known_keys import KnownKeys
from proxy.tokens.mobula import TIMEOUT_SECONDS, Batch, MintError, MobulaClient
from proxy.tokens.model import (
    Action,
    GiveBack,
    Grant,
    Inspect,
    Inspection,
    Lease,
    Mint,
    MintFault,
    Outcome,
    PoolSnapshot,
    Reason,
    Revoke,
    Secret,
    Standing,
    Token,
    WakeAt,
)
from proxy.tokens.pool import TokenPool
from proxy.tokens.sharing import Sharing
from proxy.tokens.store.base import PERMIT_SECONDS, Ending, Order, Permit, Wait
from proxy.tokens.sweep import sweep_always
from proxy.tokens.verdicts import Verdicts
from proxy.tokens.waiting import Waiters, wait_for

REVOKES_AT_ONCE = 8
PERMIT_WAIT_SECONDS = PERMIT_SECONDS - TIMEOUT_SECONDS
"""How long a permit may take to arrive; a call by a later one could end after it had run out."""
CLOSED_SECONDS = 15.0
"""For how long all processes let creation calls be after one has failed, at the most."""
RETRY_AFTER_OTHERS = 5
"""Seconds after which a client may ask again when it is not for us to mint."""


class Keeper:
    """Keeps tokens in stock while its `async with` block runs."""

    def __init__(
        self,
        *,
        pool: TokenPool,
        sharing: Sharing,
        mobula: MobulaClient,
        source: KeySource | None,
        key: StaticKey | None,
        settings: TokenSettings,
        tell: Callable[[Event], None],
        clock: Callable[[], float] = steady,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Without a static key, `source` and `key` are None: others mint, inspect and revoke."""
        self.started = False
        """Whether a first token has arrived."""
        self.known_keys = KnownKeys()
        if key is not None:
            self.known_keys.add(key.secret)
        self._pool = pool
        self._sharing = sharing
        self._mobula = mobula
        self._source = source
        self._key = key
        self._settings = settings
        self._tell = tell
        self._clock = clock
        self._fleet = Fleet(
            pool,
            sharing,
            self,
            inspect_every=settings.inspect_every,
            clock=clock,
            chance=chance,
        )
        self._wake = asyncio.Event()
        self._waiters = Waiters()
        self._verdicts = Verdicts(clock)
        self._revokes = asyncio.Semaphore(REVOKES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._group = asyncio.TaskGroup()

    def __repr__(self) -> str:
        return f"<Keeper of {self._pool!r}, {len(self._waiters)} waiting>"

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._loops = [
            self._spawn(self._fleet.attend_always()),
            self._spawn(self._keep()),
            self._spawn(self._watch_key()),
        ]
        sweeps = self._key is not None and self._settings.orphans == "revoke"
        if sweeps and not self._sharing.private:
            self._loops.append(self._spawn(self._sweep_always()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    # What the handler calls

    def lease(self, refused: Collection[str] = ()) -> Lease | None:
        """Return a lease without waiting, or None; see `TokenPool.lease`."""
        lease = self._pool.lease(self._clock(), refused=refused)
        if self._pool.wants_plan:
            self._wake.set()
        return lease

    async def wait_for_token(self, seconds: float, refused: Collection[str] = ()) -> None:
        """Return once a lease can be had, at the latest after `seconds`. Raises TokenUnavailable.

        It raises at once when waiting is pointless: no creation call is under way, and Mobula has
        refused the key or the plan, or the next call may not start in time.
        """
        deadline = self._clock() + seconds
        while not self._pool.usable(self._clock(), refused):
            if self._pointless(deadline):
                raise self._refusal(self.why_none())
            if len(self._waiters) >= self._settings.waiters:
                raise self._refusal("too many requests are waiting for one")
            self._wake.set()
            if not await self._waiters.change(deadline - self._clock()):
                raise self._refusal(self.why_none())

    def settle(self, lease: Lease, outcome: Outcome) -> None:
        """Settle a lease; a second call for the same lease does nothing."""
        self._pool.settle(lease, outcome, self._clock())
        if self._pool.wants_plan:
            self._wake.set()

    def refuse(self, lease: Lease, status: int) -> None:
        """Settle a lease whose request was answered 401 or 403; Mobula is asked about its token."""
        self._verdicts.ask(lease.token.id, status)
        self.settle(lease, Outcome.REJECTED)

    def has_other(self, refused: Collection[str]) -> bool:
        """Tell whether a token in good standing is in hand that is not among those refused."""
        return self._pool.usable(self._clock(), refused)

    def known_verdict(self, token: Token, status: int) -> Standing | None:
        """Return what inspect said moments ago about such a refusal, without asking."""
        return self._verdicts.known(token.id, status)

    async def verdict(
        self, token: Token, status: int, seconds: float, *, anew: bool = False
    ) -> Standing:
        """Ask Mobula what a refusal with `status` says of the token; UNKNOWN after `seconds`.

        Concurrent questions share one inspect call, and its answer is kept for a few seconds, but
        does not serve a question that is asked `anew`.
        """
        began = self._clock()
        since, deadline = began if anew else -math.inf, began + seconds
        while (known := self._verdicts.known(token.id, status, since)) is None:
            if not self._pool.ask(token.id, self._clock()):
                return Standing.GONE
            self._verdicts.ask(token.id, status)
            self._wake.set()
            if not await self._waiters.change(deadline - self._clock()):
                return Standing.UNKNOWN
        return known

    # What operators call

    def ready(self) -> bool:
        """Tell whether a usable token is in hand; in stock, for one that only mints."""
        return self._pool.usable(self._clock()) or (not self._pool.takes and self._pool.in_stock)

    def snapshot(self) -> PoolSnapshot:
        return self._pool.snapshot(self._clock())

    @property
    def fingerprint(self) -> str:
        """What may be shown of the static key in use; empty without one."""
        return self._key.fingerprint if self._key else ""

    def rotate(self) -> bool:
        """Have every token of all who share them replaced and the old ones revoked.

        No request fails. False while the store cannot be reached: it is then not done.
        """
        joined = self._sharing.contact.joined
        if joined:
            self._spawn(self._rotate())
        return joined

    async def _rotate(self) -> None:
        if await self._sharing.rotate():
            self._fleet.want_news()

    def _replace(self, reason: Reason) -> None:
        self._pool.replace(reason, self._clock())
        self._wake.set()

    async def retire(self, seconds: float, *, revoke: bool) -> None:
        """Stop, and give back what is in hand, within `seconds`.

        If `revoke`, tokens are revoked that no other process uses; what is left then expires.
        """
        for loop in self._loops:
            loop.cancel()
        try:
            async with asyncio.timeout(seconds):
                await self._let_go(revoke)
        except TimeoutError:
            pass

    async def _let_go(self, revoke: bool) -> None:
        if self._sharing.private and not revoke:
            return
        under_way = self._tasks.difference(self._loops)
        last = await self._fleet.leave()
        held = self._pool.live_tokens(shared=last)
        if revoke:
            self._revoke_all(held)
        await _finish(under_way)
        late = [each for each in self._pool.live_tokens(shared=last) if each not in held]
        if revoke:
            self._revoke_all(late)
        await _finish(self._tasks.difference(self._loops))

    def _revoke_all(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            if token.revocable and token.key is not None:
                self._spawn(self._revoke(token))

    # Driving the pool

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            await wait_for(self._wake, self._act(self._pool.plan(self._clock())))

    def _act(self, actions: Iterable[Action]) -> float | None:
        """Start what the pool asks for; return the seconds until it wants to be asked again."""
        seconds = None
        for action in actions:
            match action:
                case Mint() if self._key is not None:
                    self._spawn(self._mint(action, self._key))
                case Inspect(token):
                    self._spawn(self._inspect(token))
                case Revoke(token, shared):
                    self._spawn(self._fleet.retire(token) if shared else self._revoke(token))
                case Grant(token, count):
                    self._spawn(self._fleet.take_share(token, count))
                case GiveBack(token, count):
                    self._spawn(self._fleet.give_back(token, count))
                case WakeAt(at):
                    seconds = max(0.005, at - self._clock())
        return seconds

    async def _mint(self, planned: Mint, key: StaticKey) -> None:
        request = await self._reconsidered(planned)
        if request is None:
            return
        order = Order(request.count, self._settings.request_limit, self._settings.expires_in)
        permit = await self._permit(order, alone=request.alone)
        if isinstance(permit, Wait):
            self._pool.mint_refused(permit, self._clock())
            self._fleet.want_news()
        elif permit is None:
            await self._make_call(request, order, key, permitted=False)
        else:
            fault = await self._make_call(request, order, key, permitted=True)
            await self._sharing.end(permit, self._ending(fault))
        self.changed()

    async def _permit(self, order: Order, *, alone: bool) -> Permit | Wait | None:
        """Ask the store for leave, see `Sharing.permit`; what comes too late is given back."""
        asked_at = self._clock()
        permit = await self._sharing.permit(order, alone=alone)
        self._fleet.follow()
        if isinstance(permit, Permit) and self._clock() - asked_at > PERMIT_WAIT_SECONDS:
            await self._sharing.end(permit, Ending(sent=False))
            return Wait(0.0, minting=False)
        return permit

    async def _reconsidered(self, planned: Mint) -> Mint | None:
        """Look at the shelf first: others may have just made the call, and want more or less."""
        if self._sharing.private or planned.alone:
            return planned
        await self._fleet.attend()
        return self._pool.reconsider(self._clock())

    async def _make_call(
        self, request: Mint, order: Order, key: StaticKey, *, permitted: bool
    ) -> MintFault | None:
        """Make a creation call, take in what it gives, and tell of it; return why it gave none."""
        started = self._clock()
        try:
            batch = await self._mobula.mint(
                key.secret,
                count=order.count,
                expires_in=order.lifetime,
                request_limit=order.limit,
            )
        except MintError as error:
            self._pool.mint_failed(request, error.fault, self._clock())
            return self._tell_failure(error.fault)
        useless = await self._take_in(request, batch, key, permitted=permitted)
        if useless is not None:
            return self._tell_failure(useless)
        self.started = True
        seconds = self._clock() - started
        self._tell(Minted(len(batch.tokens), request.need, seconds, batch.unreadable))
        return None

    async def _take_in(
        self, request: Mint, batch: Batch, key: StaticKey, *, permitted: bool
    ) -> MintFault | None:
        """Have the tokens shared, or keep them: those that are private, `permitted` by no store,
        or of a static key that has been changed since.

        If the store is lost just then, nobody knows whether they are on the shelf. They are taken
        to be, so that none of their requests is granted twice; the next news tells.
        """
        shelved = permitted and not self._sharing.private and key is self._key
        if not shelved and not self._sharing.private:
            return self._pool.minted(request, batch.tokens, self._clock())
        async with self._fleet.shelf:
            free = {each.id: min(each.left, each.limit) * shelved for each in batch.tokens}
            await self._sharing.put(batch.tokens, free)
            self._fleet.follow()
            return self._pool.minted(request, batch.tokens, self._clock(), shelved=shelved)

    def _ending(self, fault: MintFault | None) -> Ending:
        if fault is None:
            return Ending()
        now = self._clock()
        closed = self._pool.next_mint_at(now) - now if fault.sent else 0.0
        closed_for = 0.0 if self._sharing.private else min(closed, CLOSED_SECONDS)
        return Ending.of_failure(fault, closed_for)

    def _tell_failure(self, fault: MintFault) -> MintFault:
        now = self._clock()
        retry_at = self._pool.next_mint_at(now)
        retry_in = None if math.isinf(retry_at) else retry_at - now
        self._tell(MintFailed(fault, retry_in, covered=self._pool.usable(now)))
        return fault

    async def _inspect(self, token: Token) -> None:
        if token.key is None:
            await self._fleet.ask_others(token)
            return
        answer = await self._mobula.inspect(token)
        mine = self._pool.in_hand(token.id)
        self.judge(token, answer)
        await self._fleet.tell_others(token, answer, mine)

    async def _revoke(self, token: Token) -> None:
        """Revoke a token, of which nobody is granted anything from now on."""
        async with self._revokes:
            await self._sharing.retire(token.id)
            ok = await self._mobula.revoke(token)
        self._tell(Revoked(token.id, ok))
        if ok:
            await self._sharing.remove(token.id)

    async def _watch_key(self) -> None:
        if self._source is None:
            return
        async for found in self._source.changed(self._key):
            if isinstance(found, KeyRefusedError):
                self._tell(KeyUnreadable(str(found)))
                continue
            self._key = found
            self.known_keys.add(found.secret)
            async with self._fleet.shelf:
                move = await self._sharing.rekey(found)
                self._fleet.follow()
                if move is not None:
                    self._pool.lost(self._clock(), whole=move.last)
            self._fleet.want_news()
            if move is not None or self._sharing.private:
                self._replace(Reason.KEY_CHANGED)
            self._tell(KeyChanged(found.fingerprint))

    # What the fleet asks

    def hungry(self) -> bool:
        """Tell whether requests wait for a token."""
        return bool(self._waiters)

    def judge(self, token: Token, answer: Inspection) -> None:
        """Take in what an inspect said of a token."""
        self._pool.inspected(token.id, answer, self._clock())
        self._verdicts.answer(token.id, answer.standing)
        self.changed()

    def revoke(self, token: Token) -> None:
        """Start a revoke call."""
        self._spawn(self._revoke(token))

    def changed(self) -> None:
        """Have all look again who wait for something."""
        self.started = self.started or self.ready()
        self._wake.set()
        self._waiters.wake()

    def _sweep_always(self) -> Coroutine[Any, Any, None]:
        def key() -> Secret | None:
            return self._key.secret if self._key else None

        return sweep_always(self._sharing, self._mobula, key, self._tell)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Waiting

    def _pointless(self, deadline: float) -> bool:
        if self._pool.hopeful or self._sharing.may_return(self._settings.wait):
            return False
        now, fault = self._clock(), self._pool.fault
        refused = fault is not None and fault.fatal
        return self._pool.next_mint_at(now) > (now if refused else deadline)

    def why_none(self) -> str:
        """Say why no token can be had."""
        now, fault = self._clock(), self._pool.fault
        if self._sharing.contact.complaint:
            return f"the token store cannot be reached: {self._sharing.contact.complaint}"
        if fault is not None:
            return fault.detail
        if not self._pool.hopeful and self._pool.next_mint_at(now) > now:
            return "the mint budget is used up"
        return "Mobula has not given one in time"

    def _refusal(self, reason: str) -> TokenUnavailable:
        wait = self._pool.next_mint_at(self._clock()) - self._clock()
        seconds = RETRY_AFTER_OTHERS if math.isinf(wait) else math.ceil(wait)
        return TokenUnavailable(
            f"No short-lived token can be had: {reason}.", retry_after=min(60, max(1, seconds))
        )


async def _finish(tasks: Collection[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
