"""The head of a CONNECT: bytes in, a place or a refusal out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import HeadersTooLarge, MalformedRequest, Misdirected, Refusal, VersionUnsupported
from proxy.traffic.connect import read_connect
from proxy.traffic.target import Place

PLACE = Place("api.mobula.io", 443)


def connect(*lines: bytes, target: bytes = b"api.mobula.io:443", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((b"CONNECT %b HTTP/%b" % (target, version), *lines, b"", b""))


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"Host: api.mobula.io:443",),
        (b"host: API.mobula.io",),
        (b"Host: api.mobula.io:443", b"Proxy-Connection: keep-alive", b"User-Agent: x"),
        (b"Content-Length: 0",),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_host_and_port_are_read(lines: tuple[bytes, ...], version: bytes) -> None:
    assert read_connect(connect(*lines, version=version), 8).place == PLACE


def test_header_fields_come_with_their_names_in_small_letters() -> None:
    asked = read_connect(connect(b"Proxy-Authorization: Basic eDp5"), 8)
    assert asked.headers == [(b"proxy-authorization", b"Basic eDp5")]


@pytest.mark.parametrize(
    "target",
    [
        b"api.mobula.io",
        b"api.mobula.io:",
        b"api.mobula.io:0",
        b"api.mobula.io:65536",
        b"api.mobula.io:x",
        b":443",
        b".:443",
        b"/",
        b"*",
        b"https://api.mobula.io:443",
        b"user@api.mobula.io:443",
        b"[::1:443",
    ],
)
def test_target_that_is_no_host_and_port_is_malformed(target: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_connect(connect(target=target), 8)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Host : api.mobula.io",
        b" folded",
        b"X: a\nY: b",
        b"X: \x00",
        b"no colon",
    ],
)
def test_body_and_what_parsers_read_differently_are_malformed(line: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_connect(connect(line), 8)


@pytest.mark.parametrize(
    "host", [b"demo-api.mobula.io", b"api.mobula.io:80", b"", b"a b", b"api.mobula.io.evil.test"]
)
def test_host_header_that_names_another_place_is_misdirected(host: bytes) -> None:
    with pytest.raises(Misdirected):
        read_connect(connect(b"Host: " + host), 8)


def test_second_host_header_must_agree_too() -> None:
    with pytest.raises(Misdirected):
        read_connect(connect(b"Host: api.mobula.io", b"Host: evil.test"), 8)


def test_other_versions_of_http_are_not_spoken() -> None:
    with pytest.raises(VersionUnsupported):
        read_connect(connect(version=b"2.0"), 8)


def test_too_many_header_fields_are_refused() -> None:
    with pytest.raises(HeadersTooLarge):
        read_connect(connect(*[b"X: y"] * 9), 8)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_name_a_place(data: bytes) -> None:
    try:
        place = read_connect(b"CONNECT " + data + b"\r\n\r\n", 8).place
    except Refusal:
        return
    assert place.host
    assert place.port
