"""Tables in the docs whose rows the tests themselves find out: the table is true, or a test fails.

The prose around a table is written by hand. `make tables` puts the rows there; afterwards each
test compares the row that it saw with the one that is written.
"""

import os
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
WRITE = bool(os.environ.get("WRITE_TABLES"))


class Table:
    """The Markdown table with these columns in a file of docs/; a row is known by its first cell.

    `names` are all the first cells that there may be, in the order in which they stand.
    """

    def __init__(self, file: str, columns: Sequence[str], names: Sequence[str]) -> None:
        self._path = DOCS / file
        self._columns = list(columns)
        self._names = list(names)

    def check(self, *cells: str) -> None:
        """Fail unless this very row stands in the file; when tables are written, put it there."""
        before, rows, after = self._read()
        if WRITE:
            rows = [each for each in rows if each[0] in self._names and each[0] != cells[0]]
            rows = sorted([*rows, list(cells)], key=lambda each: self._names.index(each[0]))
            self._path.write_text("\n".join([*before, *map(_line, rows), *after]))
            return
        written = next((each for each in rows if each[0] == cells[0]), [""] * len(cells))
        wrong = [
            f"{column}: {was!r} is written, {now!r} was seen"
            for column, was, now in zip(self._columns, written, cells, strict=True)
            if was != now
        ]
        assert not wrong, f"{self._says_otherwise(cells[0])}\n" + "\n".join(wrong)

    def check_names(self) -> None:
        """Fail unless every row has a test and every test has a row."""
        names = [row[0] for row in self._read()[1]]
        assert names == self._names, self._says_otherwise(str(names))

    def _says_otherwise(self, what: str) -> str:
        return f"{self._path.name} says otherwise of {what}; look, then `make tables`"

    def _read(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Split the file into the lines up to the table's ruler, its rows, and the other lines."""
        lines = self._path.read_text().split("\n")
        start = lines.index(_line(self._columns)) + 2
        end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
        return lines[:start], [_cells(line) for line in lines[start:end]], lines[end:]


def _line(cells: Sequence[str]) -> str:
    assert not any("|" in cell or "\n" in cell for cell in cells), cells
    return f"| {' | '.join(cells)} |"


def _cells(line: str) -> list[str]:
    return line.removeprefix("| ").removesuffix(" |").split(" | ")
