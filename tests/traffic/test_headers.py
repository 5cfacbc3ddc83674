"""Header fields: what came in, and the bytes that go out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import KEY
from proxy.errors import (
    ExpectationFailed,
    HeadersTooLarge,
    MalformedRequest,
    Refusal,
    TokenUnavailable,
    TransferCodingUnsupported,
    UpstreamInvalid,
    VersionUnsupported,
)
from proxy.tokens.known_keys import KnownKeys
from proxy.tokens.model import Secret
from proxy.traffic.headers import (
    HOP_BY_HOP,
    RequestHeaders,
    authorization,
    client_framing,
    problem_head,
    read_request,
    request_head,
    response_head,
)
from proxy.traffic.message import Framing, ResponseHead

Fields = list[tuple[bytes, bytes]]

RAW_KEY = KEY.encode()
HTTP10, HTTP11 = (1, 0), (1, 1)
HOST = (b"Host", b"api.mobula.io")
KEYS = KnownKeys()
KEYS.add(Secret(KEY))


def read(
    *fields: tuple[bytes, bytes], version: tuple[int, int] = HTTP11, most: int = 65536
) -> RequestHeaders:
    return read_request([HOST, *fields], version, KEYS, most)


def sent(*fields: tuple[bytes, bytes]) -> bytes:
    """What goes upstream of these fields, below the Host that we set."""
    head = request_head("GET", b"/", b"up:1", read(*fields))
    start = b"GET / HTTP/1.1\r\nHost: up:1\r\n"
    assert head.startswith(start)
    return head.removeprefix(start)


# To the upstream


def test_request_goes_out_with_our_host_and_a_token_in_the_last_line() -> None:
    head = request_head("GET", b"/a?b", b"api.mobula.io:8443", read((b"Accept", b"*/*")))
    assert head + authorization("the.token") == (
        b"GET /a?b HTTP/1.1\r\n"
        b"Host: api.mobula.io:8443\r\n"
        b"Accept: */*\r\n"
        b"Authorization: Bearer the.token\r\n\r\n"
    )


def test_order_and_case_of_names_and_every_value_are_kept() -> None:
    assert sent(
        (b"X-A", b"1"), (b"cookie", b"a=1"), (b"x-a", b"2"), (b"COOKIE", b"b=2"), (b"X-A", b"")
    ) == (b"X-A: 1\r\ncookie: a=1\r\nx-a: 2\r\nCOOKIE: b=2\r\nX-A: \r\n")


def test_bytes_outside_ascii_are_kept() -> None:
    assert sent((b"X-Name", b"caf\xe9 \xff\x80")) == b"X-Name: caf\xe9 \xff\x80\r\n"


def test_length_is_sent_once_and_behind_the_rest() -> None:
    assert sent((b"content-length", b"3"), (b"A", b"b")) == b"A: b\r\nContent-Length: 3\r\n"


def test_chunked_body_is_framed_anew() -> None:
    found = read((b"transfer-encoding", b" Chunked "), (b"Trailer", b"X"))
    assert found.chunked
    assert request_head("POST", b"/", b"a", found).endswith(
        b"Host: a\r\nTransfer-Encoding: chunked\r\n"
    )


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"}))
def test_hop_by_hop_field_stays_here(name: bytes) -> None:
    assert sent((name.title(), b"x"), (b"A", b"b")) == b"A: b\r\n"


def test_field_that_connection_names_stays_here() -> None:
    assert (
        sent(
            (b"X-Foo", b"1"),
            (b"Connection", b"close, x-fOO ,,X-Bar"),
            (b"X-BAR", b"2"),
            (b"A", b"b"),
        )
        == b"A: b\r\n"
    )


def test_every_connection_line_counts() -> None:
    fields = [
        (b"Connection", b"A"),
        (b"A", b"1"),
        (b"B", b"2"),
        (b"connection", b"b"),
        (b"C", b"3"),
    ]
    assert sent(*fields) == b"C: 3\r\n"


def test_connection_cannot_name_away_what_the_proxy_sets() -> None:
    found = read(
        (b"Connection", b"Host, Content-Length, Authorization, Transfer-Encoding"),
        (b"Content-Length", b"3"),
        (b"Authorization", b"Bearer x"),
    )
    head = request_head("POST", b"/", b"up", found) + authorization("token")
    assert head == (
        b"POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 3\r\nAuthorization: Bearer token\r\n\r\n"
    )


# Credentials


@pytest.mark.parametrize("value", [b"", b"anything", RAW_KEY, b"Bearer " + RAW_KEY, b"\xe9"])
@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"AUTHORIZATION",
        b"authorization",
        b"X-Api-Key",
        b"x-api-key",
        b"X-API-KEY",
        b"Proxy-Authorization",
        b"proxy-authorization",
    ],
)
def test_credential_goes_in_any_case_and_whatever_it_holds(name: bytes, value: bytes) -> None:
    found = read((name, value), (b"A", b"b"))
    assert found.lines == [b"A: b\r\n"]
    assert found.stripped == [name.decode().lower()]


@pytest.mark.parametrize(
    "value",
    [
        RAW_KEY,
        b"session=" + RAW_KEY + b"; theme=dark",
        b"https://a/?k=%6cive" + RAW_KEY[4:],
        RAW_KEY + b"\xe9",
    ],
)
def test_any_other_field_that_holds_a_known_key_goes(value: bytes) -> None:
    found = read((b"Referer", value), (b"A", b"b"))
    assert found.lines == [b"A: b\r\n"]
    assert found.stripped == ["header"]


def test_field_whose_name_holds_a_known_key_goes() -> None:
    found = read((b"X-" + RAW_KEY, b"1"), (b"A", b"b"))
    assert found.lines == [b"A: b\r\n"]
    assert found.stripped == ["header"]


TOKEN_BYTES = st.sampled_from(list(b"abcXYZ09-_.!#$%&'*+^`|~"))
NAMES = st.lists(TOKEN_BYTES, min_size=1, max_size=12).map(lambda codes: b"X" + bytes(codes))
VALUES = st.binary(max_size=30).map(lambda data: data.translate(None, b"\r\n\0").strip())


@given(st.lists(st.tuples(NAMES, VALUES), max_size=10))
def test_fields_without_a_key_pass_byte_for_byte(fields: Fields) -> None:
    assert sent(*fields) == b"".join(b"%b: %b\r\n" % field for field in fields)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), VALUES, VALUES)
def test_a_known_key_never_passes(fields: Fields, before: bytes, after: bytes) -> None:
    assert RAW_KEY not in sent(*fields, (b"X", before + RAW_KEY + after), *fields)


# Refused


@pytest.mark.parametrize(
    ("field", "version", "refusal"),
    [
        ((b"Transfer-Encoding", b"gzip, chunked"), HTTP11, TransferCodingUnsupported),
        ((b"Transfer-Encoding", b"identity"), HTTP11, TransferCodingUnsupported),
        ((b"Transfer-Encoding", b"xchunked"), HTTP11, TransferCodingUnsupported),
        ((b"Transfer-Encoding", b"chunked"), HTTP10, MalformedRequest),
        ((b"Expect", b"200-ok"), HTTP11, ExpectationFailed),
        ((b"Expect", b""), HTTP11, ExpectationFailed),
        ((b"A", b"b"), (2, 0), VersionUnsupported),
        ((b"A", b"b"), (1, 2), VersionUnsupported),
        ((b"A", b"b"), (0, 9), VersionUnsupported),
    ],
)
def test_field_or_version_that_cannot_be_served_is_refused(
    field: tuple[bytes, bytes], version: tuple[int, int], refusal: type[Refusal]
) -> None:
    with pytest.raises(refusal):
        read(field, version=version)


def test_expectation_is_remembered_and_not_sent() -> None:
    found = read((b"expect", b"100-Continue"))
    assert found.expects_continue
    assert found.lines == []


def test_expectation_of_http10_is_ignored() -> None:
    assert not read((b"Expect", b"100-continue"), version=HTTP10).expects_continue


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        ([(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")], b"websocket"),
        ([(b"upgrade", b" WebSocket"), (b"connection", b"keep-alive, upgrade")], b"websocket"),
        ([(b"Connection", b"Upgrade"), (b"Upgrade", b"h2c, websocket")], b"h2c, websocket"),
        (
            [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Upgrade", b"h2c")],
            b"h2c, websocket",
        ),
        (
            [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Upgrade", b"tcp")],
            b"tcp, websocket",
        ),
    ],
)
def test_upgrade_is_told_and_not_sent(fields: Fields, upgrade: bytes) -> None:
    found = read(*fields)
    assert found.upgrade == upgrade
    assert found.lines == []


def test_offer_of_h2c_is_ignored() -> None:
    offer = [
        (b"Connection", b"Upgrade, HTTP2-Settings"),
        (b"Upgrade", b"h2c"),
        (b"HTTP2-Settings", b"AAMAAABkAARAAAAAAAIAAAAA"),
    ]
    assert sent(*offer, (b"A", b"b")) == b"A: b\r\n"


def test_upgrade_that_connection_does_not_name_is_ignored() -> None:
    found = read((b"Upgrade", b"websocket"))
    assert (found.upgrade, found.lines) == (b"", [])


def test_header_block_may_be_as_large_as_the_limit_and_not_one_byte_more() -> None:
    field = (b"A", b"b" * 90)  # with its Host, ": " and line ends: 19 + 2 + 2 + ...
    size = sum(len(name) + len(value) + 4 for name, value in (HOST, field))
    assert read(field, most=size).lines
    with pytest.raises(HeadersTooLarge):
        read(field, most=size - 1)


# To the client


def answer(*fields: tuple[bytes, bytes], status: int = 200, **framing: object) -> ResponseHead:
    kind = framing.get("framing", Framing.CHUNKED)
    length = framing.get("length")
    assert isinstance(kind, Framing)
    assert length is None or isinstance(length, int)
    return ResponseHead(status, b"OK", list(fields), kind, length)


def relayed(
    head: ResponseHead, *, method: str = "GET", version: tuple[int, int] = HTTP11, keep: bool = True
) -> bytes:
    framing = client_framing(method, head, version)
    return response_head(method, head, framing, version, keep=keep)


def test_answer_passes_with_its_fields_in_order_and_as_they_are() -> None:
    head = answer(
        (b"set-cookie", b"a=1"), (b"X-E", b"\xe9"), (b"Set-Cookie", b"b=2"), (b"X-e", b"")
    )
    assert relayed(head) == (
        b"HTTP/1.1 200 OK\r\n"
        b"set-cookie: a=1\r\nX-E: \xe9\r\nSet-Cookie: b=2\r\nX-e: \r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )


def test_reason_passes_as_it_is() -> None:
    head = ResponseHead(299, b"caf\xe9", [], Framing.LENGTH, 0)
    assert relayed(head) == b"HTTP/1.1 299 caf\xe9\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("name", [*sorted(HOP_BY_HOP), b"x-mobula-proxy-error", b"content-length"])
def test_hop_by_hop_field_and_forged_error_of_an_answer_stay_here(name: bytes) -> None:
    head = answer((name.title(), b"x"), (b"A", b"b"))
    assert relayed(head) == b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_field_that_connection_names_in_an_answer_stays_here() -> None:
    head = answer((b"CONNECTION", b"close, X-Foo"), (b"x-foo", b"1"), (b"A", b"b"))
    assert relayed(head) == b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("kind", "version", "framing", "line"),
    [
        (Framing.CHUNKED, HTTP11, Framing.CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        (Framing.CLOSE, HTTP11, Framing.CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        (Framing.CHUNKED, HTTP10, Framing.CLOSE, b""),
        (Framing.CLOSE, HTTP10, Framing.CLOSE, b""),
        (Framing.LENGTH, HTTP11, Framing.LENGTH, b"Content-Length: 5\r\n"),
        (Framing.LENGTH, HTTP10, Framing.LENGTH, b"Content-Length: 5\r\n"),
    ],
)
def test_body_is_framed_as_the_client_can_read_it(
    kind: Framing, version: tuple[int, int], framing: Framing, line: bytes
) -> None:
    head = answer(framing=kind, length=5 if kind is Framing.LENGTH else None)
    assert client_framing("GET", head, version) is framing
    assert response_head("GET", head, framing, version, keep=False) == (
        b"HTTP/1.1 200 OK\r\n" + line + b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "status", "fields", "line"),
    [
        ("HEAD", 200, [(b"content-LENGTH", b"5")], b"Content-Length: 5\r\n"),
        ("HEAD", 200, [(b"Transfer-Encoding", b"chunked")], b""),
        ("HEAD", 200, [], b""),
        ("GET", 304, [(b"Content-Length", b"5")], b"Content-Length: 5\r\n"),
        ("GET", 304, [], b""),
        ("GET", 204, [], b""),
        ("GET", 204, [(b"Content-Length", b"0")], b""),
        ("HEAD", 204, [(b"Content-Length", b"5")], b""),
        ("GET", 205, [(b"Content-Length", b"5")], b"Content-Length: 0\r\n"),
        ("GET", 205, [(b"Transfer-Encoding", b"chunked")], b"Content-Length: 0\r\n"),
        ("HEAD", 205, [], b"Content-Length: 0\r\n"),
    ],
)
@pytest.mark.parametrize("kind", [Framing.NONE, Framing.CHUNKED])
def test_answer_without_a_body_announces_none_but_what_head_and_304_may(
    method: str, status: int, fields: Fields, line: bytes, kind: Framing
) -> None:
    head = answer(*fields, status=status, framing=kind)
    assert client_framing(method, head, HTTP11) is Framing.NONE
    assert relayed(head, method=method) == b"HTTP/1.1 %d OK\r\n%b\r\n" % (status, line)


@pytest.mark.parametrize(
    ("version", "keep", "line"),
    [
        (HTTP11, True, b""),
        (HTTP11, False, b"Connection: close\r\n"),
        (HTTP10, True, b"Connection: keep-alive\r\n"),
        (HTTP10, False, b"Connection: close\r\n"),
    ],
)
def test_client_is_told_whether_the_connection_lives(
    version: tuple[int, int], keep: bool, line: bytes
) -> None:
    head = answer(framing=Framing.LENGTH, length=0)
    assert relayed(head, version=version, keep=keep) == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + line + b"\r\n"
    )


# Our own errors


def test_problem_names_its_code_twice_and_holds_five_members() -> None:
    refusal = UpstreamInvalid("It is garbage.")
    body = refusal.problem()
    assert problem_head(refusal, body, keep=False) == (
        b"HTTP/1.1 502 Upstream answer is not valid HTTP\r\n"
        b"Content-Type: application/problem+json\r\n"
        b"Content-Length: %d\r\n"
        b"Cache-Control: no-store\r\n"
        b"X-Mobula-Proxy-Error: upstream_invalid\r\n"
        b"Connection: close\r\n\r\n" % len(body)
    )
    assert json.loads(body) == {
        "type": "urn:mobula-proxy:error:upstream_invalid",
        "title": "Upstream answer is not valid HTTP",
        "status": 502,
        "detail": "It is garbage.",
        "code": "upstream_invalid",
    }


def test_problem_says_when_to_try_again() -> None:
    refusal = TokenUnavailable("None.", retry_after=7)
    head = problem_head(refusal, b"", keep=True)
    assert head.endswith(b"X-Mobula-Proxy-Error: token_unavailable\r\nRetry-After: 7\r\n\r\n")
