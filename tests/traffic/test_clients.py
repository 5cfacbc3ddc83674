"""The roster: whose credential it is, and what each client may do."""

from typing import Any

import pytest

from identities import digest_of
from proxy.config import ClientSettings
from proxy.errors import ClientDenied
from proxy.traffic.clients import Client, Roster

TOKEN = b"a-long-and-random-token"


def roster(**clients: dict[str, Any]) -> Roster:
    return Roster({name: ClientSettings(**each) for name, each in clients.items()})


def name_of(client: Client | None) -> str | None:
    return None if client is None else client.name


def test_token_is_known_by_its_digest() -> None:
    found = roster(a={"tokens": (digest_of(b"other"), digest_of(TOKEN))}, b={"uids": (1,)})
    assert name_of(found.of_token(TOKEN)) == "a"
    assert name_of(found.of_token(b"other")) == "a"


@pytest.mark.parametrize("token", [b"", TOKEN[:-1], TOKEN + b"x", digest_of(TOKEN).encode()])
def test_what_is_not_the_token_is_not_known(token: bytes) -> None:
    assert roster(a={"tokens": (digest_of(TOKEN),)}).of_token(token) is None


def test_whole_digest_is_compared() -> None:
    """What it is found by is only its beginning."""
    nearly = digest_of(TOKEN)[:-1] + ("0" if digest_of(TOKEN)[-1] != "0" else "1")
    assert roster(a={"tokens": (nearly,)}).of_token(TOKEN) is None


def test_empty_roster_knows_nobody() -> None:
    empty = roster()
    assert empty.of_token(b"") is None
    assert empty.of_names(("a",)) is None
    assert empty.of_uid(0) is None
    assert empty.of_account("a/b") is None


def test_certificate_is_known_by_any_of_its_names() -> None:
    found = roster(a={"certificates": ("app.example", "spiffe://cluster/ns/a")})
    assert name_of(found.of_names(("other.example", "App.Example"))) == "a"
    assert name_of(found.of_names(("spiffe://cluster/ns/a",))) == "a"
    assert found.of_names(("spiffe://cluster/ns/A", "example", "sub.app.example")) is None


def test_service_account_is_known_by_itself_before_its_namespace() -> None:
    found = roster(a={"service_accounts": ("shop/cart",)}, b={"service_accounts": ("shop/*",)})
    assert name_of(found.of_account("shop/cart")) == "a"
    assert name_of(found.of_account("shop/till")) == "b"
    assert found.of_account("shopping/cart") is None


def client(**rights: Any) -> Client:
    return Client("a", **rights)


def test_client_without_rights_of_its_own_may_do_all() -> None:
    client().check_rights("DELETE", b"/x/../y")


def test_client_with_methods_may_use_no_other() -> None:
    reader = client(methods=frozenset({"GET", "HEAD"}))
    reader.check_rights("HEAD", b"/x")
    with pytest.raises(ClientDenied, match="Client a may not use the method"):
        reader.check_rights("POST", b"/x")


def test_client_with_paths_may_use_what_is_below_them() -> None:
    limited = client(paths=(b"/api/1/market", b"/api/2"))
    for path in (b"/api/1/market", b"/api/1/market/", b"/api/1/market/data?x=..", b"/api/2/x%20y"):
        limited.check_rights("GET", path)
    for path in (b"/api/1/marketing", b"/api/1", b"/", b"*", b"/x/api/2"):
        with pytest.raises(ClientDenied, match="Client a may not use the path"):
            limited.check_rights("GET", path)


def test_roster_shows_no_credential() -> None:
    found = roster(a={"tokens": (digest_of(TOKEN),), "service_accounts": ("shop/cart",)})
    assert repr(found) == "<Roster 1 tokens, 0 certificates, 0 users, 1 service accounts>"
