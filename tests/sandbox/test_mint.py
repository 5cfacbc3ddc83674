"""The rules of a mint, without a server."""

import json

import pytest

from proxy.sandbox.answer import MalformedError
from proxy.sandbox.mint import MintOrder, MintWindow


def parse(**fields: object) -> MintOrder:
    return MintOrder.parse(json.dumps(fields).encode())


def test_one_field_is_enough_and_the_others_have_documented_defaults() -> None:
    assert parse(count=2) == MintOrder(lifetime=3600, count=2, limit=5000)
    assert parse(expiresIn=60_000) == MintOrder(lifetime=60, count=1, limit=5000)
    assert parse(requestLimit="7") == MintOrder(lifetime=3600, count=1, limit=7)


def test_a_request_limit_may_be_a_number() -> None:
    assert parse(requestLimit=1000).limit == 1000


@pytest.mark.parametrize("milliseconds", [60_000, 86_400_000, 60_000.5])
def test_a_lifetime_on_the_edge_is_accepted(milliseconds: float) -> None:
    assert parse(expiresIn=milliseconds).lifetime == milliseconds / 1000


@pytest.mark.parametrize(
    "value", [59_999, 86_400_001, "3600000", None, True, float("nan"), float("inf"), [], 10**400]
)
def test_a_lifetime_out_of_range_or_not_a_number_is_refused(value: object) -> None:
    with pytest.raises(MalformedError, match="expiresIn must be a number of milliseconds"):
        parse(expiresIn=value)


@pytest.mark.parametrize("count", [1, 25])
def test_a_count_on_the_edge_is_accepted(count: int) -> None:
    assert parse(count=count).count == count


@pytest.mark.parametrize("value", [0, 26, -1, 1.5, "1", None, True, {}])
def test_a_count_out_of_range_or_not_whole_is_refused(value: object) -> None:
    with pytest.raises(MalformedError, match="count must be a whole number from 1 to 25"):
        parse(count=value)


@pytest.mark.parametrize("limit", ["1", "1000000", 1, 1_000_000])
def test_a_request_limit_on_the_edge_is_accepted(limit: str | int) -> None:
    assert parse(requestLimit=limit).limit == int(limit)


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "1000001",
        "-1",
        "1.5",
        "",
        "1e3",
        " 5",
        "5\n",
        "\u0665",
        0,
        1_000_001,
        1.5,
        True,
        None,
        [],
    ],
)
def test_a_request_limit_that_is_no_positive_integer_in_range_is_refused(value: object) -> None:
    with pytest.raises(MalformedError, match="requestLimit must be a positive integer"):
        parse(requestLimit=value)


def test_no_field_at_all_is_refused() -> None:
    with pytest.raises(MalformedError, match="at least one of expiresIn, count, requestLimit"):
        parse()


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(MalformedError, match="unknown field 'expires_in'"):
        parse(count=1, expires_in=60_000)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match="body must be"):
        MintOrder.parse(body)


def test_five_mints_fit_into_a_minute_and_the_sixth_must_wait() -> None:
    window = MintWindow()
    assert [window.count(float(second)) for second in range(5)] == [0] * 5
    assert window.count(5.0) == 56


def test_the_window_slides_rather_than_starting_afresh() -> None:
    window = MintWindow()
    for second in (0.0, 50.0, 51.0, 52.0, 53.0):
        window.count(second)
    assert window.count(59.999) > 0
    window = MintWindow()
    for second in (0.0, 50.0, 51.0, 52.0, 53.0):
        window.count(second)
    assert window.count(60.0) == 0


def test_refused_mints_count_too() -> None:
    window = MintWindow()
    for _ in range(6):
        window.count(0.0)
    for _ in range(5):
        window.count(30.0)
    assert window.count(60.0) == 30


def test_whoever_waits_as_long_as_told_is_let_in() -> None:
    window = MintWindow()
    for second in (0.0, 10.0, 20.0, 30.0, 40.0):
        window.count(second)
    wait = window.count(45.5)
    assert window.count(45.5 + wait) == 0


def test_the_peak_is_the_most_in_any_window() -> None:
    window = MintWindow()
    for second in (0.0, 1.0, 2.0, 100.0, 101.0):
        window.count(second)
    assert window.peak == 3
    assert repr(window) == "<MintWindow 2 of 5, peak 3>"
