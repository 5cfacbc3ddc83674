"""Addresses to listen on: free, taken by one of ours or by others, or not to be had at all."""

import errno
import math
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import SecretScan, running, settings_for, until_ready
from proxy.config import Address
from proxy.launch.checks.listeners import (
    ADMIN,
    Attempt,
    Running,
    attempt_all,
    find_running,
    judge,
    judge_files,
    read_running,
)
from proxy.launch.report import Line, fail, ok, warn
from proxy.sandbox import Sandbox

PLACE = Address("127.0.0.1", 8080)
OURS = Running("1.0", "", frozenset({"127.0.0.1:8080"}))
BUSY = Running("1.0", "draining", frozenset())
FIRST = "listeners[0].bind"


def judged(attempt: Attempt, running: Running | None = None) -> Line:
    (line,) = judge([attempt], running)
    return line


# What is said


def test_a_free_address_is_well() -> None:
    assert judged(Attempt(FIRST, PLACE)) == ok("listener", "127.0.0.1:8080", "free")


def test_one_that_a_proxy_of_ours_serves_is_well() -> None:
    taken = Attempt(FIRST, PLACE, errno.EADDRINUSE)
    assert judged(taken, OURS) == ok("listener", "127.0.0.1:8080", "mobula-proxy 1.0 serves here")


def test_the_admin_address_of_a_running_proxy_tells_how_it_is() -> None:
    taken = Attempt(ADMIN, PLACE, errno.EADDRINUSE)
    assert judged(taken, OURS).found == "mobula-proxy 1.0 serves here and is ready"
    found = "mobula-proxy 1.0 serves here and is not ready: draining"
    assert judged(taken, BUSY) == warn("listener", str(PLACE), found, step="mobula-proxy status")


def test_one_that_a_running_proxy_does_not_listen_on_is_warned_of() -> None:
    line = judged(Attempt(FIRST, PLACE), BUSY)
    assert (line.grade.value, line.step) == ("warn", "restart that one, if it should")


def test_a_port_that_the_system_chooses_is_none_that_a_running_proxy_lacks() -> None:
    assert judged(Attempt(FIRST, Address("127.0.0.1", 0)), BUSY).grade.value == "ok"


WRONG = {
    "taken": (
        Attempt(FIRST, PLACE, errno.EADDRINUSE),
        "taken by another program",
        "`ss -ltnp 'sport = :8080'` tells which; or set listeners[0].bind",
    ),
    "taken socket": (
        Attempt(FIRST, Address(path="/run/p.sock"), errno.EADDRINUSE),
        "taken by another program",
        "`ss -lxp` tells which; or set listeners[0].bind",
    ),
    "low port": (
        Attempt(FIRST, Address("127.0.0.1", 443), errno.EACCES),
        "this user may not listen on ports below 1024",
        "set listeners[0].bind to a higher one, or give the process CAP_NET_BIND_SERVICE",
    ),
    "not here": (
        Attempt(FIRST, Address("203.0.113.7", 8080), errno.EADDRNOTAVAIL),
        "this machine has no such address",
        "set listeners[0].bind to an address of this machine, as 127.0.0.1:8080",
    ),
    "no name": (
        Attempt(FIRST, PLACE, errno.EADDRNOTAVAIL, "its name could not be resolved"),
        "its name could not be resolved",
        "set listeners[0].bind to an address of this machine, as 127.0.0.1:8080",
    ),
    "no folder": (
        Attempt(FIRST, Address(path="/no/p.sock"), errno.ENOENT, "there is no folder /no"),
        "there is no folder /no",
        "set listeners[0].bind to another one",
    ),
    "other": (
        Attempt(FIRST, PLACE, errno.EAFNOSUPPORT),
        "address family not supported by protocol",
        "set listeners[0].bind to another one",
    ),
}


@pytest.mark.parametrize(("attempt", "found", "step"), WRONG.values(), ids=WRONG)
def test_one_that_cannot_be_had_is_told_with_the_next_step(
    attempt: Attempt, found: str, step: str
) -> None:
    assert judged(attempt) == fail("listener", str(attempt.address), found, step=step)


def test_another_program_on_an_address_that_a_running_proxy_lacks_is_another_program() -> None:
    taken = Attempt(FIRST, Address("127.0.0.1", 8081), errno.EADDRINUSE)
    assert judged(taken, OURS).found == "taken by another program"


@pytest.mark.parametrize(
    ("most", "grade", "found"),
    [
        (math.inf, "ok", "none"),
        (20_000, "ok", "20000, of which 12112 may be needed"),
        (4096, "warn", "4096, but connections as many as the settings allow need 12112"),
    ],
)
def test_the_limit_of_open_files_is_compared_with_what_may_be_needed(
    most: float, grade: str, found: str
) -> None:
    line = judge_files(most, 12_112)
    assert (line.grade.value, line.found) == (grade, found)


# What is looked at


@pytest.fixture
def taken() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Address(*server.getsockname())


async def attempted(bind: object) -> Attempt:
    """Have one address tried, which is the first listener's."""
    listener = {"bind": str(bind), "insecure": True}
    settings = settings_for("https://api.test", listeners=[listener])
    first, admin = await attempt_all(settings)
    assert (admin.setting, admin.number) == (ADMIN, None)
    return first


async def test_a_taken_port_is_seen(taken: Address) -> None:
    assert await attempted(taken) == Attempt(FIRST, taken, errno.EADDRINUSE)


async def test_to_try_an_address_does_not_keep_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = Address(*server.getsockname())
    assert [(await attempted(free)).number for _ in range(2)] == [None, None]
    with socket.create_server((free.host, free.port)):
        pass


@pytest.mark.parametrize(
    ("bind", "number"),
    [("203.0.113.7:8080", errno.EADDRNOTAVAIL), ("no-such-host.invalid:80", errno.EADDRNOTAVAIL)],
)
async def test_an_address_of_another_machine_is_seen(bind: str, number: int) -> None:
    assert (await attempted(bind)).number == number


async def test_a_minter_has_no_listeners_to_try(tmp_path: Path) -> None:
    settings = settings_for("https://api.test", role="minter", state_dir=str(tmp_path))
    assert [each.setting for each in await attempt_all(settings)] == [ADMIN]


async def test_socket_files_are_looked_at_and_not_made(tmp_path: Path) -> None:
    free, live, stale, file = (tmp_path / name for name in ("free", "live", "stale", "file"))
    file.touch()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as gone:
        server.bind(str(live))
        server.listen()
        gone.bind(str(stale))
        numbers = [
            (await attempted(f"unix:{each}")).number
            for each in (free, live, stale, file, tmp_path / "no" / "folder")
        ]
    assert numbers == [None, errno.EADDRINUSE, None, errno.ENOTSOCK, errno.ENOENT]
    assert not free.exists()


async def test_a_socket_file_that_this_user_cannot_make_is_told(closed_folder: Path) -> None:
    attempt = await attempted(f"unix:{closed_folder / 'socket'}")
    assert (attempt.number, attempt.why) == (
        errno.EACCES,
        f"this user may not write to {closed_folder}",
    )


async def test_a_running_proxy_is_asked_what_it_serves(sandbox: Sandbox, scan: SecretScan) -> None:
    async with running(sandbox.url, scan) as app:
        await until_ready(app)
        found = await find_running(app.admin_address)
        assert found is not None
        assert found.reason == ""
        assert found.serves == {str(app.addresses[0])}


@pytest.mark.parametrize("port", [0, 1])
async def test_where_nobody_answers_nothing_runs(port: int) -> None:
    assert await find_running(Address("127.0.0.1", port)) is None


async def test_another_program_on_the_admin_address_is_none_of_ours(sandbox: Sandbox) -> None:
    host, port = sandbox.url.removeprefix("http://").split(":")
    assert await find_running(Address(host, int(port))) is None


def test_a_status_of_another_version_is_read_as_far_as_it_goes() -> None:
    assert read_running({}) == Running("", "", frozenset())
    assert read_running({"listeners": ["reverse", "tls 127.0.0.1:1 -> a"]}).serves == {
        "127.0.0.1:1"
    }
