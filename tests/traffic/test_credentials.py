"""Credentials in messages: which strings a token replaces, and which keys are found elsewhere."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import MessageDenied
from proxy.tokens.known_keys import KnownKeys
from proxy.tokens.model import Secret
from proxy.traffic.credentials import around_credentials, deny_keys, with_token

KEY = 'static/key-"1"\\2'
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJ4In0.c2ln_bmF0-dXJl"

SPACE = st.text(" \t\r\n", max_size=2)
OTHER_NAMES = st.sampled_from(["Authorization", "authorization ", "type", "é", ""])
NAMES = st.just("authorization") | OTHER_NAMES
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
VALUES = st.text(max_size=9) | NESTED


def known() -> KnownKeys:
    keys = KnownKeys()
    keys.add(Secret(KEY))
    return keys


@st.composite
def spellings(draw: st.DrawFn, text: str) -> str:
    """A string as JSON may write it: each character as it is, or escaped."""
    written = ""
    for char in text:
        ways = [json.dumps(char, ensure_ascii=False)[1:-1], json.dumps(char)[1:-1]]
        if ord(char) < 0x10000:
            ways += [f"\\u{ord(char):04x}", f"\\u{ord(char):04X}"]
        written += draw(st.sampled_from(ways))
    return f'"{written}"'


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """A JSON object: the pieces around its credentials, and the credentials as they are written."""
    pieces, credentials = [draw(SPACE) + "{" + draw(SPACE)], []
    for number in range(draw(st.integers(0, 4))):
        name, value = draw(NAMES), draw(VALUES)
        comma = f"{draw(SPACE)},{draw(SPACE)}" if number else ""
        pieces[-1] += comma + draw(spellings(name)) + f"{draw(SPACE)}:{draw(SPACE)}"
        if name == "authorization" and isinstance(value, str):
            credentials.append(draw(spellings(value)))
            pieces.append("")
        else:
            pieces[-1] += json.dumps(value, ensure_ascii=draw(st.booleans()))
    pieces[-1] += draw(SPACE) + "}" + draw(SPACE)
    return pieces, credentials


def encoded(pieces: list[str]) -> list[bytes]:
    return [each.encode() for each in pieces]


@given(messages())
def test_every_credential_is_cut_out_and_no_other_byte(
    message: tuple[list[str], list[str]],
) -> None:
    pieces, credentials = message
    whole = pieces[0] + "".join(map("".join, zip(credentials, pieces[1:], strict=True)))
    json.loads(whole)
    assert around_credentials(whole.encode()) == encoded(pieces)


@given(messages())
def test_a_message_with_a_token_is_the_same_json_but_for_its_credentials(
    message: tuple[list[str], list[str]],
) -> None:
    pieces, credentials = message
    whole = pieces[0] + "".join(map("".join, zip(credentials, pieces[1:], strict=True)))
    sent = with_token(around_credentials(whole.encode()), TOKEN)
    expected = [
        (name, TOKEN) if name == "authorization" and isinstance(value, str) else (name, value)
        for name, value in json.loads(whole, object_pairs_hook=list)
    ]
    assert json.loads(sent, object_pairs_hook=list) == expected


@given(st.text())
def test_any_text_is_one_piece_or_an_object_with_credentials(text: str) -> None:
    pieces = around_credentials(text.encode())
    assert pieces == [text.encode()] or "authorization" in json.loads(text)


@pytest.mark.parametrize(
    "message",
    [
        '["authorization", "a"]',
        '[{"authorization": "a"}]',
        '"authorization"',
        '{"payload": {"authorization": "a"}}',
        '{"payload": "{\\"authorization\\": \\"a\\"}"}',
        '{"authorization": null}',
        '{"authorization": ["a"]}',
        '{"authorization": "a"',
        '{"authorization": "a"} x',
        '{"authorization": "a",}',
        '{"authorization" "a"}',
        '{"authorization": "a" "b": "c"}',
        '{"authorization": "a\n"}',
        "{'authorization': 'a'}",
        '{1: "authorization"}',
        "authorization\\",
        '{authorization: "a"}',
        "\ufeff" + '{"authorization": "a"}',
        "",
    ],
)
def test_what_is_no_object_with_a_credential_at_its_top_stays_whole(message: str) -> None:
    assert around_credentials(message.encode()) == [message.encode()]


def test_each_of_several_credentials_is_cut_out() -> None:
    message = b'{"authorization":"a","type":"market", "authorization" : "b"}'
    assert around_credentials(message) == [
        b'{"authorization":',
        b',"type":"market", "authorization" : ',
        b"}",
    ]


def test_numbers_of_any_length_are_no_obstacle() -> None:
    digits = b"9" * 10_000
    message = b'{"a":%b.%be%b,"authorization":"a"}' % (digits, digits, digits)
    assert len(around_credentials(message)) == 2


def test_what_is_nested_too_deeply_to_be_searched_is_denied() -> None:
    message = b'{"a":%b%b,"authorization":"a"}' % (b"[" * 200_000, b"]" * 200_000)
    with pytest.raises(MessageDenied, match="too deeply"):
        around_credentials(message)


def test_a_token_is_put_in_as_json_whatever_it_holds() -> None:
    sent = with_token([b'{"authorization":', b"}"], 'a"b\\c')
    assert json.loads(sent) == {"authorization": 'a"b\\c'}


# Keys elsewhere


@st.composite
def hidden_keys(draw: st.DrawFn) -> bytes:
    """The key in a string of JSON, which stands in a string of JSON, and so on."""
    text = draw(spellings(KEY))
    for _ in range(draw(st.integers(0, 2))):
        text = draw(spellings(text))
    return text.encode()


@given(hidden_keys(), st.binary(max_size=9), st.binary(max_size=9))
def test_a_key_is_found_in_json_however_it_is_escaped(
    hidden: bytes, before: bytes, behind: bytes
) -> None:
    with pytest.raises(MessageDenied):
        deny_keys([b"{}", before + b" " + hidden + behind], known())


@pytest.mark.parametrize("around", [b"", b"\x00\xff\x80", b'{"a": 1}', b"\\", b"%"])
def test_a_key_is_found_among_any_bytes_plain_and_percent_encoded(around: bytes) -> None:
    percent = "".join(f"%{byte:02x}" for byte in KEY.encode()).encode()
    for written in (KEY.encode(), percent):
        with pytest.raises(MessageDenied):
            deny_keys([around + written + around], known())


@given(st.binary() | st.text().map(str.encode))
def test_what_holds_no_key_is_not_denied(data: bytes) -> None:
    deny_keys([data], known())


def test_no_refusal_repeats_the_message() -> None:
    with pytest.raises(MessageDenied) as caught:
        deny_keys([KEY.encode()], known())
    assert KEY not in caught.value.detail
