"""What `mobula-proxy tokens` tells of a key's tokens, and what it does to them.

Each test runs the installed command against a sandbox.
"""

import asyncio
import json
import os
import pty
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest

from harness import KEY, Gate, SecretScan, command, finished, running, until_ready
from proxy.sandbox import Sandbox
from proxy.sandbox.faults import Fault
from proxy.tokens.key import parse_key
from proxy.tokens.mobula import MobulaClient
from proxy.tokens.model import Secret, Token
from proxy.tokens.store.base import Ending, Order, Permit, Report, Shelved, Wait
from proxy.tokens.store.seal import Seal
from proxy.tokens.store.sqlite import SqliteStore

TOKENS = "/api/2/auth/tokens"
STORE_SECRET = "5e" * 32
GIVEN = {"MOBULA_API_KEY": KEY, "MOBULA_STORE_SECRET": STORE_SECRET}
SEAL = Seal(Secret(STORE_SECRET))

Told = tuple[int, str, str]


class Desk:
    """Runs `mobula-proxy tokens …` against a sandbox, maybe with a store."""

    def __init__(self, url: str, scan: SecretScan) -> None:
        self.url = url
        self.store = "memory://"
        self.scan = scan

    def arguments(self, *words: str) -> list[str]:
        sets = (f"upstreams.api.mobula.io.url={self.url}", f"store.url={self.store}")
        return ["tokens", *words, *(part for each in sets for part in ("--set", each))]

    async def told(self, *words: str, **options: Any) -> Told:
        """Run it to its end: exit code, standard output, standard error."""
        options = {"scan": self.scan, "environ": GIVEN, **options}
        return await asyncio.to_thread(finished, *self.arguments(*words), **options)

    async def json(self, *words: str, **options: Any) -> list[dict[str, Any]]:
        """Run it with `--json`, well, and return the tokens that it tells of."""
        code, out, err = await self.told(*words, "--json", **options)
        assert (code, err) == (0, "")
        tokens: list[dict[str, Any]] = json.loads(out)["tokens"]
        return tokens

    async def created(self, *words: str) -> Told:
        """Run `create`. It is there to print tokens, so nobody scans for them."""
        return await self.told("create", *words, scan=SecretScan())


@pytest.fixture
def desk(sandbox: Sandbox, scan: SecretScan) -> Desk:
    scan.add(STORE_SECRET)
    return Desk(sandbox.url, scan)


@pytest.fixture
async def store(desk: Desk, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """What the fleet knows, in a file that the command is told of."""
    file = tmp_path / "tokens.db"
    desk.store = f"sqlite:///{file}"
    store = SqliteStore(file, SEAL.shelf)
    await store.open()
    yield store
    await store.close()


async def minted(sandbox: Sandbox, count: int = 1) -> Sequence[Token]:
    """Have tokens made for KEY, the first of which are spent a little."""
    async with MobulaClient(sandbox.url) as client:
        key = Secret(KEY)
        return (await client.mint(key, count=count, expires_in=3600.0, request_limit=100)).tokens


def shelved(token: Token, *, key: str = KEY, free: int = 60) -> Shelved:
    return Shelved(
        id=token.id,
        sealed=SEAL.close(token.id, token.secret),
        key=parse_key(key, "the test").fingerprint,
        age=0.0,
        lives=3600.0,
        limit=100,
        free=free,
        generation=0,
        revocable=True,
    )


# list


async def test_list_shows_what_is_left_of_each_token(desk: Desk, sandbox: Sandbox) -> None:
    (one,) = await minted(sandbox)
    code, out, err = await desk.told("list")
    assert (code, err) == (0, "")
    head, row = out.splitlines()
    assert head.split() == ["ID", "LEFT", "LIMIT", "EXPIRES", "IN"]
    assert row.split()[:3] == [one.id, "100", "100"]
    assert row.split()[3].startswith(("1h", "59m"))


async def test_list_as_json_has_numbers_and_says_that_there_is_no_store(
    desk: Desk, sandbox: Sandbox
) -> None:
    (one,) = await minted(sandbox)
    code, out, _ = await desk.told("list", "--json")
    told = json.loads(out)
    (row,) = told["tokens"]
    assert (code, told["store"]) == (0, None)
    assert 3590 < row.pop("expires_in") <= 3600
    assert row == {
        "id": one.id, "listed": True, "remaining": 100, "limit": 100,
        "ours": None, "free": None, "retired": None,
    }  # fmt: skip


async def test_list_without_tokens_says_so(desk: Desk) -> None:
    assert await desk.told("list") == (0, "no active tokens\n", "")


async def test_list_tells_what_the_store_knows(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    ours, retired, other = await minted(sandbox, 3)
    await store.add([shelved(ours), shelved(retired)])
    await store.retire(retired.id)
    rows = {row["id"]: row for row in await desk.json("list")}
    told = {name: (row["ours"], row["free"], row["retired"]) for name, row in rows.items()}
    assert told == {
        ours.id: (True, 60, False),
        retired.id: (True, 0, True),
        other.id: (False, None, None),
    }
    _, out, _ = await desk.told("list")
    stores = {line.split()[0]: line.split("  ")[-1] for line in out.splitlines()[1:]}
    assert stores == {ours.id: "ours, 60 free", retired.id: "retired", other.id: "not ours"}


async def test_list_names_a_token_that_only_the_store_knows(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    (gone,) = await minted(sandbox)
    await store.add([shelved(gone)])
    sandbox.ledger.revoke(gone.id)
    (row,) = await desk.json("list")
    assert (row["id"], row["listed"], row["remaining"]) == (gone.id, False, None)
    _, out, _ = await desk.told("list")
    assert out.splitlines()[1].endswith("ours, 60 free, unknown to Mobula")


async def test_list_leaves_out_what_another_static_key_minted(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    (one,) = await minted(sandbox)
    await store.add([shelved(one, key="another-key")])
    sandbox.ledger.revoke(one.id)
    assert await desk.json("list") == []


async def test_list_is_no_sharer_and_holds_nothing(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    (one,) = await minted(sandbox)
    await store.add([shelved(one)])
    await desk.json("list")
    roll = await store.attend(Report(rate=0.0))
    assert (roll.sharers, dict(roll.free)) == (1, {one.id: 60})


async def test_list_makes_no_store_where_none_is(desk: Desk, tmp_path: Path) -> None:
    desk.store = f"sqlite:///{tmp_path}/none.db"
    assert await desk.told("list") == (0, "no active tokens\n", "")
    assert not (tmp_path / "none.db").exists()


# inspect


async def test_inspect_tells_all_of_one_token(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    one, _ = await minted(sandbox, 2)
    await store.add([shelved(one)])
    code, out, err = await desk.told("inspect", one.id)
    assert (code, err) == (0, "")
    details = dict(line.split(":", 1) for line in out.splitlines())
    assert {name: text.strip() for name, text in details.items() if name != "expires in"} == {
        "id": one.id,
        "left": "100 of 100",
        "store": "ours, 60 free",
        "inspect": "usable, 100 left",
    }


async def test_inspect_asks_about_the_value_only_if_the_store_has_it(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    one, other = await minted(sandbox, 2)
    await store.add([shelved(one)])
    inspections = []
    for each in (one, other):
        _, out, _ = await desk.told("inspect", each.id, "--json")
        inspections.append(json.loads(out)["inspection"])
    assert inspections == [{"standing": "alive", "remaining": 100}, None]


async def test_inspect_of_an_id_that_is_no_token_s_exits_1(desk: Desk) -> None:
    assert await desk.told("inspect", "nobody") == (
        1, "", "mobula-proxy: no active token of this static key has the id nobody\n",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["inspect", "revoke"])
async def test_what_cannot_be_an_id_goes_nowhere(desk: Desk, sandbox: Sandbox, name: str) -> None:
    code, out, err = await desk.told(name, "..")
    assert (code, out) == (2, "")
    assert "a token's id is made of letters, digits and . _ ~ -" in err
    assert sandbox.ledger.report()["requests"] == 0


# create


async def test_create_prints_tokens_that_work(desk: Desk, sandbox: Sandbox) -> None:
    code, out, err = await desk.created(
        "--count", "2", "--expires-in", "5m", "--request-limit", "7"
    )
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["ID", "LIMIT", "EXPIRES", "IN", "TOKEN"]
    assert {row.split()[-1] for row in rows} == set(sandbox.ledger.secrets())
    assert {row.split()[1] for row in rows} == {"7"}
    assert all(row.split()[2].startswith(("4m5", "5m")) for row in rows)


async def test_create_takes_its_defaults_from_the_settings(desk: Desk) -> None:
    (one,) = await desk.json(
        "create", "--set", "token.request_limit=9", "--set", "token.expires_in=2m",
        scan=SecretScan(),
    )  # fmt: skip
    assert one["limit"] == 9
    assert 110 < one["expires_in"] <= 120
    assert one["token"].count(".") == 2


async def test_create_prints_what_it_can_read_and_tells_of_the_rest(
    desk: Desk, sandbox: Sandbox
) -> None:
    value = jwt.encode({"exp": time.time() + 600}, "x" * 32)
    body = json.dumps({"createApiTokens": [{"id": "one", "token": value}, "odd"]})
    sandbox.faults.add(Fault(TOKENS, method="POST", body=body))
    code, out, err = await desk.created("--count", "2")
    assert code == 1
    assert out.splitlines()[1].split()[::3] == ["one", value]
    assert err == (
        "mobula-proxy: Mobula made a token that cannot be read: token 2 of 2: not an object\n"
    )


async def test_create_puts_nothing_on_the_shelf(desk: Desk, store: SqliteStore) -> None:
    code, _, _ = await desk.created()
    assert (code, await store.load()) == (0, [])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--count", "26"), ("--expires-in", "59s"), ("--request-limit", "0")],
)
async def test_create_refuses_what_mobula_would(
    desk: Desk, sandbox: Sandbox, option: str, value: str
) -> None:
    code, _, err = await desk.created(option, value)
    assert (code, option in err) == (2, True)
    assert sandbox.ledger.report()["requests"] == 0


async def test_create_counts_among_the_calls_of_the_fleet(desk: Desk, store: SqliteStore) -> None:
    before = (await store.attend(Report(rate=0.0, wants_right=False))).permits
    await desk.created()
    roll = await store.attend(Report(rate=0.0, wants_right=False))
    assert (roll.permits, roll.minting) == (before - 1, False)


async def test_create_waits_its_turn(desk: Desk, sandbox: Sandbox, store: SqliteStore) -> None:
    assert isinstance(await store.permit(Order(1, 1, 60.0)), Permit)
    code, out, err = await desk.created()
    assert (code, out) == (1, "")
    assert err.startswith("mobula-proxy: another process is minting; try again in ")
    assert sandbox.ledger.report()["requests"] == 0


async def test_create_says_when_the_mint_budget_allows_it_again(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    while isinstance(permit := await store.permit(Order(1, 1, 60.0)), Permit):
        await store.end(permit, Ending())
    assert isinstance(permit, Wait)
    code, _, err = await desk.created()
    assert code == 1
    assert err.startswith("mobula-proxy: the mint budget is used up; try again in ")
    assert 30 <= int(err.split()[-2]) <= 60
    assert sandbox.ledger.report()["requests"] == 0


async def test_create_says_when_mobula_allows_it_again(desk: Desk, sandbox: Sandbox) -> None:
    for _ in range(5):
        await minted(sandbox)
    code, _, err = await desk.created()
    assert code == 1
    assert err.startswith("mobula-proxy: status 429: the mint budget is used up, ")
    assert 30 <= int(err.split("; try again in ")[1].removesuffix(" s\n")) <= 60


async def test_a_create_that_mobula_refuses_has_ended_and_left_nothing(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    sandbox.faults.add(Fault(TOKENS, method="POST", status=403))
    code, _, err = await desk.created()
    assert (code, err.count("\n")) == (1, 1)
    assert "status 403: the key's plan has no short-lived tokens" in err
    assert await store.abandoned() == []
    assert not (await store.attend(Report(rate=0.0))).minting


async def test_a_create_whose_answer_is_lost_is_left_to_the_fleet_as_abandoned(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    sandbox.faults.add(Fault(TOKENS, method="POST", drop="body"))
    code, _, err = await desk.created("--count", "3")
    assert (code, err) == (1, "mobula-proxy: the answer could not be read to its end\n")
    (abandoned,) = await store.abandoned()
    assert abandoned.order == Order(3, 5000, 3600.0)


async def test_a_create_that_is_interrupted_has_ended_and_is_abandoned(
    desk: Desk, scan: SecretScan, store: SqliteStore
) -> None:
    gate = Gate()
    async with Sandbox(keys={KEY: "growth"}, sleep=gate.hold) as sandbox:
        sandbox.faults.add(Fault(TOKENS, method="POST", delay=1.0))
        desk.url = sandbox.url
        with command(*desk.arguments("create"), scan=scan, environ=GIVEN) as process:
            await gate.reached()
            process.signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait) == 1
    assert process.err == "\nAborted!\n"
    roll = await store.attend(Report(rate=0.0))
    assert (roll.minting, len(await store.abandoned())) == (False, 1)


# revoke


async def test_revoke_tells_of_each_token_that_it_is_gone(desk: Desk, sandbox: Sandbox) -> None:
    one, two, three = await minted(sandbox, 3)
    code, out, err = await desk.told("revoke", one.id, two.id)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        [one.id, "revoked"],
        [two.id, "revoked"],
    ]
    assert [row["id"] for row in await desk.json("list")] == [three.id]


async def test_revoke_of_a_wrong_id_is_no_success(desk: Desk, sandbox: Sandbox) -> None:
    (one,) = await minted(sandbox)
    code, out, _ = await desk.told("revoke", "nobody", one.id, "--json")
    assert code == 1
    assert json.loads(out)["tokens"] == [
        {"id": "nobody", "outcome": "not found"},
        {"id": one.id, "outcome": "revoked"},
    ]


async def test_revoke_that_mobula_does_not_confirm_exits_1(desk: Desk, sandbox: Sandbox) -> None:
    (one,) = await minted(sandbox)
    sandbox.faults.add(Fault(f"{TOKENS}/*", method="DELETE", status=503))
    code, out, _ = await desk.told("revoke", one.id)
    assert (code, out) == (1, f"{one.id}  not confirmed: it may still be usable\n")


async def test_what_is_revoked_leaves_the_store(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    one, two = await minted(sandbox, 2)
    await store.add([shelved(one), shelved(two)])
    await desk.json("revoke", one.id)
    assert [each.id for each in await store.load()] == [two.id]


async def test_what_is_not_confirmed_stays_in_the_store_for_nobody_to_use(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    (one,) = await minted(sandbox)
    await store.add([shelved(one)])
    sandbox.faults.add(Fault(f"{TOKENS}/*", method="DELETE", status=503))
    assert (await desk.told("revoke", one.id))[0] == 1
    (left,) = await store.load()
    assert left.retired


async def test_what_another_static_key_minted_is_not_called_revoked(
    desk: Desk, sandbox: Sandbox, store: SqliteStore
) -> None:
    (one,) = await minted(sandbox)
    await store.add([shelved(one, key="another-key")])
    code, out, _ = await desk.told("revoke", one.id)
    assert (code, out) == (1, f"{one.id}  not confirmed: it may still be usable\n")
    (left,) = await store.load()
    assert not left.retired


async def test_revoke_all_leaves_none(desk: Desk, sandbox: Sandbox, store: SqliteStore) -> None:
    tokens = await minted(sandbox, 3)
    await store.add([shelved(tokens[0])])
    assert len(await desk.json("revoke", "--all", "--yes")) == 3
    assert await desk.told("revoke", "--all", "--yes") == (0, "no active tokens\n", "")
    assert await store.load() == []


async def test_revoke_all_does_nothing_unasked_where_nobody_can_answer(
    desk: Desk, sandbox: Sandbox
) -> None:
    code, out, err = await desk.told("revoke", "--all")
    assert (code, out) == (2, "")
    assert "--all asks before it revokes; without a terminal, give --yes" in err
    assert sandbox.ledger.report()["requests"] == 0


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, 0), (b"n\n", 1, 2)])
async def test_revoke_all_asks_on_a_terminal(
    desk: Desk, sandbox: Sandbox, answer: bytes, code: int, left: int
) -> None:
    await minted(sandbox, 2)
    person, terminal = pty.openpty()
    try:
        os.write(person, answer)
        told = await desk.told("revoke", "--all", stdin=terminal)
    finally:
        os.close(person)
        os.close(terminal)
    assert told[0] == code
    assert "Revoke every token of this static key, whoever uses it? [y/N]" in told[2]
    assert len(await desk.json("list")) == left


@pytest.mark.parametrize("words", [(), ("--all", "an-id")])
async def test_revoke_wants_ids_or_all(desk: Desk, words: Sequence[str]) -> None:
    code, _, err = await desk.told("revoke", *words)
    assert (code, "name tokens by their ids, or give --all" in err) == (2, True)


# rotate


async def test_rotate_has_the_running_proxy_replace_its_tokens(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        before = {each.id for each in app.status().tokens.tokens}
        words = ("tokens", "rotate", "--admin", str(app.admin_address))
        assert await asyncio.to_thread(finished, *words, scan=scan) == (0, "", "")
        async with asyncio.timeout(5.0):
            while before & {each.id for each in app.status().tokens.tokens}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_rotate_without_a_proxy_exits_1(scan: SecretScan) -> None:
    code, _, err = await asyncio.to_thread(
        finished, "tokens", "rotate", "--admin", "127.0.0.1:1", scan=scan
    )
    assert (code, err) == (1, "mobula-proxy: no proxy answers on admin address 127.0.0.1:1\n")


# What can go wrong


WORDS = {
    "list": ("list",),
    "inspect": ("inspect", "an-id"),
    "create": ("create",),
    "revoke": ("revoke", "--all", "--yes"),
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
async def test_a_static_key_that_mobula_refuses_is_told_in_a_line(
    desk: Desk, sandbox: Sandbox, words: Sequence[str]
) -> None:
    sandbox.faults.add(Fault(TOKENS, status=401))
    refused = "mobula-proxy: status 401: Mobula refused the static key\n"
    assert await desk.told(*words) == (1, "", refused)


async def test_a_plan_without_tokens_is_told_in_a_line(desk: Desk) -> None:
    async with Sandbox(keys={KEY: "free"}) as sandbox:
        desk.url = sandbox.url
        code, out, err = await desk.told("list")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "status 403: the key's plan has no short-lived tokens" in err


@pytest.mark.parametrize("name", ["list", "create"])
async def test_a_mobula_that_cannot_be_reached_is_told_in_a_line(desk: Desk, name: str) -> None:
    desk.url = "http://127.0.0.1:1"
    refused = "mobula-proxy: no connection: connection refused\n"
    assert await desk.told(name) == (1, "", refused)


async def test_a_store_that_cannot_be_reached_is_told_in_a_line_without_its_password(
    desk: Desk, scan: SecretScan
) -> None:
    scan.add("pass-4711")
    desk.store = "redis://:pass-4711@127.0.0.1:1"
    code, out, err = await desk.told("list")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "(store.url: redis://***@127.0.0.1:1)" in err


async def test_without_a_static_key_there_are_no_tokens_to_tell_of(desk: Desk) -> None:
    code, _, err = await desk.told("list", environ={})
    assert (code, err.startswith("mobula-proxy: No static key. Set MOBULA_API_KEY")) == (2, True)
