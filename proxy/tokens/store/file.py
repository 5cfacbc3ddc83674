"""The file that a store is kept in: nobody but its owner may read or replace it.

SQLite gives the files that it lays beside this one (`-wal`, `-shm`) the same mode.
"""

import contextlib
import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from proxy.tokens.store.base import StoreError, StoreRefused

OWNER_ONLY = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
BESIDE = ("-wal", "-shm")
LOCK_EVERY = 0.01
"""Seconds between two attempts to get the lock."""
_MACOS_BOOT = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Identity = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Return what tells a file from another one that is put in its place while it is open."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@cache
def boot(source: Path = BOOT_ID) -> str:
    """Return what tells this start of the machine, and so its steady clock, from all others."""
    with contextlib.suppress(FileNotFoundError):
        return source.read_text().strip()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(  # noqa: S603 - a command of the system, by its path
            _MACOS_BOOT, capture_output=True, check=True, timeout=5, text=True
        )
        return told.stdout.strip()
    raise StoreRefused(
        "a SQLite store needs Linux or macOS, which tell one start of the machine from another: "
        "use memory or Redis here"
    )


@contextlib.contextmanager
def guarded(path: Path, seconds: float) -> Iterator[None]:
    """Make the file and its folder where they are missing; refuse them where others may write.

    Nobody else opens the file, or makes it, until the end of the block.
    """
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_others(folder)
    with _locked(folder, seconds):
        if path.exists():
            _hide(path)
        else:
            _make(path)
        yield


@contextlib.contextmanager
def _locked(folder: Path, seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _lock(handle):
            if time.monotonic() > until:
                raise StoreError("other processes keep the SQLite store from being opened")
            time.sleep(LOCK_EVERY)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(path: Path) -> None:
    """Make the file, without what lies beside it of one that was removed while it was in use."""
    for end in BESIDE:
        Path(f"{path}{end}").unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ONLY))


def _refuse_others(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise StoreRefused(
            f"{folder} belongs to user {status.st_uid}, who could replace the store: "
            "name a folder of this process's own user, or one that does not exist yet"
        )
    if status.st_mode & OTHERS_WRITE:
        raise StoreRefused(
            f"others can write to {folder}, and so replace the store: run `chmod 700 {folder}`, "
            "or name a folder in it that does not exist yet"
        )


def _hide(path: Path) -> None:
    """Let nobody else read the files; they are not opened, since that might unlock them."""
    for each in (path, *(Path(f"{path}{end}") for end in BESIDE)):
        with contextlib.suppress(FileNotFoundError):
            status = each.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise StoreRefused(
                    f"{each} is not a file of this process's own user: remove it, or name another"
                )
            if status.st_mode & OTHERS:
                each.chmod(OWNER_ONLY)
