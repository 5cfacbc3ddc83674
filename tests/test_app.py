"""The whole proxy in this process, against the sandbox."""

from harness import KEY, SecretScan, base_url, get, running
from proxy.sandbox import Sandbox


async def test_a_request_with_the_static_key_arrives_with_a_token_instead(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan) as app:
        status, _, body = await get(
            base_url(app) + "/api/1/sandbox/echo", headers={"Authorization": KEY, "x-api-key": KEY}
        )
    assert status == 200
    assert b'["Authorization","Bearer [token]"]' in body
    assert b"static key" not in body
