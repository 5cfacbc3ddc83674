"""One token, made, inspected and revoked; and what each way in which that fails means."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import KEY, settings_for
from proxy.config import Settings
from proxy.launch.checks.mint import COSTS, LATER, Probe, judge, make_probe
from proxy.launch.report import Line, ok, warn
from proxy.ops.tokens import open_desk
from proxy.sandbox import Sandbox
from proxy.sandbox.faults import Fault
from proxy.tokens.budget import CALLS
from proxy.tokens.key import parse_key
from proxy.tokens.mobula import Revocation
from proxy.tokens.model import Standing
from proxy.tokens.store.base import Order, Wait
from proxy.tokens.store.choose import make_seal
from proxy.tokens.store.sqlite import SqliteStore

TOKENS, TOKEN = "/api/2/auth/tokens", "/api/2/auth/token"
STATIC_KEY = parse_key(KEY, "the test")


async def tried(settings: Settings) -> Probe:
    async with open_desk(settings, STATIC_KEY, None) as desk:
        return await make_probe(desk)


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def judged(probe: Probe) -> Line:
    return judge(probe, "api.mobula.io", "MOBULA_API_KEY")


async def test_a_token_is_made_inspected_and_revoked(sandbox: Sandbox) -> None:
    probe = await tried(settings_for(sandbox.url))
    assert probe == Probe(standing=Standing.ALIVE, revocation=Revocation.REVOKED)
    report = sandbox.ledger.report()
    assert (report["mint_calls"], report["revokes"]) == (1, 1)
    assert judged(probe) == ok(
        "mint", "api.mobula.io", f"a token was made, inspected and revoked; it cost {COSTS}"
    )


FAULTS: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "401": ({"status": 401}, "Mobula refused the static key", "put the key that Mobula's"),
    "402": ({"status": 402}, "Mobula asks for payment", "settle what is due in Mobula's dashboard"),
    "403": ({"status": 403}, "the key's plan has no short-lived tokens", "change the plan in"),
    "404": ({"status": 404}, "there is no token endpoint", "set upstreams.api.mobula.io.url to"),
    "302": ({"status": 302}, "redirects are not followed", "set upstreams.api.mobula.io.url to"),
    "429": ({"status": 429}, "the mint budget is used up", LATER),
    "500": ({"status": 500}, "the token endpoint failed", "run doctor again; if it stays so"),
    "page": ({"body": "<html>"}, "an answer that holds no token", "see whether upstreams.api"),
    "broken": ({"drop": "head"}, "the connection ended before", "run doctor again; if it stays so"),
}


@pytest.mark.parametrize(("fault", "found", "step"), FAULTS.values(), ids=FAULTS)
async def test_a_call_that_gives_no_token_is_told_with_what_it_means(
    sandbox: Sandbox, fault: dict[str, Any], found: str, step: str
) -> None:
    sandbox.faults.add(Fault(TOKENS, **fault))
    line = judged(await tried(settings_for(sandbox.url)))
    assert line.grade.value == "fail"
    assert found in line.found
    assert line.step.startswith(step)


async def test_a_plan_without_tokens_is_told(sandbox: Sandbox) -> None:
    async with Sandbox(keys={KEY: "free"}) as poor:
        line = judged(await tried(settings_for(poor.url)))
    assert "the key's plan has no short-lived tokens" in line.found
    assert sandbox.ledger.report()["mint_calls"] == 0


async def test_an_endpoint_that_cannot_be_reached_is_told() -> None:
    line = judged(await tried(settings_for("http://127.0.0.1:1")))
    assert (line.found, line.step) == ("no connection: connection refused", "see dns and tls above")


async def test_a_token_that_nobody_tells_of_is_revoked_all_the_same(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(TOKEN, status=500))
    probe = await tried(settings_for(sandbox.url))
    assert probe == Probe(revocation=Revocation.REVOKED)
    line = judged(probe)
    assert (line.grade.value, line.found) == (
        "warn",
        "a token was made, but Mobula does not tell how it stands",
    )


@pytest.mark.parametrize("status", [404, 500])
async def test_a_token_that_may_live_on_is_warned_of(sandbox: Sandbox, status: int) -> None:
    sandbox.faults.add(Fault(f"{TOKENS}/*", status=status))
    line = judged(await tried(settings_for(sandbox.url)))
    assert (line.grade.value, line.step) == ("warn", "wait a minute: it ends by itself then")


async def test_the_store_counts_the_call(sandbox: Sandbox, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tokens.db", make_seal(STATIC_KEY.secret).shelf)
    await store.open()
    settings = settings_for(sandbox.url, state_dir=str(tmp_path))
    outcomes = [await tried(settings) for _ in range(CALLS + 1)]
    assert isinstance(await store.permit(Order(1, 1, 60.0)), Wait)
    await store.close()
    assert [each.standing for each in outcomes[:-1]] == [Standing.ALIVE] * CALLS
    assert sandbox.ledger.report()["mint_calls"] == CALLS
    line = judged(outcomes[-1])
    assert line == warn("mint", "api.mobula.io", line.found, step=LATER)
    assert line.found.startswith("not tried: the mint budget is used up; try again in ")


async def test_a_store_that_is_not_there_is_not_made(sandbox: Sandbox, tmp_path: Path) -> None:
    probe = await tried(settings_for(sandbox.url, state_dir=str(tmp_path / "state")))
    assert probe.standing is Standing.ALIVE
    assert names_in(tmp_path) == []
