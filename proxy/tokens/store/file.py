"""The file that a store is kept in: nobody but its owner may read or replace it.

SQLite gives the files that it lays beside this one (`-wal`, `-shm`) the same mode.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from proxy import private
from proxy.tokens.store.base import StoreRefused

BESIDE = ("-wal", "-shm")
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
    with private.locked(path.parent, "the store", seconds):
        if path.exists():
            _hide(path)
        else:
            _make(path)
        yield


def _make(path: Path) -> None:
    """Make the file, without what lies beside it of one that was removed while it was in use."""
    for end in BESIDE:
        Path(f"{path}{end}").unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, private.OWNER_ONLY))


def _hide(path: Path) -> None:
    """Let nobody else read the files."""
    for each in (path, *(Path(f"{path}{end}") for end in BESIDE)):
        with contextlib.suppress(FileNotFoundError):
            if private.mode_of(each) & private.OTHERS:
                each.chmod(private.OWNER_ONLY)
