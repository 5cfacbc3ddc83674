"""What a build is given of a folder: the files that its .dockerignore lets in."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Pattern:
    """A line of .dockerignore; the last one that fits a path, or a folder above it, decides."""

    expression: re.Pattern[str]
    lets_in: bool

    def fits(self, path: PurePosixPath) -> bool:
        above = [str(each) for each in (path, *path.parents)[:-1]]
        return any(self.expression.fullmatch(each) for each in above)


class Context:
    """The files of a folder that Docker would send to a build."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._patterns = list(_patterns((folder / ".dockerignore").read_text()))

    def files(self, source: str = "") -> list[PurePosixPath]:
        """Return what is let in of a file or a folder, in order."""
        return sorted(self._walk(PurePosixPath(source)))

    def path(self, file: PurePosixPath) -> Path:
        return self._folder / file

    def digest(self, source: str) -> str:
        """Return what changes when the files, their names or their modes do."""
        digest = hashlib.sha256()
        for file in self.files(source):
            path = self.path(file)
            digest.update(f"{file} {path.stat().st_mode:o} ".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _walk(self, under: PurePosixPath) -> Iterator[PurePosixPath]:
        if self.path(under).is_file() and not self._ignores(under):
            yield under
        for parent, folders, files in os.walk(self.path(under)):
            place = PurePosixPath(Path(parent).relative_to(self._folder))
            folders[:] = [name for name in folders if not self._ignores(place / name)]
            yield from (place / name for name in files if not self._ignores(place / name))

    def _ignores(self, path: PurePosixPath) -> bool:
        last = next((each for each in reversed(self._patterns) if each.fits(path)), None)
        return last is not None and not last.lets_in


def _patterns(text: str) -> Iterator[Pattern]:
    for line in text.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        if re.search(r"[?\[\\]", pattern) or re.search("!.*/", pattern):
            # Docker also looks for exceptions in folders that are ignored; this walk does not.
            raise ValueError(f"{pattern} is not known here")
        yield Pattern(_expression(pattern.lstrip("!")), pattern.startswith("!"))


def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    split = re.split(r"(\*\*/|\*\*|\*)", pattern)
    return re.compile("".join(parts.get(each, re.escape(each)) for each in split))
