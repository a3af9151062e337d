"""Rows whose images stay on disk, so that many of them can be read repeatedly, in any order."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from cyclepref.builder.preferences.layouts.items import Cell, JudgedError
from cyclepref.builder.preferences.layouts.rows import Rows, read_file
from cyclepref.builder.preferences.published import cache_folder

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class MappedRows(Rows):
    """Rows with a `Cell` for every value that holds bytes. The datasets library unpacks parquet once for that, and
    keeps a memory-mapped copy in its cache."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        packed = [file for file in self.files if _has_images(file)]
        for file in self.files:
            if file not in packed:
                yield from read_file(file)
        if packed or self.repo is not None:
            yield from _with_cells(self._unpacked(packed))

    def _unpacked(self, files: list[Path]) -> datasets.Dataset:
        try:
            if self.repo is not None:
                return datasets.load_dataset(self.place, split=self.split, revision=self.revision)
            names = [str(file) for file in files]
            return datasets.load_dataset("parquet", data_files=names, split="train", cache_dir=cache_folder(*files))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            said = " ".join(str(error.__cause__ or error).split())
            raise JudgedError(
                f"cannot unpack the rows of {self.place} ({said:.300}): are its files complete?"
            ) from error


def mapped(rows: Rows) -> MappedRows:
    """The same rows, with their images left on disk."""
    return MappedRows(**{each.name: getattr(rows, each.name) for each in fields(rows)})


def _has_images(file: Path) -> bool:
    if file.suffix != ".parquet":
        return False
    try:
        return any(_holds_bytes(column.type) for column in pq.read_schema(file))
    except (OSError, pa.ArrowInvalid) as error:
        raise JudgedError(f"{file} cannot be read as parquet: {error}") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    inner = (kind.field(at).type for at in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or any(map(_holds_bytes, inner))


def _with_cells(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    table, number = rows.data.table, 0
    images = [column.name for column in table.schema if _holds_bytes(column.type)]
    for batch in table.drop_columns(images).to_batches(max_chunksize=ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield row | {name: Cell(rows, number, name) for name in images}
            number += 1
