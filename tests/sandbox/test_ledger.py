"""The ledger, without a server."""

from collections.abc import Callable
from itertools import count

import jwt
import pytest

from proxy.sandbox.answer import Answer
from proxy.sandbox.ledger import Credential, Ledger, StaticKey, Token
from proxy.sandbox.mint import MintOrder
from sandbox.kit import FREE_KEY, KEY, KEYS, OTHER_KEY, Clock

SECRET = b"s" * 32


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger(KEYS, clock=clock, secret=SECRET, new_id=_ids())


def _ids() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"id-{next(numbers)}"


def owner(ledger: Ledger, key: str = KEY) -> StaticKey:
    manager = ledger.manager(Credential(key, bearer=False))
    assert isinstance(manager, StaticKey)
    return manager


def mint(ledger: Ledger, *, lifetime: float = 60, limit: int = 2, key: str = KEY) -> Token:
    return ledger.mint(owner(ledger, key), MintOrder(lifetime, 1, limit))[0]


def status(ledger: Ledger, token: Token) -> int:
    refusal, _ = ledger.charge(Credential(token.value, bearer=True))
    return refusal.status if refusal else 200


def test_a_token_serves_its_limit_and_not_one_request_more(ledger: Ledger) -> None:
    token = mint(ledger, limit=2)
    assert [status(ledger, token) for _ in range(4)] == [200, 200, 429, 429]
    assert (token.used, token.over_limit) == (2, 2)
    assert ledger.report()["over_limit"] == 2


def test_a_token_works_until_the_second_of_its_expiry(ledger: Ledger, clock: Clock) -> None:
    token = mint(ledger, lifetime=60)
    clock.turn(59.999)
    assert status(ledger, token) == 200
    clock.turn(0.001)
    assert status(ledger, token) == 401
    assert (token.used, token.after_expiry) == (1, 1)


def test_a_token_without_the_claim_exp_works_until_its_expiry_too(
    ledger: Ledger, clock: Clock
) -> None:
    (token,) = ledger.mint(owner(ledger), MintOrder(60, 1, 2), exp=False)
    assert "exp" not in jwt.decode(token.value, options={"verify_signature": False})
    clock.turn(59.999)
    assert status(ledger, token) == 200
    clock.turn(0.001)
    assert status(ledger, token) == 401


def test_a_revoked_token_stops_at_once(ledger: Ledger) -> None:
    token = mint(ledger)
    assert ledger.revoke(token.id)
    assert status(ledger, token) == 401
    assert token.after_revocation == 1
    assert not ledger.revoke(token.id)


def test_a_token_counts_only_as_bearer(ledger: Ledger) -> None:
    token = mint(ledger)
    refusal, _ = ledger.charge(Credential(token.value, bearer=False))
    assert refusal is not None
    assert refusal.status == 401
    assert token.used == 0


def test_the_jwt_carries_its_times_and_id_and_nothing_else(ledger: Ledger, clock: Clock) -> None:
    clock.turn(0.75)
    token = mint(ledger, lifetime=60)
    claims = jwt.decode(
        token.value,
        SECRET,
        algorithms=["HS256"],
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {"iat": 1_700_000_000, "exp": 1_700_000_060, "jti": "id-1"}
    assert token.expires == claims["exp"]


def test_skew_moves_issue_and_expiry(ledger: Ledger, clock: Clock) -> None:
    ledger.skew = 3600
    token = mint(ledger, lifetime=60)
    assert token.expires == clock.now + 3660
    ledger.skew = 3661
    assert status(ledger, token) == 401


def test_skew_does_not_move_the_mint_window(ledger: Ledger) -> None:
    for _ in range(5):
        ledger.mint_called(owner(ledger))
    ledger.skew = 3600
    assert ledger.mint_called(owner(ledger))[1] == 60


def test_each_static_key_has_its_own_mint_window(ledger: Ledger) -> None:
    for _ in range(5):
        ledger.mint_called(owner(ledger))
    assert ledger.mint_called(owner(ledger, OTHER_KEY))[1] == 0
    assert ledger.report()["max_mint_calls_per_minute"] == 5


def test_a_static_key_sees_only_its_own_tokens(ledger: Ledger) -> None:
    token = mint(ledger)
    other = owner(ledger, OTHER_KEY)
    assert list(ledger.tokens(other)) == []
    assert ledger.find(other, value=token.value) is None
    assert ledger.find(owner(ledger), value=token.value) is token


@pytest.mark.parametrize(("key", "expected"), [(FREE_KEY, 403), ("unknown", 401), ("clé", 401)])
def test_only_known_keys_of_the_right_plan_manage_tokens(
    ledger: Ledger, key: str, expected: int
) -> None:
    refusal = ledger.manager(Credential(key, bearer=True))
    assert isinstance(refusal, Answer)
    assert refusal.status == expected


def test_a_live_token_is_told_that_it_may_not_manage_tokens(ledger: Ledger, clock: Clock) -> None:
    shown = Credential(mint(ledger).value, bearer=True)
    refusal = ledger.manager(shown)
    assert isinstance(refusal, Answer)
    assert refusal.status == 403
    clock.turn(60)
    refusal = ledger.manager(shown)
    assert isinstance(refusal, Answer)
    assert refusal.status == 401


def test_ended_tokens_are_forgotten_but_the_totals_stay(ledger: Ledger, clock: Clock) -> None:
    old = mint(ledger, lifetime=60)
    clock.turn(60)
    status(ledger, old)
    clock.turn(3600.5)
    new = mint(ledger)
    report = ledger.report()
    assert report["tokens"] == [new.report()]
    assert report["after_expiry"] == 1


def test_records_are_bounded_and_totals_are_not(ledger: Ledger) -> None:
    for _ in range(1500):
        ledger.leaked("query", "/x")
        ledger.mint_called(None)
    report = ledger.report()
    assert (report["leak_count"], report["mint_calls"]) == (1500, 1500)
    assert isinstance(report["leaks"], list)
    assert isinstance(report["mints"], list)
    assert len(report["leaks"]) == len(report["mints"]) == 1000


def test_a_leak_is_recorded_without_the_key(ledger: Ledger) -> None:
    ledger.leaked("path", f"/a/{KEY}/b")
    assert ledger.report()["leaks"] == [{"place": "path", "path": "/a/[static key]/b"}]


def test_no_repr_shows_a_key_or_a_token(ledger: Ledger) -> None:
    token = mint(ledger)
    shown = f"{ledger!r} {token!r} {owner(ledger)!r} {Credential(token.value, bearer=True)!r}"
    assert token.value not in shown
    assert KEY not in shown
    assert SECRET.decode() not in shown
    assert repr(ledger) == "<Ledger 0 requests, 1 tokens>"


@pytest.mark.parametrize("key", ["", " key", "key\n", "clé"])
def test_a_key_that_no_header_could_carry_is_refused(clock: Clock, key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        Ledger({key: "growth"}, clock=clock, secret=SECRET, new_id=_ids())
