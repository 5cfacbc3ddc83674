"""The exchanges of the conformance table whose transcripts do not depend on the moment.

The rows are numbered as in `test_rows.py`, which has those that do.
"""

import gzip
from typing import Any

from conformance.exchange import Exchange

MALFORMED = (400, "malformed_request")


def request(line: bytes, *fields: bytes, body: bytes = b"", host: bytes = b"a") -> bytes:
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: " + host, *fields, b"", body])


def going_up(line: bytes, *fields: bytes) -> bytes:
    return request(line, *fields, b"Authorization: Bearer *", host=b"*")


def head(status: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", b""])


OK = head(b"200 OK", b"Content-Length: 2")
CHUNKED = head(b"200 OK", b"Transfer-Encoding: chunked")
CLOSED = head(b"200 OK", b"Connection: close")


def passes(row: str, sent: bytes, goes_up: bytes, **rest: Any) -> Exchange:
    """A request that goes up; answered, if the row is not about that, with a short body."""
    usual = {"answer": OK + b"ok", "comes_down": OK, "body_down": b"ok"}
    return Exchange(row=row, sent=sent, goes_up=goes_up, **(usual | rest))


def answered(
    row: str,
    answer: bytes,
    comes_down: bytes = b"",
    body_down: bytes | None = None,
    *,
    method: bytes = b"GET",
    **rest: Any,
) -> Exchange:
    """An answer to a request that is of no interest."""
    return Exchange(
        row=row,
        sent=request(method + b" /"),
        goes_up=going_up(method + b" /"),
        answer=answer,
        comes_down=comes_down,
        body_down=body_down,
        **rest,
    )


def refused(row: str, sent: bytes, refusal: tuple[int, str] = MALFORMED, **rest: Any) -> Exchange:
    """A request of which nothing goes up, and behind which its connection ends."""
    return Exchange(row=row, sent=sent, refusal=refusal, ends=True, **rest)


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return request(b"POST /", *fields, body=body)


def chunked(body: bytes, *fields: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


UP_CHUNKED = going_up(b"POST /", b"Transfer-Encoding: chunked")
LATIN = b"X: caf\xe9"
ZIPPED = gzip.compress(b"zipped", mtime=0)
ZIPPED_HEAD = head(b"200 OK", b"Content-Encoding: gzip", b"Content-Length: %d" % len(ZIPPED))

BAD_REQUESTS = {
    "2 hex": post(b"Content-Length: 0x3", body=b"abc"),
    "2 negative": post(b"Content-Length: -3", body=b"abc"),
    "2 empty": post(b"Content-Length:", body=b"abc"),
    "2 beyond all numbers": post(b"Content-Length: 99999999999999999999"),
    "3 chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "3 two lines": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"
    ),
    "3 behind a control byte": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "6 last line": request(b"GET /", b"X: a")[:-2] + b"\n",
    "6 control byte in a name": request(b"GET /", b"X\x01: a"),
    "6 name outside ASCII": request(b"GET /", b"X\xe9: a"),
    "6 empty name": request(b"GET /", b": a"),
    "6 no colon": request(b"GET /", b"X"),
    "line: unknown method": request(b"FETCH /"),
    "line: lower case": request(b"get /"),
    "line: outside ASCII": request(b"GET /caf\xe9"),
    "line: space": request(b"GET /a b"),
    "line: star of a GET": request(b"GET *"),
    "line: port beyond all ports": request(b"GET http://a:99999/"),
    "line: open bracket": request(b"GET http://[::1/"),
    "line: version 1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "line: TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
CORPUS = [
    *(refused(row, sent) for row, sent in BAD_REQUESTS.items()),
    refused("1", post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    refused("1 reversed", chunked(b"0\r\n\r\n", b"Content-Length: 3")),
    refused("2 different", post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd")),
    refused("2 twice", post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    refused("2 listed", post(b"Content-Length: 3, 3", body=b"abc")),
    refused("2 signed", post(b"Content-Length: +3", body=b"abc")),
    refused("2 underscore", post(b"Content-Length: 3_0", body=b"abc")),
    refused("3 xchunked", post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    refused("3 identity", post(b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    refused("3 not last", post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n")),
    refused(
        "4",
        post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        (501, "transfer_coding_unsupported"),
    ),
    refused(
        "5",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    refused("6 space", post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    refused("6 fold", request(b"GET /", b"X: a", b" b")),
    refused("6 bare LF", b"GET / HTTP/1.1\nHost: a\n\n"),
    refused("6 one bare LF", request(b"GET /", b"X: a\nY: b")),
    refused("6 bare CR", request(b"GET /", b"X: a\rY: b")),
    refused("6 NUL", request(b"GET /", b"X: a\0b")),
    refused("6 control byte", request(b"GET /", b"X: a\x01b")),
    refused("6 DEL", request(b"GET /", b"X: a\x7fb")),
    passes(
        "7 leading zeros, which RFC 9112 allows",
        chunked(b"00000000000000003\r\nabc\r\n00\r\n\r\n"),
        UP_CHUNKED,
        body_up=b"abc",
    ),
    passes(
        "8 extension",
        chunked(b"3;name=value\r\nabc\r\n0\r\n\r\n"),
        UP_CHUNKED,
        body_up=b"abc",
    ),
    passes(
        "8 trailer",
        chunked(b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n", b"Trailer: X-Trailer"),
        UP_CHUNKED,
        body_up=b"abc",
    ),
    passes(
        "9",
        request(b"GET /", b"Content-Length: 3", body=b"abc"),
        going_up(b"GET /", b"Content-Length: 3"),
        body_up=b"abc",
    ),
    passes(
        "10",
        request(b"GET /", b"Connection: close, X-Foo", b"X-Foo: 1", b"X-Bar: 2"),
        going_up(b"GET /", b"X-Bar: 2"),
        comes_down=head(b"200 OK", b"Content-Length: 2", b"Connection: close"),
        ends=True,
    ),
    passes(
        "11",
        post(
            b"Connection: Host, Content-Length, Authorization",
            b"Content-Length: 3",
            b"Authorization: mine",
            body=b"abc",
        ),
        going_up(b"POST /", b"Content-Length: 3"),
        body_up=b"abc",
    ),
    passes(
        "12",
        request(b"GET /", b"X-A: 1", b"x-a: 2", b"Cookie: a=1", b"Cookie: b=2", b"X-A: 1"),
        going_up(b"GET /", b"X-A: 1", b"x-a: 2", b"Cookie: a=1", b"Cookie: b=2", b"X-A: 1"),
    ),
    passes("13", request(b"GET /", LATIN), going_up(b"GET /", LATIN)),
    answered(
        "13 answer",
        head(b"200 Fa\xe7ade", LATIN, b"Content-Length: 2") + b"ok",
        head(b"200 Fa\xe7ade", LATIN, b"Content-Length: 2"),
        b"ok",
    ),
    answered(
        "14",
        head(b"200 OK", b"set-cookie: a=1", b"X: y", b"Set-Cookie: b=2", b"Content-Length: 2")
        + b"ok",
        head(b"200 OK", b"set-cookie: a=1", b"X: y", b"Set-Cookie: b=2", b"Content-Length: 2"),
        b"ok",
    ),
    passes(
        "15",
        request(b"GET /a%2Fb//c/../d?x=%27"),
        going_up(b"GET /a%2Fb//c/../d?x=%27"),
    ),
    *(
        passes(f"16 {target.decode()}", request(b"GET " + target), going_up(b"GET " + target))
        for target in (b"/a?", b"/%zz", b"//evil/x")
    ),
    passes(
        "17 another Host",
        request(b"GET http://a:8080/x?y", host=b"other"),
        going_up(b"GET /x?y"),
    ),
    passes("18", request(b"OPTIONS *"), going_up(b"OPTIONS *")),
    refused("19 no Host", b"GET / HTTP/1.1\r\n\r\n"),
    refused("19 two Hosts", request(b"GET /", b"Host: b")),
    refused("19 one Host twice", request(b"GET /", b"Host: a")),
    *(
        refused(f"19 Host {host.decode()!r}", request(b"GET /", host=host))
        for host in (b"", b"a b", b"a/@x", b"@x", b"a:b", b"a,b/c", b"[::1", b"a:99999999")
    ),
    refused(
        "20 path",
        request(b"POST /api/2/auth/tokens", b"Expect: 100-continue", b"Content-Length: 3"),
        (403, "auth_path_denied"),
        asks=True,
        body_up=b"abc",
    ),
    refused(
        "20 unknown expectation",
        post(b"Expect: 102-wait", b"Content-Length: 3"),
        (417, "expectation_failed"),
        asks=True,
        body_up=b"abc",
    ),
    passes(
        "21",
        post(b"Expect: 100-continue", b"Content-Length: 3"),
        going_up(b"POST /", b"Content-Length: 3"),
        body_up=b"abc",
        asks=True,
    ),
    answered(
        "22",
        head(b"200 OK", b"Content-Length: 5"),
        head(b"200 OK", b"Content-Length: 5"),
        method=b"HEAD",
    ),
    answered("23 204", head(b"204 No Content"), head(b"204 No Content")),
    answered(
        "23 304",
        head(b"304 Not Modified", b"ETag: x"),
        head(b"304 Not Modified", b"ETag: x"),
    ),
    answered(
        "23 304 with a length",
        head(b"304 Not Modified", b"Content-Length: 5"),
        head(b"304 Not Modified", b"Content-Length: 5"),
    ),
    answered(
        "23 205",
        head(b"205 Reset Content", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head(b"205 Reset Content", b"Content-Length: 0"),
    ),
    answered(
        "24",
        head(b"200 OK", b"Content-Length: 10") + b"abc",
        head(b"200 OK", b"Content-Length: 10"),
        closes=True,
        cut=True,
    ),
    *(
        answered(f"25 {name}", CHUNKED + body, CHUNKED, closes=True, cut=True)
        for name, body in {
            "no last chunk": b"3\r\nabc\r\n",
            "half a last chunk": b"1\r\na\r\n0\r\n",
            "half a trailer": b"1\r\na\r\n0\r\nT: 1\r\n",
            "half a chunk": b"ff\r\nabc",
        }.items()
    ),
    passes(
        "26",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        going_up(b"GET /"),
        answer=CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        comes_down=CLOSED,
        body_down=b"abc",
        ends=True,
    ),
    passes(
        "27",
        request(b"GET /", b"Accept-Encoding: gzip"),
        going_up(b"GET /", b"Accept-Encoding: gzip"),
        answer=ZIPPED_HEAD + ZIPPED,
        comes_down=ZIPPED_HEAD,
        body_down=ZIPPED,
    ),
    refused(
        "30",
        request(b"CONNECT other:443") + request(b"GET /behind"),
        (405, "method_denied"),
    ),
    *(
        answered(f"beside: {name}", answer, refusal=(502, "upstream_invalid"))
        for name, answer in {
            "101 unasked": head(b"101 Switching Protocols", b"Upgrade: x"),
            "control byte": head(b"200 OK", b"X: a\x01b", b"Content-Length: 0"),
            "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "fold": head(b"200 OK", b"X: a", b" b", b"Content-Length: 0"),
            "two lengths": head(b"200 OK", b"Content-Length: 1", b"Content-Length: 2"),
            "length and chunked": head(
                b"200 OK", b"Content-Length: 5", b"Transfer-Encoding: chunked"
            ),
            "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        }.items()
    ),
    answered("chunked", CHUNKED + b"3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n", CHUNKED, b"abc"),
    answered("until the close", head(b"200 OK") + b"abc", CHUNKED, b"abc", closes=True),
    answered(
        "interim heads",
        head(b"100 Continue") + head(b"103 Early Hints", b"Link: </x>") + OK + b"ok",
        OK,
        b"ok",
    ),
]
