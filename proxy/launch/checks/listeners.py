"""Whether the addresses can be listened on, and who does it already."""

import asyncio
import errno
import math
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config import Address, Settings
from proxy.launch.checks.files import mode_of, why_not_made
from proxy.launch.report import Line, fail, ok, warn
from proxy.ops.client import UnreachableError, read_status
from proxy.traffic.binding import answers

CHECK, FILES_CHECK = "listener", "open files"
ADMIN = "admin.bind"


@dataclass(frozen=True, slots=True)
class Running:
    """A mobula-proxy that serves on this machine; `serves` are its listeners' addresses."""

    version: str
    reason: str
    """Why it is not ready; empty if it is."""
    serves: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of binding an address; `number` is the system's error, None without one.

    `why` says it in words, where they are other than the system's.
    """

    setting: str
    address: Address
    number: int | None = None
    why: str = ""


async def find_running(admin: Address) -> Running | None:
    """Ask whoever has the admin address."""
    if not (admin.path or admin.port):
        return None
    try:
        return read_running(await read_status(admin))
    except UnreachableError:
        return None


def read_running(status: Mapping[str, Any]) -> Running:
    served = [str(each).split() for each in status.get("listeners", ())]
    return Running(
        version=str(status.get("version", "")),
        reason="" if status.get("ready") else str(status.get("reason", "")),
        serves=frozenset(words[1] for words in served if len(words) > 1),
    )


async def attempt_all(settings: Settings) -> list[Attempt]:
    """Bind each address for a moment; nobody can connect meanwhile."""
    binds = {f"listeners[{at}].bind": each.bind for at, each in enumerate(settings.listeners)}
    if settings.role == "minter":
        binds = {}
    binds[ADMIN] = settings.admin.bind
    return await asyncio.gather(*(_attempt(name, bind) for name, bind in binds.items()))


async def _attempt(setting: str, address: Address) -> Attempt:
    if address.path:
        return _attempt_unix(setting, address)
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, place in infos:
            with socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(place)
    except socket.gaierror:
        return Attempt(setting, address, errno.EADDRNOTAVAIL, "its name could not be resolved")
    except OSError as error:
        return Attempt(setting, address, error.errno or errno.EINVAL)
    return Attempt(setting, address)


def _attempt_unix(setting: str, address: Address) -> Attempt:
    path = Path(address.path)
    if answers(address.path):
        return Attempt(setting, address, errno.EADDRINUSE)
    mode = mode_of(path)
    if mode is not None and not stat.S_ISSOCK(mode):
        return Attempt(setting, address, errno.ENOTSOCK, "there is another kind of file")
    if mode_of(path.parent) is None:
        return Attempt(setting, address, errno.ENOENT, f"there is no folder {path.parent}")
    why = why_not_made(path)
    return Attempt(setting, address, errno.EACCES if why else None, why)


def judge(attempts: Sequence[Attempt], running: Running | None) -> Iterator[Line]:
    for each in attempts:
        place = str(each.address)
        ours = running is not None and (each.setting == ADMIN or place in running.serves)
        if each.number == errno.EADDRINUSE and ours and running is not None:
            yield _served(each, running)
        elif each.number is not None:
            found, step = _why_not(each)
            yield fail(CHECK, place, found, step=step)
        elif running is not None and (each.address.path or each.address.port):
            found = f"free: the mobula-proxy that runs with {ADMIN} here does not listen on it"
            yield warn(CHECK, place, found, step="restart that one, if it should")
        else:
            yield ok(CHECK, place, "free")


def _served(attempt: Attempt, running: Running) -> Line:
    place, who = str(attempt.address), f"mobula-proxy {running.version} serves here"
    if attempt.setting == ADMIN and running.reason:
        found = f"{who} and is not ready: {running.reason}"
        return warn(CHECK, place, found, step="mobula-proxy status")
    return ok(CHECK, place, f"{who}{' and is ready' if attempt.setting == ADMIN else ''}")


def _why_not(attempt: Attempt) -> tuple[str, str]:
    setting, address = attempt.setting, attempt.address
    match attempt.number:
        case errno.EADDRINUSE:
            whose = "-lxp" if address.path else f"-ltnp 'sport = :{address.port}'"
            return "taken by another program", f"`ss {whose}` tells which; or set {setting}"
        case errno.EACCES if 0 < address.port < 1024:
            return (
                "this user may not listen on ports below 1024",
                f"set {setting} to a higher one, or give the process CAP_NET_BIND_SERVICE",
            )
        case errno.EADDRNOTAVAIL:
            why = attempt.why or "this machine has no such address"
            return why, f"set {setting} to an address of this machine, as 127.0.0.1:{address.port}"
        case number:
            return attempt.why or os.strerror(number or 0).lower(), f"set {setting} to another one"


def judge_files(most: float, wanted: int) -> Line:
    """Compare the hard limit, to which the proxy raises its own, with what it may need."""
    if most >= wanted:
        found = "none" if most == math.inf else f"{most:.0f}, of which {wanted} may be needed"
        return ok(FILES_CHECK, "limit", found)
    return warn(
        FILES_CHECK,
        "limit",
        f"{most:.0f}, but connections as many as the settings allow need {wanted}",
        step=f"raise it (LimitNOFILE={wanted}, `ulimit -Hn`), or lower limits.connections",
    )
