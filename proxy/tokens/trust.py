"""Trust: which tokens were refused, what is asked about them, and what the answers mean. Pure.

A refused token is set aside and inspected, one inspect at a time. It is quarantined only if Mobula
says that it is used up or gone. Once one is gone, the others must prove themselves, but for those
that came after it had fallen under suspicion: until then they do not count as stock.
"""

import math
from collections.abc import Callable, Iterator

from proxy.tokens.events import Drifted, Event, Quarantined
from proxy.tokens.holding import Holding
from proxy.tokens.model import Inspect, Inspection, Reason, Standing
from proxy.tokens.stock import Stock

ASK_AGAIN = 5.0
"""Seconds until a token that Mobula gave no word on is inspected again."""
DRIFT_SECONDS = 60.0
"""Seconds until a token of which Mobula counted more than we is inspected again."""


class Trust:
    """Suspicions and verdicts; `serial` is always that of the last lease given."""

    def __init__(self, stock: Stock, tell: Callable[[Event], None]) -> None:
        self.quarantined: dict[str, float] = {}
        """Tokens never to be leased again: their expiry by id."""
        self.drift = 0
        """Requests that Mobula counted and we did not."""
        self._stock = stock
        self._tell = tell
        self._to_inspect: dict[str, float] = {}  # token id: not before this time
        self._inspecting: str | None = None

    def __repr__(self) -> str:
        return f"<Trust {len(self._to_inspect)} to inspect, {len(self.quarantined)} quarantined>"

    def ask(self, token_id: str, now: float) -> bool:
        """Queue an inspect; False when the token is not in stock."""
        if self._stock.find(token_id) is None:
            return False
        if token_id != self._inspecting:
            self._to_inspect[token_id] = now
        return True

    def set_aside(self, holding: Holding, serial: int, now: float) -> None:
        """Suspect a token that a request was refused with."""
        if holding not in self._stock or now >= holding.usable_until:
            return
        if holding.suspect_from is None:
            holding.suspect_from = serial
        self._stock.drop_current(holding, Reason.REJECTED)
        self.ask(holding.token.id, now)

    def clear(self, holding: Holding, serial: int | None = None) -> bool:
        """Restore good standing: by inspect, or by the lease `serial`, given after the suspicion.

        Tell whether that changed anything.
        """
        if holding.suspect_from is None or (serial is not None and serial <= holding.suspect_from):
            return False
        holding.suspect_from = None
        holding.counts = True
        self._to_inspect.pop(holding.token.id, None)
        return True

    def quarantine(self, holding: Holding, standing: Standing) -> None:
        """Never lease a token again: it is used up, or Mobula knows it no more."""
        if holding not in self._stock:
            return
        exhausted = standing is Standing.EXHAUSTED
        self._stock.remove(holding, Reason.EXHAUSTED if exhausted else Reason.REJECTED)
        self.quarantined[holding.token.id] = holding.token.expires_at
        self._tell(Quarantined(holding.token.id, standing))

    def inspected(self, token_id: str, answer: Inspection, serial: int, now: float) -> None:
        """Take in what the inspect call said; Mobula's lower count wins over ours."""
        self._inspecting = None
        holding = self._stock.find(token_id)
        if holding is None:
            return
        if answer.standing is Standing.UNKNOWN:
            self._keep_aside(holding, now)
        elif answer.standing is Standing.ALIVE:
            self.clear(holding)
            self._reconcile(holding, answer.remaining, now)
        else:
            self.quarantine(holding, answer.standing)
            if answer.standing is Standing.GONE:
                self._doubt_others(holding, serial, now)

    def due(self, now: float) -> Iterator[Inspect]:
        """Yield the inspect to make now, if one is to be made; it is then under way.

        Refused tokens come before those that are merely due.
        """
        if self._inspecting is not None:
            return
        due = [each for each in self._stock if self._to_inspect.get(each.token.id, math.inf) <= now]
        if due:
            token = next((each for each in due if each.suspect_from is not None), due[0]).token
            self._inspecting = token.id
            del self._to_inspect[token.id]
            yield Inspect(token)

    def wakes(self, now: float) -> Iterator[float]:
        """Yield when later inspects are due."""
        return (at for at in self._to_inspect.values() if at > now)

    def forget(self, now: float) -> None:
        """Drop what is about tokens that are not in stock any more, or have expired."""
        here = {each.token.id for each in self._stock}
        self._to_inspect = {name: at for name, at in self._to_inspect.items() if name in here}
        self.quarantined = {name: at for name, at in self.quarantined.items() if now < at}

    def _keep_aside(self, holding: Holding, now: float) -> None:
        if holding.suspect_from is not None:
            holding.counts = False
            self._to_inspect[holding.token.id] = now + ASK_AGAIN

    def _doubt_others(self, gone: Holding, serial: int, now: float) -> None:
        since = math.inf if gone.suspect_from is None else gone.suspect_from
        for each in self._stock:
            if each.born >= since:
                continue
            if each.suspect_from is None:
                each.suspect_from = serial
                self._stock.drop_current(each, Reason.REJECTED)
            each.counts = False
            self._to_inspect.setdefault(each.token.id, now)

    def _reconcile(self, holding: Holding, remaining: int | None, now: float) -> None:
        if remaining is None or remaining >= holding.stock:
            return
        drift = holding.stock - remaining
        # Those under way may not have arrived yet, so they are not taken off.
        holding.remaining = min(holding.remaining, remaining)
        holding.free = remaining - min(holding.left, remaining)
        self.drift += drift
        self._to_inspect[holding.token.id] = now + DRIFT_SECONDS
        self._tell(Drifted(holding.token.id, drift))
