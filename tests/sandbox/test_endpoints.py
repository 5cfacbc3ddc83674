"""The data endpoints and what they ask of a credential, over a real socket."""

import hashlib
from io import BytesIO
from typing import Any

import pytest

from sandbox.kit import DATA, KEY, OTHER_KEY, Api, Clock

ENDPOINTS = [
    "/api/1/market/data?asset=Bitcoin",
    "/api/1/market/multi-data?assets=Bitcoin,Ethereum",
    "/api/1/wallet/portfolio?wallet=0x1",
    "/api/2/token/details?blockchain=Ethereum&address=0x1",
    "/api/1/sandbox/stream?events=3",
    "/api/1/sandbox/large?bytes=1000",
    "/api/1/sandbox/echo",
]


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_an_endpoint_answers_the_same_every_time(api: Api, path: str) -> None:
    token = await api.token()
    first, second = [await api.call("GET", path, token=token) for _ in range(2)]
    assert first.status == 200
    assert first.body == second.body != b""


async def test_different_questions_get_different_answers(api: Api) -> None:
    token = await api.token()
    replies = [
        await api.call("GET", DATA, token=token, params={"asset": asset})
        for asset in ("Bitcoin", "Ethereum", "Something New", "%FF")
    ]
    assert len({reply.json["data"]["price"] for reply in replies}) == 4
    assert replies[2].json["data"]["name"] == "Something New"


async def test_multi_data_answers_by_name_for_get_and_post(api: Api) -> None:
    token, path = await api.token(), "/api/1/market/multi-data"
    got = await api.call("GET", path, token=token, params={"assets": "Bitcoin, Mobula"})
    listed = await api.call("POST", path, token=token, json={"assets": ["Bitcoin", "Mobula"]})
    joined = await api.call("POST", path, token=token, json={"assets": "Bitcoin,Mobula"})
    assert list(got.json["data"]) == ["Bitcoin", "Mobula"]
    assert got.body == listed.body == joined.body


@pytest.mark.parametrize("json", [None, [], {}, {"assets": 1}, {"assets": [1]}, {"assets": []}])
async def test_multi_data_refuses_a_body_without_assets(api: Api, json: Any) -> None:
    reply = await api.call("POST", "/api/1/market/multi-data", token=await api.token(), json=json)
    assert reply.status == 400


async def test_the_stream_is_chunked_and_spaced_as_asked(api: Api, slept: list[float]) -> None:
    path = "/api/1/sandbox/stream?events=3&interval=0.25"
    reply = await api.call("GET", path, token=await api.token())
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert reply.body.count(b"event: trade\ndata: {") == 3
    assert slept == [0.25, 0.25]


@pytest.mark.parametrize("size", [0, 1, 251, 64_256, 64_257, 1_000_000])
async def test_a_large_answer_has_the_length_and_bytes_it_should(api: Api, size: int) -> None:
    reply = await api.call("GET", f"/api/1/sandbox/large?bytes={size}", token=await api.token())
    assert reply.headers["Content-Length"] == str(size)
    assert reply.body == bytes(offset % 251 for offset in range(size))


@pytest.mark.parametrize(
    "query",
    ["large?bytes=1073741825", "large?bytes=-1", "large?bytes=x", "large?bytes=nan",
     "stream?events=x", "stream?events=100001", "stream?interval=61"],
)  # fmt: skip
async def test_a_parameter_out_of_bounds_gets_400(api: Api, query: str) -> None:
    reply = await api.call("GET", f"/api/1/sandbox/{query}", token=await api.token())
    assert reply.status == 400


async def test_an_upload_of_any_size_is_digested(api: Api) -> None:
    body = bytes(3_000_000)
    reply = await api.call(
        "POST", "/api/1/sandbox/upload", token=await api.token(), data=BytesIO(body)
    )
    assert reply.json == {"bytes": 3_000_000, "sha256": hashlib.sha256(body).hexdigest()}


async def test_an_empty_upload_is_digested_too(api: Api) -> None:
    reply = await api.call("POST", "/api/1/sandbox/upload", token=await api.token())
    assert reply.json == {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}


async def test_a_client_that_waits_before_its_upload_is_told_to_go_on(api: Api) -> None:
    token = await api.token()
    reply = await api.call(
        "POST", "/api/1/sandbox/upload", token=token, data=b"abc", expect100=True
    )
    assert reply.json["bytes"] == 3


async def test_a_compressed_upload_is_taken_as_it_came(api: Api) -> None:
    token, headers = await api.token(), {"Content-Encoding": "gzip"}
    reply = await api.call(
        "POST", "/api/1/sandbox/upload", token=token, headers=headers, data=b"not gzip"
    )
    assert reply.json["bytes"] == 8


async def test_an_echo_shows_the_request_without_its_credential(api: Api) -> None:
    token = await api.token()
    reply = await api.call(
        "PATCH", "/api/1/sandbox/echo?a=%20b&a=1", token=token, headers={"X-A": "1"}, data=b"abc"
    )
    assert reply.json["method"] == "PATCH"
    assert reply.json["target"] == "/api/1/sandbox/echo?a=%20b&a=1"
    assert reply.json["body_length"] == 3
    assert ["X-A", "1"] in reply.json["headers"]
    assert ["Authorization", "Bearer [token]"] in reply.json["headers"]
    assert token.encode() not in reply.body


@pytest.mark.parametrize("path", [*ENDPOINTS[:4], "/api/1/sandbox/large?bytes=1000"])
async def test_head_gets_the_head_alone(api: Api, path: str) -> None:
    token = await api.token()
    got = await api.call("GET", path, token=token)
    headed = await api.call("HEAD", path, token=token)
    assert headed.body == b""
    assert headed.headers["Content-Length"] == got.headers["Content-Length"]


async def test_a_wrong_method_gets_405_and_is_charged(api: Api) -> None:
    reply = await api.call("DELETE", DATA, token=await api.token())
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
    assert (await api.report())["tokens"][0]["used"] == 1


async def test_an_unknown_path_needs_a_credential_and_is_charged(api: Api) -> None:
    token = await api.token()
    assert (await api.call("GET", "/nowhere")).status == 401
    reply = await api.call("GET", "/nowhere", token=token)
    assert (reply.status, reply.json) == (404, {"message": "Not Found", "statusCode": 404})
    assert (await api.report())["tokens"][0]["used"] == 1


async def test_a_token_over_its_limit_gets_429_and_is_recorded(api: Api) -> None:
    token = await api.token(requestLimit="2")
    statuses = [(await api.call("GET", DATA, token=token)).status for _ in range(3)]
    reply = await api.call("GET", DATA, token=token)
    assert statuses == [200, 200, 429]
    assert reply.json["message"] == "Request limit exceeded"
    report = await api.report()
    assert (report["tokens"][0]["used"], report["tokens"][0]["over_limit"]) == (2, 2)
    assert report["over_limit"] == 2


async def test_an_expired_token_gets_401_and_is_recorded(api: Api, clock: Clock) -> None:
    token = await api.token(expiresIn=60_000)
    clock.turn(60)
    assert (await api.call("GET", DATA, token=token)).status == 401
    report = await api.report()
    assert report["tokens"][0]["after_expiry"] == report["unauthorized"] == 1


async def test_a_revoked_token_gets_401_and_is_recorded(api: Api) -> None:
    token = await api.token()
    api.sandbox.ledger.revoke_all()
    assert (await api.call("GET", DATA, token=token)).status == 401
    [recorded] = (await api.report())["tokens"]
    assert (recorded["revoked"], recorded["after_revocation"]) == (True, 1)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer unknown"}, {"Authorization": "Bearer "}, {"Authorization": ""},
     {"x-api-key": "unknown"}, {"Authorization": "Basic dXNlcjpwYXNz"}],
)  # fmt: skip
async def test_no_or_an_unknown_credential_gets_401(api: Api, headers: dict[str, str]) -> None:
    assert (await api.call("GET", DATA, headers=headers)).status == 401
    assert (await api.report())["unauthorized"] == 1


async def test_a_token_anywhere_but_in_a_bearer_header_gets_401(api: Api) -> None:
    token = await api.token()
    assert (await api.call("GET", DATA, key=token)).status == 401
    assert (await api.call("GET", DATA, headers={"Authorization": token})).status == 401
    assert (await api.report())["tokens"][0]["used"] == 0


@pytest.mark.parametrize(
    ("headers", "place"),
    [
        ({"Authorization": KEY}, "header:authorization"),
        ({"Authorization": f"Bearer {KEY}"}, "header:authorization"),
        ({"x-api-key": KEY}, "header:x-api-key"),
    ],
)
async def test_a_static_key_works_on_a_data_endpoint_but_is_flagged(
    api: Api, headers: dict[str, str], place: str
) -> None:
    assert (await api.call("GET", DATA, headers=headers)).status == 200
    report = await api.report()
    assert report["leaks"] == [{"place": place, "path": DATA}]
    assert report["leak_count"] == 1


async def test_any_static_key_is_flagged_wherever_it_hides(api: Api) -> None:
    token = await api.token()
    await api.call("GET", f"/x/{KEY}?key={OTHER_KEY}", token=token, headers={"Cookie": f"k={KEY}"})
    reply = await api.call("POST", "/x", token=token, data=f"key={KEY}")
    assert reply.status == 404
    assert (await api.report())["leaks"] == [
        {"place": "path", "path": "/x/[static key]"},
        {"place": "query", "path": "/x/[static key]"},
        {"place": "header:cookie", "path": "/x/[static key]"},
        {"place": "body", "path": "/x"},
    ]


async def test_a_leak_in_a_refused_request_is_flagged_too(api: Api) -> None:
    reply = await api.call("POST", "/api/1/sandbox/upload", data=KEY)
    assert reply.status == 401
    assert (await api.report())["leaks"] == [{"place": "body", "path": "/api/1/sandbox/upload"}]


async def test_a_static_key_in_the_query_of_a_token_endpoint_is_flagged(api: Api) -> None:
    await api.call("GET", f"/api/2/auth/token?token={KEY}", key=KEY)
    assert (await api.report())["leaks"] == [{"place": "query", "path": "/api/2/auth/token"}]
