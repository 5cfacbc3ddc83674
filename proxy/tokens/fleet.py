"""This process's part in its fleet: it attends, takes shares, and does chores."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from proxy.tokens.model import Inspection, Reason, Standing, Token
from proxy.tokens.pool import TokenPool
from proxy.tokens.sharing import News, Sharing
from proxy.tokens.store.base import Chore, Task
from proxy.tokens.waiting import wait_for

HUNGRY_SECONDS = 0.25
"""How often to attend while something is awaited of the other processes."""
OTHERS_INSPECT_SECONDS = 8.0
"""How long the other processes may take to inspect a token for one that has no key."""


class Household(Protocol):
    """What the fleet asks of the keeper."""

    def hungry(self) -> bool:
        """Tell whether requests wait for a token."""
        ...

    def judge(self, token: Token, answer: Inspection) -> None:
        """Take in what an inspect said."""
        ...

    def revoke(self, token: Token) -> None:
        """Start a revoke call."""
        ...

    def changed(self) -> None:
        """Have all look again who wait for something."""
        ...


class Fleet:
    """Keeps the pool and the shelf of one accord; `sharing` tells whether there is a fleet."""

    def __init__(
        self,
        pool: TokenPool,
        sharing: Sharing,
        household: Household,
        *,
        inspect_every: float,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.shelf = asyncio.Lock()
        """Held while what is on the shelf is compared with what the pool has.

        No share is taken meanwhile: the store would take what is reported, and does not name it
        yet, for let go of.
        """
        self._pool = pool
        self._sharing = sharing
        self._household = household
        self._inspect_every = inspect_every
        self._clock = clock
        self._chance = chance
        self._left = False
        self._news_wanted = asyncio.Event()
        self._reported: dict[str, tuple[Token, float]] = {}
        """Tokens that others were asked to inspect, and until when that is waited for."""

    def __repr__(self) -> str:
        return f"<Fleet by {self._sharing!r}>"

    def want_news(self) -> None:
        """Attend at once."""
        self._news_wanted.set()

    async def attend_always(self) -> None:
        while True:
            self._news_wanted.clear()
            news = await self.attend()
            if news is not None and self._sharing.has_key:
                await self._do_chores(news.roll.chores)
            await wait_for(self._news_wanted, self._pulse())

    def _pulse(self) -> float:
        pulse = self._sharing.pulse(self._chance())
        hungry = self._reported or self._household.hungry()
        return min(pulse, max(HUNGRY_SECONDS, pulse / 4)) if hungry else pulse

    async def attend(self) -> News | None:
        """Bring the pool and the shelf of one accord now."""
        async with self.shelf:
            report = replace(
                self._pool.report(self._clock()),
                wants_right=self._sharing.contact.mints_alone,
                inspect_every=self._inspect_every,
            )
            news = await self._sharing.attend(report)
            self.follow()
            if news is not None:
                self._take_in(news)
                await self._offer()
        self._household.changed()
        return news

    def follow(self) -> None:
        """Have the pool know whether the store can be reached."""
        self._pool.reached(self._sharing.contact.check(self._clock()))

    def _take_in(self, news: News) -> None:
        now = self._clock()
        if news.emptied:
            self._pool.lost(now, found=news.shelf or ())
        if news.rotated:
            self._pool.replace(Reason.REQUESTED, now)
        if news.shelf is not None:
            self._pool.stocked(news.shelf, now)
        self._pool.attended(news.roll, now)
        for token, until in list(self._reported.values()):
            self._hear_of(token, until, news)

    async def _offer(self) -> None:
        """Share what was minted while the store could not be reached."""
        offers = [] if self._sharing.private else self._pool.offer(self._clock())
        if offers:
            tokens = [token for token, _ in offers]
            await self._sharing.put(tokens, {token.id: free for token, free in offers})
            self.follow()

    # Shares

    async def take_share(self, token: Token, count: int) -> None:
        async with self.shelf:
            await self._take_share(token, count)
        self._household.changed()

    async def _take_share(self, token: Token, count: int) -> None:
        share = await self._sharing.grant(token.id, count)
        self.follow()
        if share is not None and self._left:
            await self._sharing.give_back(token.id, share.count)
        elif share is not None:
            self._pool.granted(token.id, share.count, share.free, self._clock())
            if not share.count:
                self.want_news()

    async def give_back(self, token: Token, count: int) -> None:
        await self._sharing.give_back(token.id, count)
        self.follow()

    async def leave(self) -> bool:
        """Give every share back; tell whether no other process is left, for sure."""
        self._left = True
        async with self.shelf:
            return await self._sharing.leave(self._pool.give_all_back())

    async def retire(self, token: Token) -> None:
        """Have others let go of a replaced token, too; to revoke it is then somebody's chore."""
        await self._sharing.retire(token.id)
        self.want_news()

    # Inspects that others make, and those made for others

    async def ask_others(self, token: Token) -> None:
        """Have a token inspected by somebody who has the static key.

        No news is awaited meanwhile: it could be from before, and so acquit the token.
        """
        async with self.shelf:
            asked = await self._sharing.report(token.id)
            if asked:
                self._reported[token.id] = token, self._clock() + OTHERS_INSPECT_SECONDS
        if asked:
            self.want_news()
        else:
            self._household.judge(token, Inspection(Standing.UNKNOWN))

    def _hear_of(self, token: Token, until: float, news: News) -> None:
        waiting = token.id in news.roll.reported
        if waiting and self._clock() < until:
            return
        del self._reported[token.id]
        if waiting or self._pool.has_off_shelf(token.id):
            standing = Standing.UNKNOWN
        else:
            standing = Standing.ALIVE if token.id in news.roll.free else Standing.GONE
        self._household.judge(token, Inspection(standing))

    async def tell_others(self, token: Token, answer: Inspection, mine: int) -> None:
        """Share what an inspect said, of a token of which `mine` requests are in hand."""
        if answer.standing is Standing.ALIVE:
            await self._sharing.observe(token.id, answer.remaining, mine)
        elif answer.standing is not Standing.UNKNOWN:
            await self._sharing.remove(token.id)

    async def _do_chores(self, count: int) -> None:
        for _ in range(count):
            chore = await self._sharing.chore(self._inspect_every)
            if chore is None:
                return
            await self._do(chore)

    async def _do(self, chore: Chore) -> None:
        """Do what can be done with our static key; what needs another is left to those with it."""
        if not self._sharing.minted(chore.token):
            return
        if chore.task is Task.INSPECT:
            self._pool.ask(chore.token.id, self._clock())
            return
        token = self._sharing.opened(chore.token, self._clock())
        if token is not None and token.revocable:
            self._household.revoke(token)
        else:
            await self._sharing.remove(chore.token.id)
