"""Commands that have a tree of files for their root, as a container engine starts them."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import lacking, program

_OUTSIDE = "/mnt"
_STATE = "/state"
_MOUNTS = """
    mount --bind "$0" "$0"
    mount --bind /dev "$0/dev"
    mount -t proc proc "$0/proc"
    mount --bind /etc/resolv.conf "$0/etc/resolv.conf"
    mount --bind "$1" "$0$2"
    shift 2
"""
_READ_ONLY = 'mount -o remount,bind,ro "$0"\n'
_ENTER = 'exec chroot "$0" "$@"'
_WITH_ITS_PARENT = "--pdeathsig=KILL"
"""Said anew, as the kernel forgets it where a process becomes another user's."""
_NO_PRIVILEGES = ("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--clear-groups")
_CERTIFICATES = "certificates.pem"
_OF_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
_OF_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def within(tree: Path, outside: Path) -> tuple[str, ...]:
    """What has root run a command there as process 1, when it stands before it.

    It finds what a container does of the machine, and a folder (see `ways_out`).
    """
    return _entering(_MOUNTS, tree, outside, _OUTSIDE)


def contained(tree: Path, volume: Path, user: str) -> tuple[str, ...]:
    """Likewise, for a user as in `uid:gid`: no privilege can be gained.

    Nothing there can be written to, but a folder that is mounted on /state.
    """
    uid, _, gid = user.partition(":")
    become = ("setpriv", f"--reuid={uid}", f"--regid={gid}", *_NO_PRIVILEGES, _WITH_ITS_PARENT)
    return (*_entering(_MOUNTS + _READ_ONLY, tree, volume, _STATE), *become, "--")


def _entering(mounts: str, tree: Path, folder: Path, place: str) -> tuple[str, ...]:
    alone = (program("unshare"), "--mount", "--pid", "--fork", "--kill-child")
    return (*alone, "sh", "-ec", mounts + _ENTER, str(tree), str(folder), place)


def need_namespaces() -> None:
    """Skip the test where a user may not have them, but not in CI."""
    asked = [program("unshare"), "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "x", "/mnt"]
    if os.geteuid() or subprocess.run(asked, capture_output=True, check=False).returncode:
        lacking("root, with namespaces of its own")


def ways_out(folder: Path) -> dict[str, str]:
    """Return variables that lead pip, and others, to what they reach from this machine.

    The authorities that it trusts are copied to a folder, which must be there when it runs.
    """
    set_here = _settings_of_pip()
    variables = {name: os.environ[name] for name in _OF_PROXIES if name in os.environ}
    for name in _OF_PIP:
        if name in set_here:
            variables[f"PIP_{name.replace('-', '_').upper()}"] = set_here[name]
    if "cert" in set_here:
        shutil.copyfile(set_here["cert"], folder / _CERTIFICATES)
        variables["PIP_CERT"] = f"{_OUTSIDE}/{_CERTIFICATES}"
    return variables


def _settings_of_pip() -> dict[str, str]:
    """Return what its files and the environment set for all its commands; the latter wins."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(asked, capture_output=True, check=True, text=True).stdout
    pairs = [line.partition("=") for line in told.splitlines()]
    found = {}
    for section in ("global.", ":env:."):
        for name, _, value in pairs:
            if name.startswith(section):
                found[name.removeprefix(section)] = str(ast.literal_eval(value))
    return found
