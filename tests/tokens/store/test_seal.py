"""The seal: what a store keeps of a token is of no use without the fleet's secret."""

import pytest

from proxy.tokens.model import Secret
from proxy.tokens.store.seal import Seal

KEY = Secret("static-key-of-the-tests")
VALUE = Secret("eyJhbGciOiJIUzI1NiJ9.payload.signature")
T = "token-t"


def test_a_process_with_the_same_secret_opens_it() -> None:
    assert Seal(KEY).open(T, Seal(KEY).close(T, VALUE)) == VALUE


def test_a_value_of_any_letters_is_sealed_as_it_is() -> None:
    value = Secret("naïve 値")
    assert Seal(KEY).open(T, Seal(KEY).close(T, value)) == value


def test_another_secret_does_not_open_it() -> None:
    assert Seal(Secret("another key")).open(T, Seal(KEY).close(T, VALUE)) is None


def test_it_does_not_open_for_another_token() -> None:
    """Whoever writes to the store cannot pass one token off as another."""
    assert Seal(KEY).open("token-u", Seal(KEY).close(T, VALUE)) is None


def test_no_part_of_it_opens() -> None:
    seal = Seal(KEY)
    sealed = seal.close(T, VALUE)
    assert [seal.open(T, sealed[:size]) for size in range(len(sealed))] == [None] * len(sealed)


def test_it_does_not_open_with_any_bit_changed() -> None:
    seal = Seal(KEY)
    sealed = seal.close(T, VALUE)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert seal.open(T, bytes(changed)) is None


def test_it_is_different_each_time() -> None:
    seal = Seal(KEY)
    sealed = {seal.close(T, VALUE) for _ in range(100)}
    assert len({each[:12] for each in sealed}) == len(sealed) == 100


def test_nothing_of_the_value_stands_in_it() -> None:
    sealed = Seal(KEY).close(T, VALUE)
    for part in VALUE.reveal().split("."):
        assert part.encode() not in sealed


@pytest.mark.parametrize("secret", ["", "s", "static-key-of-the-tests", "x" * 5000])
def test_a_shelf_has_a_name_of_one_kind_whatever_the_secret(secret: str) -> None:
    name = Seal(Secret(secret)).shelf
    assert len(name) == 24
    assert set(name) <= set("0123456789abcdef")


def test_the_same_secret_finds_the_same_shelf_and_no_other_does() -> None:
    secrets = ["static-key-of-the-tests", "static-key-of-the-test", "Static-key-of-the-tests"]
    names = {Seal(Secret(each)).shelf for each in secrets for _ in range(2)}
    assert len(names) == len(secrets)


def test_a_seal_shows_its_shelf_only() -> None:
    seal = Seal(KEY)
    assert repr(seal) == f"<Seal of shelf {seal.shelf}>"
    assert KEY.reveal() not in repr(seal)
