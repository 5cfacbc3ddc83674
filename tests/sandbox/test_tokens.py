"""The token endpoints, over a real socket."""

from email.utils import parsedate_to_datetime

import jwt
import pytest

from sandbox.kit import DATA, FREE_KEY, INSPECT, KEY, OTHER_KEY, TOKENS, Api, Clock


async def test_a_mint_answers_in_the_documented_shape(api: Api) -> None:
    reply = await api.call(
        "POST", TOKENS, key=KEY, json={"expiresIn": 60_000, "count": 2, "requestLimit": "7"}
    )
    first, second = reply.json["createApiTokens"]
    assert reply.status == 200
    assert first | {"id": "", "token": ""} == {
        "id": "",
        "token": "",
        "expiresTimeString": "2023-11-14T22:14:20.000Z",
        "requestLimit": "7",
        "remaining": "7",
    }
    assert first["id"] != second["id"]
    claims = jwt.decode(first["token"], options={"verify_signature": False})
    assert claims == {"iat": 1_700_000_000, "exp": 1_700_000_060, "jti": first["id"]}


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": KEY}, {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}],
)
async def test_a_static_key_may_come_in_three_forms(api: Api, headers: dict[str, str]) -> None:
    assert (await api.call("GET", TOKENS, headers=headers)).json == {"apiTokens": []}
    assert (await api.report())["leaks"] == []


@pytest.mark.parametrize("body", ["", "[]", '{"count":0}', '{"other":1}', "{}", '{"expiresIn":1}'])
async def test_a_malformed_mint_gets_400_and_counts(api: Api, body: str) -> None:
    reply = await api.call(
        "POST", TOKENS, key=KEY, data=body, headers={"Content-Type": "application/json"}
    )
    assert (reply.status, reply.json["statusCode"]) == (400, 400)
    assert reply.json["message"]
    assert (await api.report())["mints"] == [
        {"at": 1_700_000_000.0, "key": "key-1", "status": 400, "count": 0}
    ]


async def test_a_mint_that_is_not_declared_as_json_gets_400(api: Api) -> None:
    reply = await api.call("POST", TOKENS, key=KEY, data='{"count":1}')
    assert (reply.status, reply.json["message"]) == (400, "Content-Type must be application/json")


async def test_a_mint_with_a_huge_body_gets_400(api: Api) -> None:
    reply = await api.call("POST", TOKENS, key=KEY, json={"x": "y" * 100_000})
    assert reply.status == 400


async def test_the_sixth_mint_in_a_minute_gets_429_with_retry_after(api: Api, clock: Clock) -> None:
    for _ in range(5):
        await api.mint()
        clock.turn(1)
    reply = await api.call("POST", TOKENS, key=KEY, json={"count": 1})
    assert (reply.status, reply.headers["Retry-After"]) == (429, "56")
    report = await api.report()
    assert [call["status"] for call in report["mints"]] == [200] * 5 + [429]
    assert (report["mint_calls"], report["max_mint_calls_per_minute"]) == (6, 6)


async def test_after_the_wait_it_was_told_a_client_may_mint_again(api: Api, clock: Clock) -> None:
    for _ in range(5):
        await api.mint()
    reply = await api.call("POST", TOKENS, key=KEY, json={"count": 1})
    clock.turn(int(reply.headers["Retry-After"]))
    assert await api.mint()


async def test_refused_keys_do_not_use_the_mint_budget(api: Api) -> None:
    for key in (FREE_KEY, "unknown") * 5:
        await api.call("POST", TOKENS, key=key, json={"count": 1})
    report = await api.report()
    assert [call["status"] for call in report["mints"]] == [403, 401] * 5
    assert report["max_mint_calls_per_minute"] == 0
    assert await api.mint()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", TOKENS), ("GET", TOKENS), ("GET", f"{INSPECT}?token=x"), ("DELETE", f"{TOKENS}/x")],
)
async def test_every_token_endpoint_checks_the_credential(api: Api, method: str, path: str) -> None:
    token = await api.token()
    assert (await api.call(method, path)).status == 401
    assert (await api.call(method, path, key="unknown")).status == 401
    assert (await api.call(method, path, key=FREE_KEY)).status == 403
    assert (await api.call(method, path, token=token)).status == 403
    assert (await api.call(method, path, key=token)).status == 401


async def test_the_list_holds_active_tokens_without_their_secret(api: Api, clock: Clock) -> None:
    await api.mint(expiresIn=60_000)
    kept, revoked = await api.mint(expiresIn=90_000, count=2)
    await api.call("DELETE", f"{TOKENS}/{revoked['id']}", key=KEY)
    clock.turn(60)
    listed = (await api.call("GET", TOKENS, key=KEY)).json["apiTokens"]
    assert [token["id"] for token in listed] == [kept["id"]]
    assert listed[0].keys() == {"id", "expiresTimeString", "requestLimit", "remaining"}


async def test_inspect_tells_what_remains(api: Api) -> None:
    token = await api.token(requestLimit="3")
    await api.call("GET", DATA, token=token)
    reply = await api.call("GET", INSPECT, key=KEY, params={"token": token})
    assert reply.json["apiToken"]["remaining"] == "2"
    assert reply.json["apiToken"]["requestLimit"] == "3"
    assert "token" not in reply.json["apiToken"]


async def test_inspect_still_knows_a_token_that_is_used_up(api: Api) -> None:
    token = await api.token(requestLimit="1")
    for _ in range(3):
        await api.call("GET", DATA, token=token)
    reply = await api.call("GET", INSPECT, key=KEY, params={"token": token})
    assert reply.json["apiToken"]["remaining"] == "0"


async def test_inspect_of_unknown_revoked_expired_or_foreign_tokens_gets_404(
    api: Api, clock: Clock
) -> None:
    revoked, expired = await api.mint(expiresIn=60_000, count=2)
    foreign = await api.token(key=OTHER_KEY)
    await api.call("DELETE", f"{TOKENS}/{revoked['id']}", key=KEY)
    clock.turn(60)
    for value in ("nonsense", revoked["token"], expired["token"], foreign):
        reply = await api.call("GET", INSPECT, key=KEY, params={"token": value})
        assert (reply.status, reply.json["statusCode"]) == (404, 404)


async def test_inspect_without_a_token_gets_400(api: Api) -> None:
    assert (await api.call("GET", INSPECT, key=KEY)).status == 400


async def test_a_revoked_token_is_refused_at_once(api: Api) -> None:
    [minted] = await api.mint()
    reply = await api.call("DELETE", f"{TOKENS}/{minted['id']}", key=KEY)
    assert (reply.status, reply.json) == (200, {"deleteApiToken": minted["id"]})
    assert (await api.call("GET", DATA, token=minted["token"])).status == 401


async def test_revoking_twice_or_what_is_not_ours_gets_404(api: Api) -> None:
    [mine], [foreign] = await api.mint(), await api.mint(key=OTHER_KEY)
    await api.call("DELETE", f"{TOKENS}/{mine['id']}", key=KEY)
    for token_id in (mine["id"], foreign["id"], "unknown"):
        assert (await api.call("DELETE", f"{TOKENS}/{token_id}", key=KEY)).status == 404
    assert (await api.call("GET", DATA, token=foreign["token"])).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("PUT", TOKENS, "POST, GET"), ("POST", INSPECT, "GET"), ("GET", f"{TOKENS}/x", "DELETE")],
)
async def test_a_wrong_method_gets_405(api: Api, method: str, path: str, allow: str) -> None:
    reply = await api.call(method, path, key=KEY)
    assert (reply.status, reply.headers["Allow"]) == (405, allow)


async def test_a_percent_encoded_token_path_is_still_a_token_endpoint(api: Api) -> None:
    token = await api.token()
    reply = await api.call("GET", "/api/2/auth/token%73", token=token)
    assert reply.status == 403


async def test_calls_are_counted_by_kind(api: Api) -> None:
    [minted] = await api.mint()
    await api.call("GET", TOKENS, key=KEY)
    await api.call("GET", INSPECT, key=KEY, params={"token": minted["token"]})
    await api.call("DELETE", f"{TOKENS}/{minted['id']}", key=KEY)
    await api.call("GET", DATA, token=minted["token"])
    report = await api.report()
    kinds = ("requests", "data_requests", "mint_calls", "lists", "inspects", "revokes")
    assert [report[kind] for kind in kinds] == [5, 1, 1, 1, 1, 1]


async def test_with_skew_tokens_and_date_are_of_the_sandboxes_time(api: Api, clock: Clock) -> None:
    api.sandbox.skew = 3600
    reply = await api.call("POST", TOKENS, key=KEY, json={"expiresIn": 60_000})
    [minted] = reply.json["createApiTokens"]
    assert parsedate_to_datetime(reply.headers["Date"]).timestamp() == clock.now + 3600
    assert jwt.decode(minted["token"], options={"verify_signature": False})["exp"] == (
        clock.now + 3660
    )
    assert (await api.call("GET", DATA, token=minted["token"])).status == 200
    api.sandbox.skew = 3660
    assert (await api.call("GET", DATA, token=minted["token"])).status == 401
