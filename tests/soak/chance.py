"""Chance that comes again with its seed, and leaves nothing out."""

import random
from collections.abc import Iterator, Mapping
from typing import TypeVar

Card = TypeVar("Card")


def source(seed: int, name: str) -> random.Random:
    """A source of chance of its own, so that it does not matter when others draw from theirs."""
    return random.Random(f"{seed} {name}")  # noqa: S311 - no secret


def deal(rng: random.Random, cards: Mapping[Card, int]) -> Iterator[Card]:
    """Deal each card as often as its number says, in random order, and then all of them again."""
    deck = [card for card, times in cards.items() for _ in range(times)]
    while True:
        rng.shuffle(deck)
        yield from deck
