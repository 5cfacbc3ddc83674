"""Listeners that speak TLS themselves: what they show, and whose client certificates they take."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness import SecretScan, get, until
from identities import SERVER, Authority, Issued, digest_of, names_of
from proxy.app import App
from proxy.config import ListenerTlsSettings
from proxy.sandbox import Sandbox
from proxy.traffic.server_certificate import ServerCertificate
from tls_client import TlsClient
from wire import GET, OK, Far, Start, Wire, between, client, is_served, refused

TOKEN = b"token-of-research-51fa7c02"
BEARER = b"Authorization: Bearer " + TOKEN
HOST = "gateway.test"
NAME = "spiffe://cluster.local/ns/research/sa/app"


def request(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET /x HTTP/1.1", b"Host: far.test", *lines, b"", b""))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom both ends trust."""
    return Authority(tmp_path)


@pytest.fixture
def shown(authority: Authority) -> Issued:
    """What the listener shows."""
    return authority.issue("server", names_of(HOST))


def files_of(shown: Issued, authority: Authority | None = None) -> dict[str, Any]:
    """Return the section of settings for a listener's TLS."""
    files = {
        "certificate_file": str(shown.certificate_file),
        "key_file": str(shown.key_file),
    }
    return files | ({"client_ca_file": str(authority.file)} if authority else {})


@pytest.fixture
def gateway(
    far: Far, sandbox: Sandbox, scan: SecretScan, shown: Issued, authority: Authority
) -> Start:
    """A reverse listener in TLS; it knows a client by its certificate, another by its token."""
    scan.add(TOKEN.decode())

    @contextlib.asynccontextmanager
    async def start(listener: Any = None, **sections: Any) -> AsyncIterator[App]:
        tls = {"authenticate": True, "tls": files_of(shown, authority)}
        clients = {
            "research": {"certificates": [NAME, "app.research.svc"]},
            "batch": {"tokens": [digest_of(TOKEN)]},
        }
        sections = {"clients": clients} | sections
        async with between(far, sandbox, scan, listener=tls | (listener or {}), **sections) as app:
            yield app

    return start


def trusting(authority: Authority, own: Issued | None = None) -> ssl.SSLContext:
    """A client that trusts an authority, and may have a certificate of its own."""
    context = ssl.create_default_context(cafile=authority.file)
    if own is not None:
        own.load_into(context)
    return context


@contextlib.asynccontextmanager
async def in_tls(app: App, context: ssl.SSLContext) -> AsyncIterator[Wire]:
    async with client(app) as near:
        await near.start_tls(context, HOST)
        yield near


async def errors(app: App) -> str:
    """Return what has been counted of our own errors."""
    _, _, metrics = await get(f"http://{app.admin_address}/metrics")
    found = [line for line in metrics.decode().splitlines() if "proxy_errors_total{" in line]
    return "\n".join(found)


# Who gets in


@pytest.mark.both_loops
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", [NAME, "app.research.svc", "APP.Research.svc"])
async def test_client_with_a_certificate_is_let_in(
    gateway: Start, far: Far, authority: Authority, version: ssl.TLSVersion, name: str
) -> None:
    own = authority.issue("app", names_of("other.svc", name))
    context = trusting(authority, own)
    context.minimum_version = context.maximum_version = version
    async with gateway() as app, in_tls(app, context) as near:
        for _ in range(2):
            await is_served(near, far, request())


@pytest.mark.both_loops
async def test_client_without_a_certificate_needs_a_token(
    gateway: Start, far: Far, authority: Authority
) -> None:
    async with gateway() as app, in_tls(app, trusting(authority)) as near:
        near.send(request())
        assert await refused(near) == (401, "client_unknown")
        await is_served(near, far, request(BEARER))


async def test_certificate_of_no_client_gets_403_and_with_a_token_its_client(
    gateway: Start, far: Far, authority: Authority
) -> None:
    own = authority.issue("app", names_of("spiffe://cluster.local/ns/shop/sa/app"))
    async with gateway() as app, in_tls(app, trusting(authority, own)) as near:
        near.send(request())
        assert await refused(near) == (403, "client_denied")
        await is_served(near, far, request(BEARER))


@pytest.mark.both_loops
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("what", ["another authority", "expired", "not for clients"])
async def test_certificate_that_is_no_good_is_turned_away_by_tls(
    gateway: Start,
    far: Far,
    authority: Authority,
    tmp_path: Path,
    what: str,
    version: ssl.TLSVersion,
) -> None:
    """Also with a token, which it could not even send."""
    names, past = names_of(NAME), datetime.now(UTC) - timedelta(minutes=1)
    own = {
        "another authority": lambda: Authority(tmp_path, "other").issue("app", names),
        "expired": lambda: authority.issue("app", names, ends=past),
        "not for clients": lambda: authority.issue("app", names, usages=[SERVER]),
    }[what]()
    context = trusting(authority, own)
    context.minimum_version = context.maximum_version = version
    async with gateway() as app:
        async with client(app) as near:
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await near.start_tls(context, HOST)
                near.send(request(BEARER))
            with contextlib.suppress(ssl.SSLError):
                assert (await near.everything())[0] == b""
        await until(lambda: app.occupancy.connections == 0)
        assert 'code="client_certificate_refused"} 1.0' in await errors(app)
    assert far.accepted == 0


@pytest.mark.both_loops
async def test_certificate_that_expires_while_its_connection_is_open_lets_nobody_in_any_longer(
    gateway: Start, far: Far, authority: Authority
) -> None:
    ends = datetime.fromtimestamp(int(time.time()) + 2, UTC)
    own = authority.issue("app", names_of(NAME), ends=ends)
    async with gateway() as app, in_tls(app, trusting(authority, own)) as near:
        await is_served(near, far, request())
        await until(lambda: datetime.now(UTC) >= ends)
        near.send(request())
        assert await refused(near) == (401, "client_unknown")
        await is_served(near, far, request(BEARER))


@pytest.mark.virtual_time
async def test_certificate_of_a_client_that_was_removed_lets_nobody_in_any_longer(
    gateway: Start, far: Far, authority: Authority, scan: SecretScan, tmp_path: Path
) -> None:
    own, file = authority.issue("app", names_of(NAME)), tmp_path / "clients.yaml"
    file.write_text(f"one: {{certificates: ['{NAME}']}}")
    async with (
        gateway(clients={}, clients_file=str(file)) as app,
        in_tls(app, trusting(authority, own)) as near,
    ):
        await is_served(near, far, request())
        file.write_text("one: {certificates: [another.svc]}")
        await until(lambda: bool(scan.logged("a file that changed was read again")), 60.0)
        near.send(request())
        assert await refused(near) == (403, "client_denied")


async def test_session_that_is_taken_up_again_is_still_whose_it_was(
    gateway: Start, far: Far, authority: Authority
) -> None:
    """In TLS 1.2 it shows no certificate again, but is bound to the one that it began with."""
    context = trusting(authority, authority.issue("app", names_of(NAME)))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with gateway() as app:
        async with in_tls(app, context) as near:
            await is_served(near, far, request())
            session = near.tls.session
        async with client(app) as near:
            again = TlsClient(context, HOST, session)
            near.send(again.hello())
            near.send(await again.finish(near))
            assert again.is_resumed
            near.send(again.say(request()))
            up = await far.wire()
            await up.request()
            up.send(OK)
            assert (await again.hear(near)).endswith(b"ok")


async def test_listener_that_asks_for_none_sees_none(
    gateway: Start, far: Far, authority: Authority, shown: Issued
) -> None:
    own = authority.issue("app", names_of(NAME))
    listener = {"tls": files_of(shown)}
    async with gateway(listener) as app, in_tls(app, trusting(authority, own)) as near:
        near.send(request())
        assert await refused(near) == (401, "client_unknown")
    assert far.accepted == 0


# What it shows


@pytest.mark.parametrize("name", [HOST, "another.test", None])
async def test_certificate_is_shown_whatever_host_is_asked_for(
    gateway: Start, far: Far, authority: Authority, name: str | None
) -> None:
    context = trusting(authority)
    context.check_hostname = False
    async with gateway() as app, client(app) as near:
        await near.start_tls(context, name)
        assert (near.tls.getpeercert() or {})["subjectAltName"] == (("DNS", HOST),)
        await is_served(near, far, request(BEARER))


async def test_http_without_tls_is_refused(gateway: Start, far: Far) -> None:
    async with gateway() as app, client(app) as near:
        near.send(request(BEARER))
        assert await refused(near) == (400, "tls_required")
        assert await near.ended()
    assert far.accepted == 0


@pytest.mark.virtual_time
async def test_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    gateway: Start, far: Far, tmp_path: Path, authority: Authority, shown: Issued, scan: SecretScan
) -> None:
    renewed = Authority(tmp_path, "renewed").issue("renewed", names_of(HOST))
    async with gateway() as app, in_tls(app, trusting(authority)) as near:
        await is_served(near, far, request(BEARER))
        for ours, theirs in (
            (shown.certificate_file, renewed.certificate_file),
            (shown.key_file, renewed.key_file),
        ):
            ours.write_bytes(theirs.read_bytes())
        await until(lambda: bool(scan.logged("a file that changed was read again")), 60.0)
        context = ssl.create_default_context(cafile=tmp_path / "renewed.pem")
        async with in_tls(app, context) as another:
            await is_served(another, far, request(BEARER))
        await is_served(near, far, request(BEARER))


@pytest.mark.virtual_time
async def test_renewal_that_is_half_done_changes_nothing_and_is_told(
    gateway: Start, far: Far, authority: Authority, shown: Issued, scan: SecretScan
) -> None:
    renewed = authority.issue("renewed", names_of(HOST))
    async with gateway() as app:
        shown.certificate_file.write_bytes(renewed.certificate_file.read_bytes())
        await until(lambda: bool(scan.logged(NOT_TAKEN)), 60.0)
        assert "the key is that of another certificate" in scan.logged(NOT_TAKEN)[0]["reason"]
        async with in_tls(app, trusting(authority)) as near:
            await is_served(near, far, request(BEARER))
        shown.key_file.write_bytes(renewed.key_file.read_bytes())
        await until(lambda: bool(scan.logged("a file that changed was read again")), 60.0)
        async with in_tls(app, trusting(authority)) as near:
            await is_served(near, far, request(BEARER))


NOT_TAKEN = "a file that changed cannot be used, what it said before stays"


# Files that are of no use


def taken(settings: dict[str, str]) -> ServerCertificate:
    certificate = ServerCertificate.of(ListenerTlsSettings(**settings))
    assert certificate is not None
    certificate.take()
    return certificate


def test_listener_without_files_has_no_tls() -> None:
    assert ServerCertificate.of(ListenerTlsSettings()) is None


def test_key_of_another_certificate_is_named(authority: Authority, shown: Issued) -> None:
    other = authority.issue("other", names_of(HOST))
    files = files_of(shown) | {"key_file": str(other.key_file)}
    with pytest.raises(ValueError, match=r"server\.crt with .*other\.key cannot be used: the key"):
        taken(files)


def test_encrypted_key_is_refused_without_asking_for_its_password(authority: Authority) -> None:
    sealed = authority.issue("sealed", names_of(HOST), password=b"secret")
    with pytest.raises(ValueError, match="the key is encrypted, and there is nobody to ask"):
        taken(files_of(sealed))


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("which", ["certificate_file", "key_file", "client_ca_file"])
def test_file_that_holds_something_else_is_refused(
    authority: Authority, shown: Issued, tmp_path: Path, which: str, content: bytes
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_bytes(content)
    files = files_of(shown, authority) | {which: str(wrong)}
    with pytest.raises(ValueError, match=r"wrong\.pem.* cannot be used: it holds no valid PEM"):
        taken(files)


@pytest.mark.parametrize("which", ["certificate_file", "key_file", "client_ca_file"])
def test_file_that_is_missing_is_named(
    authority: Authority, shown: Issued, tmp_path: Path, which: str
) -> None:
    files = files_of(shown, authority) | {which: str(tmp_path / "missing.pem")}
    with pytest.raises(ValueError, match=r"missing\.pem.* cannot be used: No such file"):
        taken(files)


def test_what_was_taken_stays_when_the_files_are_of_no_use_later(shown: Issued) -> None:
    certificate = taken(files_of(shown))
    before = certificate.context(HOST)
    shown.key_file.unlink()
    with pytest.raises(ValueError, match="No such file"):
        certificate.take()
    assert certificate.context(HOST) is before


# The end, and limits


@pytest.mark.both_loops
async def test_drain_ends_what_is_idle_and_lets_what_is_served_be_the_last(
    gateway: Start, far: Far, authority: Authority
) -> None:
    async with gateway() as app, in_tls(app, trusting(authority)) as idle:
        await is_served(idle, far, request(BEARER))
        async with client(app) as silent, in_tls(app, trusting(authority)) as busy:
            busy.send(request(BEARER))
            up = await far.wire()
            await up.request()
            finishing = asyncio.create_task(app.finish())
            assert await idle.rest() == b""
            assert await silent.rest() == b""
            up.send(OK)
            head, body = await busy.answer()
            assert (body, b"\r\nConnection: close\r\n" in head) == (b"ok", True)
            await finishing


@pytest.mark.both_loops
async def test_connection_over_the_limit_gets_503(
    gateway: Start, far: Far, authority: Authority
) -> None:
    async with gateway(limits={"connections": 1}) as app, in_tls(app, trusting(authority)) as near:
        await is_served(near, far, request(BEARER))
        async with in_tls(app, trusting(authority)) as second:
            second.send(GET)
            assert await refused(second) == (503, "too_many_connections")


async def test_client_that_says_nothing_is_let_go(gateway: Start, authority: Authority) -> None:
    async with gateway(limits={"client_idle_timeout": "30ms"}) as app:
        async with client(app) as near:
            assert await near.everything() == (b"", True)
        async with in_tls(app, trusting(authority)) as near:
            assert await near.rest() == b""
        await until(lambda: app.occupancy.connections == 0)
