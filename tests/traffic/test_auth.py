"""Who is let in: the rules with handed-in clocks, then each kind of credential over sockets."""

import asyncio
import contextlib
import json
import os
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from api_server import OWN_TOKEN, ApiServer, jwt_of
from conformance.doors import trust
from frames import BINARY, CLOSE, HANDSHAKE, TEXT, from_client, receive, switching
from harness import Gate, SecretScan, get, nothing_left, until, until_ready
from identities import digest_of
from proxy.app import App
from proxy.config import ClientSettings
from proxy.errors import (
    ClientDenied,
    ClientRateLimited,
    ClientReviewUnavailable,
    ClientUnknown,
    ProxyClientUnknown,
    Refusal,
)
from proxy.sandbox import Sandbox
from proxy.traffic.auth import NO_EVIDENCE, Auth, Evidence, Guest, Visit, evidence_of
from proxy.traffic.clients import Roster
from proxy.traffic.service_accounts import ReviewDenied, ReviewUnavailable
from sandbox.kit import Clock
from wire import (
    ELSEWHERE,
    ESTABLISHED,
    Far,
    Start,
    Wire,
    between,
    client,
    connect,
    fields_of,
    is_served,
    let_through,
    problem_of,
    refused,
)

NOW = 1_800_000_000.0
TOKEN, OTHER = b"token-of-research-51fa7c02", b"token-of-batch-9e0c44d1"
JWT = b"token.of.an-account"
NAME = "spiffe://cluster.local/ns/research"


# --- The rules ------------------------------------------------------------------------------------


class Reviews:
    """Knows what the API server would say; `asked` is what it was asked about."""

    def __init__(self, **accounts: str) -> None:
        self.accounts = {name.replace("_", ".").encode(): whose for name, whose in accounts.items()}
        self.remembered: set[bytes] = set()
        self.asked: list[bytes] = []
        self.is_away = False

    def known(self, token: bytes) -> str | None:
        return self.accounts[token] if token in self.remembered else None

    def looks_like_one(self, token: bytes) -> bool:
        return token.count(b".") == 2

    async def review(self, token: bytes) -> str:
        self.asked.append(token)
        if self.is_away:
            raise ReviewUnavailable("it is away", retry_after=7)
        if token not in self.accounts:
            raise ReviewDenied("the token is nobody's")
        self.remembered.add(token)
        return self.accounts[token]


class World:
    """Four clients, each known by something else, in a time that the test turns."""

    def __init__(self, **rights: Any) -> None:
        self.clock, self.wall = Clock(0.0), Clock(NOW)
        self.reviews = Reviews(token_of_a="shop/a", token_of_b="bank/b")
        self.settings: dict[str, dict[str, Any]] = {
            "token": {"tokens": (digest_of(TOKEN),)},
            "certificate": {"certificates": (NAME, "app.example")},
            "user": {"uids": (7,)},
            "account": {"service_accounts": ("shop/*",)},
        }
        for each in self.settings.values():
            each.update(rights)
        self.auth = Auth(self.roster(), reviews=self.reviews, clock=self.clock, wall=self.wall)

    def roster(self, *without: str) -> Roster:
        kept = {name: each for name, each in self.settings.items() if name not in without}
        return Roster({name: ClientSettings(**each) for name, each in kept.items()})

    async def enters(self, visit: Visit) -> Guest:
        return self.auth.recognise(visit) or await self.auth.ask(visit)

    async def who(self, visit: Visit) -> str:
        return (await self.enters(visit)).client.name


@pytest.fixture
def world() -> World:
    return World()


def visit(*shown: bytes, proxy: bool = False, **evidence: Any) -> Visit:
    return Visit(Evidence(**evidence), shown, asks_a_proxy=proxy)


ACCOUNT = b"token.of.a"
VISITS = {
    "token": visit(TOKEN),
    "certificate": visit(names=("other.example", NAME), until=NOW + 10),
    "user": visit(uid=7),
    "account": visit(ACCOUNT),
}


@pytest.mark.parametrize("kind", VISITS)
async def test_each_client_is_known_by_what_it_has(world: World, kind: str) -> None:
    assert await world.who(VISITS[kind]) == kind


@pytest.mark.parametrize("kind", VISITS)
async def test_no_client_is_known_from_the_second_on_in_which_it_expires(kind: str) -> None:
    world = World(expires=NOW + 5)
    assert await world.who(VISITS[kind])
    world.wall.turn(4.999)
    assert await world.who(VISITS[kind])
    world.wall.turn(0.001)
    with pytest.raises(ClientUnknown, match=f"The credentials of client {kind} expired"):
        await world.who(VISITS[kind])


@pytest.mark.parametrize("kind", VISITS)
async def test_removed_client_is_known_no_longer(world: World, kind: str) -> None:
    await world.who(VISITS[kind])
    world.auth.roster = world.roster(kind)
    with pytest.raises((ClientUnknown, ClientDenied)):
        await world.who(VISITS[kind])


async def test_certificate_is_good_until_it_expires_itself(world: World) -> None:
    world.wall.turn(9.999)
    assert await world.who(VISITS["certificate"]) == "certificate"
    world.wall.turn(0.001)
    with pytest.raises(ClientUnknown, match="The client's certificate has expired"):
        await world.who(VISITS["certificate"])


STRANGERS: dict[str, tuple[Visit, type[Refusal]]] = {
    "nothing": (visit(), ClientUnknown),
    "nothing, to a proxy": (visit(proxy=True), ProxyClientUnknown),
    "a wrong token": (visit(OTHER), ClientUnknown),
    "a wrong token, to a proxy": (visit(OTHER, proxy=True), ProxyClientUnknown),
    "a digest": (visit(digest_of(TOKEN).encode()), ClientUnknown),
    "another's certificate": (visit(names=("b.example",)), ClientDenied),
    "another's certificate, and a wrong token": (
        visit(OTHER, names=("b.example",)),
        ClientUnknown,
    ),
    "another user": (visit(uid=8), ClientDenied),
    "root": (visit(uid=0), ClientDenied),
    "another user, and a wrong token": (visit(OTHER, uid=8), ClientUnknown),
    "another's ServiceAccount": (visit(b"token.of.b"), ClientDenied),
    "nobody's ServiceAccount": (visit(b"token.of.c"), ClientUnknown),
    "nobody's ServiceAccount, to a proxy": (visit(b"token.of.c", proxy=True), ProxyClientUnknown),
}


@pytest.mark.parametrize("who", STRANGERS)
async def test_stranger_is_unknown_and_who_is_somebody_else_denied(world: World, who: str) -> None:
    stranger, refusal = STRANGERS[who]
    with pytest.raises(refusal) as told:
        await world.who(stranger)
    assert type(told.value) is refusal


MIXED: dict[str, tuple[Visit, str]] = {
    "a token before a certificate": (visit(TOKEN, names=(NAME,)), "token"),
    "a token before a user": (visit(TOKEN, uid=7), "token"),
    "a certificate before a user": (visit(names=(NAME,), uid=7), "certificate"),
    "a user before a ServiceAccount": (visit(ACCOUNT, uid=7), "user"),
    "a token behind an app's own key": (visit(b"an-apps-own", TOKEN), "token"),
    "a certificate beside an app's own key": (visit(b"an-apps-own", names=(NAME,)), "certificate"),
    "a user beside an unknown certificate": (visit(names=("b.example",), uid=7), "user"),
    "a user beside an expired certificate": (visit(names=(NAME,), until=NOW, uid=7), "user"),
    "what a CONNECT has shown": (visit(b"an-apps-own", shown=(TOKEN,)), "token"),
    "what a request shows before its CONNECT": (visit(ACCOUNT, shown=(b"x",)), "account"),
}


@pytest.mark.parametrize("what", MIXED)
async def test_first_credential_that_is_known_counts(world: World, what: str) -> None:
    shown, whose = MIXED[what]
    assert await world.who(shown) == whose


async def test_request_may_show_another_client_than_its_connect(world: World) -> None:
    world.settings["user"]["tokens"] = (digest_of(OTHER),)
    world.auth.roster = world.roster()
    assert await world.who(visit(OTHER, shown=(TOKEN,))) == "user"
    assert await world.who(visit(shown=(TOKEN,))) == "token"


async def test_token_of_an_account_goes_no_further_beside_one_that_counts(world: World) -> None:
    await world.who(visit(ACCOUNT))
    both = visit(b"an-apps-own", TOKEN, ACCOUNT)
    assert set(world.auth.shown_by(await world.enters(both))) == {TOKEN, ACCOUNT}


async def test_token_is_reviewed_only_once_while_the_answer_is_good(world: World) -> None:
    for _ in range(3):
        await world.who(VISITS["account"])
    assert world.reviews.asked == [ACCOUNT]


async def test_api_server_is_not_told_of_what_is_no_service_accounts_token(world: World) -> None:
    with pytest.raises(ClientUnknown):
        await world.who(visit(OTHER, b"some.thing", uid=8))
    await world.who(visit(TOKEN, ACCOUNT))
    assert world.reviews.asked == []


async def test_api_server_is_not_asked_where_no_client_is_a_service_account(world: World) -> None:
    world.auth.roster = world.roster("account")
    with pytest.raises(ClientUnknown):
        await world.who(VISITS["account"])
    assert world.reviews.asked == []


async def test_while_the_api_server_is_away_only_what_is_remembered_is_known(world: World) -> None:
    await world.who(VISITS["account"])
    world.reviews.is_away = True
    assert await world.who(VISITS["account"]) == "account"
    with pytest.raises(ClientReviewUnavailable) as told:
        await world.who(visit(b"token.of.b"))
    assert told.value.retry_after == 7


# What it may


def test_request_that_is_denied_does_not_count(world: World) -> None:
    world = World(methods=("GET",), requests_per_day=1)
    guest = world.auth.recognise(VISITS["token"])
    assert guest is not None
    with pytest.raises(ClientDenied):
        world.auth.admit(guest, "POST", b"/x")
    world.auth.admit(guest, "GET", b"/x")


def test_message_of_a_client_that_was_let_in_counts_like_a_request(world: World) -> None:
    world = World(requests_per_second=1)
    guest = world.auth.recognise(VISITS["token"])
    assert guest is not None
    world.auth.admit(guest, "GET", b"/x")
    with pytest.raises(ClientRateLimited):
        world.auth.admit_more(guest)
    world.clock.turn(1.0)
    world.auth.admit_more(guest)


@pytest.mark.parametrize("kind", VISITS)
async def test_client_that_is_removed_may_not_go_on(world: World, kind: str) -> None:
    guest = await world.enters(VISITS[kind])
    world.auth.admit_more(guest)
    world.auth.roster = world.roster(kind)
    with pytest.raises((ClientUnknown, ClientDenied)):
        world.auth.admit_more(guest)


async def test_account_goes_on_once_its_answer_is_old_but_not_once_it_is_removed(
    world: World,
) -> None:
    world.settings["another"] = {"service_accounts": ("bank/b",)}
    guest = await world.enters(VISITS["account"])
    world.reviews.remembered.clear()
    world.auth.admit_more(guest)
    assert world.reviews.asked == [ACCOUNT]
    world.auth.roster = world.roster("account")
    with pytest.raises(ClientDenied):
        world.auth.admit_more(guest)


async def test_removed_client_does_not_go_on_for_what_it_showed_beside(world: World) -> None:
    guest = await world.enters(visit(TOKEN, b"token.of.b"))
    world.auth.roster = world.roster("token")
    with pytest.raises(ClientUnknown):
        world.auth.admit_more(guest)


def test_nothing_of_it_shows_a_credential(world: World) -> None:
    shown = visit(TOKEN, shown=(OTHER,))
    guest = world.auth.recognise(shown)
    assert not any(each.decode() in repr((shown, guest, world.auth)) for each in (TOKEN, OTHER))


# What a connection tells


def certified(*names: tuple[str, str]) -> tuple[str, ...]:
    peer = {"notAfter": "Jan 31 12:00:00 2030 GMT", "subjectAltName": names}
    return evidence_of(asyncio.BaseTransport({"peercert": peer}), NO_EVIDENCE).names


def test_name_counts_only_as_the_kind_that_it_looks_like() -> None:
    """Authorities that check hosts may take any text for a URI, and the other way round."""
    assert certified(("DNS", "a.example"), ("URI", NAME)) == ("a.example", NAME)
    assert certified(("URI", "a.example"), ("DNS", NAME), ("email", "a.example")) == ()


def test_connection_without_certificate_or_socket_tells_nothing() -> None:
    extras: list[dict[str, Any]] = [{}, {"peercert": {}}, {"peercert": None}]
    for extra in extras:
        assert evidence_of(asyncio.BaseTransport(extra), NO_EVIDENCE) == NO_EVIDENCE


# --- Over sockets ---------------------------------------------------------------------------------


RESEARCH = {"tokens": [digest_of(TOKEN)]}
BATCH = {"tokens": [digest_of(OTHER)]}
BEARER = b"Authorization: Bearer " + TOKEN
BASIC = b"Proxy-Authorization: Basic " + b64encode(b"client:" + TOKEN)
DEFAULTS: dict[str, Any] = {"clients": {"research": RESEARCH}, "log": {"access": True}}


@pytest.fixture
def guarded(far: Far, sandbox: Sandbox, scan: SecretScan) -> Start:
    """A proxy whose first listener serves clients only."""
    for each in (TOKEN, OTHER):
        scan.add(each.decode())

    @contextlib.asynccontextmanager
    async def start(listener: Any = None, **sections: Any) -> AsyncIterator[App]:
        sections = DEFAULTS | sections
        listener = {"authenticate": True} | (listener or {})
        async with between(far, sandbox, scan, listener=listener, **sections) as app:
            yield app

    return start


@pytest.fixture
def guarded_forward(start: Start, scan: SecretScan) -> Start:
    """A forward proxy for clients only."""
    for each in (TOKEN, OTHER):
        scan.add(each.decode())

    @contextlib.asynccontextmanager
    async def guarded(**sections: Any) -> AsyncIterator[App]:
        sections = DEFAULTS | sections
        async with start(listener={"authenticate": True}, **sections) as app:
            yield app

    return guarded


def request(*lines: bytes, target: bytes = b"/x", method: bytes = b"GET") -> bytes:
    return b"\r\n".join((b"%b %b HTTP/1.1" % (method, target), b"Host: far.test", *lines, b"", b""))


def connect_to(place: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"CONNECT %b HTTP/1.1" % place, b"Host: %b" % place, *lines, b"", b""))


async def told(near: Wire) -> tuple[int, str, str | None]:
    """Read a refusal; return its status, its code and when to come again."""
    head, body = await near.answer()
    problem = problem_of(head, body)
    return problem["status"], problem["code"], fields_of(head).get("retry-after")


async def counted(app: App, name: str) -> dict[str, float]:
    """Return the samples of a metric, by their labels as they are written."""
    _, _, body = await get(f"http://{app.admin_address}/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith(f"{name}{{")]
    return {line[len(name) : line.rindex(" ")]: float(line.rpartition(" ")[2]) for line in lines}


# Bearer tokens


async def test_unknown_token_and_none_get_401_and_the_client_may_try_again(
    guarded: Start, far: Far
) -> None:
    async with guarded() as app, client(app) as near:
        for lines in ([], [b"Authorization: Bearer " + OTHER], [b"Authorization: Bearer"]):
            near.send(request(*lines))
            head, body = await near.answer()
            assert problem_of(head, body)["code"] == "client_unknown"
            assert fields_of(head)["www-authenticate"] == 'Bearer realm="mobula-proxy"'
        assert far.accepted == 0
        await is_served(near, far, request(BEARER))


async def test_expired_client_gets_401_for_its_right_token(guarded: Start, far: Far) -> None:
    expired = {"research": RESEARCH | {"expires": "2020-01-31T12:00:00Z"}}
    async with guarded(clients=expired) as app, client(app) as near:
        near.send(request(BEARER))
        assert await refused(near) == (401, "client_unknown")
    assert far.accepted == 0


@pytest.mark.parametrize(
    "lines",
    [
        [b"Authorization: Bearer " + TOKEN + b", Bearer x"],
        [b"Authorization: Token " + TOKEN],
        [b"Authorization: Bearer \xe9" + TOKEN],
        [b"Authorization: Bearer " + TOKEN[:-1]],
        [b"Authorization:", b" Bearer " + TOKEN],
        [b"Proxy-Authorization: Basic " + b64encode(TOKEN)],
        [b"X-Api-Key: x"] * 8 + [BEARER],
        [b"Cookie: token=" + TOKEN],
        [b"X-Forwarded-Client-Cert: URI=" + NAME.encode()],
    ],
)
async def test_header_tricks_let_nobody_in(guarded: Start, far: Far, lines: list[bytes]) -> None:
    async with guarded() as app, client(app) as near:
        near.send(request(*lines))
        status = (await near.head()).split()[1]
        assert status in (b"400", b"401")
    assert far.accepted == 0


@pytest.mark.parametrize(
    "lines",
    [
        [b"Authorization: Bearer an-apps-own", BEARER],
        [BEARER, b"Authorization: Bearer an-apps-own"],
        [b"Authorization: an-apps-own", b"x-api-key: " + TOKEN],
        [b"authorization:\tbeArer   " + TOKEN + b" "],
    ],
)
async def test_right_token_counts_wherever_else_something_stands(
    guarded: Start, far: Far, lines: list[bytes]
) -> None:
    async with guarded() as app, client(app) as near:
        head = await is_served(near, far, request(*lines))
        assert b"an-apps-own" not in head
        assert TOKEN not in head


ENCODED = b"".join(b"%%%02x" % each for each in TOKEN)


@pytest.mark.parametrize("form", [TOKEN, ENCODED, ENCODED.upper(), b"%74" + TOKEN[1:]])
async def test_what_was_shown_goes_nowhere_upstream(guarded: Start, far: Far, form: bytes) -> None:
    lines = [BEARER, b"Cookie: a=" + form, b"Referer: http://far.test/?apiKey=" + form, b"X-A: b"]
    target = b"/a%b/b?name=%b&x=1" % (form, form)
    async with guarded() as app, client(app) as near:
        head = await is_served(near, far, request(*lines, target=target))
        fields = fields_of(head)
        assert head.startswith(b"GET /a/b?x=1 HTTP/1.1\r\n")
        assert fields == {"host": far.authority, "x-a": "b", "authorization": "Bearer *", "": ""}


@pytest.mark.parametrize(
    ("rights", "code", "path"),
    [
        ({"paths": ["/other"]}, "client_denied", "/a//b"),
        ({"methods": ["POST"]}, "client_denied", "/a//b"),
        ({"expires": "2020-01-31T12:00:00Z"}, "client_unknown", ""),
    ],
)
async def test_what_a_client_showed_that_is_refused_stands_in_no_log(
    guarded: Start, scan: SecretScan, rights: dict[str, Any], code: str, path: str
) -> None:
    """Not even where it stands in the path, of which the log of requests tells."""
    async with guarded(clients={"research": RESEARCH | rights}) as app, client(app) as near:
        for form in (TOKEN, ENCODED):
            near.send(request(BEARER, target=b"/a/%b/b" % form))
            await near.head()
        await until(lambda: len(scan.logged("request")) == 2)
        assert scan.logged("request")[-1]["code"] == code
        assert {each["path"] for each in scan.logged("request")} == {path}


async def test_two_clients_may_share_a_connection(guarded: Start, far: Far) -> None:
    async with guarded(clients={"research": RESEARCH, "batch": BATCH}) as app, client(app) as near:
        for each in (TOKEN, OTHER, TOKEN):
            await is_served(near, far, request(b"Authorization: " + each))
        near.send(request())
        assert await refused(near) == (401, "client_unknown")
        assert await counted(app, "mobula_proxy_client_requests_total") == {
            '{client="batch",status="200"}': 1,
            '{client="research",status="200"}': 2,
        }


# Rights and limits


async def test_paths_and_methods_that_a_client_has_not_get_403(guarded: Start, far: Far) -> None:
    rights = {"paths": ["/api/1/market"], "methods": ["GET"]}
    async with guarded(clients={"research": RESEARCH | rights}) as app, client(app) as near:
        near.send(request(BEARER, target=b"/api/1/wallet"))
        assert await refused(near) == (403, "client_denied")
        near.send(request(BEARER, target=b"/api/1/market", method=b"DELETE"))
        assert await refused(near) == (403, "client_denied")
        await is_served(near, far, request(BEARER, target=b"/api/1/market/data"))
        assert await counted(app, "mobula_proxy_client_refusals_total") == {
            '{client="research",code="client_denied"}': 2
        }


@pytest.mark.parametrize(
    "target",
    [
        b"/api/1/market/.%b./wallet" % TOKEN,
        b"/api/1/market/%b../wallet" % TOKEN,
        b"/api/1/market/.%b./wallet" % ENCODED,
        b"/api/1/market/%2" + TOKEN + b"e%2e/wallet",
    ],
)
async def test_path_does_not_lead_up_once_what_was_shown_is_cut_out_of_it(
    guarded: Start, far: Far, target: bytes
) -> None:
    clients = {"research": RESEARCH | {"paths": ["/api/1/market"]}}
    async with guarded(clients=clients) as app, client(app) as near:
        near.send(request(BEARER, target=target))
        assert await refused(near) == (403, "client_denied")
    assert far.accepted == 0


async def test_client_over_its_rate_gets_429_and_is_told_when_to_come_again(
    guarded: Start, far: Far
) -> None:
    slow = {"research": RESEARCH | {"requests_per_second": 0.1}, "batch": BATCH}
    async with guarded(clients=slow) as app, client(app) as near:
        await is_served(near, far, request(BEARER))
        near.send(request(BEARER))
        assert await told(near) == (429, "client_rate_limited", "10")
        await is_served(near, far, request(b"Authorization: " + OTHER))


async def test_client_that_used_its_day_up_gets_429_until_midnight(
    guarded: Start, far: Far
) -> None:
    limited = {"research": RESEARCH | {"requests_per_day": 2}}
    async with guarded(clients=limited) as app, client(app) as near:
        for _ in range(2):
            await is_served(near, far, request(BEARER))
        near.send(request(BEARER))
        status, code, wait = await told(near)
        assert (status, code) == (429, "client_quota_used_up")
        assert 0 < int(wait or 0) <= 86400


# Through a forward listener


async def test_who_asks_a_proxy_without_a_credential_gets_407(
    guarded_forward: Start, far: Far, way_out: Far
) -> None:
    asked = [
        request(target=b"http://far.test/x"),
        request(target=b"http://other.test/"),
        ELSEWHERE,
        connect_to(b"far.test:443"),
        connect_to(b"far.test:443", b"Proxy-Authorization: Basic " + b64encode(TOKEN)),
    ]
    async with guarded_forward() as app:
        for each in asked:
            async with client(app) as near:
                near.send(each)
                head, body = await near.answer()
                assert head.startswith(b"HTTP/1.1 407 ")
                assert fields_of(head)["proxy-authenticate"] == 'Basic realm="mobula-proxy"'
                assert problem_of(head, body)["code"] == "client_unknown"
    assert far.accepted == way_out.accepted == 0


async def test_connect_lets_every_request_behind_it_in(
    guarded_forward: Start, far: Far, ca_folder: Path
) -> None:
    """What it has shown counts as if each of them showed it, and is cut out of them too."""
    async with guarded_forward() as app, client(app) as near:
        near.send(connect_to(b"far.test:443", BASIC))
        assert await near.head() == ESTABLISHED
        await near.start_tls(trust(ca_folder), "far.test")
        for _ in range(2):
            head = await is_served(near, far, request(b"X-A: " + TOKEN, target=b"/?a=" + TOKEN))
            assert TOKEN not in head


async def test_neither_of_two_clients_credentials_goes_upstream(
    guarded_forward: Start, far: Far, ca_folder: Path
) -> None:
    """One is shown by the CONNECT, another by a request behind it, and each stands elsewhere."""
    clients = {"research": RESEARCH, "batch": BATCH}
    async with guarded_forward(clients=clients) as app, client(app) as near:
        near.send(connect_to(b"far.test:443", BASIC))
        assert await near.head() == ESTABLISHED
        await near.start_tls(trust(ca_folder), "far.test")
        lines = [b"Authorization: " + OTHER, b"X-A: " + TOKEN, b"X-B: " + OTHER]
        target = b"/a%b/b%b?a=%b&b=%b" % (TOKEN, OTHER, TOKEN, OTHER)
        head = await is_served(near, far, request(*lines, target=target))
        assert head.startswith(b"GET /a/b HTTP/1.1\r\n")
        assert TOKEN not in head
        assert OTHER not in head


async def test_client_of_a_connect_is_counted_for_each_request_behind_it(
    guarded_forward: Start, far: Far, ca_folder: Path
) -> None:
    limited = {"research": RESEARCH | {"requests_per_day": 2, "paths": ["/x"]}}
    async with guarded_forward(clients=limited) as app, client(app) as near:
        near.send(connect_to(b"far.test:443", BASIC))
        assert await near.head() == ESTABLISHED
        await near.start_tls(trust(ca_folder), "far.test")
        near.send(request(target=b"/y"))
        assert await refused(near) == (403, "client_denied")
        for _ in range(2):
            await is_served(near, far, request())
        near.send(request())
        assert await refused(near) == (429, "client_quota_used_up")


async def test_tunnel_counts_as_one_request_of_its_client(
    guarded_forward: Start, way_out: Far
) -> None:
    limited = {"research": RESEARCH | {"requests_per_day": 1}}
    async with guarded_forward(clients=limited) as app:
        async with client(app) as near:
            near.send(connect_to(b"other.test:443", BASIC))
            up = await way_out.wire()
            assert await up.head() == connect_to(b"other.test:443")
            up.send(b"HTTP/1.1 200 OK\r\n\r\n")
            assert await near.head() == ESTABLISHED
            up.close()
            await near.rest()
        async with client(app) as near:
            near.send(connect_to(b"other.test:443", BASIC))
            assert await refused(near) == (429, "client_quota_used_up")
        assert await counted(app, "mobula_proxy_client_requests_total") == {
            '{client="research",status="200"}': 1
        }


@pytest.mark.parametrize(
    "rights", [{"paths": ["/api"]}, {"paths": ["/"]}, {"methods": ["GET"]}], ids=str
)
async def test_client_whose_paths_or_methods_are_limited_gets_no_tunnel(
    guarded_forward: Start, way_out: Far, rights: dict[str, Any]
) -> None:
    """What it would ask for in one nobody could see."""
    clients = {"research": RESEARCH | rights}
    async with guarded_forward(clients=clients) as app, client(app) as near:
        near.send(connect_to(b"other.test:443", BASIC))
        assert await refused(near) == (403, "client_denied")
    assert way_out.accepted == 0


async def test_credentials_for_another_host_reach_it_and_are_none_of_ours(
    guarded_forward: Start, way_out: Far
) -> None:
    target = b"http://other.test/?apiKey=theirs"
    async with guarded_forward() as app:
        async with client(app) as near:
            near.send(request(BEARER, target=target))
            assert await refused(near) == (407, "client_unknown")
        async with client(app) as near:
            own = b"Authorization: Bearer theirs"
            near.send(request(BASIC, own, b"X-A: " + TOKEN, target=target))
            up = await let_through(way_out)
            assert await up.head() == (
                b"GET /?apiKey=theirs HTTP/1.1\r\nHost: other.test\r\n%b\r\n\r\n" % own
            )


# WebSockets


@contextlib.asynccontextmanager
async def feed(near: Wire, far: Far, *lines: bytes) -> AsyncIterator[Wire]:
    """Open a WebSocket; give the upstream's end."""
    near.send(HANDSHAKE[:-2] + b"".join(b"%b\r\n" % each for each in lines) + b"\r\n")
    up = await far.wire()
    asked = await up.request()
    assert TOKEN not in asked
    up.send(switching(asked))
    assert (await near.head()).startswith(b"HTTP/1.1 101 ")
    yield up
    up.close()


SUBSCRIBE = from_client(TEXT, b'{"authorization": "%b"}' % TOKEN)


async def closed(near: Wire) -> tuple[int, str]:
    """Read a Close frame; return its code, and our own code in its reason."""
    got = await receive(near)
    assert got.first == 0x80 | CLOSE
    return int.from_bytes(got.data[:2], "big"), got.data[2:].decode().split(": ")[1]


async def test_websocket_without_a_credential_is_not_opened(guarded: Start, far: Far) -> None:
    async with guarded() as app, client(app) as near:
        near.send(HANDSHAKE)
        assert await refused(near) == (401, "client_unknown")
        assert await near.ended()
    assert far.accepted == 0


async def test_message_that_takes_a_token_counts_and_one_too_many_closes_with_1013(
    guarded: Start, far: Far
) -> None:
    limited = {"research": RESEARCH | {"requests_per_day": 2}}
    async with guarded(clients=limited) as app:
        await until_ready(app)
        async with client(app) as near, feed(near, far, BEARER) as up:
            near.send(SUBSCRIBE)
            assert TOKEN not in (await receive(up)).data
            near.send(from_client(TEXT, b'{"type": "ping"}'))
            assert (await receive(up)).data == b'{"type": "ping"}'
            near.send(SUBSCRIBE)
            assert await closed(near) == (1013, "client_quota_used_up")
            assert (await receive(up)).first == 0x80 | CLOSE


@pytest.mark.parametrize(
    "message",
    [
        from_client(TEXT, b'{"authorization": "x", "name": "%b"}' % TOKEN),
        from_client(TEXT, b'{"name": "\\u0074%b"}' % TOKEN[1:]),
        from_client(BINARY, b"\x00" + TOKEN),
        from_client(TEXT, TOKEN),
    ],
)
async def test_message_that_shows_it_elsewhere_closes_with_1008(
    guarded: Start, far: Far, message: bytes
) -> None:
    async with guarded() as app:
        await until_ready(app)
        async with client(app) as near, feed(near, far, BEARER) as up:
            near.send(message)
            assert await closed(near) == (1008, "message_denied")
            assert (await receive(up)).first == 0x80 | CLOSE


# Kubernetes ServiceAccounts


@pytest.fixture
async def api(tmp_path: Path, scan: SecretScan) -> AsyncIterator[ApiServer]:
    scan.add(OWN_TOKEN)
    async with ApiServer(tmp_path, time.time) as api:
        yield api
    assert api.wrong == []


def accounts(api: ApiServer, *names: str, **more: Any) -> dict[str, Any]:
    """Return the sections of settings in which these ServiceAccounts are a client's."""
    files = {"ca_file": str(api.ca_file), "token_file": str(api.token_file)}
    return {
        "service_accounts": {"url": api.url, **files, **more},
        "clients": {"pods": {"service_accounts": list(names)}},
    }


def issued(api: ApiServer, scan: SecretScan, *about: Any, **more: Any) -> bytes:
    token = api.issue(*about, **more)
    scan.add(token.decode())
    return token


def bearer(token: bytes) -> bytes:
    return b"Authorization: Bearer " + token


async def test_service_account_is_let_in_and_its_token_stays_here(
    guarded: Start, far: Far, api: ApiServer, scan: SecretScan
) -> None:
    token = issued(api, scan)
    async with guarded(**accounts(api, "research/*")) as app, client(app) as near:
        for _ in range(2):
            head = await is_served(
                near, far, request(bearer(token), b"X-A: " + token, target=b"/x?b=" + token)
            )
            assert token not in head
        assert api.reviewed == [token.decode()]
        found = await counted(app, "mobula_proxy_client_requests_total")
        assert found == {'{client="pods",status="200"}': 2}


async def test_service_account_that_is_no_clients_gets_403(
    guarded: Start, far: Far, api: ApiServer, scan: SecretScan
) -> None:
    token = issued(api, scan, "shop/cart")
    async with guarded(**accounts(api, "research/app")) as app, client(app) as near:
        near.send(request(bearer(token)))
        assert await refused(near) == (403, "client_denied")
    assert far.accepted == 0


@pytest.mark.parametrize("what", ["forged", "revoked", "expired", "for another audience", "none"])
async def test_token_that_is_no_good_gets_401(
    guarded: Start, far: Far, api: ApiServer, scan: SecretScan, what: str
) -> None:
    token = issued(api, scan)
    if what == "forged":
        claims = {"sub": "system:serviceaccount:research:app", "aud": "mobula-proxy", "exp": 2**33}
        token = jwt_of(**claims).encode()
    elif what == "revoked":
        api.revoke(token)
    elif what == "expired":
        token = issued(api, scan, lives=-1.0)
    elif what == "for another audience":
        token = issued(api, scan, audiences=["vault"])
    else:
        token = b"eyJub3QiOiJvbmUifQ.e30.c2ln"
    async with guarded(**accounts(api, "research/app")) as app, client(app) as near:
        near.send(request(bearer(token)))
        assert await refused(near) == (401, "client_unknown")
    assert far.accepted == 0


async def test_without_the_api_server_an_unknown_token_gets_503_and_a_known_one_is_served(
    guarded: Start, far: Far, api: ApiServer, scan: SecretScan
) -> None:
    known, unknown = issued(api, scan), issued(api, scan)
    sections = accounts(api, "research/app", review_every="1s")
    async with guarded(**sections) as app, client(app) as near:
        await is_served(near, far, request(bearer(known)))
        await api.stop()
        near.send(request(bearer(unknown)))
        status, code, wait = await told(near)
        assert (status, code) == (503, "client_review_unavailable")
        assert 1 <= int(wait or 0) <= 5
        await is_served(near, far, request(bearer(known)))
    assert scan.logged("ServiceAccount tokens cannot be checked")


# CONNECT while it is reviewed whose it is


@pytest.fixture
async def reviewing(
    guarded_forward: Start, api: ApiServer, scan: SecretScan
) -> AsyncIterator[tuple[App, bytes]]:
    """A forward proxy whose reviews are held up, and a good token for it."""
    token = issued(api, scan)
    api.gate = Gate()
    async with guarded_forward(**accounts(api, "research/app")) as app:
        yield app, b"Proxy-Authorization: Bearer " + token


@pytest.mark.both_loops
async def test_what_comes_behind_a_connect_waits_until_it_is_known_whose_it_is(
    reviewing: tuple[App, bytes], api: ApiServer, way_out: Far
) -> None:
    app, shown = reviewing
    async with client(app) as near:
        near.send(connect_to(b"other.test:443", shown) + b"right behind, ")
        assert api.gate is not None
        await api.gate.reached()
        await near.send_in_pieces([b"while it is asked, "])
        assert way_out.accepted == 0
        api.gate.open()
        up = await let_through(way_out)
        assert await near.head() == ESTABLISHED
        near.send(b"and later")
        assert await up.exactly(42) == b"right behind, while it is asked, and later"


@pytest.mark.both_loops
async def test_tls_right_behind_a_connect_is_served_once_it_is_known_whose_it_is(
    reviewing: tuple[App, bytes], api: ApiServer, far: Far, ca_folder: Path
) -> None:
    app, shown = reviewing
    async with client(app) as near:
        near.send(connect_to(b"far.test:443", shown))
        assert api.gate is not None
        await api.gate.reached()
        api.gate.open()
        assert await near.head() == ESTABLISHED
        await near.start_tls(trust(ca_folder), "far.test")
        await is_served(near, far, request())


@pytest.mark.both_loops
async def test_connect_that_turns_out_to_be_a_strangers_is_refused_and_nothing_behind_it_served(
    reviewing: tuple[App, bytes], api: ApiServer, far: Far, way_out: Far
) -> None:
    app, shown = reviewing
    async with client(app) as near:
        near.send(connect_to(b"other.test:443", shown + b"A") + request(BEARER))
        assert api.gate is not None
        await api.gate.reached()
        api.gate.open()
        assert await refused(near) == (407, "client_unknown")
        near.end()
        assert await near.everything() == (b"", True)
    assert far.accepted == way_out.accepted == 0


@pytest.mark.both_loops
@pytest.mark.parametrize("leave", [Wire.close, Wire.reset, Wire.end])
async def test_client_that_leaves_meanwhile_leaves_nothing_behind(
    reviewing: tuple[App, bytes], api: ApiServer, far: Far, leave: Callable[[Wire], None]
) -> None:
    app, shown = reviewing
    assert api.gate is not None
    tasks = asyncio.all_tasks()
    async with client(app) as near:
        near.send(connect_to(b"far.test:443", shown))
        await api.gate.reached()
        leave(near)
        api.gate.open()
        await until(lambda: app.occupancy.connections == 0)
    await until(lambda: len(asyncio.all_tasks()) <= len(tasks))
    assert far.accepted == 0


@pytest.mark.both_loops
async def test_proxy_that_ends_meanwhile_hangs_nowhere(
    guarded_forward: Start, api: ApiServer, scan: SecretScan, way_out: Far
) -> None:
    token, api.gate = issued(api, scan), Gate()
    shutdown = {"drain": "1ms"}
    sections = accounts(api, "research/app") | {"shutdown": shutdown}
    async with nothing_left():
        async with guarded_forward(**sections) as app:
            near = await connect(app.addresses[0])
            near.send(connect_to(b"other.test:443", b"Proxy-Authorization: Bearer " + token))
            await api.gate.reached()
            await app.finish()
        assert (await near.everything())[0] == b""
        near.close()
        api.gate.open()
    assert way_out.accepted == 0
    assert "never retrieved" not in scan.output.getvalue()


@pytest.mark.both_loops
async def test_review_is_no_part_of_the_time_that_a_head_may_take(
    guarded_forward: Start, api: ApiServer, scan: SecretScan, way_out: Far
) -> None:
    token, api.gate = issued(api, scan), Gate()
    limits = {"header_timeout": "20ms", "client_idle_timeout": "20ms"}
    sections = accounts(api, "research/app") | {"limits": limits}
    async with guarded_forward(**sections) as app, client(app) as near:
        shown = b"Proxy-Authorization: Bearer " + token
        near.send(connect_to(b"other.test:443", shown) + b"behind")
        await api.gate.reached()
        await asyncio.sleep(0.05)  # longer than either
        api.gate.open()
        up = await let_through(way_out)
        assert await near.head() == ESTABLISHED
        assert await up.exactly(6) == b"behind"


# Unix sockets


@pytest.mark.both_loops
async def test_user_at_the_other_end_of_a_socket_is_let_in(
    guarded: Start, far: Far, tmp_path: Path
) -> None:
    sections = {"clients": {"local": {"uids": [os.getuid()]}}}
    listener = {"bind": f"unix:{tmp_path / 'socket'}"}
    async with guarded(listener, **sections) as app, client(app) as near:
        await is_served(near, far, request())
        assert await counted(app, "mobula_proxy_client_requests_total") == {
            '{client="local",status="200"}': 1
        }


async def test_another_user_gets_403_unless_it_shows_a_token(
    guarded: Start, far: Far, tmp_path: Path
) -> None:
    clients = {"local": {"uids": [os.getuid() + 1]}, "research": RESEARCH}
    listener = {"bind": f"unix:{tmp_path / 'socket'}"}
    async with guarded(listener, clients=clients) as app, client(app) as near:
        near.send(request())
        assert await refused(near) == (403, "client_denied")
        await is_served(near, far, request(BEARER))


async def test_user_through_a_forward_socket_may_connect(
    start: Start, far: Far, way_out: Far, ca_folder: Path, tmp_path: Path
) -> None:
    listener = {"bind": f"unix:{tmp_path / 'socket'}", "authenticate": True}
    async with start(listener, clients={"local": {"uids": [os.getuid()]}}) as app:
        async with client(app) as near:
            near.send(connect_to(b"far.test:443"))
            assert await near.head() == ESTABLISHED
            await near.start_tls(trust(ca_folder), "far.test")
            await is_served(near, far, request())
        async with client(app) as near:
            near.send(ELSEWHERE)
            await let_through(way_out)
            assert await near.head() == ESTABLISHED


async def test_user_counts_for_nothing_over_tcp(guarded: Start, far: Far) -> None:
    async with guarded(clients={"local": {"uids": [0, os.getuid()]}}) as app, client(app) as near:
        near.send(request())
        assert await refused(near) == (401, "client_unknown")
    assert far.accepted == 0


# Other ways in


async def test_listener_that_asks_nobody_is_beside_one_that_does(
    far: Far, sandbox: Sandbox, scan: SecretScan
) -> None:
    scan.add(TOKEN.decode())
    listeners = [{"bind": "127.0.0.1:0", "authenticate": True}, {"bind": "127.0.0.1:0"}]
    sections: dict[str, Any] = {"listeners": listeners, "clients": {"research": RESEARCH}}
    async with between(far, sandbox, scan, **sections) as app:
        async with client(app, 0) as near:
            near.send(request())
            assert await refused(near) == (401, "client_unknown")
        async with client(app, 1) as near:
            await is_served(near, far, request())


@pytest.mark.parametrize(
    "sent",
    [
        request(target=b"http://far.test/x"),
        request(target=b"http://mint.test/x"),
        request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
        request(target=b"*", method=b"OPTIONS"),
        request(b"Expect: 100-continue", b"Content-Length: 2", method=b"POST"),
        request().replace(b"HTTP/1.1", b"HTTP/1.0"),
        ELSEWHERE,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["absolute", "another upstream", "h2c", "OPTIONS *", "100", "1.0", "CONNECT", "HTTP/2"],
)
async def test_no_way_leads_past_it(guarded: Start, far: Far, sent: bytes) -> None:
    async with guarded() as app, client(app) as near:
        near.send(sent)
        near.end()
        answer, _ = await near.everything()
        assert b" 100 " not in answer
        assert b" 200 " not in answer
    assert far.accepted == 0


# All kinds together, and a connection that stays open


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["tokens", "uids", "service_accounts"])
async def test_client_that_is_removed_is_refused_with_its_next_request(
    guarded: Start, far: Far, tmp_path: Path, scan: SecretScan, kind: str
) -> None:
    """Time leaps, so nobody waits for the file to be looked at."""
    async with ApiServer(tmp_path, time.time) as api:
        account = issued(api, scan)
        of = {
            "tokens": digest_of(TOKEN),
            "uids": os.getuid(),
            "service_accounts": "research/app",
        }
        lines = {"tokens": [BEARER], "uids": [], "service_accounts": [bearer(account)]}[kind]
        file = tmp_path / "clients.yaml"
        file.write_text(json.dumps({"one": {kind: [of[kind]]}}))
        sections = accounts(api, "other/app") | {"clients_file": str(file)}
        listener = {"bind": f"unix:{tmp_path / 'socket'}"}
        async with guarded(listener, **sections) as app, client(app) as near:
            await is_served(near, far, request(*lines))
            file.write_text("another: {certificates: [a.example]}")
            await until(lambda: bool(scan.logged("a file that changed was read again")), 60.0)
            near.send(request(*lines))
            status, code = await refused(near)
            assert (status, code) in ((401, "client_unknown"), (403, "client_denied"))


@pytest.mark.virtual_time
async def test_feed_of_a_client_that_is_removed_is_closed_with_its_next_message(
    guarded: Start, far: Far, tmp_path: Path, scan: SecretScan
) -> None:
    file = tmp_path / "clients.yaml"
    file.write_text(f"one: {{tokens: ['{digest_of(TOKEN)}']}}")
    async with guarded(clients={}, clients_file=str(file)) as app:
        await until_ready(app)
        async with client(app) as near, feed(near, far, BEARER) as up:
            near.send(SUBSCRIBE)
            await receive(up)
            file.write_text(f"one: {{tokens: ['{digest_of(OTHER)}']}}")
            await until(lambda: bool(scan.logged("a file that changed was read again")), 60.0)
            near.send(SUBSCRIBE)
            assert await closed(near) == (1008, "client_unknown")
            assert (await receive(up)).first == 0x80 | CLOSE
