"""Known keys: where static keys are found, in every form, and cut out."""

import urllib.parse

import pytest

from proxy.tokens.known_keys import KEYS_REMEMBERED, KnownKeys
from proxy.tokens.model import Secret

VALUE = "4f9c2e1a-static-key/with+signs=~"


def known(*values: str) -> KnownKeys:
    keys = KnownKeys()
    for value in values or (VALUE,):
        keys.add(Secret(value))
    return keys


def percent(text: str, form: str = "%%%02x") -> bytes:
    return "".join(form % ord(each) for each in text).encode()


FORMS = {
    "plain": VALUE.encode(),
    "as a form is encoded": urllib.parse.quote(VALUE, safe="").encode(),
    "wholly encoded in lower case": percent(VALUE),
    "wholly encoded in upper case": percent(VALUE, "%%%02X"),
    "encoded in mixed case": VALUE.replace("/", "%2f").replace("+", "%2B").encode(),
    "encoded in part": percent(VALUE[:5]) + VALUE[5:].encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_found_and_cut_in_every_form(form: str) -> None:
    data = b"/path?a=1&k=" + FORMS[form] + b"&z=2"
    assert known().occur_in(data)
    assert known().cut_from(data) == b"/path?a=1&k=&z=2"


def test_every_occurrence_is_cut() -> None:
    data = b"-".join(FORMS.values())
    assert known().cut_from(data) == b"-" * (len(FORMS) - 1)


@pytest.mark.parametrize(
    "data", [b"", b"/api/1/market/data?asset=Bitcoin", VALUE[:-1].encode(), b"%2f%zz%", b"%34f9"]
)
def test_what_is_not_the_key_is_neither_found_nor_cut(data: bytes) -> None:
    assert not known().occur_in(data)
    assert known().cut_from(data) == data


def test_a_key_with_signs_that_patterns_use_is_taken_literally() -> None:
    assert known("a.c*(x)[1]").occur_in(b"-a.c*(x)[1]-")
    assert not known("a.c*(x)[1]").occur_in(b"-abc*(x)[1]-")


def test_former_keys_are_found_too() -> None:
    keys = known("former-key", "present-key")
    assert keys.occur_in(b"x former-key x")
    assert keys.cut_from(b"former-key,present-key") == b","


def test_a_key_that_is_added_twice_is_remembered_once() -> None:
    assert repr(known("one", "one")) == "<KnownKeys 1>"


def test_the_oldest_of_many_former_keys_is_forgotten() -> None:
    keys = known(*(f"key-{number:03}" for number in range(KEYS_REMEMBERED + 1)))
    assert repr(keys) == f"<KnownKeys {KEYS_REMEMBERED}>"
    assert not keys.occur_in(b"key-000")
    assert keys.occur_in(b"key-001")
    assert keys.occur_in(b"key-%03d" % KEYS_REMEMBERED)


def test_what_stands_for_a_key_is_found_however_many_keys_come_after_it() -> None:
    keys = KnownKeys()
    keys.keep(Secret("placeholder"))
    for number in range(KEYS_REMEMBERED + 1):
        keys.add(Secret(f"key-{number:03}"))
    assert keys.occur_in(b"x placeholder x")
    assert keys.cut_from(b"placeholder,%70laceholder") == b","


def test_no_key_shows_in_what_is_known() -> None:
    assert VALUE not in repr(known())
