"""What Prometheus scrapes: names, values, and labels that nobody outside can make grow."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import KEY, SecretScan, base_url, exchange, get, running, until, until_ready
from identities import digest_of
from proxy import __version__
from proxy.app import App
from proxy.sandbox import Fault, Sandbox

MINT = "/api/2/auth/tokens"
DATA = "/api/1/market/data"
ECHO = "/api/1/sandbox/echo"

Labels = tuple[tuple[str, str], ...]


@pytest.fixture
async def app(sandbox: Sandbox, scan: SecretScan) -> AsyncIterator[App]:
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        yield app


async def scrape(app: App) -> dict[str, dict[Labels, float]]:
    """Every sample by its name without `mobula_proxy_`, and by its labels."""
    _, headers, body = await get(f"http://{app.admin_address}/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation, f"{family.name} has no help"
        for sample in family.samples:
            assert sample.name.startswith("mobula_proxy_")
            name = sample.name.removeprefix("mobula_proxy_")
            found.setdefault(name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def by(**labels: str) -> Labels:
    return tuple(sorted(labels.items()))


UPSTREAM = by(upstream="api.mobula.io")


async def test_before_any_request_the_stock_and_the_budget_are_told(app: App) -> None:
    found = await scrape(app)
    assert found["build_info"] == {by(version=__version__): 1}
    assert found["tokens"] == {
        by(state="current"): 0,
        by(state="standby"): 2,
        by(state="set_aside"): 0,
        by(state="quarantined"): 0,
    }
    assert found["token_requests_remaining"] == {(): 10_000}
    assert 3500 < found["token_expiry_seconds"][()] <= 3600
    assert found["token_stock_expiry_seconds"][()] >= found["token_expiry_seconds"][()]
    assert found["mint_permits"] == {(): 4}
    assert found["mints_total"] == {by(result="ok"): 1}
    assert found["minted_tokens_total"] == {(): 2}
    assert found["requests_in_flight"] == found["leases_open"] == {(): 0}
    assert set(found["leases_settled_total"].values()) == {0}
    assert found["tasks"][()] >= 2
    assert found["upstream_waiting"] == {UPSTREAM: 0}
    assert found.get("requests_total", {}) == {}


async def test_requests_are_counted_by_upstream_and_status_and_timed(app: App) -> None:
    for path in (DATA, DATA, "/api/1/no-such-path"):
        await get(base_url(app) + path)
    found = await scrape(app)
    assert found["requests_total"] == {
        by(upstream="api.mobula.io", status="200"): 2,
        by(upstream="api.mobula.io", status="404"): 1,
    }
    assert found["request_duration_seconds_count"] == {UPSTREAM: 3}
    assert 0 < found["request_duration_seconds_sum"][UPSTREAM] < 3
    assert found["token_requests_remaining"] == {(): 9_997}
    assert found["leases_open"] == {(): 0}
    assert found["leases_settled_total"][by(outcome="used")] == 2
    assert found["leases_settled_total"][by(outcome="unknown")] == 1
    assert found["rotations_total"] == {by(reason="first"): 1}
    assert found["upstream_connections"] == {
        by(upstream="api.mobula.io", state="idle"): 1,
        by(upstream="api.mobula.io", state="busy"): 0,
    }


async def test_our_own_refusals_are_counted_by_their_code(app: App) -> None:
    await get(base_url(app) + MINT)
    await exchange(app, b"no http at all\r\n\r\n")
    found = await scrape(app)
    assert found["errors_total"] == {
        by(code="auth_path_denied"): 1,
        by(code="malformed_request"): 1,
    }
    assert found["requests_total"] == {
        by(upstream="api.mobula.io", status="403"): 1,
        by(upstream="api.mobula.io", status="400"): 1,
    }


async def test_each_client_has_counters_of_its_own(sandbox: Sandbox, scan: SecretScan) -> None:
    token, other = b"a-clients-token", b"another-clients-token"
    clients = {
        "reader": {"tokens": [digest_of(token)], "methods": ["GET"]},
        "other": {"tokens": [digest_of(other)]},
    }
    listeners = [{"bind": "127.0.0.1:0", "authenticate": True}]
    async with running(sandbox.url, scan, listeners=listeners, clients=clients) as app:
        await until_ready(app)
        for shown in (token, token, other, b"nobodys-token"):
            await get(base_url(app) + DATA, headers={"x-api-key": shown.decode()})
        await exchange(
            app,
            b"DELETE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-api-key: %b\r\n\r\n" % token,
        )
        found = await scrape(app)
    assert found["client_requests_total"] == {
        by(client="reader", status="200"): 2,
        by(client="other", status="200"): 1,
        by(client="reader", status="403"): 1,
    }
    assert found["client_refusals_total"] == {by(client="reader", code="client_denied"): 1}
    assert found["errors_total"][by(code="client_unknown")] == 1


async def test_stripped_keys_are_counted_by_place(app: App) -> None:
    headers = {"Authorization": KEY, "x-api-key": KEY, "X-Mine": KEY, "Cookie": f"key={KEY}"}
    await get(f"{base_url(app)}{ECHO}/{KEY}?api_key={KEY}", headers=headers)
    assert (await scrape(app))["stripped_keys_total"] == {
        by(place="authorization"): 1,
        by(place="x-api-key"): 1,
        by(place="header"): 2,
        by(place="query"): 1,
        by(place="path"): 1,
    }


async def test_a_token_that_was_revoked_shows_as_resend_quarantine_and_rotation(
    app: App, sandbox: Sandbox
) -> None:
    sandbox.faults.add(Fault(DATA, revoke=True, times=1))
    assert (await get(base_url(app) + DATA))[0] == 200
    await until(lambda: app.status().tokens.quarantined == 1)
    found = await scrape(app)
    assert found["resends_total"] == {UPSTREAM: 1}
    assert found["requests_total"] == {by(upstream="api.mobula.io", status="200"): 1}
    assert found["quarantines_total"] == {by(standing="gone"): 1}
    assert found["tokens"][by(state="quarantined")] == 1


async def test_an_answer_that_broke_off_is_counted(app: App, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(DATA, drop="body"))
    with pytest.raises(aiohttp.ClientError):
        await get(base_url(app) + DATA)
    assert (await scrape(app))["broken_answers_total"] == {UPSTREAM: 1}


async def test_mints_are_counted_by_result_and_a_rotation_by_its_reason(
    app: App, sandbox: Sandbox
) -> None:
    await get(base_url(app) + DATA)
    app.rotate()
    await until(lambda: sandbox.ledger.report()["revokes"] == 2)
    await get(base_url(app) + DATA)
    sandbox.faults.add(Fault(MINT, status=500))
    app.rotate()
    await until(lambda: app.status().tokens.fault is not None)
    found = await scrape(app)
    assert found["mints_total"] == {by(result="ok"): 2, by(result="500"): 1}
    assert found["rotations_total"] == {by(reason="first"): 1, by(reason="requested"): 1}
    assert found["revokes_total"] == {by(result="ok"): 2}


async def test_nothing_that_a_client_sends_becomes_a_label(app: App) -> None:
    before = {name: set(samples) for name, samples in (await scrape(app)).items()}
    for number in range(5):
        await get(
            f"{base_url(app)}{ECHO}/path-{number}?query-{number}",
            headers={"Host": f"host-{number}", f"X-Name-{number}": f"value-{number}"},
        )
        await exchange(
            app, f"VERB{number} /x HTTP/1.1\r\nHost: h{number}\r\n\r\n".encode(), half_close=True
        )
    found = await scrape(app)
    text = repr(found)
    words = ("path-", "query-", "host-", "Name-", "value-", "VERB")
    assert [word for word in words if word in text] == []
    new = {name: set(samples) - before.get(name, set()) for name, samples in found.items()}
    assert sum(len(labels) for name, labels in new.items() if name.endswith("_total")) <= 4
