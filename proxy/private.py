"""Files that nobody but their owner may read or replace: a store, the key of the local CA."""

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

OWNER_ONLY = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LOCK_EVERY = 0.01
"""Seconds between two attempts to get the lock."""
HAS_MEMORY = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()
"""Whether the system has files that are nowhere on a disk."""


class RefusedError(Exception):
    """A file or its folder is not safe from others; the text says what to do about it."""


class BusyError(Exception):
    """Others had the folder locked all the time."""


@contextlib.contextmanager
def locked(folder: Path, what: str, seconds: float) -> Iterator[None]:
    """Make the folder where it is missing; refuse it where others may write, and so replace `what`.

    Nobody else has it locked until the end of the block; each waits so many seconds for that.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_others(folder, what)
    until = time.monotonic() + seconds
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _lock(handle):
            if time.monotonic() > until:
                raise BusyError(f"other processes keep {folder} locked")
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


def refuse_others(folder: Path, what: str) -> None:
    """Raise RefusedError for a folder in which others could replace `what`."""
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise RefusedError(
            f"{folder} belongs to user {status.st_uid}, who could replace {what}: "
            "name a folder of this process's own user, or one that does not exist yet"
        )
    if status.st_mode & OTHERS_WRITE:
        raise RefusedError(
            f"others can write to {folder}, and so replace {what}: run `chmod 700 {folder}`, "
            "or name a folder in it that does not exist yet"
        )


def mode_of(path: Path) -> int:
    """Return the mode of a file; refuse what is no file of this process's own user.

    It is not opened, since to close it might unlock it. Raises FileNotFoundError where none is.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise RefusedError(
            f"{path} is not a file of this process's own user: remove it, or name another"
        )
    return status.st_mode


def replace(path: Path, content: bytes, mode: int = OWNER_ONLY) -> None:
    """Put a file there, whole or not at all, in place of what is there. Raises OSError.

    Whoever may do the same at the same time must have a lock in common.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a process that was killed
    handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, mode)  # whatever the umask
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def fleeting(content: bytes, folder: Path, *, in_memory: bool = HAS_MEMORY) -> Iterator[str]:
    """Give the path of a file for those who read nothing else; it is gone at the end of the block.

    Where there is no memory for files it lies in the folder, and stays there if we are killed.
    """
    if in_memory:
        with os.fdopen(os.memfd_create("fleeting"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with NamedTemporaryFile(dir=folder, prefix=".fleeting-") as file:
            file.write(content)
            file.flush()
            yield file.name
