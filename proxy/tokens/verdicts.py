"""What inspect said of tokens that requests were refused with; kept for a few seconds. Pure."""

import math
from collections.abc import Callable

from cachetools import LRUCache, TTLCache

from proxy.tokens.model import Standing

VERDICT_SECONDS = 3.0
"""How long the answer of an inspect call is taken for granted."""
TOKENS_ASKED = 1024
"""How many tokens may have questions open; one that the pool lets go of is never answered."""


class Verdicts:
    """Answers by token and by the status of the refusal, as each is a question of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: LRUCache[str, set[int]] = LRUCache(TOKENS_ASKED)
        self._said: TTLCache[tuple[str, int], tuple[Standing, float]] = TTLCache(
            TOKENS_ASKED, VERDICT_SECONDS, timer=clock
        )

    def ask(self, token_id: str, status: int) -> None:
        self._asked.setdefault(token_id, set()).add(status)

    def answer(self, token_id: str, standing: Standing) -> None:
        """Note what inspect said, for all questions that are open about this token."""
        for status in self._asked.pop(token_id, ()):
            self._said[token_id, status] = standing, self._clock()

    def known(self, token_id: str, status: int, since: float = -math.inf) -> Standing | None:
        """Return what was said after `since`, if anything."""
        standing, at = self._said.get((token_id, status), (None, -math.inf))
        return standing if at > since else None
