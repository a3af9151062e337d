"""The run directory: append-only parquet parts of what was computed, and views derived from them.

A part is named by the hash of the ids it was asked for and appears whole or not at all, so "what is left" is a
subtraction of ids and a killed writer leaves nothing that looks finished. Any filesystem that pyarrow knows will
do: a rename publishes a part on a local disk, a PUT on an object store.
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from schemas import records
from schemas.errors import CyclePrefError
from schemas.ids import digest

# table -> (schema, id column)
TABLES: dict[str, tuple[pa.Schema, str]] = {
    "sources": (records.SOURCE, "source_key"),
    "inputs": (records.INPUT, "input_id"),
    "models": (records.MODEL, "fingerprint"),
    "generations": (records.GENERATION, "generation_id"),
    "similarities": (records.SIMILARITY, "similarity_id"),
    "failures": (records.FAILURE, "id"),
}
VIEWS: dict[str, pa.Schema] = {"candidates": records.CANDIDATE, "scores": records.SCORE, "pairs": records.PAIR}

# Small row groups, so that fetching one image does not read its whole part.
ROW_GROUP = 64
TEMPORARY = ".tmp-"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreError(CyclePrefError, RuntimeError):
    """A run directory that cannot be used, with the way out."""


class Store:
    """One run directory. Cheap to make and to pickle: it holds a path, and caches what it has read of parts."""

    def __init__(self, root: str | Path):
        remote = "://" in str(root)
        self._fs, self._base = fs.FileSystem.from_uri(str(root)) if remote else _local(str(root))
        # Absolute, since a worker has another working directory.
        self.root = str(root) if remote else self._base
        self._read_parts: dict[tuple[str, str, tuple[str, ...]], pa.Table] = {}

    def __reduce__(self) -> tuple:
        return Store, (self.root,)

    # ---- parts -------------------------------------------------------------------------------------------------

    def write_part(self, table: str, rows: pa.Table) -> None:
        """Add rows to a table as one part; doing it twice with the same ids leaves the first."""
        if rows.num_rows == 0:
            return
        schema, key = TABLES[table]
        name = digest(table, *sorted(rows[key].to_pylist()))
        # A row that fails again, at a later attempt, is told of again.
        if table == "failures" and (again := sorted(n for n in rows["attempt"].to_pylist() if n and n > 1)):
            name = digest(name, *again)
        path = f"{self._base}/store/{table}/{name}.parquet"
        if self._fs.get_file_info(path).type == fs.FileType.File:
            return
        self._publish(path, lambda sink: pq.write_table(rows.cast(schema), sink, row_group_size=ROW_GROUP))

    def parts(self, table: str) -> list[str]:
        """Names of a table's parts, in order."""
        selector = fs.FileSelector(f"{self._base}/store/{table}", allow_not_found=True)
        names = (info.base_name for info in self._fs.get_file_info(selector))
        return sorted(name for name in names if name.endswith(".parquet") and not name.startswith(TEMPORARY))

    def rows(self, table: str, columns: Iterable[str] | None = None) -> pa.Table:
        """Every row of a table, the first by part name where an id is there twice, with its `part` and `row`.

        `columns` defaults to all but image bytes; read those with `fetch`.
        """
        schema, key = TABLES[table]
        names = tuple(columns or [field.name for field in schema if field.type != pa.binary()])
        wanted = tuple(dict.fromkeys((key, *names)))
        with ThreadPoolExecutor() as pool:
            tables = list(pool.map(lambda part: self._part(table, part, wanted), self.parts(table)))
        located = pa.schema([*(schema.field(name) for name in wanted), ("part", pa.string()), ("row", pa.int64())])
        found = pa.concat_tables([located.empty_table(), *tables])
        if table == "failures" and "attempt" in names:
            found = found.sort_by([("attempt", "descending")])
        return first_of_each(found, key)

    def fetch(self, table: str, parts: list[str], rows: list[int], columns: list[str]) -> pa.Table:
        """Columns of the rows at given places, in the order asked for; reads only the row groups it needs."""
        found: dict[tuple[str, int], tuple[pa.Table, int]] = {}
        groups: dict[tuple[str, int], None] = dict.fromkeys(
            (part, row // ROW_GROUP) for part, row in zip(parts, rows, strict=True)
        )
        for part, group in groups:
            with self._fs.open_input_file(f"{self._base}/store/{table}/{part}") as source:
                content = pq.ParquetFile(source).read_row_group(group, columns=columns)
            found[part, group] = (content, group * ROW_GROUP)
        picked = []
        for part, row in zip(parts, rows, strict=True):
            content, start = found[part, row // ROW_GROUP]
            picked.append(content.slice(row - start, 1))
        return pa.concat_tables(picked)

    def _part(self, table: str, part: str, columns: tuple[str, ...]) -> pa.Table:
        """One part's columns; parts never change, so each is read once."""
        cached = self._read_parts.get((table, part, columns))
        if cached is None:
            with self._fs.open_input_file(f"{self._base}/store/{table}/{part}") as source:
                cached = pq.read_table(source, columns=list(columns))
            cached = cached.append_column("part", pa.array([part] * cached.num_rows, pa.string()))
            cached = cached.append_column("row", pa.array(range(cached.num_rows), pa.int64()))
            self._read_parts[table, part, columns] = cached
        return cached

    # ---- views -------------------------------------------------------------------------------------------------

    def write_view(self, view: str, rows: pa.Table) -> None:
        """Replace a view as a whole."""
        path = f"{self._base}/{view}/part-0.parquet"
        self._publish(path, lambda sink: pq.write_table(rows.cast(VIEWS[view]), sink))

    def read_view(self, view: str) -> pa.Table:
        """A view's rows.

        Raises:
            StoreError: if the run has not come that far.
        """
        path = f"{self._base}/{view}/part-0.parquet"
        if self._fs.get_file_info(path).type != fs.FileType.File:
            raise StoreError(f"{self.root} has no {view} yet: run `cyclepref build RECIPE --out {self.root}`")
        with self._fs.open_input_file(path) as source:
            return pq.read_table(source)

    def write_json(self, name: str, content: dict) -> None:
        """Replace a JSON file of the run directory as a whole."""
        data = json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
        self._publish(f"{self._base}/{name}", lambda sink: sink.write(data))

    def read_json(self, name: str) -> dict | None:
        """A JSON file of the run directory, or None where there is none."""
        path = f"{self._base}/{name}"
        try:
            with self._fs.open_input_stream(path) as source:
                return json.loads(source.readall())
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names of the complete files in a folder of the run directory, in order."""
        selector = fs.FileSelector(f"{self._base}/{folder}", allow_not_found=True)
        names = (info.base_name for info in self._fs.get_file_info(selector))
        return sorted(name for name in names if not name.startswith(TEMPORARY))

    def remove(self, name: str) -> None:
        """Remove a file of the run directory, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._base}/{name}")

    # ---- the one way to write ----------------------------------------------------------------------------------

    def _publish(self, path: str, write: Callable[[object], object]) -> None:
        """Make a file appear at once, or not at all."""
        folder, name = path.rsplit("/", 1)
        if not isinstance(self._fs, fs.LocalFileSystem):
            # On an object store nothing is visible before the stream is closed.
            with self._fs.open_output_stream(path) as sink:
                write(sink)
            return
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {folder} ({error}): --out must name a folder that can be written") from error
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as sink:
                write(sink)
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(temporary, f"{folder}/{name}")
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise StoreError(
                f"the disk of {folder} is full ({error.strerror}): what was finished is safe; free some "
                "space and run the same command again"
            ) from error
        finally:
            Path(temporary).unlink(missing_ok=True)


def first_of_each(rows: pa.Table, key: str) -> pa.Table:
    """The rows without those whose key came before."""
    if pc.count_distinct(rows[key]).as_py() == rows.num_rows:
        return rows
    numbered = rows.append_column("_at", pa.array(range(rows.num_rows), pa.int64()))
    firsts = numbered.group_by(key, use_threads=False).aggregate([("_at", "min")])["_at_min"]
    return rows.take(pc.take(firsts, pc.sort_indices(firsts)))


def without(wanted: pa.Table, key: str, present: pa.ChunkedArray | pa.Array) -> pa.Table:
    """The wanted rows whose key is not among those present."""
    return wanted.filter(pc.invert(pc.is_in(wanted[key], value_set=flat(present))))


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array, which is what `is_in` takes as a value set."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _local(root: str) -> tuple[fs.FileSystem, str]:
    path = Path(root).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file: --out must name a folder, new or of an earlier build")
    return fs.LocalFileSystem(), str(path)
