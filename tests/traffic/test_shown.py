"""What a client shows: where credentials are looked for, in which forms, and what finds them."""

from base64 import b64encode
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tokens.known_keys import KnownKeys
from proxy.tokens.model import Secret
from proxy.traffic.shown import TO_A_PROXY, TO_AN_API, AndShown, shown_in

VALUE = b"a-clients-token+/="
ENCODED = b"".join(b"%%%02x" % each for each in VALUE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Authorization", VALUE),
        (b"authorization", b"Bearer " + VALUE),
        (b"AUTHORIZATION", b"bearer  " + VALUE),
        (b"X-Api-Key", VALUE),
        (b"Proxy-Authorization", b"Basic " + b64encode(b"anyone:" + VALUE)),
        (b"Proxy-Authorization", b"Bearer " + VALUE),
    ],
)
def test_header_shows_it_bare_as_a_bearer_or_as_a_password(name: bytes, value: bytes) -> None:
    assert shown_in([(b"Host", b"a"), (name, value)], TO_AN_API) == [VALUE]


@pytest.mark.parametrize("query", [b"api_key=%b", b"a=b&apiKey=%b&c", b"x-api-key=%b"])
def test_parameter_for_keys_shows_it_percent_encoded_too(query: bytes) -> None:
    assert shown_in([], TO_AN_API, query % ENCODED) == [VALUE]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Authorization", b""),
        (b"Authorization", b"Bearer"),
        (b"Authorization", b"Basic " + b64encode(VALUE)),
        (b"Authorization", b"Basic \xff"),
        (b"Cookie", VALUE),
        (b"X-Other", VALUE),
    ],
)
def test_what_stands_elsewhere_or_is_none_is_not_shown(name: bytes, value: bytes) -> None:
    assert shown_in([(name, value)], TO_AN_API, b"name=" + VALUE) == []


def test_all_that_is_shown_is_found() -> None:
    headers = [(b"Authorization", b"an-apps-own"), (b"Proxy-Authorization", b"Bearer " + VALUE)]
    assert shown_in(headers, TO_AN_API) == [b"an-apps-own", VALUE]


def test_only_what_is_for_a_proxy_is_looked_at_where_the_rest_is_for_another_host() -> None:
    headers = [(b"Authorization", b"an-apps-own"), (b"Proxy-Authorization", b"Bearer " + VALUE)]
    assert shown_in(headers, TO_A_PROXY) == [VALUE]


def test_no_more_than_a_few_are_looked_at() -> None:
    headers = [(b"X-Api-Key", b"%d" % number) for number in range(100)]
    assert len(shown_in(headers, TO_AN_API)) == 8


# What finds them again


def finder(*keys: str) -> AndShown:
    known = KnownKeys()
    for each in keys:
        known.add(Secret(each))
    return AndShown(known, VALUE)


@pytest.mark.parametrize("form", [VALUE, ENCODED, ENCODED.upper(), b"%61" + VALUE[1:]])
def test_shown_credential_is_found_and_cut_in_every_form(form: bytes) -> None:
    assert finder().occur_in(b"x" + form + b"y")
    assert finder().cut_from(b"x" + form + b"y") == b"xy"


def test_static_keys_are_found_beside_it() -> None:
    assert finder("static-key").occur_in(b"a static-key b")
    assert finder("static-key").cut_from(b"a static-key b" + VALUE) == b"a  b"
    assert not finder("static-key").occur_in(b"100%25 of static-ke")


@given(
    st.sampled_from([b"ab", b"aba", b"%41b", b"%", b"a%25"]),
    st.lists(st.sampled_from([b"a", b"b", b"%", b"%61", b"%62", b"41", b"25", b"/"]), max_size=12),
)
def test_cutting_it_over_and_over_ends_when_it_occurs_no_more(
    shown: bytes, pieces: list[bytes]
) -> None:
    data, found = b"".join(pieces), AndShown(KnownKeys(), shown)
    while found.occur_in(data):
        shorter = found.cut_from(data)
        assert len(shorter) < len(data)
        data = shorter
    assert shown not in data
    assert shown not in unquote_to_bytes(data)


def test_it_does_not_show_what_it_finds() -> None:
    assert VALUE.decode() not in repr(finder())
