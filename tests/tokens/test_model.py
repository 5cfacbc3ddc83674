"""The values of the room; above all, that a secret shows itself to nobody."""

import copy
import dataclasses
import traceback

import pytest

from proxy.tokens.model import Lease, MintFault, Revoke, Secret
from tokens.kit import token

VALUE = "eyJ-the-value-nobody-may-see"


@pytest.mark.parametrize(
    "shown",
    [
        repr(Secret(VALUE)),
        str(Secret(VALUE)),
        f"{Secret(VALUE)}",
        f"{Secret(VALUE)!r}",
        f"{Secret(VALUE)!s}",
        "%s %r" % (Secret(VALUE), Secret(VALUE)),  # noqa: UP031 - one of the ways to show it
        "{}".format(Secret(VALUE)),  # noqa: UP032 - one of the ways to show it
        repr([Secret(VALUE)]),
        repr({"key": Secret(VALUE)}),
    ],
)
def test_a_secret_redacts_itself(shown: str) -> None:
    assert VALUE not in shown
    assert "***" in shown


def test_only_reveal_shows_a_secret() -> None:
    assert Secret(VALUE).reveal() == VALUE


def test_a_secret_cannot_be_formatted_to_a_width_either() -> None:
    with pytest.raises(TypeError) as caught:
        format(Secret(VALUE), ">40")
    assert VALUE not in str(caught.value)


def test_values_that_hold_a_secret_do_not_show_it() -> None:
    held = dataclasses.replace(token("a"), secret=Secret(VALUE), key=Secret(VALUE))
    for value in (held, Lease(1, held, 1), Revoke(held)):
        assert VALUE not in repr(value)


def test_a_traceback_that_names_a_secret_does_not_show_it() -> None:
    secret = Secret(VALUE)
    try:
        raise ValueError(secret)
    except ValueError as error:
        caught = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert secret.reveal() == VALUE
    assert VALUE not in "".join(caught.format()).replace(f"VALUE = {VALUE!r}", "")


def test_a_secret_has_no_dict_to_look_into() -> None:
    assert not hasattr(Secret(VALUE), "__dict__")


def test_a_copy_of_a_secret_redacts_itself_too() -> None:
    assert VALUE not in repr(copy.deepcopy(Secret(VALUE)))


def test_equal_secrets_are_equal_and_hash_alike() -> None:
    assert Secret("a") == Secret("a")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.mark.parametrize("other", [Secret("b"), Secret("ab"), Secret(""), "a", None])
def test_a_secret_equals_nothing_else(other: object) -> None:
    assert Secret("a") != other


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("proxy.tokens.model.hmac.compare_digest", compare)
    assert Secret("a") == Secret("a")
    assert compared == [(b"a", b"a")]


@pytest.mark.parametrize(
    ("fault", "unclear"),
    [
        (MintFault("504", "the gateway gave up"), True),
        (MintFault("timeout", "no answer"), True),
        (MintFault("429", "too many"), False),
        (MintFault("redirect", "elsewhere"), False),
        (MintFault("connect", "nobody there", sent=False), False),
    ],
)
def test_a_call_that_mobula_did_not_refuse_may_have_made_tokens(
    fault: MintFault, unclear: bool
) -> None:
    assert fault.unclear is unclear
