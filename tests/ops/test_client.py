"""What `status`, `wait` and `quit` make of whatever stands behind an address."""

import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from harness import SecretScan, running
from proxy.config import Address
from proxy.ops import client
from proxy.sandbox import Sandbox

Call = Callable[[Address], Awaitable[int]]


@pytest.fixture(params=["status", "wait", "quit"])
def call(request: pytest.FixtureRequest) -> Call:
    calls: dict[str, Call] = {
        "status": lambda address: client.show_status(address, as_json=False),
        "wait": lambda address: client.wait_ready(address, 0.05),
        "quit": client.ask_quit,
    }
    return calls[request.param]


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was written to standard error, once it is called."""
    return lambda: capsys.readouterr().err


async def test_where_nobody_listens_it_fails_and_names_the_address(
    call: Call, complaint: Callable[[], str]
) -> None:
    assert await call(Address("127.0.0.1", 1)) == 1
    assert complaint().startswith("mobula-proxy: no proxy answers on admin address 127.0.0.1:1")


async def test_a_unix_socket_that_is_not_there_is_named(
    call: Call, complaint: Callable[[], str]
) -> None:
    assert await call(Address(path="/nowhere/admin.sock")) == 1
    assert "no proxy answers on admin address unix:/nowhere/admin.sock" in complaint()


async def test_a_listener_for_apps_is_not_taken_for_an_admin_listener(
    call: Call, complaint: Callable[[], str], sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan) as app:
        address = app.addresses[0]
        assert await call(address) == 1
    assert f"what answers on {address} is not a proxy's admin listener" in complaint()


async def test_wait_keeps_its_time_where_nobody_answers(complaint: Callable[[], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address(*silent.getsockname())
        started = time.monotonic()
        assert await client.wait_ready(address, 0.1) == 1
        assert time.monotonic() - started < client.CALL_SECONDS / 2
    assert complaint().endswith("(waited 0.1 s)\n")


async def test_an_address_bound_on_every_interface_is_called_on_loopback(
    sandbox: Sandbox, scan: SecretScan
) -> None:
    async with running(sandbox.url, scan, admin={"bind": "0.0.0.0:0"}) as app:
        assert app.admin_address.host == "0.0.0.0"  # noqa: S104 - compared only
        assert await client.wait_ready(app.admin_address, 5.0) == 0
