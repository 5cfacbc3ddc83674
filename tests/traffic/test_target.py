"""The request target: bytes in, bytes out."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness import KEY
from proxy.errors import MalformedRequest, MethodDenied
from proxy.tokens.key import KnownKeys, parse_key
from proxy.traffic.target import is_host, manages_tokens, origin_form, without_keys

RAW_KEY = KEY.encode()
ENCODED_KEY = "".join(f"%{ord(each):02x}" for each in KEY).encode()


def known_keys(*values: str) -> KnownKeys:
    keys = KnownKeys()
    for value in values or (KEY,):
        keys.add(parse_key(value, "the test"))
    return keys


KEYS = known_keys()


# Its form


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a%2Fb//c/../d?x=%27",
        b"/a?",
        b"/%zz",
        b"//evil/x",
        b"/a?b?c#d",
        b"/caf\xe9",
        b"/http://other/x",
        b"/*",
    ],
)
def test_path_is_returned_byte_for_byte(target: bytes) -> None:
    assert origin_form("GET", target) == target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://api.mobula.io:8080/a%2Fb?c", b"/a%2Fb?c"),
        (b"HTTPS://API.mobula.io/x", b"/x"),
        (b"http://[::1]:80/x", b"/x"),
        (b"http://a", b"/"),
        (b"http://a?b=c", b"/?b=c"),
        (b"http://a//b/../c", b"//b/../c"),
        (b"http://a/http://b/", b"/http://b/"),
    ],
)
def test_absolute_target_loses_its_authority_and_nothing_else(
    target: bytes, expected: bytes
) -> None:
    assert origin_form("GET", target) == expected


@pytest.mark.parametrize("target", [b"*", b"http://a"])
def test_options_for_the_whole_server_stays_a_star(target: bytes) -> None:
    assert origin_form("OPTIONS", target) == b"*"


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"",
        b"a/b",
        b"?a",
        b"ftp://a/b",
        b"http:///x",
        b"http://",
        b"http:/a",
        b"http://user@a/",
        b"http://user:secret@a/",
        b"http://a b/",
        b"http://a:b/",
        b"http://a:80:90/",
        b"http://[::1/",
        b"\xff",
    ],
)
def test_target_that_is_no_path_and_no_http_url_is_malformed(target: bytes) -> None:
    with pytest.raises(MalformedRequest):
        origin_form("GET", target)


@pytest.mark.parametrize("target", [b"a:443", b"/", b"http://a/"])
def test_connect_is_denied_whatever_its_target(target: bytes) -> None:
    with pytest.raises(MethodDenied):
        origin_form("CONNECT", target)


@pytest.mark.parametrize(
    "value", [b"a", b"api.mobula.io", b"a:80", b"a:", b"[::1]", b"[::1]:80", b"127.0.0.1:8080"]
)
def test_host_with_or_without_port_is_well_formed(value: bytes) -> None:
    assert is_host(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a b",
        b"@x",
        b"u@x",
        b"a/b",
        b"a?b",
        b"a:b",
        b"a:123456",
        b"[::1",
        b"::1",
        b"a\xe9",
        b"a\n",
    ],
)
def test_anything_else_is_no_host(value: bytes) -> None:
    assert not is_host(value)


# What it may not reach


@pytest.mark.parametrize(
    "target",
    [
        b"/api/2/auth",
        b"/api/2/auth/",
        b"/api/2/auth/tokens",
        b"/api/2/auth/tokens/some-id",
        b"/api/2/auth/token?token=x",
        b"/api/2/auth?x",
        b"/api/2/auth#x",
        b"/api/2/auth/../x",
        b"/API/2/Auth/tokens",
        b"/api/2/%61uth/tokens",
        b"/%61%70%69/%32/%41%55%54%48",
        b"/api/2/%2561uth",
        b"/api/2/%252561uth",
        b"/api%2F2%2Fauth",
        b"/api%252f2%252Fauth",
        b"//api//2//auth//",
        b"/./api/./2/./auth",
        b"/%2e/api/2/auth",
        b"/x/../api/2/auth",
        b"/api/1/%2e%2e/2/auth",
        b"/api/1/%2E./2/auth",
        b"/../../api/2/auth",
        b"/api/2/x/y/../../auth",
        rb"\api\2\auth",
        rb"/api\2/auth",
        b"/api/2%5Cauth",
        rb"/api/2/x\..\auth",
        b"/api;a=b/2;c/auth;d=e/tokens",
        b"/api/2/..;/2/auth",
        b"/api/2/auth%20",
        b"/api/2/ auth",
        b"/api/2/auth%09/tokens",
        b"/api/2/auth%00",
        b"/api/2/auth./tokens",
    ],
)
def test_token_endpoint_is_recognised_however_it_is_spelled(target: bytes) -> None:
    assert manages_tokens(target)


@pytest.mark.parametrize(
    ("target", "reading"),
    [
        (b"/api/2//../auth", "an empty segment counts as one"),
        (b"/api/2/x%2fy/%2e%2e/auth", "dots are decoded and slashes are not"),
        (b"/api/2/x%5Cy/../auth", "a backslash is no separator"),
        (rb"/api/2/x\y/../auth", "a backslash is no separator"),
        (b"/api/2/;x/../auth", "parameters make a segment"),
        (b"/api/2/auth/tokens%2f..%2f..%2f..", "slashes are not decoded"),
        (b"/api/2/auth/tokens/../..", "dots are not resolved"),
        (b"/api;%2fx/2/auth", "parameters are cut before decoding"),
    ],
)
def test_spelling_that_only_some_servers_take_for_a_token_endpoint_is_recognised(
    target: bytes, reading: str
) -> None:
    assert manages_tokens(target), reading


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"*",
        b"/api",
        b"/api/2",
        b"/api/2/authx",
        b"/api/2/xauth/tokens",
        b"/api/2/author",
        b"/api/1/auth",
        b"/api/22/auth",
        b"/x/api/2/auth",
        b"/api/2/token/details?path=/api/2/auth",
        b"/api/1/market/data?asset=%61uth",
        b"/api/2/token/auth",
        b"/auth/2/api",
        b"/api/1/search/auth%20token",
        b"/api/1/a/../b%20c",
    ],
)
def test_other_target_is_no_token_endpoint(target: bytes) -> None:
    assert not manages_tokens(target)


@given(
    st.lists(
        st.sampled_from(
            [b"/", b"//", b"/./", b"/x/../", b"/%2e/", b"%2f", b"%5c", b"\\", b"/x/%2E%2e/"]
        ),
        min_size=3,
        max_size=3,
    ),
    st.integers(0, 2),
)
def test_token_endpoint_is_recognised_in_every_mix_of_spellings(
    marks: list[bytes], depth: int
) -> None:
    target = b"".join(
        mark + name for mark, name in zip(marks, (b"api", b"2", b"AUTH"), strict=True)
    )
    for _again in range(depth):
        target = target.replace(b"%", b"%25")
    assert manages_tokens(target)


@given(st.binary(max_size=60))
def test_any_bytes_are_judged_without_an_error(target: bytes) -> None:
    manages_tokens(target)
    without_keys(target, KEYS)


# Keys that stand in it


@pytest.mark.parametrize(
    "name", ["api_key", "apiKey", "api-key", "x-api-key", "apikey", "X_API_KEY"]
)
@pytest.mark.parametrize("value", ["", "=", "=whatever", "=%20x"])
def test_parameter_named_like_a_key_goes_whatever_it_holds(name: str, value: str) -> None:
    parameter = (name + value).encode()
    assert without_keys(b"/a?%b" % parameter, KEYS) == (b"/a", ["query"])
    assert without_keys(b"/a?b=1&%b&c=%%2F" % parameter, KEYS) == (b"/a?b=1&c=%2F", ["query"])


@pytest.mark.parametrize(
    "name",
    [
        b"%61pi_key",
        b"api%5Fkey",
        b"api%5fkey",
        b"%41PI%2Dkey",
        b"%78-api-key",
        b"api%4Bey",
        b"api+key",
    ],
)
def test_parameter_name_is_recognised_behind_percent_encoding(name: bytes) -> None:
    assert without_keys(b"/a?%b=x&b" % name, KEYS) == (b"/a?b", ["query"])


@pytest.mark.parametrize(
    "key", [RAW_KEY, ENCODED_KEY, ENCODED_KEY.upper(), RAW_KEY[:5] + ENCODED_KEY[15:]]
)
def test_parameter_that_holds_a_known_key_goes_whatever_its_name(key: bytes) -> None:
    assert without_keys(b"/a?b=1&c=x%bx&d" % key, KEYS) == (b"/a?b=1&d", ["query"])
    assert without_keys(b"/a?%b" % key, KEYS) == (b"/a", ["query"])


@pytest.mark.parametrize("key", [RAW_KEY, ENCODED_KEY])
def test_known_key_is_cut_out_of_a_path(key: bytes) -> None:
    assert without_keys(b"/a/%b/b?c=%%2F" % key, KEYS) == (b"/a//b?c=%2F", ["path"])


def test_key_in_path_and_query_is_reported_for_both() -> None:
    target = b"/%b?api_key=%b" % (RAW_KEY, RAW_KEY)
    assert without_keys(target, KEYS) == (b"/", ["query", "path"])


def test_key_that_spans_parameters_is_cut_out() -> None:
    keys = known_keys("one&two=three")
    assert without_keys(b"/a?b=one&two=three&c", keys) == (b"/a?b=&c", ["path"])


def test_key_is_not_put_together_by_cutting_another_one_out() -> None:
    target = b"/%b%b%b/" % (RAW_KEY[:9], RAW_KEY, RAW_KEY[9:])
    assert without_keys(target, KEYS) == (b"//", ["path"])


def test_every_key_that_was_ever_known_is_found() -> None:
    keys = known_keys("the-first-key", "the-second-key")
    assert without_keys(b"/the-first-key?a=the-second-key", keys) == (b"/", ["query", "path"])


@pytest.mark.parametrize(
    "target",
    [
        b"/a?",
        b"/a?&&",
        b"/a?b&&c&",
        b"/a?=&=x",
        b"/a?monkey=1&keys=2&key=3",
        b"/a?api=key",
        b"/a?b=api_key",
        b"/api_key/x",
        b"/a?my_api_key=1",
        b"/%zz?%",
        b"/a?b?api_key=1",
        b"*",
        RAW_KEY[:-1],
    ],
)
def test_target_without_a_key_stays_as_it_is(target: bytes) -> None:
    assert without_keys(target, KEYS) == (target, [])


PIECES = st.one_of(
    st.sampled_from(
        [b"?", b"&", b"=", b"%", b"%2F", b"/", b"//", b"+", b"key", b"api", b"#", b";"]
    ),
    st.binary(min_size=1, max_size=4),
)


@given(st.lists(PIECES, max_size=12).map(b"".join))
@example(b"/a%2Fb//c/../d?x=%27")
def test_bytes_without_a_key_are_returned_identical(target: bytes) -> None:
    query = target.partition(b"?")[2]
    if b"key" in query.lower() or b"%" in query:
        target = target.replace(b"key", b"sea").replace(b"%", b"$")
    assert without_keys(target, KEYS) == (target, [])


@given(
    st.lists(PIECES.filter(lambda piece: b"?" not in piece), max_size=4).map(b"".join),
    st.lists(st.sampled_from([b"a=%27", b"", b"b", b"c=d=e", b"%6bey=%zz"]), max_size=5),
    st.integers(0, 5),
)
def test_only_the_parameter_with_the_key_goes(
    path: bytes, parameters: list[bytes], place: int
) -> None:
    spoilt = [*parameters[:place], b"z=" + RAW_KEY, *parameters[place:]]
    clean = path + (b"?" + b"&".join(parameters) if parameters else b"")
    assert without_keys(path + b"?" + b"&".join(spoilt), KEYS) == (clean, ["query"])
