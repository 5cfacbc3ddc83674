"""The image: what the Dockerfile's own steps make in a chroot of its Debian, and what it does."""

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from container.image import ANY_USER, USER, Image, process_one
from container.lock import BACKEND, image_python, locked_pins
from harness import KEY, SecretScan, Served
from processes import ask
from proxy import __version__
from proxy.sandbox import Sandbox

PYTHON = "/opt/mobula-proxy/bin/python"
SIZE_LIMIT = 200_000_000
LISTED = """
import json
from importlib.metadata import distributions
print(json.dumps({each.name: each.version for each in distributions()}))
"""
UNCOMPILED = """
import os, sys
import proxy.cli, proxy.app, proxy.run, proxy.ops.admin, proxy.tokens.store.redis
for name, module in sorted(sys.modules.items()):
    bytecode = getattr(module, "__cached__", None)
    if bytecode and not os.path.exists(bytecode):
        print(name)
"""
pytestmark = pytest.mark.timeout(300)  # whoever comes first builds it, which takes half a minute
users = pytest.mark.parametrize("user", [USER, ANY_USER], ids=["its own user", "any user"])


# What is in it


def test_it_has_what_the_lock_names_and_neither_pip_nor_the_build_backend(
    image: Image, volume: Path
) -> None:
    told = json.loads(image.run(volume, PYTHON, "-c", LISTED))
    installed = {canonicalize_name(name): version for name, version in told.items()}
    assert installed.pop(canonicalize_name("mobula-proxy")) == __version__
    assert installed == {
        name: version for name, version in locked_pins().items() if name != BACKEND
    }


def test_its_python_is_the_one_that_the_lock_is_made_for(image: Image, volume: Path) -> None:
    version = image.run(volume, PYTHON, "--version").split()[1]
    assert version.rpartition(".")[0] == image_python()


@pytest.mark.parametrize("name", ["pip", "pip3", "cc", "gcc", "c++", "ld", "make", "curl", "wget"])
def test_it_has_nothing_to_install_or_build_with(image: Image, name: str) -> None:
    places = (image.tree / each[1:] for each in image.config.environ["PATH"].split(":"))
    assert [place for place in places if os.path.lexists(place / name)] == []


def test_no_program_in_it_gives_more_rights_than_debian_has_in_every_image(image: Image) -> None:
    assert privileged(image.tree) == privileged(image.base)


@users
def test_a_user_could_write_to_its_state_and_to_what_is_everybodys_alone(
    image: Image, user: str
) -> None:
    """Where the tree is not read-only, which is for those who run it to say."""
    uid, _, gid = user.partition(":")
    mine = {
        path
        for path, status in entries(image.tree)
        if may_write(status, int(uid), int(gid)) and not status.st_mode & stat.S_ISVTX
    }
    assert mine == {image.tree / "state"}


def test_whatever_serving_needs_is_compiled(image: Image, volume: Path) -> None:
    """As nobody could write bytecode there, each start would compile it again."""
    assert image.run(volume, PYTHON, "-c", UNCOMPILED) == ""


def test_it_is_small(image: Image) -> None:
    size = sum(status.st_size for _, status in entries(image.tree))
    assert size < SIZE_LIMIT, f"{size / 1e6:.0f} MB"


# How it runs


@users
async def test_it_serves_any_user_on_a_read_only_tree(
    image: Image, volume: Path, sandbox: Sandbox, scan: SecretScan, user: str
) -> None:
    async with image.serving(sandbox.url, volume, scan, user=user) as served:
        await served.ready()
        assert await ask(served) == 200


def test_the_tree_that_it_serves_on_is_read_only_indeed(image: Image, volume: Path) -> None:
    image.run(volume, "touch", "/state/file")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        image.run(volume, "touch", "/tmp/file")  # noqa: S108
    assert "Read-only file system" in refused.value.stderr


@users
async def test_it_needs_no_privilege(
    image: Image, volume: Path, sandbox: Sandbox, scan: SecretScan, user: str
) -> None:
    async with image.serving(sandbox.url, volume, scan, user=user) as served:
        told = facts(process_one(served.process).pid)
    uid, _, gid = user.partition(":")
    assert (told["Uid"].split()[0], told["Gid"].split()[0], told["Groups"]) == (uid, gid, "")
    capabilities = [told[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    assert {int(each, 16) for each in capabilities} == {0}
    assert told["NoNewPrivs"] == "1"


@pytest.mark.parametrize(("zero", "code"), [("false", 143), ("true", 0)])
async def test_the_signal_that_stops_it_ends_it_in_order_as_process_1(
    image: Image, volume: Path, sandbox: Sandbox, scan: SecretScan, zero: str, code: int
) -> None:
    environ = {"MOBULA_PROXY__SHUTDOWN__EXIT_ZERO_ON_SIGTERM": zero}
    async with image.serving(sandbox.url, volume, scan, **environ) as served:
        await served.ready()
        assert facts(process_one(served.process).pid)["NSpid"].split()[-1] == "1"
        image.stop(served.process)
        assert await served.ended() == code
    assert all(token["revoked"] for token in sandbox.ledger.report()["tokens"])


def test_the_signal_that_stops_it_ends_it_also_while_it_starts(
    image: Image, volume: Path, scan: SecretScan
) -> None:
    """Where the kernel would end any other process by itself."""
    settings = volume / "config.yaml"
    os.mkfifo(settings)
    started = image.started(volume, scan, "serve", "--config", "/state/config.yaml")
    with started as process, settings.open("w"):  # which waits until it is being read
        image.stop(process)
        assert process.wait() == 143


async def test_it_takes_settings_and_key_from_files_as_kubernetes_mounts_them(
    image: Image, volume: Path, sandbox: Sandbox, scan: SecretScan
) -> None:
    (volume / "api-key").write_text(KEY)
    settings = {
        "api_key": {"file": "/state/api-key"},
        "upstreams": {"api.mobula.io": {"url": sandbox.url}},
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": {"bind": "127.0.0.1:0"},
    }
    (volume / "config.yaml").write_text(yaml.safe_dump(settings))
    arguments = ("serve", "--config", "/state/config.yaml")
    with image.started(volume, scan, *arguments) as process:
        served = await Served.of(process)
        await served.ready()
        assert await ask(served) == 200


@users
async def test_its_tokens_outlive_it_on_a_volume_that_everybody_may_write_to(
    image: Image, volume: Path, sandbox: Sandbox, scan: SecretScan, user: str
) -> None:
    environ = {"MOBULA_PROXY__STATE_DIR": "/state/mobula-proxy"}
    for _ in range(2):
        async with image.serving(sandbox.url, volume, scan, user=user, **environ) as served:
            await served.ready()
            process_one(served.process).kill()
            await served.ended()
    assert sandbox.ledger.report()["mint_calls"] == 1


@users
async def test_its_local_ca_is_on_the_volume_without_a_setting(
    image: Image, volume: Path, sandbox: Sandbox, scan: SecretScan, user: str
) -> None:
    listeners = '[{"bind": "127.0.0.1:0", "mode": "tls"}]'
    environ = {"MOBULA_PROXY__LISTENERS": listeners}
    async with image.serving(sandbox.url, volume, scan, user=user, **environ) as served:
        await served.ready()
    assert (volume / "mobula-proxy" / "ca").is_dir()


def test_without_a_key_it_says_how_to_give_one(
    image: Image, volume: Path, scan: SecretScan
) -> None:
    with image.started(volume, scan) as process:
        assert process.wait() == 2
    assert "MOBULA_API_KEY_FILE" in process.err


async def test_status_in_the_same_container_tells_how_it_is(
    image: Image, volume: Path, sandbox: Sandbox, scan: SecretScan
) -> None:
    """As a health check in a Compose file does."""
    async with image.serving(sandbox.url, volume, scan) as served:
        await served.ready()
        address = served.admin.removeprefix("http://")
        told = await asyncio.to_thread(
            image.run, volume, "mobula-proxy", "status", "--admin", address
        )
    assert "ready" in told


def entries(tree: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file and folder of a tree, links and devices left out."""
    for parent, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(parent, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                yield path, status


def privileged(tree: Path) -> set[Path]:
    """The programs that run as another user or group than who starts them."""
    rights = stat.S_ISUID | stat.S_ISGID
    return {
        path.relative_to(tree)
        for path, status in entries(tree)
        if stat.S_ISREG(status.st_mode) and status.st_mode & rights
    }


def may_write(status: os.stat_result, uid: int, gid: int) -> bool:
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IWUSR)
    if status.st_gid == gid:
        return bool(status.st_mode & stat.S_IWGRP)
    return bool(status.st_mode & stat.S_IWOTH)


def facts(pid: int) -> dict[str, str]:
    """What the kernel tells of a process: proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in pairs}
