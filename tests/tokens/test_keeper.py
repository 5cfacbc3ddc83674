"""The keeper with a real sandbox and a real clock, but short waits."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from proxy.config import TokenSettings
from proxy.errors import TokenUnavailable
from proxy.sandbox import Fault, Sandbox
from proxy.tokens.budget import MintBudget
from proxy.tokens.clock import steady
from proxy.tokens.events import (
    Event,
    KeyChanged,
    KeyUnreadable,
    Minted,
    MintFailed,
    Quarantined,
    Revoked,
    Rotated,
)
from proxy.tokens.keeper import Keeper
from proxy.tokens.key import KeySource, parse_key
from proxy.tokens.mobula import MobulaClient
from proxy.tokens.model import Outcome, Secret, Standing, Token
from proxy.tokens.pool import TokenPool
from proxy.tokens.verdicts import VERDICT_SECONDS
from tokens.kit import alone

KEY = "static-key-of-the-growth-plan"
NEW_KEY = "another-key-of-the-growth-plan"
FREE_KEY = "static-key-of-the-free-plan"
KEYS = {KEY: "growth", NEW_KEY: "growth", FREE_KEY: "free"}
MINT = "/api/2/auth/tokens"
INSPECT = "/api/2/auth/token"
REVOKE = "/api/2/auth/tokens/*"

Kind = TypeVar("Kind", bound=Event)


class Clock:
    """The real clock, which may be turned forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return steady() + self.ahead


@dataclass
class Room:
    """A keeper at work, and everything around it."""

    keeper: Keeper
    sandbox: Sandbox
    clock: Clock
    told: list[Event] = field(default_factory=list)

    def events(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.told if isinstance(event, kind)]

    async def heard(self, kind: type[Kind]) -> Kind:
        """The first event of a kind, once it is told."""
        await until(lambda: bool(self.events(kind)))
        return self.events(kind)[0]

    async def token(self) -> Token:
        """A token, once there is one; it is used for one request."""
        await self.keeper.wait_for_token(5)
        return self.serve()

    async def use_up(self) -> None:
        """Use tokens until none is to be had."""
        while True:
            await self.token()

    def serve(self) -> Token:
        """Serve a request without waiting, and return the token that it used."""
        lease = self.keeper.lease()
        assert lease is not None, "a request found no token"
        self.keeper.settle(lease, Outcome.USED)
        return lease.token

    def count(self, what: str) -> int:
        count = self.sandbox.ledger.report()[what]
        assert isinstance(count, int)
        return count

    def revoked(self) -> dict[str, bool]:
        """Whether the sandbox has each token revoked, by id."""
        tokens = self.sandbox.ledger.report()["tokens"]
        assert isinstance(tokens, list)
        return {each["id"]: each["revoked"] for each in tokens}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the sandbox tells nobody what it counts
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def keeping(
    sandbox: Sandbox, *, source: KeySource | None = None, url: str = "", **settings: Any
) -> AsyncIterator[Room]:
    source = source or KeySource(name="the test", value=KEY)
    clock = Clock()
    told: list[Event] = []
    options = TokenSettings(**settings)
    pool = TokenPool(
        limit=options.request_limit,
        standby=options.standby,
        budget=MintBudget(),
        chance=lambda: 0.0,
        tell=told.append,
    )
    async with (
        MobulaClient(url or sandbox.url, clock=clock) as mobula,
        Keeper(
            pool=pool,
            sharing=alone(source.read(), told.append, clock),
            mobula=mobula,
            source=source,
            key=source.read(),
            settings=options,
            tell=told.append,
            clock=clock,
        ) as keeper,
    ):
        yield Room(keeper, sandbox, clock, told)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(keys=KEYS) as sandbox:
        yield sandbox
        assert sandbox.ledger.report()["leaks"] == []


@pytest.fixture
async def room(sandbox: Sandbox) -> AsyncIterator[Room]:
    """A keeper that has its first tokens."""
    async with keeping(sandbox) as room:
        await room.token()
        yield room


class KeyFile:
    """A file with the static key, and a source that watches it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "key"
        self._next = folder / "next"
        self.source = KeySource(name="file key", path=self._path, poll_seconds=0.005)
        self.write(KEY)

    def write(self, text: str) -> None:
        self._path.write_text(text)

    def swap(self, text: str) -> None:
        """Put another file in its place, in one step."""
        self._next.write_text(text)
        self._next.replace(self._path)


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path)


# The first token


async def test_the_first_tokens_come_without_being_asked_for(sandbox: Sandbox) -> None:
    async with keeping(sandbox, standby=2) as room:
        assert (room.keeper.started, room.keeper.ready()) == (False, False)
        assert room.keeper.lease() is None
        await until(room.keeper.ready)
        assert (room.keeper.started, room.keeper.ready()) == (True, True)
        assert len(room.keeper.snapshot().tokens) == 3
        assert room.count("mint_calls") == 1


async def test_tokens_are_asked_for_as_the_settings_say(sandbox: Sandbox) -> None:
    async with keeping(sandbox, request_limit=7, expires_in=300.0) as room:
        token = await room.token()
    assert token.limit == 7
    assert 297 <= token.expires_at - token.minted_at <= 300


async def test_all_who_wait_are_woken_by_one_mint(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, delay=0.05))
    async with keeping(sandbox) as room:
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(room.keeper.wait_for_token(5))
            await asyncio.sleep(0.01)
            assert repr(room.keeper) == (
                "<Keeper of <TokenPool 0 ready, 0 quarantined, 0 left>, 50 waiting>"
            )
        assert room.count("mint_calls") == 1


async def test_nobody_waits_while_a_token_is_in_hand(room: Room) -> None:
    async with asyncio.timeout(0.5):
        await room.keeper.wait_for_token(5)


async def test_a_wait_ends_with_a_reason_when_its_time_is_up(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, delay=60))
    async with keeping(sandbox) as room:
        with pytest.raises(TokenUnavailable) as caught:
            await room.keeper.wait_for_token(0.02)
    assert caught.value.detail == (
        "No short-lived token can be had: Mobula has not given one in time."
    )
    assert caught.value.retry_after == 1


async def test_a_wait_that_ends_names_what_went_wrong(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, status=503))
    async with keeping(sandbox) as room:
        with pytest.raises(TokenUnavailable, match="status 503: the token endpoint failed"):
            await room.keeper.wait_for_token(0.1)


async def test_one_more_than_may_wait_is_turned_away(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, delay=60))
    async with keeping(sandbox, waiters=2) as room:
        waiting = [asyncio.ensure_future(room.keeper.wait_for_token(5)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(TokenUnavailable, match="too many requests are waiting"):
            await room.keeper.wait_for_token(5)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)


async def test_a_cancelled_wait_leaves_nothing_behind(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, delay=60))
    async with keeping(sandbox) as room:
        waiting = asyncio.ensure_future(room.keeper.wait_for_token(5))
        await asyncio.sleep(0.01)
        assert repr(room.keeper).endswith("1 waiting>")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert repr(room.keeper).endswith("0 waiting>")


async def test_a_wait_whose_time_is_up_leaves_nothing_behind(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, delay=60))
    async with keeping(sandbox) as room:
        with pytest.raises(TokenUnavailable):
            await room.keeper.wait_for_token(0.01)
        assert repr(room.keeper).endswith("0 waiting>")


async def test_a_keeper_that_is_left_leaves_no_task_behind(sandbox: Sandbox) -> None:
    before = len(asyncio.all_tasks())
    sandbox.faults.add(Fault(MINT, delay=60))
    async with keeping(sandbox):
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) > before
    await until(lambda: len(asyncio.all_tasks()) == before)


# Failures


async def test_a_plan_without_tokens_is_said_at_once_and_not_waited_out(sandbox: Sandbox) -> None:
    source = KeySource(name="the test", value=FREE_KEY)
    async with keeping(sandbox, source=source) as room, asyncio.timeout(2):
        with pytest.raises(TokenUnavailable, match="plan has no short-lived tokens") as caught:
            await room.keeper.wait_for_token(60)
        assert caught.value.retry_after is not None
        assert 40 <= caught.value.retry_after <= 60
        with pytest.raises(TokenUnavailable, match="plan has no short-lived tokens"):
            await room.keeper.wait_for_token(60)
        assert room.count("mint_calls") == 1


async def test_a_wait_that_no_creation_call_can_end_is_said_at_once(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, status=429, headers={"Retry-After": "30"}))
    async with keeping(sandbox) as room, asyncio.timeout(2):
        with pytest.raises(TokenUnavailable, match="status 429: the mint budget") as caught:
            await room.keeper.wait_for_token(20)
        assert caught.value.retry_after == 30


async def test_a_wait_is_worth_it_while_a_refused_key_is_asked_for_again(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, status=401, times=1))
    async with keeping(sandbox) as room:
        await room.heard(MintFailed)
        sandbox.faults.add(Fault(MINT, delay=0.05))
        room.clock.ahead = 72
        assert room.keeper.lease() is None
        await until(lambda: room.count("mint_calls") == 2)
        await room.token()


async def test_a_budget_that_is_used_up_without_a_failure_is_named(sandbox: Sandbox) -> None:
    async with keeping(sandbox, standby=0, request_limit=1) as room:
        with pytest.raises(TokenUnavailable, match="the mint budget is used up") as caught:
            await room.use_up()
        assert caught.value.retry_after is not None
        assert 55 <= caught.value.retry_after <= 60


async def test_a_refused_key_is_recovered_from_when_its_file_is_fixed(
    sandbox: Sandbox, key_file: KeyFile
) -> None:
    key_file.write("a-key-that-nobody-knows")
    async with keeping(sandbox, source=key_file.source) as room:
        with pytest.raises(TokenUnavailable, match="Mobula refused the static key"):
            await room.keeper.wait_for_token(5)
        key_file.write(KEY)
        await room.heard(KeyChanged)
        assert (await room.token()).key == Secret(KEY)
        assert room.keeper.snapshot().fault is None


async def test_an_endpoint_that_cannot_be_reached_is_asked_again_until_it_can(
    sandbox: Sandbox,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with keeping(sandbox, url=f"http://127.0.0.1:{port}") as room:
        failed = await room.heard(MintFailed)
        assert (failed.fault.kind, failed.fault.sent, failed.covered) == ("connect", False, False)
        async with Sandbox(keys=KEYS, bind=f"127.0.0.1:{port}"):
            await room.token()
        assert room.keeper.snapshot().permits == 4


async def test_a_failure_while_tokens_are_in_hand_is_told_as_covered(room: Room) -> None:
    room.sandbox.faults.add(Fault(MINT, status=503))
    room.keeper.rotate()
    failed = await room.heard(MintFailed)
    assert failed.fault.kind == "503"
    assert failed.covered
    assert failed.retry_in is not None
    assert failed.retry_in > 0
    assert room.keeper.lease() is not None


# Verdicts


async def test_a_verdict_is_kept_for_a_few_seconds(room: Room) -> None:
    token = await room.token()
    assert room.keeper.known_verdict(token, 429) is None
    assert await room.keeper.verdict(token, 429, 5) is Standing.ALIVE
    assert await room.keeper.verdict(token, 429, 5) is Standing.ALIVE
    assert room.keeper.known_verdict(token, 429) is Standing.ALIVE
    assert room.count("inspects") == 1
    room.clock.ahead = VERDICT_SECONDS
    assert room.keeper.known_verdict(token, 429) is None


async def test_a_question_asked_anew_is_not_served_with_a_verdict_from_before(room: Room) -> None:
    token = await room.token()
    assert await room.keeper.verdict(token, 401, 5) is Standing.ALIVE
    room.sandbox.ledger.revoke(token.id)
    assert await room.keeper.verdict(token, 401, 5) is Standing.ALIVE
    assert await room.keeper.verdict(token, 401, 5, anew=True) is Standing.GONE


async def test_a_verdict_on_one_status_says_nothing_of_another(room: Room) -> None:
    token = await room.token()
    await room.keeper.verdict(token, 429, 5)
    assert room.keeper.known_verdict(token, 401) is None


async def test_many_questions_at_once_share_one_inspect(room: Room) -> None:
    token = await room.token()
    room.sandbox.faults.add(Fault(INSPECT, delay=0.05))
    questions = (room.keeper.verdict(token, 429, 5) for _ in range(30))
    assert set(await asyncio.gather(*questions)) == {Standing.ALIVE}
    assert room.count("inspects") == 1


async def test_a_refusal_is_asked_about_without_anybody_waiting(room: Room) -> None:
    lease = room.keeper.lease()
    assert lease is not None
    room.keeper.refuse(lease, 401)
    assert room.keeper.snapshot().tokens[0].state == "set_aside"
    await until(lambda: room.keeper.known_verdict(lease.token, 401) is Standing.ALIVE)
    assert room.keeper.snapshot().tokens[0].state == "standby"


async def test_a_revoked_token_is_found_gone_and_replaced(room: Room) -> None:
    token = await room.token()
    room.sandbox.ledger.revoke(token.id)
    assert await room.keeper.verdict(token, 401, 5) is Standing.GONE
    assert room.events(Quarantined) == [Quarantined(token.id, Standing.GONE)]
    await until(lambda: room.count("mint_calls") == 2)
    assert (await room.token()).id != token.id


async def test_a_verdict_that_does_not_come_in_time_is_unknown(room: Room) -> None:
    token = await room.token()
    room.sandbox.faults.add(Fault(INSPECT, delay=60))
    assert await room.keeper.verdict(token, 429, 0.02) is Standing.UNKNOWN
    assert repr(room.keeper).endswith("0 waiting>")


async def test_an_inspect_that_fails_is_an_unknown_verdict(room: Room) -> None:
    token = await room.token()
    room.sandbox.faults.add(Fault(INSPECT, status=500))
    assert await room.keeper.verdict(token, 429, 5) is Standing.UNKNOWN
    assert room.keeper.known_verdict(token, 429) is Standing.UNKNOWN


async def test_a_token_that_was_let_go_of_needs_no_inspect_to_be_gone(room: Room) -> None:
    token = await room.token()
    room.clock.ahead = 3600
    assert room.keeper.lease() is None
    await until(lambda: token.id not in [each.id for each in room.keeper.snapshot().tokens])
    assert await room.keeper.verdict(token, 401, 5) is Standing.GONE
    assert room.count("inspects") == 0


async def test_another_token_in_good_standing_is_told(room: Room) -> None:
    first, second = (each.id for each in room.keeper.snapshot().tokens)
    assert room.keeper.has_other({first})
    assert not room.keeper.has_other({first, second})


# Rotation


async def test_a_requested_rotation_replaces_and_revokes_every_token_without_a_gap(
    room: Room,
) -> None:
    old = set(room.revoked())
    room.keeper.rotate()
    async with asyncio.timeout(5):
        while len(room.events(Revoked)) < 2:
            room.serve()
            await asyncio.sleep(0)
    assert {each.token_id for each in room.events(Revoked) if each.ok} == old
    assert {name for name, gone in room.revoked().items() if gone} == old
    assert (await room.token()).id not in old


async def test_a_swap_of_the_key_file_leads_to_new_tokens_without_a_gap(
    sandbox: Sandbox, key_file: KeyFile
) -> None:
    async with keeping(sandbox, source=key_file.source) as room:
        old = await room.token()
        key_file.swap(NEW_KEY + "\n")
        keys = set()
        async with asyncio.timeout(5):
            while Secret(NEW_KEY) not in keys:
                keys.add(room.serve().key)
                await asyncio.sleep(0)
        assert keys == {Secret(KEY), Secret(NEW_KEY)}
        changed = await room.heard(KeyChanged)
        assert changed.fingerprint == room.keeper.fingerprint
        assert changed.fingerprint == parse_key(NEW_KEY, "the test").fingerprint
        assert old.key == Secret(KEY)


async def test_tokens_of_a_former_key_are_revoked_with_that_key(
    sandbox: Sandbox, key_file: KeyFile
) -> None:
    async with keeping(sandbox, source=key_file.source) as room:
        await room.token()
        old = set(room.revoked())
        key_file.write(NEW_KEY)
        await until(lambda: len(room.events(Revoked)) == 2)
        assert {name for name, gone in room.revoked().items() if gone} == old


async def test_tokens_of_a_former_key_are_inspected_with_that_key(
    sandbox: Sandbox, key_file: KeyFile
) -> None:
    async with keeping(sandbox, source=key_file.source) as room:
        token = await room.token()
        sandbox.faults.add(Fault(MINT, delay=60))
        key_file.write(NEW_KEY)
        await room.heard(KeyChanged)
        assert await room.keeper.verdict(token, 429, 5) is Standing.ALIVE


async def test_a_former_key_stays_known(sandbox: Sandbox, key_file: KeyFile) -> None:
    async with keeping(sandbox, source=key_file.source) as room:
        key_file.write(NEW_KEY)
        await room.heard(KeyChanged)
        assert room.keeper.known_keys.occur_in(KEY.encode())
        assert room.keeper.known_keys.occur_in(NEW_KEY.encode())


async def test_a_key_file_that_turns_bad_keeps_the_key_and_is_told_once(
    sandbox: Sandbox, key_file: KeyFile
) -> None:
    async with keeping(sandbox, source=key_file.source) as room:
        fingerprint = room.keeper.fingerprint
        key_file.write("")
        unreadable = await room.heard(KeyUnreadable)
        await asyncio.sleep(0.05)
        assert "is empty" in unreadable.detail
        assert len(room.events(KeyUnreadable)) == 1
        assert room.keeper.fingerprint == fingerprint
        assert (await room.token()).key == Secret(KEY)


# The end


async def test_retiring_revokes_every_token(sandbox: Sandbox) -> None:
    async with keeping(sandbox, standby=20) as room:
        await room.token()
        await room.keeper.retire(5, revoke=True)
        assert list(room.revoked().values()) == [True] * 21
        assert [each.ok for each in room.events(Revoked)] == [True] * 21


async def test_retiring_without_a_token_ends_at_once(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, status=503))
    async with keeping(sandbox) as room, asyncio.timeout(1):
        await room.heard(MintFailed)
        await room.keeper.retire(5, revoke=True)


async def test_retiring_revokes_the_tokens_of_a_mint_under_way_too(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(MINT, method="POST", delay=0.1))
    async with keeping(sandbox) as room:
        await until(lambda: room.count("mint_calls") == 1)
        await room.keeper.retire(5, revoke=True)
        assert list(room.revoked().values()) == [True, True]


async def test_retiring_stays_within_its_time_when_the_endpoint_hangs(room: Room) -> None:
    room.sandbox.faults.add(Fault(REVOKE, delay=60))
    async with asyncio.timeout(1):
        await room.keeper.retire(0.05, revoke=True)
    assert room.events(Revoked) == []


async def test_a_mint_that_hangs_does_not_keep_retiring_from_revoking(room: Room) -> None:
    room.sandbox.faults.add(Fault(MINT, method="POST", delay=60))
    room.keeper.rotate()
    await until(lambda: room.count("mint_calls") == 2)
    await room.keeper.retire(0.2, revoke=True)
    assert list(room.revoked().values()) == [True, True]


async def test_nothing_is_minted_once_retired(room: Room) -> None:
    await room.keeper.retire(1, revoke=True)
    room.keeper.rotate()
    await asyncio.sleep(0.02)
    assert room.count("mint_calls") == 1


async def test_a_revoke_that_mobula_does_not_confirm_is_told(room: Room) -> None:
    room.sandbox.faults.add(Fault(REVOKE, status=500))
    await room.keeper.retire(1, revoke=True)
    assert [each.ok for each in room.events(Revoked)] == [False, False]


# What is told


async def test_the_life_of_a_token_is_told_in_order(room: Room) -> None:
    await room.keeper.retire(1, revoke=True)
    assert [type(event) for event in room.told] == [Minted, Rotated, Revoked, Revoked]
    minted = room.events(Minted)[0]
    assert (minted.count, minted.unreadable) == (2, ())
    assert 0 < minted.seconds < 5


async def test_what_could_not_be_read_is_told_beside_the_tokens_that_could(
    sandbox: Sandbox,
) -> None:
    body = (
        '{"createApiTokens": [{"id": "a", "token": "opaque", '
        '"expiresTimeString": "2999-01-01T00:00:00Z"}, {}]}'
    )
    sandbox.faults.add(Fault(MINT, body=body, times=1))
    async with keeping(sandbox) as room:
        minted = await room.heard(Minted)
    assert minted.count == 1
    assert minted.unreadable == ("token 2 of 2: no token value that fits into a header",)


async def test_garbage_from_mobula_is_a_failure_and_never_the_end_of_the_keeper(
    sandbox: Sandbox,
) -> None:
    sandbox.faults.add(Fault(MINT, body="[" * 100_000, times=1))
    async with keeping(sandbox) as room:
        assert (await room.heard(MintFailed)).fault.kind == "unreadable"
        room.keeper.rotate()
        await room.token()
