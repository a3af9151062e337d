"""Prompt lists as sources: tab-separated files with categories, and generated compositional prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclepref.builder.common.files import absolute, numbered_lines, text_lines
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import TsvColumn

# The most values of a column that a message lists.
SHOWN = 20


class WrongRow(ValueError):
    """A row of a table that does not have the table's columns."""


@dataclass(frozen=True)
class Tsv:
    """One column of a UTF-8 file of tab-separated cells, with one row on each line; the first line names the columns.

    Quotes are characters, as in PartiPrompts: `"G I G G L E" painted in colour` keeps them. Only a cell that is quoted
    from end to end, with its inner quotes doubled as spreadsheets and csv writers do it, loses its quotes. Cells
    missing at the end of a row are empty; a row with too many fails by itself.
    """

    spec: TsvColumn
    modality: Modality

    @property
    def place(self) -> str:
        """File and column."""
        return f"{absolute(self.spec.path)}:{self.spec.column}"

    def items(self) -> list[tuple[str, str]]:
        """Line numbers (the header is line 1) of the rows that `where` keeps, stamped by the line's bytes."""
        lines = text_lines(self.spec.path)
        columns = self._columns(lines)
        _check_quotes(self.spec.path, lines)
        rows = [(n, line, _cells(line)) for n, line in numbered_lines(self.spec.path, first=2)]
        for column, wanted in self.spec.where.items():
            at = self._position(columns, column, "where")
            self._check_values(column, wanted, {_cell(cells, at) for _, _, cells in rows})
            rows = [row for row in rows if _cell(row[2], at) in wanted]
        return [(f"{Path(self.spec.path).name}:{n}", digest(line)) for n, line, _ in rows]

    def read(self, names: list[str]) -> Iterator[str | Exception]:
        """The column's cells."""
        lines = text_lines(self.spec.path)
        columns = self._columns(lines)
        at = self._position(columns, self.spec.column, "column")
        for name in names:
            number = int(name.rsplit(":", 1)[1])
            cells = _cells(lines[number - 1])
            if len(cells) > len(columns):
                yield WrongRow(f"line {number} has {len(cells)} cells, but the header names {len(columns)} columns")
                continue
            try:
                yield _unquoted(cells[at] if at < len(cells) else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                yield error

    def _columns(self, lines: Sequence[bytes]) -> list[str]:
        """The header's columns, after checking that the wanted one is among them."""
        if not lines:
            raise RecipeError(f"inputs.path {self.spec.path}: empty; its first line must name the columns")
        columns = [_text(cell) for cell in _cells(lines[0])]
        self._position(columns, self.spec.column, "column")
        return columns

    def _position(self, columns: list[str], column: str, key: str) -> int:
        if columns.count(column) != 1:
            problem = "is not in" if column not in columns else "is more than once in"
            raise RecipeError(
                f"inputs.{key} {column!r} {problem} {self.spec.path}: its columns are {', '.join(columns)}"
            )
        return columns.index(column)

    def _check_values(self, column: str, wanted: list[str], there: set[str]) -> None:
        unknown = [value for value in wanted if value not in there]
        if unknown:
            known = sorted(there - {""})
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            raise RecipeError(
                f"inputs.where.{column}: no row has {', '.join(map(repr, unknown))} (with the filters before it); "
                f"there are {', '.join(known[:SHOWN])}{more}"
            )


def _check_quotes(path: str, lines: Sequence[bytes]) -> None:
    """Refuse a file with a quoted cell over several lines: its pieces would be read as separate prompts."""
    for number, line in enumerate(lines, start=1):
        last = _cells(line)[-1]
        if last.startswith(b'"') and last.count(b'"') % 2:
            raise RecipeError(
                f"inputs.path {path}: line {number} opens a quote that it does not close; "
                "a row must be one line: take line breaks out of the cells, or close the quote"
            )


def _cells(line: bytes) -> list[bytes]:
    """A row's cells; a tab between a cell's own quotes is part of the cell."""
    cells: list[bytes] = []
    parts = line.split(b"\t")
    while parts:
        # The shortest run of parts that is quoted from end to end, else the first part as it is.
        runs = (n for n in range(1, len(parts) + 1) if _is_quoted(b"\t".join(parts[:n])))
        size = next(runs, 1) if parts[0].startswith(b'"') else 1
        cells.append(b"\t".join(parts[:size]))
        parts = parts[size:]
    return cells


def _is_quoted(cell: bytes) -> bool:
    """Whether a cell is quoted from end to end, with its inner quotes doubled."""
    inner = cell[1:-1]
    return len(cell) > 1 and cell[:1] == cell[-1:] == b'"' and b'"' not in inner.replace(b'""', b"")


def _unquoted(cell: bytes) -> bytes:
    return cell[1:-1].replace(b'""', b'"') if _is_quoted(cell) else cell


def _text(cell: bytes) -> str:
    """A cell as text for comparison; a cell that is not UTF-8 never equals a value of a recipe."""
    return _unquoted(cell).decode("utf-8", "backslashreplace")


def _cell(cells: list[bytes], at: int) -> str:
    return _text(cells[at]) if at < len(cells) else ""
