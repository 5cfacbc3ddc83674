"""The control endpoints, over a real socket."""

from typing import Any

import pytest

from sandbox.kit import DATA, KEY, Api, Clock


async def test_control_needs_no_credential_and_is_never_counted(api: Api) -> None:
    await api.call("POST", "/_sandbox/skew", json={"seconds": 1})
    assert (await api.report())["requests"] == 0


async def test_the_report_over_http_is_the_ledgers_own(api: Api) -> None:
    await api.call("GET", DATA, token=await api.token())
    assert await api.report() == api.sandbox.ledger.report()


async def test_the_report_holds_neither_key_nor_token(api: Api) -> None:
    token = await api.token()
    await api.call("GET", f"/{KEY}/{token}", token=token)
    reply = await api.call("GET", "/_sandbox/ledger")
    assert KEY.encode() not in reply.body
    assert token.encode() not in reply.body


async def test_a_fault_is_added_and_cleared(api: Api) -> None:
    token, fault = await api.token(), {"path": DATA, "status": 503}
    assert (await api.call("POST", "/_sandbox/faults", json=fault)).json == {"faults": 1}
    assert (await api.call("GET", DATA, token=token)).status == 503
    assert (await api.call("DELETE", "/_sandbox/faults")).json == {"faults": 0}
    assert (await api.call("GET", DATA, token=token)).status == 200


async def test_one_token_is_revoked_by_id(api: Api) -> None:
    first, second = await api.mint(count=2)
    reply = await api.call("POST", "/_sandbox/revoke", json={"id": first["id"]})
    assert (reply.status, reply.json) == (200, {"revoked": 1})
    assert (await api.call("GET", DATA, token=first["token"])).status == 401
    assert (await api.call("GET", DATA, token=second["token"])).status == 200


async def test_all_tokens_are_revoked_at_once(api: Api) -> None:
    minted = await api.mint(count=3)
    assert (await api.call("POST", "/_sandbox/revoke", json={"all": True})).json == {"revoked": 3}
    for token in minted:
        assert (await api.call("GET", DATA, token=token["token"])).status == 401


async def test_revoking_an_unknown_id_gets_404(api: Api) -> None:
    assert (await api.call("POST", "/_sandbox/revoke", json={"id": "x"})).status == 404


async def test_skew_is_set(api: Api, clock: Clock) -> None:
    reply = await api.call("POST", "/_sandbox/skew", json={"seconds": -3600})
    assert reply.json == {"skew": -3600.0}
    assert api.sandbox.skew == -3600
    assert (await api.report())["now"] == clock.now - 3600


@pytest.mark.parametrize(
    ("path", "json"),
    [
        ("faults", {}),
        ("faults", {"status": "x"}),
        ("faults", []),
        ("revoke", {}),
        ("revoke", {"all": False}),
        ("revoke", {"all": True, "id": "x"}),
        ("revoke", {"id": 1}),
        ("skew", {"seconds": "1"}),
        ("skew", {"seconds": True}),
        ("skew", {"seconds": 1e12}),
        ("skew", {"seconds": float("nan")}),
        ("skew", {"seconds": 1, "minutes": 1}),
        ("skew", None),
    ],
)
async def test_a_malformed_control_call_gets_400_and_says_why(
    api: Api, path: str, json: Any
) -> None:
    reply = await api.call("POST", f"/_sandbox/{path}", json=json)
    assert (reply.status, reply.json["statusCode"]) == (400, 400)
    assert len(reply.json["message"]) > 10


async def test_broken_json_gets_400(api: Api) -> None:
    reply = await api.call("POST", "/_sandbox/skew", data=b"[" * 50_000)
    assert (reply.status, reply.json["message"]) == (400, "body must be valid JSON")


async def test_an_unknown_control_path_gets_404_and_names_the_known(api: Api) -> None:
    reply = await api.call("GET", "/_sandbox/nothing")
    assert reply.status == 404
    assert "/_sandbox/ledger" in reply.json["message"]


async def test_a_wrong_control_method_gets_405(api: Api) -> None:
    reply = await api.call("POST", "/_sandbox/ledger")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET")
