"""The keeper: the only driver of the pool. It acts, waits and feeds back; it decides nothing."""

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self

from cachetools import LRUCache, TTLCache

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
from proxy.tokens.key import KeyRefusedError, KeySource, KnownKeys, StaticKey
from proxy.tokens.mobula import MintError, MobulaClient
from proxy.tokens.model import (
    Action,
    Inspect,
    Lease,
    Mint,
    MintFault,
    Outcome,
    PoolSnapshot,
    Reason,
    Revoke,
    Standing,
    Token,
    WakeAt,
)
from proxy.tokens.pool import TokenPool

VERDICT_SECONDS = 3.0
"""How long the answer of an inspect call is taken for granted."""
TOKENS_ASKED = 1024
"""How many tokens may have questions open; one that the pool lets go of is never answered."""
REVOKES_AT_ONCE = 8


class Keeper:
    """Keeps tokens in stock while its `async with` block runs."""

    def __init__(
        self,
        *,
        pool: TokenPool,
        mobula: MobulaClient,
        source: KeySource,
        key: StaticKey,
        settings: TokenSettings,
        tell: Callable[[Event], None],
        clock: Callable[[], float] = steady,
    ) -> None:
        self.started = False
        """Whether a first token has arrived."""
        self.known_keys = KnownKeys()
        self.known_keys.add(key)
        self._pool = pool
        self._mobula = mobula
        self._source = source
        self._key = key
        self._settings = settings
        self._tell = tell
        self._clock = clock
        self._wake = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()
        self._asked: LRUCache[str, set[int]] = LRUCache(TOKENS_ASKED)
        self._verdicts: TTLCache[tuple[str, int], tuple[Standing, float]] = TTLCache(
            1024, VERDICT_SECONDS, timer=clock
        )
        """What inspect said of each token and status, and when."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._group = asyncio.TaskGroup()

    def __repr__(self) -> str:
        return f"<Keeper of {self._pool!r}, {len(self._waiters)} waiting>"

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._loops = [self._spawn(self._keep()), self._spawn(self._watch_key())]
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
                raise self._unavailable(self._why())
            if len(self._waiters) >= self._settings.waiters:
                raise self._unavailable("too many requests are waiting for one")
            self._wake.set()
            if not await self._change(deadline - self._clock()):
                raise self._unavailable(self._why())

    def settle(self, lease: Lease, outcome: Outcome) -> None:
        """Settle a lease; a second call for the same lease does nothing."""
        self._pool.settle(lease, outcome, self._clock())
        if self._pool.wants_plan:
            self._wake.set()

    def refuse(self, lease: Lease, status: int) -> None:
        """Settle a lease whose request was answered 401 or 403; Mobula is asked about its token."""
        self._asked.setdefault(lease.token.id, set()).add(status)
        self.settle(lease, Outcome.REJECTED)

    def has_other(self, refused: Collection[str]) -> bool:
        """Tell whether a token in good standing is in hand that is not among those refused."""
        return self._pool.usable(self._clock(), refused)

    def known_verdict(self, token: Token, status: int) -> Standing | None:
        """Return what inspect said moments ago about such a refusal, without asking."""
        return self._said_since(-math.inf, token, status)

    async def verdict(
        self, token: Token, status: int, seconds: float, *, anew: bool = False
    ) -> Standing:
        """Ask Mobula what a refusal with `status` says of the token; UNKNOWN after `seconds`.

        Concurrent questions share one inspect call, and its answer is kept for a few seconds, but
        does not serve a question that is asked `anew`.
        """
        began = self._clock()
        since, deadline = began if anew else -math.inf, began + seconds
        while (known := self._said_since(since, token, status)) is None:
            if not self._pool.ask(token.id, self._clock()):
                return Standing.GONE
            self._asked.setdefault(token.id, set()).add(status)
            self._wake.set()
            if not await self._change(deadline - self._clock()):
                return Standing.UNKNOWN
        return known

    def _said_since(self, since: float, token: Token, status: int) -> Standing | None:
        standing, at = self._verdicts.get((token.id, status), (None, -math.inf))
        return standing if at > since else None

    # What operators call

    def ready(self) -> bool:
        """Tell whether a usable token is in hand."""
        return self._pool.usable(self._clock())

    def snapshot(self) -> PoolSnapshot:
        return self._pool.snapshot(self._clock())

    @property
    def fingerprint(self) -> str:
        """What may be shown of the static key in use."""
        return self._key.fingerprint

    def rotate(self) -> None:
        """Have every token replaced and the old ones revoked, without failing a request."""
        self._pool.replace(Reason.REQUESTED, self._clock())
        self._wake.set()

    async def retire(self, seconds: float) -> None:
        """Stop minting and revoke every token, within `seconds`; what is left then expires."""
        for loop in self._loops:
            loop.cancel()
        turns = asyncio.Semaphore(REVOKES_AT_ONCE)
        under_way = self._tasks.difference(self._loops)
        held = self._pool.live_tokens()
        try:
            async with asyncio.timeout(seconds):
                self._revoke_all(held, turns)
                await _finish(under_way)
                late = [each for each in self._pool.live_tokens() if each not in held]
                self._revoke_all(late, turns)
                await _finish(self._tasks.difference(self._loops))
        except TimeoutError:
            pass

    def _revoke_all(self, tokens: Iterable[Token], turns: asyncio.Semaphore) -> None:
        for token in tokens:
            if token.revocable:
                self._spawn(self._revoke(token, turns))

    # Driving the pool

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            seconds = self._act(self._pool.plan(self._clock()))
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _act(self, actions: Iterable[Action]) -> float | None:
        """Start what the pool asks for; return the seconds until it wants to be asked again."""
        seconds = None
        for action in actions:
            match action:
                case Mint():
                    self._spawn(self._mint(action))
                case Inspect(token):
                    self._spawn(self._inspect(token))
                case Revoke(token):
                    self._spawn(self._revoke(token))
                case WakeAt(at):
                    seconds = max(0.005, at - self._clock())
        return seconds

    async def _mint(self, request: Mint) -> None:
        started = self._clock()
        try:
            batch = await self._mobula.mint(
                self._key.secret,
                count=request.count,
                expires_in=self._settings.expires_in,
                request_limit=self._settings.request_limit,
            )
        except MintError as error:
            self._pool.mint_failed(request, error.fault, self._clock())
            self._tell_failure(error.fault)
        else:
            useless = self._pool.minted(request, batch.tokens, self._clock())
            if useless is None:
                self.started = True
                seconds = self._clock() - started
                self._tell(Minted(len(batch.tokens), request.need, seconds, batch.unreadable))
            else:
                self._tell_failure(useless)
        self._changed()

    def _tell_failure(self, fault: MintFault) -> None:
        now = self._clock()
        retry_in = self._pool.next_mint_at(now) - now
        self._tell(MintFailed(fault, retry_in, covered=self._pool.usable(now)))

    async def _inspect(self, token: Token) -> None:
        answer = await self._mobula.inspect(token)
        self._pool.inspected(token.id, answer, self._clock())
        for status in self._asked.pop(token.id, ()):
            self._verdicts[token.id, status] = answer.standing, self._clock()
        self._changed()

    async def _revoke(self, token: Token, turns: asyncio.Semaphore | None = None) -> None:
        async with turns or asyncio.Semaphore():
            ok = await self._mobula.revoke(token)
        self._tell(Revoked(token.id, ok))

    async def _watch_key(self) -> None:
        async for found in self._source.changed(self._key):
            if isinstance(found, KeyRefusedError):
                self._tell(KeyUnreadable(str(found)))
                continue
            self._key = found
            self.known_keys.add(found)
            self._pool.replace(Reason.KEY_CHANGED, self._clock())
            self._tell(KeyChanged(found.fingerprint))
            self._wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Waiting

    def _changed(self) -> None:
        self._wake.set()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self, seconds: float) -> bool:
        """Wait until something changed; False if nothing did within `seconds`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    def _pointless(self, deadline: float) -> bool:
        if self._pool.minting:
            return False
        now, fault = self._clock(), self._pool.fault
        refused = fault is not None and fault.fatal
        return self._pool.next_mint_at(now) > (now if refused else deadline)

    def _why(self) -> str:
        now, fault = self._clock(), self._pool.fault
        if fault is not None:
            return fault.detail
        if not self._pool.minting and self._pool.next_mint_at(now) > now:
            return "the mint budget is used up"
        return "Mobula has not given one in time"

    def _unavailable(self, reason: str) -> TokenUnavailable:
        now = self._clock()
        wait = math.ceil(self._pool.next_mint_at(now) - now)
        return TokenUnavailable(
            f"No short-lived token can be had: {reason}.", retry_after=min(60, max(1, wait))
        )


async def _finish(tasks: Collection[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
