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
        self._head = _line(columns)
        self._names = list(names)

    def check(self, *cells: str) -> None:
        """Fail unless this very row stands in the file; when tables are written, put it there."""
        row = _line(cells)
        before, rows, after = self._read()
        if WRITE:
            rows = [each for each in rows if _name(each) in self._names and _name(each) != cells[0]]
            rows = sorted([*rows, row], key=lambda each: self._names.index(_name(each)))
            self._path.write_text("\n".join([*before, *rows, *after]))
        else:
            written = next((each for each in rows if _name(each) == cells[0]), "no row at all")
            assert row == written, f"{self._path.name} says otherwise; look, then `make tables`"

    def check_names(self) -> None:
        """Fail unless every row has a test and every test has a row."""
        assert [_name(each) for each in self._read()[1]] == self._names

    def _read(self) -> tuple[list[str], list[str], list[str]]:
        """Split the file's lines into those up to the table's ruler, its rows, and the others."""
        lines = self._path.read_text().split("\n")
        start = lines.index(self._head) + 2
        end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
        return lines[:start], lines[start:end], lines[end:]


def _line(cells: Sequence[str]) -> str:
    assert not any("|" in cell or "\n" in cell for cell in cells), cells
    return f"| {' | '.join(cells)} |"


def _name(row: str) -> str:
    return row.split(" | ", maxsplit=1)[0].removeprefix("| ")
