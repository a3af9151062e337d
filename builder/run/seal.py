"""Digests of a parquet file's values in its metadata, by which later damage or rewriting is noticed.

Parquet's page checksums notice flipped bits, but not a file that another program has read, changed and written again.
So there is a digest of the values for each column and row group, and a reader of a few columns or one row group can
check just those. XXH3 hashes some gigabytes a second and notices any accident. It is no protection against intent:
anyone can seal a file again.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from xxhash import xxh3_64

from cyclepref.schemas.errors import CyclePrefError

KEY = b"cyclepref"
# In the schema of a file that was written a few rows at a time: a program that writes it again copies this mark and not
# the digests, and so is found out.
MARK = b"cyclepref-sealed"
# Rows of a row group in files that are always read as a whole: parquet's own default.
GROUP = 2**20


class Damaged(CyclePrefError, ValueError):
    """Values that differ from those that were written; the message says which."""


def seal(rows: pa.Table, name: str, group_rows: int) -> pa.Table:
    """The rows with their digests as metadata, ready to be written as the file `name` in row groups of `group_rows`."""
    ends = _ends(rows.num_rows, group_rows)
    columns = {column: _digests(rows[column], ends) for column in rows.column_names}
    said = {**(rows.schema.metadata or {}), KEY: json.dumps({"name": name, "columns": columns})}
    return rows.replace_schema_metadata(said)


def write_sealed(rows: pa.Table, name: str, sink: Any, group_rows: int = GROUP, **options: Any) -> None:
    """Write rows, with their digests, as the parquet file `name`; `options` are those of `pyarrow.parquet`."""
    pq.write_table(seal(rows, name, group_rows), sink, row_group_size=group_rows, **options)


class SealedWriter:
    """Writes rows, with their digests, as the parquet file `name`, a few at a time. `options` are those of
    `pyarrow.parquet`."""

    def __init__(self, sink: Any, name: str, schema: pa.Schema, group_rows: int, **options: Any):
        self._name, self._schema, self._group_rows = name, schema, group_rows
        self._writer = pq.ParquetWriter(sink, schema.with_metadata({MARK: b"1"}), **options)
        self._digests: dict[str, list[str]] = {column: [] for column in schema.names}
        self._waiting = schema.empty_table()

    def write(self, rows: pa.Table) -> None:
        """Add rows of the schema."""
        self._waiting = pa.concat_tables([self._waiting, rows])
        while self._waiting.num_rows >= self._group_rows:
            self._write_group(self._waiting.slice(0, self._group_rows))
            self._waiting = self._waiting.slice(self._group_rows)

    def close(self) -> None:
        """Write what is left, and the digests."""
        if self._waiting.num_rows:
            self._write_group(self._waiting)
        self._writer.add_key_value_metadata({KEY: json.dumps({"name": self._name, "columns": self._digests})})
        self._writer.close()

    def abandon(self) -> None:
        """Write no more: the file is of no use."""
        self._writer.close()

    def _write_group(self, rows: pa.Table) -> None:
        for column, digests in self._digests.items():
            digests += _digests(rows[column], _ends(rows.num_rows, self._group_rows))
        self._writer.write_table(rows, row_group_size=self._group_rows)


def read_sealed(source: Any, name: str) -> pa.Table:
    """The rows of a parquet file from `write_sealed`, or from an earlier version without digests.

    Raises:
        UNREADABLE: if they differ from what was written.
    """
    file = pq.ParquetFile(source)
    return Seal(file, name).check(file.read())


# The errors for unreadable rows: pyarrow's for damaged or other bytes, and ours for wrong digests.
UNREADABLE = (pa.ArrowException, OSError, OverflowError, Damaged)


def in_a_line(reason: object) -> str:
    """The first line of an error, without a full stop."""
    return (str(reason).strip() or type(reason).__name__).split("\n")[0].rstrip(".")[:200]


class Seal:
    """The digests in an open parquet file; without content if the file was written without digests.

    Raises:
        Damaged: if they belong to another file than `name`, or cannot be read.
    """

    def __init__(self, file: pq.ParquetFile, name: str):
        self.columns: dict[str, list[str]] | None = None
        groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        if not any(groups):  # a table without rows is written as one empty group, of which there is no digest
            groups = []
        self.ends = np.cumsum(groups, dtype=np.int64)
        self.starts = self.ends - groups
        text = (file.metadata.metadata or {}).get(KEY)
        if text is None and MARK in (file.schema_arrow.metadata or {}):
            raise Damaged("it was written again by something else: its checksums are gone")
        if text is None:
            return
        try:
            said = json.loads(text)
            whose, self.columns = said["name"], dict(said["columns"])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged("the checksums in it cannot be read") from error
        if whose != name:
            raise Damaged(f"it is a copy of {whose}")
        present = set(file.schema_arrow.names)
        if lost := [column for column in self.columns if column not in present]:
            raise Damaged(f"the column {lost[0]} is missing")
        if any(len(of_groups) != len(groups) for of_groups in self.columns.values()):
            raise Damaged("it was written again by something else")

    def check(self, rows: pa.Table, group: int | None = None) -> pa.Table:
        """Check rows of the whole file or of one row group, and return them without the seal.

        Raises:
            Damaged: if they differ from what was written.
        """
        told = {key: value for key, value in (rows.schema.metadata or {}).items() if key not in (KEY, MARK)}
        rows = rows.replace_schema_metadata(told or None)
        if self.columns is None:
            return rows
        expected = int(self.ends[-1]) if len(self.ends) else 0
        if group is not None:
            expected = int(self.ends[group] - self.starts[group])
        if rows.num_rows != expected:
            raise Damaged(f"it has {rows.num_rows} rows where {expected} were written")
        ends = self.ends if group is None else self.ends[group : group + 1] - self.starts[group]
        for column in rows.column_names:
            if column not in self.columns:
                raise Damaged(f"the column {column} was added")
            written = self.columns[column] if group is None else self.columns[column][group : group + 1]
            if _digests(rows[column], ends) != written:
                raise Damaged(f"the values of {column} are not those that were written")
        return rows

    def groups(self, file: pq.ParquetFile) -> Iterator[pa.Table]:
        """All rows of the file, checked, a row group at a time."""
        for group in range(file.num_row_groups):
            yield self.check(file.read_row_group(group), group)


def _ends(rows: int, group_rows: int) -> np.ndarray:
    return np.minimum(np.arange(group_rows, rows + group_rows, group_rows, dtype=np.int64), rows)


def _digests(column: pa.ChunkedArray, ends: np.ndarray) -> list[str]:
    """The digest of each group of a column's values; `ends` are the row numbers at which the groups end."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # too much text for one array
        array = pa.concat_arrays([chunk.cast(pa.large_binary()) for chunk in array.chunks])
    hashes = [xxh3_64(_kind(column.type).encode()) for _ in ends]
    _feed(array, ends, hashes)
    return [hashed.hexdigest() for hashed in hashes]


def _kind(of: pa.DataType) -> str:
    """A type's name; parquet gives the items of lists another name than Arrow does."""
    return f"list of {_kind(of.value_type)}" if pa.types.is_list(of) else str(of)


def _feed(array: pa.Array, ends: np.ndarray, hashes: list[Any]) -> None:
    """Feed each group's values to its hash, independently of Arrow's buffers: lengths (-1 for a null) before contents,
    and for numbers the positions of nulls before their bytes."""
    if pa.types.is_list(array.type):
        lengths = _lengths(pc.list_value_length(array))
        _slices(lengths, ends, hashes)
        _feed(pc.list_flatten(array), _ends_of(lengths, ends), hashes)
    elif pa.types.is_string(array.type) or pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        lengths = _lengths(pc.binary_length(array))
        _slices(lengths, ends, hashes)
        _slices(_bytes_of(array.drop_null() if array.null_count else array), _ends_of(lengths, ends), hashes)
    else:
        _slices(_numbers(pc.is_null(array)), ends, hashes)
        _slices(_numbers(pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)), ends, hashes)


def _lengths(lengths: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(lengths, -1)).astype(np.int64)


def _ends_of(lengths: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The positions at which the contents of each group end, for values of these lengths."""
    together = np.concatenate([[0], np.cumsum(np.maximum(lengths, 0))])
    return together[ends]


def _bytes_of(array: pa.Array) -> np.ndarray:
    """The contents of texts or bytes without nulls, one after the other."""
    if not len(array):
        return np.empty(0, dtype=np.uint8)
    _, offsets, data = array.buffers()
    kind = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    at = np.frombuffer(offsets, dtype=kind)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, dtype=np.uint8)[at[0] : at[-1]] if data is not None else np.empty(0, dtype=np.uint8)


def _numbers(array: pa.Array) -> np.ndarray:
    boolean = pa.types.is_boolean(array.type)
    return np.ascontiguousarray(np.asarray(array.cast(pa.uint8()) if boolean else array))


def _slices(values: np.ndarray, ends: np.ndarray, hashes: list[Any]) -> None:
    start = 0
    for hashed, end in zip(hashes, ends, strict=True):
        hashed.update(memoryview(values[start:end]))
        start = end
