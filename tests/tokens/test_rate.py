"""The observed rate: up at once, down slowly."""

import pytest

from proxy.tokens.rate import MEMORY, SPAN, RateMeter


def measured(*readings: tuple[float, int]) -> RateMeter:
    """A meter read at these times, with these totals."""
    meter = RateMeter()
    for now, total in readings:
        meter.total = total
        meter.measure(now)
    return meter


def test_one_reading_tells_no_rate() -> None:
    assert measured((0.0, 100)).rate == 0


def test_a_rise_is_followed_at_once() -> None:
    assert measured((0.0, 0), (1.0, 100), (2.0, 600)).rate == 500


def test_a_fall_is_followed_slowly() -> None:
    meter = measured((0.0, 0), (1.0, 100), (1.0 + MEMORY, 100))
    assert meter.rate == pytest.approx(100 / 2.718, rel=0.01)


def test_readings_close_together_are_taken_as_one() -> None:
    assert measured((0.0, 0), (SPAN / 2, 1000)).rate == 0
    assert measured((0.0, 0), (SPAN / 2, 1000), (1.0, 1000)).rate == 1000


def test_a_total_that_shrank_is_a_rate_of_nothing() -> None:
    assert measured((0.0, 100), (1.0, 50)).rate == 0
