"""ServiceAccounts, by tokens that an API server on this machine reviews; time is handed in."""

import asyncio
import json
import traceback
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from api_server import AUDIENCE, OWN_TOKEN, ApiServer, jwt_of
from harness import Gate, SecretScan, nothing_left, until
from proxy.traffic.service_accounts import (
    AT_ONCE,
    DENIED_SECONDS,
    LONGEST_PAUSE,
    MOST_DENIALS,
    MOST_UNDERWAY,
    TIMEOUT_SECONDS,
    ReviewDenied,
    ReviewUnavailable,
    ServiceAccounts,
)
from proxy.traffic.token_review import MAX_ANSWER_BYTES, READ_EVERY
from sandbox.kit import Clock

EPOCH = 1_800_000_000.0
SUBJECT = "system:serviceaccount:research:app"
OWNER = "research/app"


class World:
    """An API server, and what asks it; all that is said of tokens is scanned for them."""

    def __init__(self, folder: Path, scan: SecretScan) -> None:
        self.clock, self.wall = Clock(1_000.0), Clock(EPOCH)
        self.api = ApiServer(folder, self.wall)
        self.told: list[str] = []
        self._stack = AsyncExitStack()
        self._scan = scan
        scan.add(OWN_TOKEN)

    async def start(self) -> None:
        await self._stack.enter_async_context(self.api)
        self.accounts = await self._stack.enter_async_context(self.asking())

    def asking(self, chance: float = 0.0) -> ServiceAccounts:
        """Return another one that asks."""
        return ServiceAccounts(
            self.api.settings(),
            clock=self.clock,
            wall=self.wall,
            chance=lambda: chance,
            tell=self.told.append,
        )

    async def end(self) -> None:
        self._note(repr(self.accounts), repr(vars(self.accounts)), *self.told)
        await self._stack.aclose()

    def issue(self, *about: Any, **more: Any) -> bytes:
        """Have a token issued, which nobody may say."""
        token = self.api.issue(*about, **more)
        self._scan.add(token.decode())
        return token

    def later(self, seconds: float) -> None:
        self.clock.turn(seconds)
        self.wall.turn(seconds)

    async def denied(self, token: bytes) -> str:
        """Return why nobody has this token."""
        with pytest.raises(ReviewDenied) as refused:
            await self.accounts.review(token)
        self._note(*traceback.format_exception(refused.value))
        return str(refused.value)

    async def unavailable(self, token: bytes) -> ReviewUnavailable:
        with pytest.raises(ReviewUnavailable) as refused:
            await self.accounts.review(token)
        self._note(*traceback.format_exception(refused.value))
        return refused.value

    def _note(self, *texts: str) -> None:
        self._scan.output.write("\n".join(texts))

    async def known_ones(self, count: int) -> list[bytes]:
        """Return tokens that have been reviewed."""
        tokens = [self.issue(f"batch/job-{number}") for number in range(count)]
        for token in tokens:
            await self.accounts.review(token)
        self.api.reviewed.clear()
        return tokens


@pytest.fixture
async def world(tmp_path: Path, scan: SecretScan) -> AsyncIterator[World]:
    world = World(tmp_path, scan)
    await world.start()
    yield world
    await world.end()
    assert world.api.wrong == []


def begun(*coroutines: Coroutine[Any, Any, str]) -> list[asyncio.Task[str]]:
    return [asyncio.ensure_future(each) for each in coroutines]


async def answers(tasks: list[asyncio.Task[str]]) -> list[object]:
    """Return whose the tokens are, or why that is not said."""
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    return [each.why if isinstance(each, ReviewUnavailable) else each for each in ended]


# --- Answers -------------------------------------------------------------------------------------


async def test_a_token_is_whose_the_api_server_says(world: World) -> None:
    token = world.issue("research/app.v2")
    assert world.accounts.known(token) is None
    assert await world.accounts.review(token) == "research/app.v2"
    assert world.accounts.known(token) == "research/app.v2"
    assert world.api.reviewed == [token.decode()]


async def test_two_tokens_of_one_account_are_two_questions(world: World) -> None:
    first, second = world.issue(OWNER), world.issue(OWNER)
    assert await world.accounts.review(first) == OWNER
    assert world.accounts.known(second) is None
    assert await world.accounts.review(second) == OWNER
    assert (world.accounts.known(first), world.accounts.known(second)) == (OWNER, OWNER)


async def test_an_answer_is_good_for_as_long_as_the_settings_say(world: World) -> None:
    token = world.issue()
    await world.accounts.review(token)
    world.later(59.9)
    assert world.accounts.known(token) == OWNER
    world.later(0.1)
    assert world.accounts.known(token) is None
    assert await world.accounts.review(token) == OWNER
    assert len(world.api.reviewed) == 2
    assert world.accounts.known(token) == OWNER


async def test_answers_age_at_different_times(world: World) -> None:
    async with world.asking(chance=1.0) as accounts:
        token = world.issue()
        await accounts.review(token)
        world.later(53.9)
        assert accounts.known(token) == OWNER
        world.later(0.2)
        assert accounts.known(token) is None


async def test_a_token_that_has_expired_is_nobodys_and_not_asked_about(world: World) -> None:
    token = world.issue(lives=30.0)
    await world.accounts.review(token)
    world.later(29.9)
    assert world.accounts.known(token) == OWNER
    world.later(0.1)
    assert world.accounts.known(token) is None
    assert "has expired" in await world.denied(token)
    assert len(world.api.reviewed) == 1


async def test_a_token_that_was_revoked_is_noticed_by_the_next_review(world: World) -> None:
    token = world.issue()
    await world.accounts.review(token)
    world.api.revoke(token)
    world.later(60.0)
    assert world.accounts.known(token) is None
    assert "was revoked" in await world.denied(token)


async def test_a_no_outlives_that_the_api_server_is_there(world: World) -> None:
    token = world.issue()
    await world.accounts.review(token)
    world.api.revoke(token)
    world.later(60.0)
    await world.denied(token)
    await world.api.stop()
    world.later(DENIED_SECONDS)
    assert "no connection" in str(await world.unavailable(token))


async def test_a_forged_token_is_asked_about_once_in_a_few_seconds(world: World) -> None:
    token = jwt_of(sub=SUBJECT, aud=AUDIENCE, exp=EPOCH + 60).encode()
    for _ in range(3):
        assert "not of this cluster" in await world.denied(token)
    assert len(world.api.reviewed) == 1
    world.later(DENIED_SECONDS)
    await world.denied(token)
    assert len(world.api.reviewed) == 2


async def test_one_that_expires_by_the_api_servers_clock_alone_is_denied(world: World) -> None:
    token = world.issue(lives=10.0, exp=EPOCH + 3600)
    world.later(10.0)
    await world.denied(token)
    assert world.api.reviewed == [token.decode()]


async def test_the_api_server_has_the_last_word_on_audiences(world: World) -> None:
    token = world.issue(audiences=["vault"], aud=[AUDIENCE])
    await world.denied(token)
    assert world.api.reviewed == [token.decode()]


async def test_an_api_server_that_ignores_audiences_vouches_for_nobody(world: World) -> None:
    world.api.knows_audiences = False
    assert "not meant for audience mobula-proxy" in await world.denied(world.issue())


@pytest.mark.parametrize(
    "user",
    [
        "kubernetes-admin",
        "system:serviceaccounts:research",
        "system:serviceaccount:research",
        "system:serviceaccount:research:app:more",
        "system:serviceaccount:re/search:app",
        "system:serviceaccount:Research:app",
        "system:serviceaccount:research:app\n",
    ],
)
async def test_whoever_is_no_service_account_is_denied(world: World, user: str) -> None:
    assert "not a ServiceAccount's" in await world.denied(world.issue(user=user))


@pytest.mark.parametrize(
    ("claims", "asks"),
    [
        ({}, True),
        ({"aud": AUDIENCE}, True),
        ({"aud": ["vault", AUDIENCE]}, True),
        ({"aud": ["vault"]}, False),
        ({"aud": []}, False),
        ({"aud": None}, False),
        ({"aud": {AUDIENCE: 1}}, False),
        ({"sub": "kubernetes-admin"}, False),
        ({"sub": 7}, False),
        ({"exp": EPOCH}, False),
        ({"exp": EPOCH - 1}, False),
        ({"exp": str(EPOCH + 60)}, False),
        ({"exp": True}, False),
        ({"exp": None}, False),
        ({"exp": float("nan")}, False),
        ({"exp": float("inf")}, False),
        ({"exp": 10**400}, True),
        ({"more": "x" * 8192}, False),
    ],
)
async def test_only_what_might_be_meant_for_us_is_asked_about(
    world: World, claims: dict[str, Any], asks: bool
) -> None:
    token = jwt_of(**{"sub": SUBJECT, "aud": [AUDIENCE], "exp": EPOCH + 60, **claims}).encode()
    assert world.accounts.looks_like_one(token) is asks
    await world.denied(token)
    assert len(world.api.reviewed) == asks


def unsigned(head: bytes, claims: bytes) -> bytes:
    return b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (head, claims, b"x"))


CLAIMS = json.dumps({"sub": SUBJECT, "aud": AUDIENCE, "exp": EPOCH + 60}).encode()
HEAD = b'{"alg": "RS256"}'


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"open sesame",
        b"a.b.c",
        b"\xff.\xff.\xff",
        unsigned(HEAD, CLAIMS)[:-2],
        unsigned(HEAD, CLAIMS) + b"\n",
        unsigned(HEAD, CLAIMS).replace(b".", b".!", 1),
        unsigned(HEAD, b"[]"),
        unsigned(HEAD, b"[" * 5000),
        unsigned(b"[" * 5000, CLAIMS),
        unsigned(HEAD, b"\xff"),
    ],
)
async def test_what_is_no_jwt_is_nobodys(world: World, token: bytes) -> None:
    assert not world.accounts.looks_like_one(token)
    assert world.accounts.known(token) is None
    await world.denied(token)
    assert world.api.reviewed == []


# --- While the API server cannot be asked --------------------------------------------------------


async def test_without_an_answer_a_client_is_told_to_wait(world: World) -> None:
    await world.api.stop()
    refusal = await world.unavailable(world.issue())
    assert "no connection: connection refused" in str(refusal)
    assert refusal.retry_after == 1


async def test_an_old_answer_stands_until_the_token_expires(world: World) -> None:
    token = world.issue(lives=300.0)
    await world.accounts.review(token)
    await world.api.stop()
    world.later(60.0)
    assert world.accounts.known(token) is None
    assert await world.accounts.review(token) == OWNER
    world.later(239.9)
    assert await world.accounts.review(token) == OWNER
    world.later(0.1)
    assert "has expired" in await world.denied(token)


async def test_what_expires_while_it_is_asked_about_is_nobodys(world: World) -> None:
    token = world.issue(lives=90.0)
    await world.accounts.review(token)
    world.later(89.0)
    world.api.gate, world.api.status = Gate(), 503
    (review,) = begun(world.accounts.review(token))
    await world.api.gate.reached()
    world.later(1.0)
    world.api.gate.open()
    assert await answers([review]) == ["it answered 503: it failed"]


async def test_it_is_asked_again_once_a_pause_by_one_token_of_many(world: World) -> None:
    tokens = await world.known_ones(50)
    world.api.status = 503
    world.later(60.0)
    assert await world.accounts.review(tokens[0]) == "batch/job-0"
    for _ in range(4):
        before = len(world.api.reviewed)
        for number, token in enumerate(tokens):
            assert await world.accounts.review(token) == f"batch/job-{number}"
        assert len(world.api.reviewed) == before
        world.later(LONGEST_PAUSE)
        for token in tokens:
            await world.accounts.review(token)
        await until(lambda before=before: len(world.api.reviewed) > before)  # type: ignore[misc]
        await until(lambda: "0 under way" in repr(world.accounts))
        assert len(world.api.reviewed) == before + 1


async def test_the_pauses_grow_from_about_a_second(world: World) -> None:
    world.api.status = 503
    token, waits = world.issue(), []
    for _ in range(5):
        waits.append((await world.unavailable(token)).retry_after)
        world.later(waits[-1])
    assert waits == [1, 2, 4, 4, 4]
    assert len(world.api.reviewed) == 5


async def test_the_pauses_of_the_next_outage_begin_anew(world: World) -> None:
    token = world.issue()
    for status in (503, 503, 503, None):
        world.api.status = status
        world.later(LONGEST_PAUSE)
        await asyncio.wait(begun(world.accounts.review(token)))
    world.api.status = 503
    assert (await world.unavailable(world.issue())).retry_after == 1


async def test_whoever_has_an_old_answer_does_not_wait_for_the_next_try(world: World) -> None:
    (token,) = await world.known_ones(1)
    world.later(60.0)
    world.api.status = 503
    await world.accounts.review(token)
    world.api.gate = Gate()
    world.later(1.0)
    assert await world.accounts.review(token) == "batch/job-0"
    await world.api.gate.reached()
    assert "1 under way" in repr(world.accounts)
    world.api.gate.open()


async def test_an_outage_is_told_once_and_so_is_its_end(world: World) -> None:
    token = world.issue()
    world.api.status = 503
    await world.unavailable(token)
    world.later(1.0)
    world.api.status = 500
    await world.unavailable(token)
    assert world.told == ["it answered 503: it failed"]
    assert repr(world.accounts).endswith(
        "0 under way, API server away: it answered 500: it failed>"
    )
    world.later(2.0)
    world.api.status = None
    assert await world.accounts.review(token) == OWNER
    assert world.told == ["it answered 503: it failed", ""]
    assert repr(world.accounts) == "<ServiceAccounts 1 known, 0 under way, API server there>"


async def test_a_no_ends_an_outage_too(world: World) -> None:
    world.api.status = 503
    token = world.issue()
    await world.unavailable(token)
    world.api.status = None
    world.api.revoke(token)
    world.later(1.0)
    await world.denied(token)
    assert world.told[1:] == [""]


async def test_a_revoked_token_is_denied_once_the_api_server_is_back(world: World) -> None:
    (token,) = await world.known_ones(1)
    world.api.status = 503
    world.later(60.0)
    assert await world.accounts.review(token) == "batch/job-0"
    world.api.revoke(token)
    world.api.status = None
    world.later(1.0)
    await world.accounts.review(token)
    await until(lambda: world.told[1:] == [""])
    await world.denied(token)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "it does not take our own token"),
        (
            403,
            (
                "our own ServiceAccount may not create TokenReviews; "
                "bind it to the ClusterRole system:auth-delegator"
            ),
        ),
        (404, "there is no TokenReview at service_accounts.url"),
        (429, "it is asked too often"),
        (500, "it failed"),
        (302, "redirects are not followed with tokens"),
    ],
)
async def test_why_it_cannot_be_asked_is_said(world: World, status: int, said: str) -> None:
    world.api.headers = {"Location": f"{world.api.url}/elsewhere"}
    world.api.status = status
    assert f"it answered {status}: {said}" in str(await world.unavailable(world.issue()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"kind": "Status", "status": {"authenticated": true}}',
        b'{"kind": "TokenReview", "status": "Success"}',
        b"[" * 100_000,
    ],
)
async def test_an_answer_that_is_no_review_is_no_verdict(world: World, body: bytes) -> None:
    world.api.body = body
    assert "its answer is no TokenReview" in str(await world.unavailable(world.issue()))


async def test_a_connection_that_ends_in_mid_review_is_no_verdict(world: World) -> None:
    world.api.hangs_up = True
    refusal = await world.unavailable(world.issue())
    assert "the connection ended before the answer" in str(refusal)


async def test_an_answer_without_an_end_is_not_read_to_it(world: World) -> None:
    world.api.body = b" " * (MAX_ANSWER_BYTES + 1)
    assert "could not be read to its end" in str(await world.unavailable(world.issue()))


@pytest.mark.parametrize(
    "review",
    [
        {},
        {"authenticated": "true", "audiences": [AUDIENCE], "user": {"username": SUBJECT}},
        {"authenticated": True, "audiences": AUDIENCE, "user": {"username": SUBJECT}},
        {"authenticated": True, "audiences": [AUDIENCE], "user": SUBJECT},
        {"authenticated": True, "audiences": [AUDIENCE]},
    ],
)
async def test_a_review_that_does_not_clearly_say_yes_says_no(
    world: World, review: dict[str, Any]
) -> None:
    world.api.body = json.dumps({"kind": "TokenReview", "status": review}).encode()
    await world.denied(world.issue())


@pytest.mark.virtual_time
async def test_a_silent_api_server_is_given_up(tmp_path: Path, scan: SecretScan) -> None:
    world = World(tmp_path, scan)
    await world.start()
    token = world.issue()
    world.api.gate = Gate()
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    assert "no answer within 3 s" in str(await world.unavailable(token))
    assert loop.time() - asked_at == pytest.approx(TIMEOUT_SECONDS, abs=0.1)
    await world.end()


class Slow(Gate):
    """Answers late, but in time."""

    async def hold(self, _: float) -> None:
        await asyncio.sleep(0.8 * TIMEOUT_SECONDS)


@pytest.mark.virtual_time
async def test_who_waits_for_a_turn_in_vain_makes_no_outage(
    tmp_path: Path, scan: SecretScan
) -> None:
    world = World(tmp_path, scan)
    await world.start()
    world.api.gate = Slow()
    reviews = begun(*(world.accounts.review(world.issue()) for _ in range(3 * AT_ONCE)))
    said = await answers(reviews)
    assert said == [OWNER] * 2 * AT_ONCE + ["too many other tokens are being asked about"] * AT_ONCE
    assert world.told == []
    await world.end()


# --- No more questions than needed ---------------------------------------------------------------


async def test_a_token_is_asked_about_once_however_many_show_it(world: World) -> None:
    world.api.gate = Gate()
    token = world.issue()
    reviews = begun(*(world.accounts.review(token) for _ in range(20)))
    await world.api.gate.reached()
    reviews.pop(0).cancel()
    world.api.gate.open()
    assert await answers(reviews) == [OWNER] * 19
    assert world.api.reviewed == [token.decode()]


async def test_a_review_that_nobody_waits_for_any_longer_is_remembered(world: World) -> None:
    world.api.gate = Gate()
    token = world.issue()
    (review,) = begun(world.accounts.review(token))
    await world.api.gate.reached()
    review.cancel()
    world.api.gate.open()
    await until(lambda: world.accounts.known(token) == OWNER)


async def test_few_are_put_to_the_api_server_at_once(world: World) -> None:
    world.api.gate = Gate()
    reviews = begun(*(world.accounts.review(world.issue()) for _ in range(3 * AT_ONCE)))
    await world.api.gate.reached(AT_ONCE)
    world.api.gate.open()
    assert await answers(reviews) == [OWNER] * 3 * AT_ONCE
    assert world.api.most_at_once == AT_ONCE


async def test_strangers_wait_only_while_there_is_room(world: World) -> None:
    (old,) = await world.known_ones(1)
    world.later(60.0)
    world.api.gate = Gate()
    reviews = begun(*(world.accounts.review(world.issue()) for _ in range(MOST_UNDERWAY)))
    await world.api.gate.reached(AT_ONCE)
    refusal = await world.unavailable(world.issue())
    assert "too many other tokens" in str(refusal)
    (again,) = begun(world.accounts.review(old))
    await until(lambda: f"{MOST_UNDERWAY + 1} under way" in repr(world.accounts))
    world.api.gate.open()
    assert await answers([*reviews, again]) == [OWNER] * MOST_UNDERWAY + ["batch/job-0"]


async def test_those_that_wait_do_not_try_what_has_just_failed(world: World) -> None:
    world.api.gate, world.api.status = Gate(), 503
    reviews = begun(*(world.accounts.review(world.issue()) for _ in range(5 * AT_ONCE)))
    await world.api.gate.reached(AT_ONCE)
    world.api.gate.open()
    assert set(await answers(reviews)) == {"it answered 503: it failed"}
    assert len(world.api.reviewed) == AT_ONCE
    assert (await world.unavailable(world.issue())).retry_after == 1


async def test_what_is_remembered_is_bounded(world: World) -> None:
    first = jwt_of(sub=SUBJECT, aud=AUDIENCE, exp=EPOCH + 60, jti="first").encode()
    await world.denied(first)
    for number in range(MOST_DENIALS):
        await world.denied(jwt_of(sub=SUBJECT, aud=AUDIENCE, exp=EPOCH + 60, n=number).encode())
    before = len(world.api.reviewed)
    await world.denied(first)
    assert len(world.api.reviewed) == before + 1


async def test_reviews_share_a_connection(world: World) -> None:
    await world.known_ones(5)
    assert len(world.api.peers) == 1


async def test_nothing_is_left_of_one_that_is_closed_in_mid_review(world: World) -> None:
    world.api.gate = Gate()
    async with nothing_left():
        async with world.asking() as accounts:
            (review,) = begun(accounts.review(world.issue()))
            await world.api.gate.reached()
        await asyncio.wait([review])
        world.api.gate.open()
    assert review.cancelled()


# --- Our own credential, and the API server's ----------------------------------------------------


async def test_our_own_token_is_read_again_when_it_is_refused(world: World) -> None:
    await world.accounts.review(world.issue())
    world.api.takes = "the-next-token-of-the-proxy"
    world.api.token_file.write_text(world.api.takes)
    assert await world.accounts.review(world.issue()) == OWNER


async def test_our_own_token_is_read_again_after_a_while(world: World) -> None:
    await world.accounts.review(world.issue())
    world.api.token_file.write_text("the-next-token-of-the-proxy")
    await world.accounts.review(world.issue())
    world.later(READ_EVERY)
    world.api.takes = "the-next-token-of-the-proxy"
    peers = len(world.api.peers)
    assert await world.accounts.review(world.issue()) == OWNER
    assert len(world.api.peers) == peers, "the authorities are the same, so the connection is"


async def test_our_own_token_that_is_refused_for_good_is_said(world: World) -> None:
    world.api.takes = "another"
    assert "the one in service_accounts.token_file" in str(await world.unavailable(world.issue()))


@pytest.mark.parametrize("text", ["", "\n", "two words", "ünfit"])
async def test_what_cannot_be_our_own_token_is_not_shown(world: World, text: str) -> None:
    world.api.token_file.write_text(text)
    assert "token is no token" in str(await world.unavailable(world.issue()))
    assert world.api.peers == set()


async def test_a_file_that_is_missing_is_named(world: World) -> None:
    world.api.token_file.unlink()
    assert "token cannot be read: no such file" in str(await world.unavailable(world.issue()))


async def test_a_file_without_certificates_is_named(world: World) -> None:
    world.api.ca_file.write_text("no certificates")
    assert "there are no certificates in " in str(await world.unavailable(world.issue()))


async def test_another_authority_does_not_vouch_for_the_api_server(world: World) -> None:
    trustme.CA().cert_pem.write_to_path(world.api.ca_file)
    refusal = await world.unavailable(world.issue())
    assert "its certificate was not accepted" in str(refusal)
    assert world.api.reviewed == []


def without_extensions(authority: trustme.CA) -> bytes:
    """Return a certificate of this authority that says of it only that it is one."""
    full = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    key = load_pem_private_key(authority.private_key_pem.bytes(), password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    bare = x509.CertificateBuilder(
        issuer_name=full.subject,
        subject_name=full.subject,
        public_key=full.public_key(),
        serial_number=full.serial_number,
        not_valid_before=full.not_valid_before_utc,
        not_valid_after=full.not_valid_after_utc,
    ).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return bare.sign(key, SHA256()).public_bytes(Encoding.PEM)


async def test_an_authority_without_key_identifiers_will_do(world: World) -> None:
    """Those of many clusters have none, which Python refuses by default from 3.13 on."""
    authority = trustme.CA()
    world.api.prove(authority, "127.0.0.1")
    world.api.ca_file.write_bytes(without_extensions(authority))
    assert await world.accounts.review(world.issue()) == OWNER


async def test_a_certificate_for_another_name_is_not_accepted(world: World) -> None:
    world.api.prove(trustme.CA(), "127.0.0.2")
    assert "its certificate was not accepted" in str(await world.unavailable(world.issue()))


async def test_the_authorities_are_read_again_after_a_while(world: World) -> None:
    token = world.issue()
    trustme.CA().cert_pem.write_to_path(world.api.ca_file)
    await world.unavailable(token)
    world.api.prove(trustme.CA(), "127.0.0.1")
    world.later(READ_EVERY)
    assert await world.accounts.review(token) == OWNER


async def test_an_api_server_on_this_machine_may_do_without_tls(
    tmp_path: Path, scan: SecretScan
) -> None:
    world = World(tmp_path, scan)
    world.api = ApiServer(tmp_path, world.wall, tls=False)
    world.api.ca_file.unlink()
    await world.start()
    assert await world.accounts.review(world.issue()) == OWNER
    await world.end()
