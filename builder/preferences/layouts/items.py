"""The common form of all layouts: inputs, candidates, and which of two candidates was judged better."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import datasets
from PIL import Image

from cyclepref.builder.common.files import read_file_of_export
from cyclepref.builder.common.images import UnreadableImage, decode
from cyclepref.builder.preferences.rankings import LoadError
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import digest


class JudgedError(LoadError):
    """A dataset of judgements that cannot be read: what it is, the rule, and the way out."""


class Picture(NamedTuple):
    """An image that is read on demand; it can be pickled. `name` is its name in the dataset, `key` its path or id
    there, which distinguishes it from others, if it has one."""

    name: str
    read: Callable[[], bytes]
    key: str | None = None

    def identity(self) -> str:
        """Distinguishes the image from others of its dataset: `key`, or else a hash of its bytes, which are read for
        that."""
        return self.key or digest("encoded", self.read())

    def open(self) -> tuple[Image.Image, int]:
        """The picture in canonical form (see builder/common/images.py), and the bytes of its file.

        Raises:
            UnreadableImage: if there is no such file, or it is not a complete picture.
        """
        data = self.read()
        try:
            return decode(data), len(data)
        except UnreadableImage as error:
            raise UnreadableImage(f"{self.name}: {error}") from error


Content = str | Picture


class Cell(NamedTuple):
    """A value in memory-mapped rows that stays on disk. Pickling keeps only its place and the rows' file names."""

    rows: datasets.Dataset
    number: int
    column: str

    def read(self) -> Any:
        """The value."""
        return self.rows.data.table[self.column][self.number].as_py()


@dataclass(frozen=True)
class Judged:
    """One input and its candidates: an image with texts (`kind` "text"), or a prompt with images (`kind` "image").

    `models` made the candidates ("" if unknown). `scores` are the dataset's own scores of the candidates, if it has
    any; higher is better. `pairs` are (better, worse) as places among the candidates, `margins` how far apart the two
    were judged, if known; `ties` counts pairs that were judged equal.
    """

    kind: Modality
    name: str
    shared: Content
    candidates: list[Content]
    models: list[str]
    scores: list[float] | None
    pairs: list[tuple[int, int]]
    margins: list[float] | None
    ties: int = 0


@dataclass(frozen=True)
class Form:
    """A layout of rows: its name, the kind of its candidates' scores (None: it has none), a test whether a row has this
    layout (`fits`), and a function that turns a row into judgements: `read` takes the row's position for messages, the
    row, and the folders of its images. `group` joins the rows of one input if a layout has one row for each candidate.
    """

    name: str
    scores: str | None
    fits: Callable[[dict[str, Any]], bool]
    read: Callable[[str, dict[str, Any], tuple[Path, ...]], Judged]
    group: Callable[[Iterable[dict[str, Any]]], Iterable[dict[str, Any]]] = lambda rows: rows


class JudgedDataset(Protocol):
    """An open dataset: the number of its rows, and its inputs, read on demand.

    `scores` is the kind of its candidates' scores ("cycle score", ...), None if it has none.
    """

    name: str
    place: str
    split: str | None
    scores: str | None

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Judged]: ...


def by_order(values: Iterable[float]) -> tuple[list[tuple[int, int]], list[float], int]:
    """All pairs with different values as (larger, smaller), their differences, and the number of ties."""
    pairs, margins, ties = [], [], 0
    for (first, a), (second, b) in combinations(enumerate(values), 2):
        if a == b:
            ties += 1
            continue
        pairs.append((first, second) if a > b else (second, first))
        margins.append(abs(a - b))
    return pairs, margins, ties


def picture(where: str, value: Any, roots: tuple[Path, ...], key: str | None = None) -> Picture:
    """An image as rows hold it: bytes, a path relative to the first of `roots` that has it, `{"bytes", "path"}`, a list
    of one of these, or a cell with one. `key` is an id that, besides its path, distinguishes it from others of its
    dataset.

    Raises:
        JudgedError: if it is none of these; for a cell only when it is read.
    """
    if isinstance(value, Cell):
        return Picture(where, partial(_in_cell, value, roots), key)
    found = _bytes_or_path(where, value)
    if isinstance(found, bytes):
        return Picture(where, partial(bytes, found), key)
    return Picture(f"{where} ({found!r:.120})", partial(_file, roots, found), key or found)


def _bytes_or_path(where: str, value: Any) -> bytes | str:
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | str) and value:
        return value
    raise JudgedError(f"{where}: an image must be bytes or a path, got {type(value).__name__}: {value!r:.80}")


def _in_cell(cell: Cell, roots: tuple[Path, ...]) -> bytes:
    found = _bytes_or_path(f"row {cell.number + 1}, {cell.column}", cell.read())
    return found if isinstance(found, bytes) else _file(roots, found)


def _file(roots: tuple[Path, ...], path: str) -> bytes:
    tried = []
    for root in roots:
        data = read_file_of_export(root, path)
        if isinstance(data, bytes):
            return data
        tried.append(data)
    raise UnreadableImage(f"no such image in {roots[0]} ({tried[0]})")


def text(where: str, value: Any) -> str:
    """A text of a row.

    Raises:
        JudgedError: if it is not a text or is empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise JudgedError(f"{where}: must be a text that is not empty, got {value!r:.80}")
    return value
