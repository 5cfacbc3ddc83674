"""The client of the token endpoints, against real servers on this machine."""

import asyncio
import contextlib
import json
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import trustme
from aiohttp import web

from proxy.config import ProxyUrl
from proxy.network.dialer import Dialer
from proxy.sandbox import Sandbox
from proxy.tokens.mobula import (
    MAX_ANSWER_BYTES,
    Batch,
    Listed,
    ListError,
    MintError,
    MobulaClient,
    Revocation,
)
from proxy.tokens.model import Inspection, MintFault, Secret, Standing, Token
from tokens.kit import KEY, token

NOW = 1_000.0
"""What the steady clock says in these tests."""
EPOCH = 1_800_000_000
"""What Mobula's clock says in these tests, in whole seconds."""


def jwt_of(claims: Mapping[str, object]) -> str:
    return jwt.encode(dict(claims), "s" * 32, algorithm="HS256")


def entry(number: int = 1, **fields: object) -> dict[str, object]:
    """A token as a creation answer holds it; it lives for an hour from EPOCH on."""
    return {
        "id": f"id-{number}",
        "token": jwt_of({"exp": EPOCH + 3600, "jti": str(number)}),
        "expiresTimeString": moment(EPOCH + 3600),
        "requestLimit": "1000",
        "remaining": "1000",
        **fields,
    }


def moment(epoch: float) -> str:
    text = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@dataclass
class Mobula:
    """Answers every call alike, and remembers the calls."""

    url: str = ""
    status: int = 200
    body: Any = field(default_factory=lambda: {"createApiTokens": [entry()]})
    headers: dict[str, str] = field(
        default_factory=lambda: {"Date": formatdate(EPOCH, usegmt=True)}
    )
    delay: float = 0.0
    calls: list[tuple[web.BaseRequest, bytes]] = field(default_factory=list)
    peers: set[object] = field(default_factory=set)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.calls.append((request, await request.read()))
        self.peers.add(request.get_extra_info("peername"))
        await asyncio.sleep(self.delay)
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return web.Response(status=self.status, body=body, headers=self.headers)


@contextlib.asynccontextmanager
async def serving(
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def mobula() -> AsyncIterator[Mobula]:
    mobula = Mobula()
    async with serving(mobula.answer) as url:
        mobula.url = url
        yield mobula


@contextlib.asynccontextmanager
async def raw_server(answer: bytes | None) -> AsyncIterator[str]:
    """Sends these bytes to whoever writes first, then closes; None never says anything."""
    streams: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append(writer)
        await reader.read(65_536)
        if answer is not None:
            writer.write(answer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for stream in streams:
            stream.transport.abort()
        await asyncio.sleep(0)


def client_of(url: str, **options: Any) -> MobulaClient:
    return MobulaClient(url, clock=lambda: NOW, **options)


async def mint(url: str, count: int = 1, **options: Any) -> Batch:
    async with client_of(url, **options) as client:
        return await client.mint(KEY, count=count, expires_in=3600.0, request_limit=5000)


async def minted(mobula: Mobula, *entries: object) -> Token:
    """The one token that comes of an answer with these entries."""
    mobula.body = {"createApiTokens": list(entries)}
    (one,) = (await mint(mobula.url)).tokens
    return one


async def fault_of(url: str, **options: Any) -> MintFault:
    with pytest.raises(MintError) as caught:
        await mint(url, **options)
    assert KEY.reveal() not in "".join(traceback.format_exception(caught.value))
    return caught.value.fault


# What is sent


async def test_a_mint_is_asked_for_as_documented(mobula: Mobula) -> None:
    await mint(mobula.url, count=3)
    ((request, body),) = mobula.calls
    assert (request.method, request.path_qs) == ("POST", "/api/2/auth/tokens")
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"expiresIn": 3_600_000, "count": 3, "requestLimit": "5000"}


async def test_the_path_prefix_of_the_url_is_kept(mobula: Mobula) -> None:
    await mint(mobula.url + "/prefix/")
    assert mobula.calls[0][0].path == "/prefix/api/2/auth/tokens"


async def test_the_static_key_is_sent_in_authorization_only_and_to_token_endpoints_only(
    mobula: Mobula,
) -> None:
    async with client_of(mobula.url) as client:
        await client.mint(KEY, count=1, expires_in=60.0, request_limit=1)
        await client.inspect(token("a"))
        await client.revoke(token("a"))
    assert len(mobula.calls) == 3
    for request, body in mobula.calls:
        places = [name for name, value in request.headers.items() if KEY.reveal() in value]
        assert places == ["Authorization"]
        assert request.headers["Authorization"] == KEY.reveal()
        assert request.path.startswith("/api/2/auth/")
        assert KEY.reveal() not in request.path_qs
        assert KEY.reveal().encode() not in body


async def test_the_proxy_of_the_environment_never_sees_the_key(
    mobula: Mobula, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert len((await mint(mobula.url)).tokens) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed_with_the_key(mobula: Mobula, status: int) -> None:
    elsewhere = Mobula()
    async with serving(elsewhere.answer) as url:
        mobula.status, mobula.headers = status, {"Location": url + "/api/2/auth/tokens"}
        fault = await fault_of(mobula.url)
        async with client_of(mobula.url) as client:
            assert (await client.inspect(token("a"))).standing is Standing.UNKNOWN
            assert not await client.revoke(token("a"))
    assert (fault.kind, fault.fatal, fault.sent) == ("redirect", False, True)
    assert elsewhere.calls == []
    assert len(mobula.calls) == 3


async def test_each_call_has_a_connection_of_its_own(mobula: Mobula) -> None:
    async with client_of(mobula.url) as client:
        await client.inspect(token("a"))
        await client.inspect(token("a"))
    assert len(mobula.peers) == 2


async def test_a_client_that_was_not_entered_says_so() -> None:
    with pytest.raises(RuntimeError, match="outside its `async with`"):
        await client_of("http://127.0.0.1:1").inspect(token("a"))


# What is read


@pytest.mark.parametrize(
    "envelope",
    [
        lambda one: {"createApiTokens": [one]},
        lambda one: {"createApiTokens": one},
        lambda one: {"data": one},
        lambda one: one,
    ],
)
@pytest.mark.parametrize("status", [200, 201])
async def test_a_token_is_read_from_every_known_envelope(
    mobula: Mobula, envelope: Callable[[object], object], status: int
) -> None:
    mobula.status, mobula.body = status, envelope(entry())
    (one,) = (await mint(mobula.url)).tokens
    assert (one.id, one.limit, one.left, one.minted_at) == ("id-1", 1000, 1000, NOW)
    assert one.secret.reveal() == entry()["token"]
    assert one.key == KEY
    assert one.revocable


async def test_every_token_of_an_answer_is_read(mobula: Mobula) -> None:
    mobula.body = {"createApiTokens": [entry(1), entry(2), entry(3)]}
    assert [each.id for each in (await mint(mobula.url)).tokens] == ["id-1", "id-2", "id-3"]


async def test_numbers_may_be_texts_or_numbers(mobula: Mobula) -> None:
    assert (await minted(mobula, entry(requestLimit=70, remaining="60"))).left == 60
    assert (await minted(mobula, entry(requestLimit="70", remaining=60))).left == 60


async def test_less_may_be_left_than_the_limit_but_never_more(mobula: Mobula) -> None:
    assert (await minted(mobula, entry(requestLimit="10", remaining="3"))).left == 3
    assert (await minted(mobula, entry(requestLimit="10", remaining="30"))).left == 10


@pytest.mark.parametrize("odd", [None, "", "many", "-1", "1.5", True, [], "9" * 400])
async def test_an_unreadable_limit_is_what_was_asked_for(mobula: Mobula, odd: object) -> None:
    one = await minted(mobula, entry(requestLimit=odd, remaining=odd))
    assert (one.limit, one.left) == (5000, 5000)


@pytest.mark.parametrize("odd", [None, "", 7, "a/b", "../x", "a b", "x" * 129, "é"])
async def test_a_token_without_a_usable_id_is_kept_but_cannot_be_revoked(
    mobula: Mobula, odd: object
) -> None:
    one = await minted(mobula, entry(id=odd))
    assert not one.revocable
    assert one.id.startswith("unnamed-")
    assert one.secret.reveal() not in one.id


async def test_tokens_without_ids_are_told_apart(mobula: Mobula) -> None:
    mobula.body = {"createApiTokens": [entry(1, id=None), entry(2, id=None)]}
    first, second = (await mint(mobula.url)).tokens
    assert first.id != second.id


async def test_the_claim_exp_is_trusted_over_expires_time_string(mobula: Mobula) -> None:
    one = await minted(mobula, entry(expiresTimeString=moment(EPOCH + 9999)))
    assert one.expires_at == NOW + 3600 - 1


ODD_CLAIMS: list[dict[str, Any]] = [
    {},
    {"exp": "soon"},
    {"exp": True},
    {"exp": 0},
    {"exp": -1},
    {"exp": float("nan")},
    {"exp": float("inf")},
    {"exp": 10**400},
    {"exp": (EPOCH + 3600) * 1000},
]


@pytest.mark.parametrize("claims", ODD_CLAIMS, ids=lambda claims: repr(claims)[:24])
async def test_expires_time_string_is_read_when_exp_is_no_time(
    mobula: Mobula, claims: dict[str, Any]
) -> None:
    head, tail = jwt_of({}).split(".")[::2]
    payload = jwt.utils.base64url_encode(json.dumps(claims).encode()).decode()
    one = await minted(mobula, entry(token=f"{head}.{payload}.{tail}"))
    assert one.expires_at == NOW + 3600 - 1


@pytest.mark.parametrize("value", ["opaque", "a.b.c", "e30.e30.e30"])
async def test_expires_time_string_is_read_when_the_token_is_no_jwt(
    mobula: Mobula, value: str
) -> None:
    assert (await minted(mobula, entry(token=value))).expires_at == NOW + 3600 - 1


@pytest.mark.parametrize("text", ["2027-01-15T09:00:00", "2027-01-15T10:00:00.000+01:00"])
async def test_expires_time_string_may_name_a_zone_or_none(mobula: Mobula, text: str) -> None:
    assert (await minted(mobula, entry(token="t", expiresTimeString=text))).expires_at == (
        datetime(2027, 1, 15, 9, tzinfo=UTC).timestamp() - EPOCH + NOW - 1
    )


@pytest.mark.parametrize("text", [None, "", "soon", 7])
async def test_a_token_whose_end_is_nowhere_to_be_read_is_said_clearly(
    mobula: Mobula, text: object
) -> None:
    mobula.body = {"createApiTokens": [entry(token="opaque", expiresTimeString=text)]}
    fault = await fault_of(mobula.url)
    assert fault.kind == "unreadable"
    assert fault.detail == (
        "no usable token in the answer (token 1 of 1: neither an exp claim nor expiresTimeString)"
    )


@pytest.mark.parametrize(
    "value",
    ["", "two words", "line\nbreak", "line\r\nX-Injected: 1", "nul\0", "é", None, 7, "x" * 8193],
)
async def test_a_token_that_fits_into_no_header_is_refused(mobula: Mobula, value: object) -> None:
    mobula.body = {"createApiTokens": [entry(token=value)]}
    fault = await fault_of(mobula.url)
    assert fault.detail == (
        "no usable token in the answer (token 1 of 1: no token value that fits into a header)"
    )


async def test_the_readable_tokens_of_an_answer_are_kept_and_the_others_named(
    mobula: Mobula,
) -> None:
    mobula.body = {"createApiTokens": [entry(1), "odd", entry(3), entry(4, token=None)]}
    batch = await mint(mobula.url, count=4)
    assert [each.id for each in batch.tokens] == ["id-1", "id-3"]
    assert batch.unreadable == (
        "token 2 of 4: not an object",
        "token 4 of 4: no token value that fits into a header",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Welcome</body></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"createApiTokens": []}',
        b'{"createApiTokens": null, "data": []}',
        b'"token"',
        b"\xff\xfe",
        b"[" * 500_000,
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
async def test_an_answer_without_a_token_is_unreadable(mobula: Mobula, body: bytes) -> None:
    mobula.body = body
    fault = await fault_of(mobula.url)
    assert fault == MintFault("unreadable", "status 200 with an answer that holds no token")


async def test_an_answer_of_any_size_is_cut_off(mobula: Mobula) -> None:
    mobula.body = b" " * (MAX_ANSWER_BYTES + 1)
    fault = await fault_of(mobula.url)
    assert (fault.kind, fault.sent) == ("broken", True)


# Mobula's time


@pytest.mark.parametrize("skew", [-3600, -1, 0, 1, 3600])
async def test_lifetimes_are_judged_in_the_time_of_mobula(mobula: Mobula, skew: int) -> None:
    mobula.headers = {"Date": formatdate(EPOCH + skew, usegmt=True)}
    claims = {"exp": EPOCH + skew + 3600}
    one = await minted(mobula, entry(token=jwt_of(claims)))
    assert one.expires_at == NOW + 3600 - 1


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 01 Jan 2024 00:00:00 +99999999999999", "0", "Mon, 99 Foo"]
)
async def test_without_a_readable_date_our_own_time_is_taken(mobula: Mobula, date: str) -> None:
    mobula.headers = {"Date": date}
    (one,) = (await mint(mobula.url, wall=lambda: EPOCH + 10.0)).tokens
    assert one.expires_at == NOW + 3590 - 1


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_a_sandbox_whose_clock_is_an_hour_off_gives_usable_tokens(skew: float) -> None:
    async with Sandbox(keys={KEY.reveal(): "growth"}) as sandbox:
        sandbox.skew = skew
        (one,) = (await mint(sandbox.url)).tokens
    assert 3597 <= one.expires_at - NOW <= 3600


# What can go wrong


NO_PLAN = "the key's plan has no short-lived tokens (Startup, Growth and Enterprise have)"
STATUSES: dict[int, tuple[bool, str]] = {
    400: (False, "status 400: Mobula did not accept what the token settings ask for"),
    401: (True, "status 401: Mobula refused the static key"),
    402: (True, "status 402: Mobula asks for payment"),
    403: (True, f"status 403: {NO_PLAN}"),
    404: (False, "status 404: there is no token endpoint at the upstream's url"),
    429: (
        False,
        "status 429: the mint budget is used up, by others who share this key or before a restart",
    ),
    500: (False, "status 500: the token endpoint failed"),
    503: (False, "status 503: the token endpoint failed"),
}


@pytest.mark.parametrize(("status", "fatal"), [(403, True), (503, False)])
async def test_an_answer_of_another_proxy_of_ours_is_not_taken_for_mobulas(
    mobula: Mobula, status: int, fatal: bool
) -> None:
    mobula.status = status
    mobula.headers["X-Mobula-Proxy-Error"] = "auth_path_denied"
    fault = await fault_of(mobula.url)
    assert (fault.kind, fault.fatal) == ("proxied", fatal)
    assert fault.detail.startswith(f"status {status} from another mobula-proxy on the way")


@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_is_a_fault_of_its_own(mobula: Mobula, status: int) -> None:
    mobula.status = status
    fatal, detail = STATUSES[status]
    assert await fault_of(mobula.url) == MintFault(str(status), detail, sent=True, fatal=fatal)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("17", 17.0), ("0", 1.0), ("99999", 300.0), ("soon", None), ("-5", None), ("²", None)],
)
async def test_a_429_says_when_to_come_back(
    mobula: Mobula, text: str, seconds: float | None
) -> None:
    mobula.status, mobula.headers = 429, {"Retry-After": text}
    assert (await fault_of(mobula.url)).retry_after == seconds


async def test_only_a_429_closes_the_budget(mobula: Mobula) -> None:
    mobula.status, mobula.headers = 503, {"Retry-After": "17"}
    assert (await fault_of(mobula.url)).retry_after is None


@pytest.mark.both_loops
async def test_a_refused_connection_was_not_sent() -> None:
    fault = await fault_of("http://127.0.0.1:1")
    assert fault == MintFault("connect", "no connection: connection refused", sent=False)


async def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    fault = await fault_of("http://mobula.invalid")
    assert (fault.kind, fault.sent) == ("connect", False)
    assert "Error" not in fault.detail


async def test_a_server_that_does_not_speak_tls_was_not_sent_the_call() -> None:
    async with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        fault = await fault_of(f"https://{address}")
    assert (fault.kind, fault.sent) == ("connect", False)
    assert fault.detail.startswith("no connection: TLS failed: ")


async def test_a_handshake_that_never_ends_was_not_sent() -> None:
    async with raw_server(None) as address:
        fault = await fault_of(f"https://{address}", timeout_seconds=0.05)
    assert fault == MintFault("connect", "no connection within 0.03 s", sent=False)


async def test_no_answer_in_time_may_have_been_sent(mobula: Mobula) -> None:
    mobula.delay = 10
    started = time.monotonic()
    fault = await fault_of(mobula.url, timeout_seconds=0.05)
    assert fault == MintFault("timeout", "no answer within 0.05 s", sent=True)
    assert time.monotonic() - started < 2


async def test_a_listener_of_ours_is_not_sent_the_key(mobula: Mobula) -> None:
    dialer, place = Dialer(), mobula.url.removeprefix("http://")
    dialer.own.add([("127.0.0.1", int(place.rpartition(":")[2]))])
    for url in (mobula.url, mobula.url.replace("127.0.0.1", "localhost")):
        assert await fault_of(url, dialer=dialer) == MintFault(
            "connect",
            f"no connection: its address, {place}, is a listener of this proxy itself",
            sent=False,
        )
    assert mobula.calls == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_upstream_proxy_that_is_not_there_was_not_sent_the_call(scheme: str) -> None:
    dialer = Dialer(upstream_proxy=ProxyUrl.parse("http://127.0.0.1:1"))
    detail = "no connection: the upstream proxy cannot be reached: connection refused"
    fault = await fault_of(f"{scheme}://mobula.test", dialer=dialer)
    assert fault == MintFault("connect", detail, sent=False)


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_an_upstream_proxy_that_refuses_did_not_pass_the_call_on(status: int) -> None:
    answer = b"HTTP/1.1 %d \r\nContent-Length: 0\r\n\r\n" % status
    async with raw_server(answer) as place:
        dialer = Dialer(upstream_proxy=ProxyUrl.parse(f"http://{place}"))
        fault = await fault_of("https://mobula.test", dialer=dialer)
    assert fault.detail.startswith(f"no connection: the upstream proxy answered {status}: ")
    assert (fault.kind, fault.sent) == ("connect", False)


async def test_an_upstream_proxy_that_never_answers_is_not_waited_for() -> None:
    async with raw_server(None) as place:
        dialer = Dialer(upstream_proxy=ProxyUrl.parse(f"http://{place}"))
        fault = await fault_of("https://mobula.test", dialer=dialer, timeout_seconds=0.05)
    assert fault == MintFault("connect", "no connection within 0.03 s", sent=False)


CUT_SHORT = "the answer could not be read to its end"
NO_HTTP = "the answer is not valid HTTP"
BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the connection ended before the answer"),
    "cut short": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", CUT_SHORT),
    "no gzip": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx",
        CUT_SHORT,
    ),
    "no chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", NO_HTTP),
    "no HTTP": (b"\x15\x03\x01\x00\x02\x02\x0a", NO_HTTP),
    "endless header": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", NO_HTTP),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_answer_may_have_been_sent(kind: str) -> None:
    answer, detail = BROKEN[kind]
    async with raw_server(answer) as address:
        assert await fault_of(f"http://{address}") == MintFault("broken", detail)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_an_unknown_authority_is_refused_before_the_key_is_sent(tls: ssl.SSLContext) -> None:
    mobula = Mobula()
    async with serving(mobula.answer, tls) as url:
        fault = await fault_of(url)
    assert fault == MintFault("tls", "the certificate was not accepted", sent=False)
    assert mobula.calls == []


async def test_the_authority_of_the_settings_is_accepted(
    tls: ssl.SSLContext, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mobula = Mobula()
    async with serving(mobula.answer, tls) as url:
        batch = await mint(url, ca_file=str(tmp_path / "ca.pem"))
    assert len(batch.tokens) == 1


# Inspect


async def inspection(url: str, **options: Any) -> Inspection:
    async with client_of(url, **options) as client:
        return await client.inspect(token("a"))


async def test_an_inspect_asks_about_one_token_with_the_key_that_minted_it(mobula: Mobula) -> None:
    await inspection(mobula.url)
    ((request, _),) = mobula.calls
    assert (request.method, request.path) == ("GET", "/api/2/auth/token")
    assert dict(request.query) == {"token": "value-of-a"}


INSPECTIONS: list[tuple[int, bytes, Inspection]] = [
    (200, b'{"apiToken": {"remaining": "12"}}', Inspection(Standing.ALIVE, 12)),
    (200, b'{"apiToken": {"remaining": 12}}', Inspection(Standing.ALIVE, 12)),
    (200, b'{"data": {"remaining": "12"}}', Inspection(Standing.ALIVE, 12)),
    (200, b'{"remaining": "12"}', Inspection(Standing.ALIVE, 12)),
    (200, b'{"apiToken": {"remaining": "0"}}', Inspection(Standing.EXHAUSTED, 0)),
    (200, b'{"apiToken": null}', Inspection(Standing.GONE)),
    (404, b"", Inspection(Standing.GONE)),
    (410, b"", Inspection(Standing.GONE)),
    (200, b'{"apiToken": {}}', Inspection(Standing.UNKNOWN)),
    (200, b'{"apiToken": "odd"}', Inspection(Standing.UNKNOWN)),
    (200, b"null", Inspection(Standing.UNKNOWN)),
    (200, b"<html>", Inspection(Standing.UNKNOWN)),
    (200, b"[" * 500_000, Inspection(Standing.UNKNOWN)),
    (200, b" " * (MAX_ANSWER_BYTES + 1), Inspection(Standing.UNKNOWN)),
    (204, b"", Inspection(Standing.UNKNOWN)),
    (400, b"", Inspection(Standing.UNKNOWN)),
    (401, b"", Inspection(Standing.UNKNOWN)),
    (403, b"", Inspection(Standing.UNKNOWN)),
    (429, b"", Inspection(Standing.UNKNOWN)),
    (500, b"", Inspection(Standing.UNKNOWN)),
]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    INSPECTIONS,
    ids=[f"{status} {body[:40]!r}" for status, body, _ in INSPECTIONS],
)
async def test_an_inspect_says_only_what_is_certain(
    mobula: Mobula, status: int, body: bytes, expected: Inspection
) -> None:
    mobula.status, mobula.body = status, body
    assert await inspection(mobula.url) == expected


async def test_an_inspect_without_an_answer_says_nothing(mobula: Mobula) -> None:
    mobula.delay = 10
    unknown = Inspection(Standing.UNKNOWN)
    assert await inspection(mobula.url, timeout_seconds=0.05) == unknown
    assert await inspection("http://127.0.0.1:1") == unknown
    async with raw_server(b"garbage") as address:
        assert await inspection(f"http://{address}") == unknown


async def test_without_a_static_key_nothing_is_asked_or_revoked(mobula: Mobula) -> None:
    async with client_of(mobula.url) as client:
        assert await client.inspect_value(Secret("x"), None) == Inspection(Standing.UNKNOWN)
        assert await client.revoke_id("a", None) is Revocation.UNCONFIRMED
    assert mobula.calls == []


# List


async def listing(url: str, **options: Any) -> tuple[Listed, ...]:
    async with client_of(url, **options) as client:
        return await client.list(KEY)


async def refused_listing(url: str, **options: Any) -> str:
    """Why there is no list, in words that hold no secret."""
    with pytest.raises(ListError) as caught:
        await listing(url, **options)
    assert KEY.reveal() not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


async def test_a_sandbox_lists_what_was_minted_with_what_is_left_of_it() -> None:
    async with Sandbox(keys={KEY.reveal(): "growth"}) as sandbox:
        sandbox.skew = 3600.0
        assert await listing(sandbox.url) == ()
        minted = (await mint(sandbox.url, count=2)).tokens
        listed = await listing(sandbox.url)
    assert {each.id for each in listed} == {each.id for each in minted}
    assert [(each.limit, each.remaining) for each in listed] == [(5000, 5000)] * 2
    assert all(3597 <= (each.expires_in or 0) <= 3601 for each in listed)


ONE = {"id": "a", "expiresTimeString": moment(EPOCH + 60), "requestLimit": 9, "remaining": "7"}


@pytest.mark.parametrize(
    "body",
    [{"apiTokens": [ONE]}, {"data": [ONE]}, {"data": {"apiTokens": [ONE]}}, [ONE]],
    ids=["apiTokens", "data", "both", "bare"],
)
async def test_a_list_is_read_from_any_envelope(mobula: Mobula, body: object) -> None:
    mobula.body = body
    assert await listing(mobula.url) == (Listed("a", 9, 7, 60.0),)


@pytest.mark.parametrize("skew", [-3600, 3600])
async def test_a_listed_token_expires_in_the_time_of_mobula(mobula: Mobula, skew: int) -> None:
    mobula.body = [ONE | {"expiresTimeString": moment(EPOCH + skew + 60)}]
    mobula.headers = {"Date": formatdate(EPOCH + skew, usegmt=True)}
    assert await listing(mobula.url, wall=lambda: 0.0) == (Listed("a", 9, 7, 60.0),)


async def test_what_a_list_does_not_say_is_none(mobula: Mobula) -> None:
    mobula.body = [{"id": "a"}, {"id": "b", "expiresTimeString": 5, "remaining": "-1"}]
    assert await listing(mobula.url) == (
        Listed("a", None, None, None),
        Listed("b", None, None, None),
    )


@pytest.mark.parametrize("token_id", [None, 7, "", ".", "..", "a/b", "a b", "x" * 129])
async def test_a_listed_token_without_an_id_that_a_call_could_name_is_left_out(
    mobula: Mobula, token_id: object
) -> None:
    mobula.body = ["odd", ONE | {"id": token_id}, ONE]
    assert [each.id for each in await listing(mobula.url)] == ["a"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"{}", b'{"apiTokens": "none"}'])
async def test_an_answer_without_a_list_is_no_empty_list(mobula: Mobula, body: bytes) -> None:
    mobula.body = body
    assert await refused_listing(mobula.url) == "status 200 with an answer that holds no list"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (302, "status 302: redirects are not followed with a key"),
        (400, "status 400: the token endpoint failed"),
        (401, "status 401: Mobula refused the static key"),
        (403, f"status 403: {NO_PLAN}"),
        (429, "status 429: Mobula was asked too often"),
        (503, "status 503: the token endpoint failed"),
    ],
)
async def test_a_list_that_is_refused_says_why(mobula: Mobula, status: int, why: str) -> None:
    mobula.status = status
    assert await refused_listing(mobula.url) == why


async def test_a_list_without_an_answer_says_why(mobula: Mobula) -> None:
    mobula.delay = 10
    assert await refused_listing(mobula.url, timeout_seconds=0.05) == "no answer within 0.05 s"
    assert await refused_listing("http://127.0.0.1:1") == "no connection: connection refused"


# Revoke


async def revoked(url: str, **options: Any) -> bool:
    async with client_of(url, **options) as client:
        return await client.revoke(token("a"))


@pytest.mark.parametrize("status", [200, 202, 204, 404, 410])
async def test_a_revoke_is_confirmed_when_the_token_is_gone(mobula: Mobula, status: int) -> None:
    mobula.status, mobula.body = status, b""
    assert await revoked(mobula.url)
    ((request, _),) = mobula.calls
    assert (request.method, request.path) == ("DELETE", "/api/2/auth/tokens/a")


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
async def test_a_revoke_is_not_confirmed_by_any_other_answer(mobula: Mobula, status: int) -> None:
    mobula.status = status
    assert not await revoked(mobula.url)


async def test_a_revoke_without_an_answer_is_not_confirmed(mobula: Mobula) -> None:
    mobula.delay = 10
    assert not await revoked(mobula.url, timeout_seconds=0.05)
    assert not await revoked("http://127.0.0.1:1")


# Against the sandbox, which holds to the documented rules


async def test_the_sandbox_mints_inspects_and_revokes() -> None:
    async with Sandbox(keys={KEY.reveal(): "growth"}) as sandbox, client_of(sandbox.url) as client:
        batch = await client.mint(KEY, count=2, expires_in=60.0, request_limit=7)
        first, second = batch.tokens
        assert await client.inspect(first) == Inspection(Standing.ALIVE, 7)
        assert await client.revoke(first)
        assert await client.inspect(first) == Inspection(Standing.GONE)
        assert await client.inspect(second) == Inspection(Standing.ALIVE, 7)
        assert await client.revoke(first), "it is gone, which is what was wanted"
        assert sandbox.ledger.report()["leaks"] == []


async def test_the_sandbox_tells_apart_used_up_and_gone() -> None:
    async with Sandbox(keys={KEY.reveal(): "growth"}) as sandbox, client_of(sandbox.url) as client:
        (one,) = (await client.mint(KEY, count=1, expires_in=60.0, request_limit=1)).tokens
        headers = {"Authorization": f"Bearer {one.secret.reveal()}"}
        async with (
            aiohttp.ClientSession(sandbox.url) as session,
            session.get("/api/1/market/data", headers=headers) as response,
        ):
            assert response.status == 200
        assert await client.inspect(one) == Inspection(Standing.EXHAUSTED, 0)


@pytest.mark.parametrize(("plan", "kind"), [("free", "403"), (None, "401")])
async def test_the_sandbox_refuses_a_plan_or_a_key_for_good(plan: str | None, kind: str) -> None:
    keys = {KEY.reveal(): plan} if plan else {"somebody-else": "growth"}
    async with Sandbox(keys=keys) as sandbox:
        fault = await fault_of(sandbox.url)
    assert (fault.kind, fault.fatal) == (kind, True)


async def test_the_sandbox_says_when_the_mint_budget_is_open_again() -> None:
    async with Sandbox(keys={KEY.reveal(): "growth"}) as sandbox:
        for _ in range(5):
            await mint(sandbox.url)
        fault = await fault_of(sandbox.url)
    assert fault.kind == "429"
    assert fault.retry_after is not None
    assert 50 <= fault.retry_after <= 60
