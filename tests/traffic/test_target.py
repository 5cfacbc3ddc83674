"""The request target: bytes in, bytes out."""

import re
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness import KEY
from proxy.errors import HostDenied, MalformedRequest, MethodDenied, Misdirected
from proxy.network.guard import Guard
from proxy.tokens.known_keys import KnownKeys
from proxy.tokens.model import Secret
from proxy.traffic.target import (
    Entrance,
    Names,
    Place,
    Route,
    is_below,
    is_host,
    manages_tokens,
    read_place,
    select,
    without_keys,
)

RAW_KEY = KEY.encode()
ENCODED_KEY = "".join(f"%{ord(each):02x}" for each in KEY).encode()


def known_keys(*values: str) -> KnownKeys:
    keys = KnownKeys()
    for value in values or (KEY,):
        keys.add(Secret(value))
    return keys


KEYS = known_keys()

FIRST, SECOND, THIRD = "api.mobula.io", "demo-api.mobula.io", "localhost:9000"
NAMES = Names([FIRST, SECOND, THIRD])
ANY = Guard(private=True)
REVERSE = Entrance(FIRST)
FORWARD = Entrance(FIRST, forwards=True, others=ANY)
DENYING = Entrance(FIRST, forwards=True)
PINNED = Entrance(SECOND, pinned=frozenset({SECOND}))
TORN = Entrance(SECOND, pinned=frozenset())


def origin_form(method: str, target: bytes) -> bytes:
    """The target as an upstream gets it, whatever the entrance."""
    paths = {select(NAMES, each, method, target, None).target for each in (REVERSE, FORWARD)}
    (path,) = paths
    return path


# Which upstream it is for


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"api.mobula.io", FIRST),
        (b"demo-api.mobula.io", SECOND),
        (b"DEMO-API.Mobula.io", SECOND),
        (b"demo-api.mobula.io.", SECOND),
        (b"demo-api.mobula.io:8080", SECOND),
        (b"localhost:9000", THIRD),
        (b"localhost:09000", THIRD),
        (b"localhost:9001", FIRST),
        (b"localhost", FIRST),
        (b"x.demo-api.mobula.io", FIRST),
        (b"demo-api.mobula.io.evil.test", FIRST),
        (b"127.0.0.1:8080", FIRST),
        (b"a" * 300, FIRST),
        (b"demo-api%2emobula.io", FIRST),
        (None, FIRST),
    ],
)
def test_reverse_listener_goes_by_host_and_else_to_its_own_upstream(
    host: bytes | None, expected: str
) -> None:
    assert select(NAMES, REVERSE, "GET", b"/x", host) == Route(b"/x", expected)


def test_listener_bound_to_another_upstream_sends_what_names_none_there() -> None:
    assert select(NAMES, Entrance(SECOND), "GET", b"/x", b"127.0.0.1").upstream == SECOND


@pytest.mark.parametrize("entrance", [REVERSE, FORWARD, DENYING])
def test_absolute_target_goes_before_host(entrance: Entrance) -> None:
    route = select(NAMES, entrance, "GET", b"http://demo-api.mobula.io/x", b"api.mobula.io")
    assert route == Route(b"/x", SECOND)


@pytest.mark.parametrize("target", [b"http://other.test:81/x?y", b"http://OTHER.test.:81/x?y"])
def test_forward_listener_sends_an_absolute_target_to_another_host(target: bytes) -> None:
    route = select(NAMES, FORWARD, "GET", target, b"api.mobula.io")
    assert route == Route(b"/x?y", other=(Place("other.test", 81), ANY))


def test_forward_listener_that_denies_other_hosts_says_so() -> None:
    with pytest.raises(HostDenied):
        select(NAMES, DENYING, "GET", b"http://other.test/x", b"api.mobula.io")


def test_secure_target_at_another_host_is_not_sent_in_clear() -> None:
    with pytest.raises(HostDenied):
        select(NAMES, FORWARD, "GET", b"https://other.test/x", b"other.test")


def test_secure_target_at_an_upstream_goes_there() -> None:
    assert select(NAMES, FORWARD, "GET", b"https://api.mobula.io/x", None).upstream == FIRST


def test_reverse_listener_takes_no_other_host_from_a_target() -> None:
    assert select(NAMES, REVERSE, "GET", b"http://other.test/x", None) == Route(b"/x", FIRST)


def test_path_on_a_forward_listener_is_served_as_on_a_reverse_one() -> None:
    assert select(NAMES, FORWARD, "GET", b"/x", b"127.0.0.1:8080") == Route(b"/x", FIRST)


@pytest.mark.parametrize("host", [b"demo-api.mobula.io", b"demo-api.mobula.io:443", None])
def test_pinned_connection_serves_its_own_upstream(host: bytes | None) -> None:
    assert select(NAMES, PINNED, "GET", b"/x", host) == Route(b"/x", SECOND)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"/x", b"api.mobula.io"),
        (b"/x", b"other.test"),
        (b"http://api.mobula.io/x", b"demo-api.mobula.io"),
        (b"http://other.test/x", b"demo-api.mobula.io"),
    ],
)
def test_pinned_connection_serves_no_other(target: bytes, host: bytes) -> None:
    with pytest.raises(Misdirected):
        select(NAMES, PINNED, "GET", target, host)


@pytest.mark.parametrize("host", [b"demo-api.mobula.io", b"api.mobula.io", None])
def test_connection_whose_connect_and_server_name_differ_serves_nothing(
    host: bytes | None,
) -> None:
    with pytest.raises(Misdirected):
        select(NAMES, TORN, "GET", b"/x", host)


HOSTS = st.one_of(
    st.sampled_from([FIRST, SECOND, THIRD, "localhost", "other.test", "127.0.0.1", "[::1]"]),
    st.from_regex(r"[a-zA-Z0-9._~!$&'()*+,;=%-]{1,12}", fullmatch=True),
    st.ip_addresses(v=6).map(lambda each: f"[{each}]"),
)
PORTS = st.one_of(
    st.just(""), st.sampled_from([":", ":80", ":443", ":9000", ":09000", ":0"]),
    st.integers(0, 99999).map(":{}".format),
)  # fmt: skip
AUTHORITIES = st.builds("{}{}".format, HOSTS, PORTS)
PATHS = st.from_regex(r"(/[a-zA-Z0-9/%@:.?#]{0,12})?", fullmatch=True)
TARGETS = st.one_of(
    st.builds("{}://{}{}".format, st.sampled_from(["http", "https", "HTTP"]), AUTHORITIES, PATHS),
    PATHS.filter(bool),
)


@given(target=TARGETS, host=AUTHORITIES)
@example(target="http://api.mobula.io#@evil.test/", host="a")
@example(target="http://api.mobula.io?@evil.test/", host="a")
@example(target="//evil.test/x", host="a")
def test_selector_takes_what_another_parser_takes_for_the_host(target: str, host: str) -> None:
    """If it goes to an upstream other than the listener's own, `urllib` reads that one's name."""
    try:
        route = select(NAMES, FORWARD, "GET", target.encode(), host.encode())
    except (HostDenied, MalformedRequest):
        return
    read = urlsplit(target if not target.startswith("/") else f"http://{host}{target}")
    said = (read.hostname or "").lower().removesuffix(".")
    if route.other is not None:
        assert same_host(route.other[0].host, said)
        assert said not in (FIRST, SECOND)
    elif route.upstream != FIRST:
        assert said == route.upstream.partition(":")[0]


def same_host(one: str, other: str) -> bool:
    return one == other or (":" in one and ip_address(one) == ip_address(other))


@given(
    target=TARGETS,
    host=st.none() | AUTHORITIES,
    pinned=st.frozensets(st.sampled_from([FIRST, SECOND, THIRD])),
)
def test_pinned_connection_never_serves_what_it_is_not_pinned_to(
    target: str, host: str | None, pinned: frozenset[str]
) -> None:
    entrance = Entrance(SECOND, pinned=pinned, forwards=True, others=ANY)
    raw_host = None if host is None else host.encode()
    try:
        route = select(NAMES, entrance, "GET", target.encode(), raw_host)
    except (Misdirected, MalformedRequest):
        return
    assert route.other is None
    assert route.upstream in pinned


@given(st.binary(max_size=40), st.none() | st.binary(max_size=20))
def test_selector_refuses_or_routes_whatever_it_is_given(target: bytes, host: bytes | None) -> None:
    for entrance in (REVERSE, FORWARD, DENYING, PINNED, TORN):
        try:
            route = select(NAMES, entrance, "GET", target, host)
        except (MalformedRequest, HostDenied, Misdirected):
            continue
        assert bool(route.upstream) != bool(route.other)
        assert target.endswith(route.target.removeprefix(b"/"))


@pytest.mark.parametrize("host", [b"", b"a b", b"@x", b"u@a", b"a/b", b"a:b", b"a,b:c", b"[::1"])
@pytest.mark.parametrize("target", [b"/x", b"http://demo-api.mobula.io/x"])
def test_malformed_host_is_refused_whatever_the_target(target: bytes, host: bytes) -> None:
    for entrance in (REVERSE, FORWARD, DENYING, PINNED, TORN):
        with pytest.raises(MalformedRequest):
            select(NAMES, entrance, "GET", target, host)


@pytest.mark.parametrize(
    "text",
    [
        b"[::1",
        b"[1::2::3]",
        b"[1]",
        b"",
        b".",
        b":80",
        b".:80",
        b"a b",
        b"[::1]x",
        b"a:0",
        b"a:65536",
        b"api.mobula.io..",
        b"169.254.169.254..:80",
        b"..",
        b"[::1]:99999",
    ],
)
def test_what_is_no_host_is_no_place(text: bytes) -> None:
    assert read_place(text) is None


def test_place_of_an_address_has_one_form() -> None:
    assert read_place(b"[0:0::0:1]:80") == read_place(b"[::1]:80") == Place("::1", 80)
    assert str(Place("::1", 80)) == "[::1]:80"


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


# What is below a prefix, however it is read

PREFIX = b"/api/1/market"


@pytest.mark.parametrize(
    "target",
    [
        PREFIX,
        PREFIX + b"/",
        PREFIX + b"/data?x=/../..",
        PREFIX + b"/a%20b/%C3%A9/.well-known/a..b/x;v=1",
        PREFIX + b"/?/..",
    ],
)
def test_plain_path_is_below(target: bytes) -> None:
    assert is_below(target, [b"/other", PREFIX])


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"/",
        b"/api/1",
        b"/api/1/marketing",
        b"/api/1/market;x",
        b"/api/1/market#/../x",
        b"/API/1/market",
        b"//api/1/market",
        b"/api/1/%6darket",
        PREFIX + b"/../wallet",
        PREFIX + b"/x/../../wallet",
        PREFIX + b"/..;x=1/wallet",
        PREFIX + b"/%2e%2e/wallet",
        PREFIX + b"/%252e%25252e/wallet",
        PREFIX + b"/x%2f..%2f..%2fwallet",
        PREFIX + b"/..\\wallet",
        PREFIX + b"/%5c..%5cwallet",
        PREFIX + b"/..%00/wallet",
        PREFIX + b"/..%20/wallet",
        PREFIX + b"/a#/../../wallet",
        PREFIX + b"/a%23/../../wallet",
        PREFIX + b"/a%3f/../../wallet",
        PREFIX + b"//wallet",
        PREFIX + b"/.",
    ],
)
def test_path_that_may_lead_elsewhere_is_not_below(target: bytes) -> None:
    assert not is_below(target, [b"/other", PREFIX])


@pytest.mark.parametrize(("target", "below"), [(b"/x", True), (b"/", True), (b"/../x", False)])
def test_root_has_all_paths_below_it(target: bytes, below: bool) -> None:
    assert is_below(target, [b""]) is below


@pytest.mark.parametrize("target", [b"", b"*"])
def test_what_is_no_path_is_not_below_the_root_either(target: bytes) -> None:
    assert not is_below(target, [b""])


def resolved(path: bytes) -> bytes:
    """Resolve dot segments (RFC 3986, section 5.2.4)."""
    kept: list[bytes] = []
    for each in path.split(b"/")[1:]:
        if each == b"..":
            kept[-1:] = []
        elif each != b".":
            kept.append(each)
    return b"/" + b"/".join(kept)


STEPS: dict[str, Callable[[bytes], bytes]] = {
    "decode": unquote_to_bytes,
    "resolve": resolved,
    "collapse": lambda path: re.sub(rb"/+", b"/", path),
    "take \\ for /": lambda path: path.replace(b"\\", b"/"),
    "cut parameters": lambda path: re.sub(rb";[^/]*", b"", path),
    "cut all behind ;": lambda path: path.partition(b";")[0],
    "cut the fragment": lambda path: path.partition(b"#")[0],
    "cut the query": lambda path: path.partition(b"?")[0],
    "end at NUL": lambda path: path.partition(b"\0")[0],
    "trim blanks": lambda path: b"/".join(each.strip(b" \t\0") for each in path.split(b"/")),
}
"""What servers do with a path, in some order; dots and slashes that come of it are resolved too."""

ATOMS = st.sampled_from(
    rb"/ // . .. /../ a \ ; ;p # % 2e %2e %2E %2f %5c %3b %23 %3f %00 %20 %25 %252e %252f".split()
)


@given(
    st.lists(ATOMS, max_size=10).map(b"".join),
    st.lists(st.sampled_from([name for name in STEPS if name != "decode"]), max_size=8),
    st.lists(st.integers(0, 8), max_size=3),
)
@example(b"/..;/x", ["cut parameters"], [])
@example(b"/a#/../../x", [], [])
@example(b"/%2e%2e%2fx", [], [0])
@settings(max_examples=500)
def test_what_is_below_stays_below_in_every_reading(
    rest: bytes, steps: list[str], decodings: list[int]
) -> None:
    """Servers decode up to three times, at any time."""
    path = PREFIX + rest
    if not is_below(path, [PREFIX]):
        return
    for place in decodings:
        steps = [*steps[:place], "decode", *steps[place:]]
    for each in ["cut the query", *steps, "resolve"]:
        path = STEPS[each](path)
    assert path == PREFIX or path.startswith(PREFIX + b"/")
