"""The server: faults as they show on the wire, bytes that are no HTTP, and its lifetime."""

import asyncio
import logging
import ssl
from email.utils import parsedate_to_datetime

import pytest
import trustme
from aiohttp import ClientPayloadError, ClientSession, ServerDisconnectedError

from proxy.sandbox import Fault, Sandbox
from sandbox.kit import DATA, KEY, KEYS, TOKENS, Api, Clock, Reply, api_of


async def faulty(api: Api, fault: str, path: str = DATA, method: str = "GET") -> Reply:
    token = await api.token()
    return await api.call(method, path, token=token, headers={"X-Sandbox-Fault": fault})


async def raw(sandbox: Sandbox, request: bytes) -> bytes:
    host, _, port = sandbox.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_status_fault_replaces_the_answer_and_the_token_is_charged(api: Api) -> None:
    assert (await faulty(api, "status=503")).status == 503
    assert (await api.report())["tokens"][0]["used"] == 1


async def test_a_delay_waits_before_the_answer(api: Api, slept: list[float]) -> None:
    assert (await faulty(api, "delay=0.2; status=502")).status == 502
    assert slept == [0.2]


async def test_drop_head_closes_without_an_answer_and_the_token_is_charged(api: Api) -> None:
    with pytest.raises(ServerDisconnectedError):
        await faulty(api, "drop=head", "/api/1/sandbox/echo", "POST")  # GET would be sent again
    assert (await api.report())["tokens"][0]["used"] == 1


@pytest.mark.parametrize(
    "path",
    [
        DATA,
        "/api/1/sandbox/large?bytes=10",
        "/api/1/sandbox/large?bytes=0",
        "/api/1/sandbox/stream",
    ],
)
async def test_drop_body_promises_more_than_it_sends(api: Api, path: str) -> None:
    with pytest.raises(ClientPayloadError):
        await faulty(api, "drop=body", path)


async def test_drop_body_cuts_a_fault_answer_too(api: Api) -> None:
    with pytest.raises(ClientPayloadError):
        await faulty(api, "drop=body; status=500")


async def test_a_revoke_fault_revokes_the_token_under_its_request(api: Api) -> None:
    assert (await faulty(api, "revoke")).status == 401
    [token] = (await api.report())["tokens"]
    assert (token["used"], token["revoked"], token["after_revocation"]) == (1, True, 0)


async def test_a_malformed_fault_header_gets_400(api: Api) -> None:
    assert (await faulty(api, "burn=1")).status == 400


async def test_a_fault_header_has_no_effect_on_token_endpoints(api: Api) -> None:
    reply = await api.call("GET", TOKENS, key=KEY, headers={"X-Sandbox-Fault": "status=500"})
    assert reply.status == 200


async def test_a_mint_can_be_made_to_answer_garbage(api: Api) -> None:
    fault = Fault(path=TOKENS, method="POST", body="<html>", headers={"Content-Type": "text/html"})
    api.sandbox.faults.add(fault)
    reply = await api.call("POST", TOKENS, key=KEY, json={"count": 1})
    assert (reply.status, reply.body) == (200, b"<html>")
    assert reply.headers["Content-Type"] == "text/html"
    report = await api.report()
    assert report["tokens"] == []
    assert report["mints"][0]["status"] == 200


async def test_a_mint_with_a_fault_uses_the_budget(api: Api) -> None:
    api.sandbox.faults.add(Fault(path=TOKENS, status=503, times=5))
    replies = [await api.call("POST", TOKENS, key=KEY, json={"count": 1}) for _ in range(6)]
    assert [reply.status for reply in replies] == [503] * 5 + [429]


async def test_a_mint_whose_answer_is_cut_has_made_its_tokens(api: Api) -> None:
    api.sandbox.faults.add(Fault(path=TOKENS, drop="body", times=1))
    with pytest.raises(ClientPayloadError):
        await api.mint()
    report = await api.report()
    assert len(report["tokens"]) == report["mints"][0]["count"] == 1


async def test_a_mint_that_is_dropped_has_made_nothing(api: Api) -> None:
    api.sandbox.faults.add(Fault(path=TOKENS, drop="head", times=1))
    with pytest.raises(ServerDisconnectedError):
        await api.mint()
    report = await api.report()
    assert report["tokens"] == []
    assert report["mints"][0]["status"] is None


async def test_a_standing_fault_ends_with_its_time(api: Api, clock: Clock) -> None:
    token = await api.token()
    api.sandbox.faults.add(Fault(path=DATA, status=500, until=clock.now + 10))
    assert (await api.call("GET", DATA, token=token)).status == 500
    clock.turn(10)
    assert (await api.call("GET", DATA, token=token)).status == 200


@pytest.mark.parametrize(
    "path", [DATA, TOKENS, "/nowhere", "/_sandbox/ledger", "/_sandbox/x", "/api/1/sandbox/stream"]
)
async def test_every_answer_carries_the_skewed_date(api: Api, clock: Clock, path: str) -> None:
    api.sandbox.skew = 3600
    for key in (KEY, None):
        reply = await api.call("GET", path, key=key)
        assert parsedate_to_datetime(reply.headers["Date"]).timestamp() == clock.now + 3600
    fault = await api.call("GET", DATA, headers={"X-Sandbox-Fault": "status=500"})
    assert parsedate_to_datetime(fault.headers["Date"]).timestamp() == clock.now + 3600


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization: static-key-of-the-growth-plan\x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_bytes_that_are_no_http_get_400_dated_and_unlogged(
    api: Api, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aiohttp")
    answer = await raw(api.sandbox, request_bytes)
    assert b" 400 Bad Request\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n" in answer
    assert caplog.messages == []


async def test_a_broken_chunk_gets_an_error_but_never_500(api: Api) -> None:
    head = f"POST /api/1/sandbox/upload HTTP/1.1\r\nHost: a\r\nAuthorization: {KEY}\r\n"
    answer = await raw(api.sandbox, f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
    assert b" 400 Bad Request" in answer


@pytest.mark.parametrize("target", [b"*", b"//", b"/%", b"/%00%ff", b"http://a/x?y#z", b"/?%=%"])
async def test_an_odd_target_is_refused_in_good_order(api: Api, target: bytes) -> None:
    answer = await raw(
        api.sandbox, b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    assert answer.split(b" ")[1] in (b"400", b"401")


async def test_a_client_that_waits_to_send_is_refused_without_its_body(api: Api) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n"
    host, _, port = api.sandbox.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"\r\n")
    assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_stream_ends_when_its_client_goes_away(clock: Clock) -> None:
    gone = asyncio.Event()

    async def sleep(_: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with api_of(Sandbox(keys=KEYS, clock=clock, sleep=sleep)) as api:
        async with ClientSession(api.sandbox.url, headers={"x-api-key": KEY}) as session:
            response = await session.get("/api/1/sandbox/stream")
            await response.content.readany()
            response.close()
        await asyncio.wait_for(gone.wait(), 1)


async def test_leaving_ends_what_is_still_streaming(clock: Clock) -> None:
    async def sleep(_: float) -> None:
        await asyncio.Event().wait()

    async with ClientSession() as session:
        async with Sandbox(keys=KEYS, clock=clock, sleep=sleep) as sandbox:
            url = f"{sandbox.url}/api/1/sandbox/stream"
            response = await session.get(url, headers={"x-api-key": KEY})
        with pytest.raises(ClientPayloadError):
            await response.read()


async def test_many_requests_at_once_are_counted_exactly(api: Api) -> None:
    token = await api.token(requestLimit="50")
    replies = await asyncio.gather(*(api.call("GET", DATA, token=token) for _ in range(80)))
    statuses = [reply.status for reply in replies]
    assert (statuses.count(200), statuses.count(429)) == (50, 30)


async def test_the_default_sandbox_has_one_key_and_a_free_port() -> None:
    async with api_of(Sandbox()) as api:
        assert api.sandbox.url.startswith("http://127.0.0.1:")
        assert await api.mint(key="sandbox-static-key")
        assert repr(api.sandbox) == f"<Sandbox {api.sandbox.url} <Ledger 1 requests, 1 tokens>>"


async def test_it_serves_https_when_given_a_context() -> None:
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    authority.configure_trust(theirs)
    async with Sandbox(ssl_context=ours) as sandbox, ClientSession() as session:
        assert sandbox.url.startswith("https://127.0.0.1:")
        async with session.get(f"{sandbox.url}/_sandbox/ledger", ssl=theirs) as response:
            assert response.status == 200


async def test_an_address_in_use_is_the_callers_error(api: Api) -> None:
    with pytest.raises(OSError, match="in use"):
        async with Sandbox(bind=api.sandbox.url.removeprefix("http://")):
            pass


@pytest.mark.parametrize("bind", ["", "127.0.0.1", ":80", "127.0.0.1:x", "127.0.0.1:65536"])
def test_a_malformed_address_is_refused(bind: str) -> None:
    with pytest.raises(ValueError, match="bind must be host:port"):
        Sandbox(bind=bind)


async def test_it_has_no_url_before_and_after_it_runs() -> None:
    sandbox = Sandbox()
    assert repr(sandbox) == "<Sandbox not started <Ledger 0 requests, 0 tokens>>"
    async with sandbox:
        pass
    with pytest.raises(RuntimeError, match="not started"):
        _ = sandbox.url
