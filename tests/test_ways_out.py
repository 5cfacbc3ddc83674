"""How the whole proxy gets out: by other name servers, through a proxy, and never in circles."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from connect_proxy import ConnectProxy
from harness import (
    KEY,
    SecretScan,
    base_url,
    finished,
    get,
    running,
    serving,
    until,
    until_ready,
)
from name_server import NameServer
from proxy.app import App
from proxy.listening import StartError
from proxy.sandbox import Sandbox
from wire import GET, Far, bound, client, refused

PASSWORD = "pass4711-of-the-network"
ECHO = "/api/1/sandbox/echo"


@pytest.fixture
async def connect_proxy(scan: SecretScan) -> AsyncIterator[ConnectProxy]:
    """The network's own proxy; nobody may see its password."""
    scan.add(PASSWORD)
    scan.add(f"sidecar:{PASSWORD}")
    async with ConnectProxy("sidecar", PASSWORD) as proxy:
        yield proxy


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that stays ours until the test listens on it."""
    with bound(("127.0.0.1", 0)) as place:
        yield place.getsockname()[1]


def port_of(sandbox: Sandbox) -> int:
    return int(sandbox.url.rpartition(":")[2])


def asking(name_server: NameServer) -> dict[str, Any]:
    """The settings to ask this name server."""
    return {"resolver": "dns", "nameservers": [name_server.place]}


async def served(app: App) -> bytes:
    """Have a request served, once there is a token; return the answer's body."""
    await until_ready(app)
    status, _, body = await get(base_url(app) + ECHO, headers={"Authorization": KEY})
    assert status == 200
    return body


# Names and addresses


async def test_calls_and_requests_go_where_the_name_server_says(
    name_server: NameServer, sandbox: Sandbox, scan: SecretScan
) -> None:
    name_server.names["api.test"] = ("127.0.0.1",)
    url = f"http://api.test:{port_of(sandbox)}"
    async with running(url, scan, upstream={"insecure": True}, **asking(name_server)) as app:
        assert b"Bearer [token]" in await served(app)
    assert {name for name, _ in name_server.asked} == {"api.test"}


async def test_calls_and_requests_go_to_a_fixed_address_that_no_name_stands_for(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    url = f"http://api.invalid:{port_of(sandbox)}"
    async with running(url, scan, upstream={"address": "127.0.0.1"}) as app:
        assert f'["Host","api.invalid:{port_of(sandbox)}"]'.encode() in await served(app)


async def test_a_name_that_is_not_known_is_told_of(
    name_server: NameServer, scan: SecretScan
) -> None:
    async with running("https://api.test", scan, **asking(name_server)) as app:
        reason = "no connection: its name could not be resolved: no name server knows it"
        await until(lambda: app.status().reason == reason)


# The network's own proxy


@pytest.fixture
async def tls_sandbox(scan: SecretScan, tmp_path: Path) -> AsyncIterator[tuple[Sandbox, str]]:
    """A sandbox that proves to be api.test, and the file of the authority that says so."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.test").configure_cert(context)
    async with Sandbox(keys={KEY: "growth"}, ssl_context=context) as sandbox:
        scan.watch(sandbox)
        yield sandbox, str(tmp_path / "ca.pem")


async def test_calls_and_requests_go_through_the_networks_proxy_and_it_reads_neither(
    tls_sandbox: tuple[Sandbox, str], connect_proxy: ConnectProxy, scan: SecretScan
) -> None:
    sandbox, ca_file = tls_sandbox
    authority = f"api.test:{port_of(sandbox)}"
    async with running(
        f"https://{authority}",
        scan,
        upstream={"ca_file": ca_file},
        upstream_proxy=connect_proxy.url,
    ) as app:
        assert b"Bearer [token]" in await served(app)
        assert len(connect_proxy.asked) >= 2
    assert set(connect_proxy.asked) == {f"CONNECT {authority} HTTP/1.1"}
    assert KEY.encode() not in connect_proxy.passed
    assert sandbox.ledger.report()["leaks"] == []


async def test_unencrypted_calls_are_asked_of_the_networks_proxy_itself(
    sandbox: Sandbox, connect_proxy: ConnectProxy, scan: SecretScan
) -> None:
    authority = f"api.test:{port_of(sandbox)}"
    async with running(
        f"http://{authority}", scan, upstream={"insecure": True}, upstream_proxy=connect_proxy.url
    ) as app:
        assert b"Bearer [token]" in await served(app)
    assert f"POST http://{authority}/api/2/auth/tokens HTTP/1.1" in connect_proxy.asked
    assert f"CONNECT {authority} HTTP/1.1" in connect_proxy.asked


async def test_this_machine_is_reached_past_the_networks_proxy(
    sandbox: Sandbox, connect_proxy: ConnectProxy, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan, upstream_proxy=connect_proxy.url) as app:
        await served(app)
    assert connect_proxy.asked == []


async def test_a_proxy_that_does_not_know_us_is_told_of_and_no_password_is(
    tls_sandbox: tuple[Sandbox, str], connect_proxy: ConnectProxy, scan: SecretScan
) -> None:
    sandbox, ca_file = tls_sandbox
    authority = f"api.test:{port_of(sandbox)}"
    async with serving(
        f"https://{authority}",
        scan,
        f"upstreams.api.mobula.io.ca_file={ca_file}",
        f"upstream_proxy={connect_proxy.url}",
    ) as sidecar:
        await sidecar.ready()
        connect_proxy.password = "another one"
        status, headers, body = await get(sidecar.url + ECHO)
        assert (status, headers["X-Mobula-Proxy-Error"]) == (502, "upstream_unreachable")
        assert json.loads(body)["detail"] == (
            "api.mobula.io: the upstream proxy answered 407: "
            "it does not take the credentials in upstream_proxy."
        )


async def test_a_start_without_the_right_password_spends_no_creation_call(
    tls_sandbox: tuple[Sandbox, str], connect_proxy: ConnectProxy, scan: SecretScan
) -> None:
    sandbox, ca_file = tls_sandbox
    url = connect_proxy.url
    connect_proxy.password = "another one"
    async with running(
        f"https://api.test:{port_of(sandbox)}",
        scan,
        upstream={"ca_file": ca_file},
        upstream_proxy=url,
    ) as app:
        await until(lambda: app.status().tokens.fault is not None)
        fault = app.status().tokens.fault
        assert fault is not None
        assert fault.detail.startswith("no connection: the upstream proxy answered 407: it does")
        assert not fault.sent
    assert sandbox.ledger.report()["mints"] == []


# Loops


def test_a_start_is_refused_where_an_upstream_is_the_proxy_itself(
    scan: SecretScan, free_port: int
) -> None:
    code, out, err = finished(
        "serve",
        "--set", f"upstreams.api.mobula.io.url=http://127.0.0.1:{free_port}",
        "--set", f'listeners=[{{"bind": "127.0.0.1:{free_port}"}}]',
        "--set", "admin.bind=127.0.0.1:0",
        scan=scan,
        environ={"MOBULA_API_KEY": KEY},
    )  # fmt: skip
    assert (code, out) == (1, "")
    assert err == (
        "mobula-proxy: upstream api.mobula.io leads back to this proxy: its address, "
        f"127.0.0.1:{free_port}, is a listener of this proxy itself; set resolver: dns, which "
        "looks past /etc/hosts, or upstreams.api.mobula.io.url or .address\n"
    )


@pytest.mark.parametrize("listener", ["listeners", "admin"])
async def test_a_start_is_refused_where_the_name_of_any_upstream_leads_back(
    name_server: NameServer, sandbox: Sandbox, scan: SecretScan, free_port: int, listener: str
) -> None:
    name_server.names["far.test"] = ("127.0.0.1",)
    upstreams = {
        "api.mobula.io": {"url": sandbox.url},
        "far.test": {"url": f"http://far.test:{free_port}", "insecure": True},
    }
    bind = {"bind": f"127.0.0.1:{free_port}"}
    section: dict[str, Any] = {listener: [bind] if listener == "listeners" else bind}
    with pytest.raises(StartError, match=r"^upstream far\.test leads back to this proxy: "):
        async with running(
            sandbox.url, scan, upstreams=upstreams, **asking(name_server), **section
        ):
            pass
    assert sandbox.ledger.report()["mints"] == []


async def test_a_start_is_refused_where_the_networks_proxy_is_ourselves(
    scan: SecretScan, free_port: int
) -> None:
    place = f"127.0.0.1:{free_port}"
    with pytest.raises(StartError, match=r"; name another proxy in upstream_proxy, or none$"):
        async with running(
            "https://api.test",
            scan,
            listeners=[{"bind": place}],
            upstream_proxy=f"http://{place}",
        ):
            pass


async def test_a_name_that_leads_back_later_gets_508(
    name_server: NameServer, sandbox: Sandbox, scan: SecretScan, free_port: int
) -> None:
    upstreams = {
        "api.mobula.io": {"url": sandbox.url},
        "far.test": {"url": f"http://far.test:{free_port}", "insecure": True},
    }
    listener = {"bind": f"127.0.0.1:{free_port}", "upstream": "far.test"}
    async with running(
        sandbox.url, scan, upstreams=upstreams, listeners=[listener], **asking(name_server)
    ) as app:
        name_server.names["far.test"] = ("127.0.0.1",)
        async with client(app) as near:
            near.send(GET)
            assert await refused(near) == (508, "upstream_loop")


async def test_the_static_key_is_not_taken_to_a_listener_of_ours(
    name_server: NameServer, scan: SecretScan, free_port: int
) -> None:
    async with running(
        f"http://api.test:{free_port}",
        scan,
        upstream={"insecure": True},
        listeners=[{"bind": f"127.0.0.1:{free_port}"}],
        **asking(name_server),
    ) as app:
        await until(lambda: app.status().tokens.fault is not None)
        name_server.names["api.test"] = ("127.0.0.1",)
        detail = (
            f"no connection: its address, 127.0.0.1:{free_port}, is a listener of this proxy itself"
        )
        await until(lambda: app.status().reason == detail)


async def test_a_command_takes_the_static_key_to_no_listener_of_the_proxy_beside_it(
    far: Far, scan: SecretScan
) -> None:
    code, out, err = await asyncio.to_thread(
        finished,
        "tokens", "list",
        "--set", f"upstreams.api.mobula.io.url=http://localhost:{far.port}",
        "--set", f'listeners=[{{"bind": "{far.authority}"}}]',
        scan=scan,
        environ={"MOBULA_API_KEY": KEY},
    )  # fmt: skip
    assert (code, out) == (1, "")
    assert err == (
        f"mobula-proxy: no connection: its address, {far.authority}, "
        "is a listener of this proxy itself\n"
    )
    assert far.accepted == 0
