"""The placeholder: who shows it is let in, wherever apps put what they take for their key."""

from base64 import b64encode

import pytest

from proxy.tokens.model import Secret
from proxy.traffic.placeholder import Placeholder

VALUE = b"mobula-proxy-placeholder"
PLACEHOLDER = Placeholder(Secret(VALUE.decode()))


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
def test_who_shows_it_in_a_header_is_let_in(name: bytes, value: bytes) -> None:
    assert PLACEHOLDER.is_shown([(b"Host", b"a"), (name, value)])


@pytest.mark.parametrize("query", [b"api_key=%b", b"a=b&apiKey=%b&c", b"x-api-key=%b"])
def test_who_shows_it_as_a_parameter_is_let_in(query: bytes) -> None:
    assert PLACEHOLDER.is_shown([], b"/x?" + query % VALUE)


def test_who_shows_it_percent_encoded_is_let_in() -> None:
    encoded = b"".join(b"%%%02x" % each for each in VALUE)
    assert PLACEHOLDER.is_shown([], b"/?api_key=" + encoded)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Authorization", b""),
        (b"Authorization", VALUE[:-1]),
        (b"Authorization", VALUE + b"x"),
        (b"Authorization", b"Bearer"),
        (b"Authorization", b"Basic " + VALUE),
        (b"Authorization", b"Basic " + b64encode(VALUE)),
        (b"Authorization", b"Basic \xff"),
        (b"Authorization", b"\xff\xfe"),
        (b"Cookie", VALUE),
        (b"X-Other", VALUE),
    ],
)
def test_who_does_not_show_it_is_not(name: bytes, value: bytes) -> None:
    assert not PLACEHOLDER.is_shown([(name, value)], b"/x?api_key=other&name=" + VALUE)


def test_right_credential_beside_a_wrong_one_is_enough() -> None:
    headers = [(b"Authorization", b"an-app's-own"), (b"Proxy-Authorization", b"Bearer " + VALUE)]
    assert PLACEHOLDER.is_shown(headers)


def test_it_does_not_show_itself() -> None:
    assert VALUE.decode() not in repr(PLACEHOLDER)
