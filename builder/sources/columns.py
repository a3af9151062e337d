"""`source: parquet` and `source: dataset`: a column of parquet files or of a saved dataset."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cyclepref.builder.common.files import absolute, listing, not_a_file, shown, stamp
from cyclepref.builder.common.places import may_be_on_hub
from cyclepref.builder.sources.cells import cell, check_kind
from cyclepref.builder.sources.source import Items
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import DatasetColumn, ParquetColumn


@dataclass(frozen=True)
class Parquet:
    """One column of a parquet file, or of every parquet file of a folder, in order of path."""

    spec: ParquetColumn
    modality: Modality

    @property
    def place(self) -> str:
        """File or folder, and column."""
        return f"{absolute(self.spec.path)}:{self.spec.column}"

    def items(self) -> Items:
        """Names `file:row`, padded so that sorting gives the order of rows; the stamp is the file's size and
        modification time."""
        rows = []
        if Path(self.spec.path).is_dir():
            listing(Path(self.spec.path), {".parquet"}).tell(f"inputs.path {self.spec.path}", "parquet")
        for name, file in self._files().items():
            try:
                opened = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise RecipeError(f"inputs.path {self.spec.path}: {name} is not a parquet file ({error})") from error
            columns = opened.schema_arrow.names
            if self.spec.column not in columns:
                names = ", ".join(columns)
                raise RecipeError(f"inputs.column {self.spec.column!r} is not in {file}: its columns are {names}")
            if columns.count(self.spec.column) > 1:
                raise RecipeError(f"inputs.column {self.spec.column!r} is in {file} more than once: rename one")
            check_kind(opened.schema_arrow.field(self.spec.column).type, self, str(file))
            rows += [(f"{name}:{row:09}", stamp(file)) for row in range(opened.metadata.num_rows)]
        return rows

    def read(self, names: list[str]) -> Iterator[bytes | str | Exception]:
        """The column's values; consecutive rows cost one read of their row group."""
        files = self._files()
        at, rows, values = "", range(0), None
        for name in names:
            file, row = name.rsplit(":", 1)
            if file != at or int(row) not in rows:
                at, (rows, values) = file, self._group(files[file], int(row))
            yield values if isinstance(values, Exception) else cell(values, int(row) - rows.start, self)

    def _group(self, file: Path, row: int) -> tuple[range, pa.ChunkedArray | Exception]:
        """The row group that holds a row: its row numbers, and the column's values or the error of reading them."""
        opened, start = pq.ParquetFile(file), 0
        for group in range(opened.num_row_groups):
            rows = range(start, start + opened.metadata.row_group(group).num_rows)
            if row in rows:
                try:
                    return rows, opened.read_row_group(group, columns=[self.spec.column])[self.spec.column]
                except (pa.ArrowException, OSError) as error:
                    return rows, error
            start = rows.stop
        raise IndexError(f"{file} has {start} rows, so there is no row {row}")

    @property
    def folder(self) -> Path:
        """The folder whose files rows may name."""
        root = Path(self.spec.path)
        return root if root.is_dir() else root.parent

    def _files(self) -> dict[str, Path]:
        root = Path(self.spec.path)
        files = listing(root, {".parquet"}).files if root.is_dir() else [root]
        if not files:
            raise RecipeError(f"inputs.path {self.spec.path}: no parquet there (looked in {root.absolute()})")
        for file in files:
            if not file.is_file():  # opening a pipe could wait for ever
                raise RecipeError(f"inputs.path {self.spec.path}: no parquet file at {file.absolute()}")
            if error := not_a_file(file):
                raise RecipeError(f"inputs.path {self.spec.path}: {file.name} is not a parquet file: {error}")
        return {shown(file.relative_to(self.folder)): file for file in files}


@dataclass(frozen=True)
class LocalDataset:
    """One column of a local dataset folder, written by `save_to_disk` or readable by `load_dataset(path)`."""

    spec: DatasetColumn
    modality: Modality

    @property
    def place(self) -> str:
        """Folder, split and column."""
        return f"{absolute(self.spec.path)}:{self.spec.split}:{self.spec.column}"

    def items(self) -> Items:
        """Row numbers, stamped by the dataset's own fingerprint."""
        self._check_files()
        rows = self._column()
        return [(f"{self.spec.split}:{row}", rows._fingerprint) for row in range(len(rows))]

    def read(self, names: list[str]) -> Iterator[bytes | str | Exception]:
        """The column's values."""
        rows = self._column()
        for name in names:
            yield cell(rows[self.spec.column], int(name.rsplit(":", 1)[1]), self)

    @property
    def folder(self) -> Path:
        """The folder whose files rows may name."""
        return Path(self.spec.path)

    def _column(self) -> Any:
        import datasets

        path, split, column = self.spec.path, self.spec.split, self.spec.column
        if not Path(path).is_dir():
            raise RecipeError(f"inputs.path {path}: no such folder (looked in {Path(path).absolute()}){_on_hub(path)}")
        saved = any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))
        try:
            if not saved:
                files = datasets.load_dataset_builder(path).config.data_files or {}
                self._check_inside([file for part in files.values() for file in part])
            opened = datasets.load_from_disk(path) if saved else datasets.load_dataset(path)
        except RecipeError:
            raise
        except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise RecipeError(f"inputs.path {path}: not a dataset folder ({error})") from error
        if isinstance(opened, dict):
            if split not in opened:
                raise RecipeError(f"inputs.split {split!r} is not in {path}: its splits are {', '.join(opened)}")
            opened = opened[split]
        if saved:
            self._check_inside([file["filename"] for file in opened.cache_files])
        if column not in opened.column_names:
            raise RecipeError(f"inputs.column {column!r} is not in {path}: it has {', '.join(opened.column_names)}")
        check_kind(opened.features.arrow_schema.field(column).type, self, path)
        if isinstance(opened.features[column], datasets.Image):
            opened = opened.cast_column(column, datasets.Image(decode=False))
        return opened.select_columns([column])

    def _check_files(self) -> None:
        """Refuse a folder that contains a pipe or device: a library that opens it would wait for ever."""
        for folder, _, names in os.walk(self.spec.path):
            for name in names:
                try:
                    error = not_a_file(Path(folder, name))
                except OSError:
                    continue  # a dangling link: if the file is needed, reading it gives the error
                if error:
                    raise RecipeError(f"inputs.path {self.spec.path}: {name}: {error}")

    def _check_inside(self, files: list[str]) -> None:
        """Refuse a dataset whose card or index names data outside of its folder, elsewhere on disk or on the
        network."""
        # Links are not resolved: in the Hub's cache every file is a link to one outside of the folder.
        roots = os.path.abspath(self.spec.path), os.path.realpath(self.spec.path)
        inside = [any(Path(os.path.abspath(file)).is_relative_to(root) for root in roots) for file in files]
        outside = [file for file, here in zip(files, inside, strict=True) if "://" in file or not here]
        if outside:
            raise RecipeError(f"inputs.path {self.spec.path}: it names {outside[0]!r}, which is outside of the folder")


def _on_hub(path: str) -> str:
    """A hint for a name that may be a dataset on the Hub."""
    if not may_be_on_hub(path):
        return ""
    name = path.split("/")[1]
    return (
        f". If {path} is a dataset on the Hub: inputs are read from this machine only, so that they cannot change. "
        f"Download it (`hf download {path} --repo-type dataset --local-dir {name}`) and set inputs.path to {name}"
    )
