"""What may be done with files, judged by looking only."""

import os
import stat
from pathlib import Path


def others_may_read(path: Path) -> bool:
    """Tell whether every user of the machine may read a file."""
    try:
        way = path.resolve(strict=True)
        mode = way.stat().st_mode
        open_way = all(each.stat().st_mode & stat.S_IXOTH for each in way.parents)
    except OSError:
        return False
    return open_way and bool(mode & stat.S_IROTH)


def mode_of(path: Path) -> int | None:
    """Return the mode of what is there; None if nothing is, as far as this user can see."""
    try:
        return path.stat().st_mode
    except OSError:
        return None


def why_not_made(path: Path) -> str:
    """Say what keeps this process from making a file and the folders above it; else nothing."""
    folder = next(each for each in path.absolute().parents if mode_of(each) is not None)
    if not folder.is_dir():
        return f"{folder} is no folder"
    effective = os.access in os.supports_effective_ids
    may = os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)
    return "" if may else f"this user may not write to {folder}"
