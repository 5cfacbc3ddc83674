r"""Where the fuzzer starts: one input for each thing worth knowing, written to be read.

They are inputs like all others: `script` tells what the bytes of the first two targets mean, and
`settings_loader` those of the third.
"""

from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    close,
    frame,
)
from harness import KEY

CUT, MANY, WAIT, END, RESET = b"\xff|", b"\xff*", b"\xff~", b"\xff.", b"\xff!"
STATIC_KEY = KEY.encode()

POST = b"POST /a HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def _options(*bits: int) -> bytes:
    return bytes([sum(1 << bit for bit in bits)])


# --- Requests ------------------------------------------------------------------------------------

_EARLY, _CHUNKED, _CLOSING, _INTERIM, _WIDELY, _LATE, _UNREAD = map(_options, range(7))
_PLAIN = b"\0"

REQUESTS = [
    # One request, however it is cut.
    _PLAIN + GET + b"\r\n",
    _PLAIN + b"GET /a HT" + CUT + b"TP/1.1\r\nHo" + CUT + b"st: a\r\n\r" + CUT + b"\n",
    _WIDELY
    + b"\r\n\r\nGET /a?b=c&d HTTP/1.1\r\nHost: api.mobula.io:80\r\nX-A: \xe9\r\nx-a:  b \r\n\r\n",
    _CHUNKED + b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n",
    _CLOSING + b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    _INTERIM + b"DELETE http://b.test:8080/x%2F//y/../z?q#f HTTP/1.1\r\nHost: other\r\n\r\n",
    _PLAIN + b"GET / HTTP/1.0\r\n\r\n",
    _CHUNKED + b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + CUT + GET + b"\r\n",
    # Bodies.
    _PLAIN + POST + b"Content-Length: 5\r\n\r\nhello" + GET + b"\r\n",
    _PLAIN + POST + b"Content-Length: 5\r\n\r\nhel" + CUT + b"lo" + CUT + GET + b"\r\n",
    _PLAIN + POST + CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n" + GET + b"\r\n",
    _PLAIN + POST + CHUNKED + b"0\r\nT: u\r\n\r\n" + CUT + GET + b"\r\n",
    _PLAIN + POST + CHUNKED + b"3\r" + CUT + b"\nab" + CUT + b"c\r\n0\r\n" + CUT + b"\r\n",
    _PLAIN + POST + CHUNKED + b"4\r\nmany\r\n" + MANY + b"0\r\n\r\n",
    _PLAIN
    + b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n"
    + b"a" * 300
    + CUT
    + b"b" * 200,
    _PLAIN + GET + b"Content-Length: 3\r\n\r\nabc",
    _PLAIN + POST + b"Content-Length: 0\r\n\r\n" + GET + b"\r\n",
    _EARLY + POST + b"Content-Length: 9\r\n\r\nhello" + CUT + b"late" + GET + b"\r\n",
    _EARLY + POST + CHUNKED + b"3\r\nabc\r\n" + CUT + b"0\r\n\r\n" + GET + b"\r\n",
    _PLAIN + POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n" + CUT + b"ok",
    _UNREAD + POST + CHUNKED + b"190\r\n" + b"a" * 400 + b"\r\n" + MANY + b"0\r\n\r\n",
    _UNREAD
    + POST
    + CHUNKED
    + b"190\r\n"
    + b"a" * 400
    + b"\r\n"
    + MANY
    + WAIT
    + WAIT
    + b"0\r\n\r\n",
    _UNREAD + POST + CHUNKED + b"190\r\n" + b"a" * 400 + b"\r\n" + MANY + RESET,
    _options(0, 6) + POST + CHUNKED + b"190\r\n" + b"a" * 400 + b"\r\n" + MANY + b"0\r\n\r\n",
    # Pipelines.
    _PLAIN + (GET + b"\r\n") * 3,
    _PLAIN + GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",
    _PLAIN + GET + b"\r\n" + MANY,
    # Credentials and keys.
    _PLAIN + GET + b"Authorization: Bearer x\r\nX-Api-Key: y\r\nProxy-Authorization: z\r\n\r\n",
    _PLAIN
    + GET
    + b"Authorization: "
    + STATIC_KEY
    + b"\r\nX-B: 1"
    + STATIC_KEY
    + b"\r\nX-C: 2\r\n\r\n",
    _PLAIN
    + b"GET /"
    + STATIC_KEY
    + b"?api_key=x&b=c&d="
    + STATIC_KEY
    + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    _PLAIN + b"GET /%6c" + STATIC_KEY[1:] + b"?%61pikey=x HTTP/1.1\r\nHost: a\r\n\r\n",
    _PLAIN + b"GET /api/2/auth/tokens HTTP/1.1\r\nHost: a\r\n\r\n" + CUT + GET + b"\r\n",
    _PLAIN + b"GET /x/..;/api/2/%61uth/tokens HTTP/1.1\r\nHost: a\r\n\r\n",
    # What is about one connection only.
    _PLAIN
    + GET
    + b"Connection: X-Foo, host, authorization, keep-alive\r\nX-Foo: 1\r\nX-Bar: 2\r\n\r\n",
    _PLAIN
    + GET
    + b"TE: trailers\r\nTrailer: a\r\nKeep-Alive: b\r\nProxy-Connection: close\r\n\r\n",
    _PLAIN + GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + GET + b"\r\n",
    _PLAIN + GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + CUT + GET + b"\r\n",
    (_PLAIN + GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + POST)
    + (b"Content-Length: 24\r\n\r\n" + CUT + b"GET /a HTTP/1.0\r\nX: 1\r\n\r\n"),
    _PLAIN + GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + GET + b"\r\n",
    _PLAIN + HANDSHAKE + CUT + GET + b"\r\n",
    _WIDELY + HANDSHAKE[:-2] + b"Sec-WebSocket-Protocol: a, b\r\n\r\n" + b"\x81\x80abcd",
    # What is refused, with something behind it that must not be served.
    *(
        _PLAIN + refused + GET + b"\r\n"
        for refused in (
            POST + b"Content-Length: 3\r\n" + CHUNKED + b"0\r\n\r\n",
            POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            POST + b"Content-Length: +3\r\n\r\nabc",
            POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.0\r\n" + CHUNKED + b"0\r\n\r\n",
            POST + CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
            POST + CHUNKED + b"3\nabc\r\n0\r\n\r\n",
            POST + CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
            POST + CHUNKED + b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
            GET + b"X: a\r\n b\r\n\r\n",
            GET + b"X: a\nY: b\r\n\r\n",
            GET + b"X: a\0b\r\n\r\n",
            GET + b"Host: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a b/@x\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET relative HTTP/1.1\r\nHost: a\r\n\r\n",
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            POST + b"Expect: 200-maybe\r\nContent-Length: 2\r\n\r\nok",
            b"GET /" + b"a" * 600 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            GET + b"X: " + b"a" * 2048 + b"\r\n\r\n",
            GET + b"X: 1\r\n" * 33 + b"\r\n",
        )
    ),
    # Clients that are slow, or leave.
    _PLAIN + POST + b"Content-Length: 9\r\n\r\nhello" + WAIT + b"the" + WAIT + b"re",
    _PLAIN + POST + b"Content-Length: 9\r\n\r\nhello" + WAIT + WAIT,
    _PLAIN + b"GET / HT" + WAIT + b"TP/1.1\r\nHost: a\r\n\r\n",
    _PLAIN + POST + b"Content-Length: 9\r\n\r\nhello" + END,
    _PLAIN + POST + CHUNKED + b"3\r\nabc\r\n" + RESET,
    _PLAIN + GET + b"\r\n" + END,
    _WIDELY + GET + b"\r\n" + GET + RESET,
    _LATE + GET + b"\r\n" + RESET,
    _LATE + GET + b"\r\n" + CUT + POST + b"Content-Length: 9\r\n\r\nhello" + END,
    _LATE + POST + b"Content-Length: 9\r\n\r\nhello" + WAIT + b"late" + RESET,
    _options(4, 5) + GET + b"\r\n" + WAIT + GET + b"\r\n" + RESET,
]

# --- Answers -------------------------------------------------------------------------------------

_GET, _HEAD, _POST, _HELD = (bytes([each]) for each in range(4))
_OLD, _LAST, _FRESH, _SLOW = (_options(bit) for bit in (2, 3, 5, 6))
_GET_REVOKED, _POST_REVOKED, _HELD_REVOKED = _options(7), _options(1, 7), _options(0, 1, 7)
_OLD_KEPT_WIDE = _options(2, 4)

ANSWERS = [
    # One answer, however it is framed and cut.
    _GET + OK + b"Content-Length: 2\r\nX-A: \xe9\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nok",
    _GET
    + b"HTTP/1.1 2"
    + CUT
    + b"00 OK\r\nContent-Len"
    + CUT
    + b"gth: 2\r\n\r"
    + CUT
    + b"\no"
    + CUT
    + b"k",
    _GET + OK + CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n",
    _FRESH + OK + CHUNKED + b"3\r" + CUT + b"\nab" + CUT + b"c\r\n0\r\n" + CUT + b"\r\n",
    _GET + OK + b"\r\nto the " + CUT + b"end" + END,
    _GET + OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok",
    _LAST + b"HTTP/1.0 200 OK\r\n\r\nold" + END,
    _GET + b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    _POST
    + b"HTTP/1.1 201 Created\r\nLocation: /b\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\n\r\n",
    _OLD + OK + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    _OLD_KEPT_WIDE + OK + b"Content-Length: 2\r\n\r\nok",
    # Answers without a body.
    _HEAD + OK + b"Content-Length: 5\r\n\r\n",
    _HEAD + OK + CHUNKED,
    _GET + b"HTTP/1.1 204 No Content\r\n\r\n",
    _GET + b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
    _GET + b"HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nno",
    # Interim answers, and one to a request that is not whole.
    _GET
    + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    + CUT
    + OK
    + b"Content-Length: 0\r\n\r\n",
    _HELD + b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
    _HELD + b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno" + END,
    _GET + b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + OK + b"Content-Length: 0\r\n\r\n",
    # Refusals.
    *(
        method + b"HTTP/1.1 %d Refused\r\nContent-Length: 2\r\n\r\n" % status + CUT + b"no"
        for method in (_GET, _POST, _HELD, _GET_REVOKED, _POST_REVOKED, _HELD_REVOKED)
        for status in (401, 403, 429)
    ),
    # Surplus.
    _GET + OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 6\r\n\r\nsecond",
    _GET + OK + b"Content-Length: 2\r\n\r\nok" + CUT + OK + b"Content-Length: 6\r\n\r\nsecond",
    _GET + OK + CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + b"\r\n",
    _GET + OK + CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + CUT + b"\r\n",
    _HEAD + OK + b"Content-Length: 5\r\n\r\nhello",
    # Cut short.
    _GET + OK + b"Content-Length: 10\r\n\r\nhel" + CUT + b"lo" + END,
    _GET + OK + b"Content-Length: 10\r\n\r\nhello" + RESET,
    _GET + OK + CHUNKED + b"5\r\nhello\r\n" + END,
    _OLD + OK + b"\r\nhello" + RESET,
    _GET + b"HTTP/1.1 200 O" + END,
    _GET + END,
    _POST + END,
    _GET + RESET,
    _GET + OK + b"Content-Length: 5\r\n\r\nhe" + WAIT + b"ll" + WAIT + WAIT + b"o",
    _GET + WAIT + WAIT + WAIT + OK + b"Content-Length: 0\r\n\r\n",
    # Large, to a client that is slow.
    _SLOW + OK + CHUNKED + b"190\r\n" + b"a" * 400 + b"\r\n" + MANY + b"0\r\n\r\n",
    _SLOW + OK + b"Content-Length: 400000\r\n\r\n" + CUT + b"b" * 400 + MANY,
    _SLOW + OK + b"\r\n" + CUT + b"b" * 400 + MANY + WAIT + WAIT + WAIT + WAIT + WAIT + WAIT + END,
    # What is refused.
    *(
        _GET + refused
        for refused in (
            b"ICY 200 OK\r\n\r\n",
            b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 099 Low\r\n\r\n",
            OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            OK + b"Content-Length: 2, 2\r\n\r\nok",
            OK + b"Content-Length: 2\r\n" + CHUNKED + b"0\r\n\r\n",
            OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"0\r\n\r\n",
            OK + b"X: a\r\n b\r\n\r\n",
            OK + b"X: a\nY: b\r\n\r\n",
            OK + b"X: \1\r\n\r\n",
            OK + b"X : a\r\n\r\n",
            OK + CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
            OK + CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
            OK + b"X: " + b"a" * 2048 + b"\r\n\r\n",
        )
    ),
]

# --- WebSockets ----------------------------------------------------------------------------------


def _up(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame, whose mask leaves it as it is."""
    return frame(opcode, data, fin=fin, mask=b"\0\0\0\0")


_CLIENT, _UPSTREAM, _CLIENT_WIDE = _options(), _options(0), _options(1)
_CLOSE = _up(CLOSE, close(4001, b"enough"))
_SHOWN = b'{"type": "market", "authorization": "mine", "payload": {"authorization": "in"}}'

FRAMES = [
    # Messages, however they are cut.
    _CLIENT + _up(TEXT, b"hello") + _up(BINARY, b"\0\xff\xfe") + _up(TEXT),
    _UPSTREAM + frame(TEXT, b"hello") + frame(BINARY, b"\0\xff\xfe") + frame(TEXT),
    _CLIENT + b"\x81" + CUT + b"\x85masked" + CUT + b"hel",
    _CLIENT_WIDE
    + _up(TEXT, b"a" * 200)
    + _up(PING, b"ping")
    + _up(PONG)
    + _up(CLOSE, close(4001, b"x")),
    _UPSTREAM + frame(TEXT, b"a" * 200) + CUT + frame(PING, b"ping") + frame(CLOSE),
    _CLIENT
    + _up(TEXT, b"he", fin=False)
    + _up(PING)
    + CUT
    + _up(CONTINUATION, b"llo")
    + _up(CLOSE),
    _UPSTREAM + frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\xa9") + END,
    _CLIENT + _up(TEXT, b"many") + MANY,
    _CLIENT + _up(TEXT, b"slow") + WAIT * 8,
    _UPSTREAM + frame(TEXT, b"gone") + RESET,
    # Credentials.
    _CLIENT + _up(TEXT, _SHOWN) + _up(TEXT, b'{"authorization": "a", "authorization": "b"}'),
    _CLIENT + _up(TEXT, b'{"\\u0061uthorization": "a", "b": [1.0, 1e999, null]}'),
    _CLIENT + _up(TEXT, b'["authorization"]') + _up(TEXT, b'{"authorization": {"a": 1}}'),
    _CLIENT + _up(TEXT, b'{"authorization": "' + STATIC_KEY + b'"}') + _up(TEXT, STATIC_KEY),
    _CLIENT + _up(BINARY, STATIC_KEY),
    _CLIENT + _up(TEXT, b'{"a": "\\u006c' + STATIC_KEY[1:] + b'", "authorization": ""}'),
    _CLIENT + _up(TEXT, b'{"authorization": ' + b"[" * 400 + b"]" * 400 + b"}"),
    _UPSTREAM + frame(TEXT, b'{"authorization": "' + STATIC_KEY + b'"}'),
    # What breaks the protocol, with something behind it.
    *(
        _CLIENT + _up(TEXT, b"good") + broken + _up(TEXT, b"bad")
        for broken in (
            frame(TEXT, b"not masked"),
            _up(TEXT, b"\xff\xfe"),
            _up(CONTINUATION, b"of nothing"),
            _up(TEXT, b"a", fin=False) + _up(TEXT, b"b"),
            _up(PING, b"", fin=False),
            _up(PING, b"a" * 126),
            _up(3, b"unknown"),
            b"\xc1\x80\0\0\0\0",
            _up(TEXT, b"a" * 1025),
            b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
            _up(CLOSE, b"\x03"),
            _up(CLOSE, close(1005)),
            _up(CLOSE, close(1000, b"\xff")),
        )
    ),
    _UPSTREAM + frame(TEXT, b"good") + _up(TEXT, b"masked"),
    _UPSTREAM + frame(TEXT, b"good") + CUT + frame(TEXT, b"\xff") + frame(TEXT, b"bad"),
]

# --- Settings ------------------------------------------------------------------------------------

_VARIABLE, _FLAG = b"\xffE", b"\xffS"
_SECRET_FLAG, _SECRET_VARIABLE, _SECRET_IN_FILE, _SECRET_URL, _SECRET_STORE = (
    b"\xffk",
    b"\xffe",
    b"\xffy",
    b"\xffu",
    b"\xffs",
)
_SECRET_TOKENS = b"\xffc"

SETTINGS = [
    b"",
    b"# nothing\n",
    b"\xef\xbb\xbftoken: {standby: 2, expires_in: 1h30m}\n",
    b"token:\n  request_limit: 100\n  on_exit: keep\n  wait: 1.5\n",
    b"upstreams:\n  A.test: {url: 'https://[::1]:8443/v2/', queue: 0}\n  b.test:9000: {}\n",
    b"listeners:\n- {bind: '127.0.0.1:0'}\n- {bind: unix:/run/a.sock, upstream: api.mobula.io}\n",
    b"admin: {bind: '[::1]:9091'}\nlimits: {header_bytes: 16KiB, replay_bytes: 1MB}\n",
    b"log: {level: debug, format: json, access: yes}\nshutdown: {drain: 0.5s, revoke: 30s}\n",
    b"upstreams: {a.test: {url: 'http://b.test', insecure: true, ca_file: /a}}\nstore: {url: memory://}\n",
    _FLAG
    + b"token.standby=3"
    + _FLAG
    + b"upstreams.api.mobula.io.queue=5"
    + _FLAG
    + b"log.level=warning",
    _FLAG + b'listeners=[{"bind": "127.0.0.1:0"}]' + _FLAG + b"admin.bind=[::1]:0",
    _VARIABLE + b"MOBULA_PROXY__TOKEN__WAIT=3s" + _VARIABLE + b"MOBULA_PROXY__LOG={level: error}",
    _VARIABLE + b"MOBULA_PROXY_TOKEN__WAIT=3s" + _VARIABLE + b"MOBULA_PROXY__=x",
    # What is refused.
    b"a: &x [1]\nb: *x\n",
    b"a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    b"a: 1\na: 2\n",
    b"? [1]\n: 2\n",
    b"- 1\n",
    b"a: [",
    b"token: {standbye: 1}\nlimits: {wait: 2s}\n",
    b"token: {standby: -1, expires_in: 1s, request_limit: 1e9, wait: .inf}\n",
    b"limits: {header_bytes: 99999999999999999999GiB, header_count: .nan}\n",
    b"token: {wait: " + b"9" * 400 + b"}\n",
    b"a: " + b"9" * 1500,
    b"a: " + b"[" * 500 + b"]" * 500,
    b"a: 2024-01-01\nb: !!python/object:os.system x\nc: !!binary aaa\n",
    b"%YAML 1.1\n---\na: !e!x y\n--- \nb: 1\n",
    b'a: "\\x00\\ud800\\U0010ffff"\n\x00',
    b"\xff\xfe",
    b"listeners: [{bind: '0.0.0.0:80'}, {bind: 'a:0', upstream: nowhere}]\nadmin: {bind: 'x:y'}\n",
    b"upstreams: {'a b': {}, a.test: {url: 'ftp://x'}, A.TEST: {url: 'https://u:p@h?q#f'}}\n",
    b"role: member\nstore: {url: 'redis+sentinel://a,b:1/m?sentinel_password=x'}\n",
    b"role: minter\nstate_dir: /var/lib/x\nstore: {on_outage: stop}\n",
    b"role: member\nstate_dir: ''\nstore: {url: 'sqlite://x', secret: x}\n",
    # Secrets.
    _SECRET_STORE + b":@h:6379/0?ssl_ca_certs=",
    _SECRET_STORE + b"a,b/c#?@d@e/1",
    _SECRET_FLAG + b"=",
    _SECRET_FLAG + b"file=",
    _SECRET_FLAG + b"=!x \xfe",
    _SECRET_FLAG + b"=!",
    _SECRET_FLAG + b"=[\xfe",
    _SECRET_TOKENS + b"[\xfe, ",
    _SECRET_TOKENS + b"{\xfe: [",
    _SECRET_TOKENS + b"sha256:",
    _SECRET_VARIABLE + b"=",
    _SECRET_VARIABLE + b"FILE={a: ",
    _SECRET_IN_FILE,
    _SECRET_IN_FILE + b"key=",
    _SECRET_URL + b"user:@host.test",
    _SECRET_URL + b"user@host.test/?a=\xfe",
]

SEEDS = {
    "request_path": REQUESTS,
    "response_path": ANSWERS,
    "websocket_path": FRAMES,
    "settings_loader": SETTINGS,
}
