"""Helpers of all formats: rows in order, each image once under its id, parquet and JSON in batches."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cyclepref.builder.common.images import FORMATS
from cyclepref.builder.dataset.shards import write_shards
from cyclepref.builder.preferences.rankings import LoadError, Rankings
from cyclepref.builder.run.folder import Folder
from cyclepref.schemas.ids import digest

# Files are named by ids; an id that does not have our form, from someone else's dataset, is hashed.
SAFE_ID = re.compile(r"[0-9a-f]{32}")
ENDING = {"jpeg": "jpg"}
ROWS_PER_BATCH = 1024
# Keys of a row that only say where its contents lie.
PLACES = ("row", "chosen", "rejected")
# Splits that the readers of JSON lists call by another name.
FILE_OF_SPLIT = {"validation": "valid"}
# Rows with images are some megabytes each.
BATCH_BYTES = 32 * 2**20


# A writer's counts, for the README.
Counted = dict[str, float]


@dataclass(frozen=True)
class Exported:
    """The result of a split: pairs written, how many each rule removed, the beginning of its files' names (or an id of
    their content, if the layout fixes the names), and its writer's counts."""

    split: str
    pairs: int
    removed: dict[str, int]
    stem: str
    counted: Counted


@dataclass(frozen=True)
class ExportSplit:
    """A split to be written: its rankings and the pairs that are kept, in order of input and pair.

    `layout` is the name of the format, `prompt` the question before the captions in conversational layouts, `seed`
    decides everything random, `unit` is the size of a margin of 1 in the metric's own units for a trainer that applies
    it (null: no margin), `root` is the final place of the folder, and `tick` is called with the number of pairs done.
    """

    layout: str
    rankings: Rankings
    pairs: pa.Table
    prompt: str
    seed: int
    unit: float | None
    root: Path
    tick: Callable[[int], None]

    @property
    def json(self) -> str:
        """The name of the split's file in layouts that are JSON lists."""
        return json_name(self.rankings.split)

    @cached_property
    def stem(self) -> str:
        """The split's name with an id of everything that determines its rows, for files that the datasets library
        reads. Without the id it takes two folders with the same name and equal cards for one dataset, and returns the
        first one's rows for both (5.2)."""
        id_ = digest(self.layout, self.prompt, self.seed, repr(self.unit))
        for row in self.rows(quietly=True):
            id_ = digest(id_, *(str(value) for name, value in row.items() if name not in PLACES))
        return f"{self.rankings.split}-{id_[:12]}"

    def rows(self, quietly: bool = False) -> Iterator[dict[str, Any]]:
        """The pairs: pair_id, margin, row (of the input), and for either side its place, id, model and text."""
        found = self.rankings.candidates
        inputs = self.rankings.inputs
        for batch in self.pairs.to_batches(max_chunksize=ROWS_PER_BATCH):
            table = pa.Table.from_batches([batch])
            rows = found["row"].take(table["chosen"])
            table = table.append_column("row", rows).append_column("input_id", inputs["input_id"].take(rows))
            for side in ("chosen", "rejected"):
                for name, column in (("id", "generation_id"), ("model", "model"), ("text", "text")):
                    table = table.append_column(f"{side}_{name}", found[column].take(table[side]))
            for row in table.append_column("caption", inputs["text"].take(rows)).to_pylist():
                yield row
                if not quietly:
                    self.tick(1)

    def groups(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The pairs grouped by input: (row of the input, its pairs)."""
        group: list[dict[str, Any]] = []
        for row in self.rows():
            if group and group[0]["row"] != row["row"]:
                yield group[0]["row"], group
                group = []
            group.append(row)
        if group:
            yield group[0]["row"], group


class ImageFiles:
    """Images under `folder/images`, each once, named by its id. Their paths are relative to the folder, or absolute
    below `root`, its final place, for readers that open paths unchanged."""

    def __init__(self, folder: Path, root: Path | None = None):
        self._folder, self._root, self._paths = folder, root, {}
        (folder / "images").mkdir(parents=True, exist_ok=True)

    def put(self, id_: str, read: Callable[[], bytes]) -> str:
        """The path of the image with this id; `read` is called once for its bytes."""
        if id_ not in self._paths:
            data = read()
            name = image_name(id_, data)
            (self._folder / name).write_bytes(data)
            self._paths[id_] = str(self._root / name) if self._root else name
        return self._paths[id_]


def json_name(split: str) -> str:
    """The file of a split in layouts that are JSON lists."""
    return f"{FILE_OF_SPLIT.get(split, split)}.json"


def image_name(id_: str, data: bytes) -> str:
    """`images/ID.ENDING`.

    Raises:
        LoadError: if the bytes are not an image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            kind = str(opened.format).lower()
    except OSError as error:
        raise LoadError(f"the image {id_!r:.80} is in none of the formats {', '.join(FORMATS)}") from error
    stem = id_ if SAFE_ID.fullmatch(id_) else digest("file", id_)
    return f"images/{stem}.{ENDING.get(kind, kind)}"


def write_parquet(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as one parquet file, a row group for each BATCH_BYTES of raw bytes or ROWS_PER_BATCH rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, write_page_index=True) as writer:
        for batch in _batches(rows):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def write_rows(folder: Path, stem: str, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as parquet files `STEM-00000.parquet`, ..."""
    tables = (pa.Table.from_pylist(batch, schema=schema) for batch in _batches(rows))
    write_shards(Folder(folder), stem, schema, tables)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if len(batch) >= ROWS_PER_BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_json_list(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as a JSON list, a line each."""
    with path.open("w", encoding="utf-8") as file:
        before = "[\n"
        for row in rows:
            file.write(before + json.dumps(row))
            before = ",\n"
        file.write("\n]\n" if before == ",\n" else "[]\n")
