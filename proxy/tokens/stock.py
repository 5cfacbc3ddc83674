"""The tokens in hand, and which of them is drawn from. Pure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from proxy.tokens.events import Event, Rotated
from proxy.tokens.holding import Holding
from proxy.tokens.model import Reason, Token


class Stock:
    """Holdings by expiry; requests draw from the one that expires first, so little is wasted."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self.current: Holding | None = None
        self._tell = tell
        self._reason = Reason.FIRST
        self._held: list[Holding] = []

    def __repr__(self) -> str:
        return f"<Stock {len(self._held)} tokens, {self.left} left>"

    def __iter__(self) -> Iterator[Holding]:
        """Go over what is held now; it may be changed meanwhile."""
        return iter(tuple(self._held))

    def __contains__(self, holding: Holding) -> bool:
        return any(each is holding for each in self._held)

    @property
    def left(self) -> int:
        return sum(each.left for each in self._held)

    def find(self, token_id: str) -> Holding | None:
        return next((each for each in self._held if each.token.id == token_id), None)

    def add(self, found: Iterable[Holding]) -> None:
        self._held = sorted([*self._held, *found], key=_order)

    def remove(self, holding: Holding, reason: Reason) -> None:
        """Let go of a token; `reason` is told for the one that becomes current in its place."""
        self._held = [each for each in self._held if each is not holding]
        self.drop_current(holding, reason)

    def forget(self, now: float) -> None:
        """Let go of what can serve nobody any more."""
        for each in self:
            if now >= each.usable_until:
                self.remove(each, Reason.EXPIRY)
            elif each.stock == 0 and each.open == 0 and not each.shared:
                self.remove(each, Reason.EXHAUSTED)

    # Which one is drawn from

    def select(self, now: float, cost: int, refused: Collection[str]) -> Holding | None:
        """Return what to draw from: one set aside only when there is no other, and none refused."""
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

    def make_current(self, holding: Holding) -> None:
        if holding is self.current:
            return
        if self.current is not None:
            self._reason = Reason.EXHAUSTED if self.current.left < 1 else Reason.EXPIRY
        self.current = holding
        self._tell(Rotated(holding.token.id, self._reason))

    def drop_current(self, holding: Holding, reason: Reason) -> None:
        if holding is self.current:
            self.current = None
            self._reason = reason

    def state(self, holding: Holding) -> str:
        if holding.suspect_from is not None:
            return "set_aside"
        return "current" if holding is self.current else "standby"

    # What is shared

    def set_free(self, free: Mapping[str, int]) -> None:
        """Note what of each shared token is granted to nobody."""
        for each in self._held:
            each.free = free.get(each.token.id, 0) if each.shared else 0

    def lose_shelf(self, found: Collection[str], *, whole: bool) -> None:
        """Note that the shelf is gone: what is in hand of its tokens is all there is.

        Those `found` came after it, to the shelf in its place. `whole` if nobody else has a share
        of the others. If somebody has, stock does not rely on them.
        """
        for each in self._held:
            if each.shared and each.token.id not in found:
                each.shared, each.free = False, 0
                each.whole = each.counts = whole

    def offer(self, generation: int) -> list[tuple[Token, int]]:
        """Return tokens that are all ours, with what of each others may have; it is then gone.

        They are taken to be on the shelf from now on.
        """
        offers = []
        for each in self._held:
            stays = each.suspect_from is None and each.generation == generation
            if each.whole and stays:
                given = each.left // 2
                each.shared, each.whole = True, False
                each.free, each.remaining = given, each.remaining - given
                offers.append((each.token, given))
        return offers

    def give_all_back(self) -> dict[str, int]:
        """Let go of every share that is in hand, and return them by token id."""
        shares = {each.token.id: each.left for each in self._held if each.shared and each.left}
        for each in self._held:
            if each.shared:
                each.remaining -= each.left
        return shares


def _order(holding: Holding) -> tuple[float, str]:
    """Sort by expiry; all who share tokens that were minted together draw from the same one."""
    return round(holding.token.expires_at, 1), holding.token.id
