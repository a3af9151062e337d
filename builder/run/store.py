"""The run directory: append-only parquet parts of what was computed, and views derived from them.

A part is named by the hash of the ids it was asked for and appears whole or not at all, so "what is left" is a
subtraction of ids and a killed writer leaves nothing that looks finished. Any filesystem that pyarrow knows will
do: a rename publishes a part on a local disk, a PUT on an object store.

Parts carry digests of their values (builder/run/seal.py), and whatever is read of one is checked first: what is damaged
is a DamagedPart, never a row. The holder of the run's lock sets such parts aside (builder/run/mending.py), and what was
in them is wanted again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from cyclepref.builder.run.folder import TEMPORARY, StoreError
from cyclepref.builder.run.ids import IdSet, pack
from cyclepref.builder.run.seal import UNREADABLE, Damaged, Seal, in_a_line, write_sealed
from cyclepref.builder.run.view_folder import ViewFolder
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest

# table -> (schema, id column)
TABLES: dict[str, tuple[pa.Schema, str]] = {
    "sources": (records.SOURCE, "source_key"),
    "inputs": (records.INPUT, "input_id"),
    "models": (records.MODEL, "fingerprint"),
    "generations": (records.GENERATION, "generation_id"),
    "similarities": (records.SIMILARITY, "similarity_id"),
    "verdicts": (records.VERDICT, "verdict_id"),
    "failures": (records.FAILURE, "id"),
}

# Small row groups, about a megabyte and never more than 64 images, so that fetching one image reads little else; larger
# ones where there is no image, so that reading one column of ten million rows does not open as many places.
ROW_GROUP, ROW_GROUP_BYTES, ROW_GROUP_WITHOUT_IMAGES = 64, 2**20, 4096
# The ending of a part that carries digests; one without it was written by an earlier version, and is believed.
PART, SEALED = ".parquet", ".sealed.parquet"
# Where damaged parts go: nothing reads there.
ASIDE = "damaged"
# Joined parts come first by name, since what they hold was first before (see builder/run/upkeep.py).
JOINED = "-"
# Reading starts again if parts were joined or pruned meanwhile; that often in a row is no coincidence.
READS = 5
# Parts that are read at the same time: enough to hide an object store's answers, few enough for little memory.
READERS = 4


class DamagedPart(StoreError):
    """A part whose rows cannot be trusted; `found` says which and why, `reason` why alone."""

    def __init__(self, store: "Store", table: str, part: str, reason: object):
        self.reason = in_a_line(reason)
        self.found = f"{store.address(f'store/{table}/{part}')} is damaged ({self.reason})"
        super().__init__(
            f"{self.found}: the next `cyclepref build` sets it aside and makes its rows again; "
            f"`cyclepref verify {store.root}` looks for other damage"
        )


class Store(ViewFolder):
    """One run directory. Cheap to make and to pickle: it holds a path, and caches what it has read of parts."""

    def __init__(self, root: str | Path):
        super().__init__(root)
        self._read_parts: dict[tuple[str, str, tuple[str, ...]], pa.Table] = {}
        self._read_ids: dict[str, tuple[set[str], IdSet]] = {}

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
        self.create_part(table, name, rows.cast(schema))

    def create_part(self, table: str, name: str, rows: pa.Table) -> None:
        """Add a part under a name that says what is in it; one that is there already stays."""
        path = f"{self._base}/store/{table}/{name}{SEALED}"
        if self._fs.get_file_info(path).type == fs.FileType.File:
            return
        with_images = "image" in rows.column_names and rows["image"].null_count < rows.num_rows
        images = max(1, min(ROW_GROUP, ROW_GROUP_BYTES * rows.num_rows // max(1, rows.nbytes)))
        size = images if with_images else ROW_GROUP_WITHOUT_IMAGES
        self._publish(path, lambda sink: write_sealed(rows, f"{table}/{name}{SEALED}", sink, size))

    def parts(self, table: str) -> list[str]:
        """Names of a table's parts, in order."""
        selector = fs.FileSelector(f"{self._base}/store/{table}", allow_not_found=True)
        names = (info.base_name for info in self._fs.get_file_info(selector))
        return sorted(name for name in names if name.endswith(PART) and not name.startswith(TEMPORARY))

    def rows(self, table: str, columns: Iterable[str] | None = None) -> pa.Table:
        """Every row of a table, the first by part name where an id is there twice, with its `part` and `row`.

        `columns` defaults to all but image bytes; read those with `fetch`.
        """
        schema, key = TABLES[table]
        names = tuple(columns or [field.name for field in schema if field.type != pa.binary()])
        wanted = tuple(dict.fromkeys((key, *names)))
        tables = self._every_part(table, lambda part: self._part(table, part, wanted)).values()
        located = pa.schema([*(schema.field(name) for name in wanted), ("part", pa.string()), ("row", pa.int64())])
        # Parts of an earlier version may lack a column: their rows have nulls there.
        found = pa.concat_tables([located.empty_table(), *tables], promote_options="default")
        if table == "failures" and "attempt" in names:
            found = found.sort_by([("attempt", "descending")])
        return first_of_each(found, key)

    def scan(self, table: str, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of every row, part by part in order of name; nothing is kept, and a row that is there twice
        comes twice. For the lock's holder: parts must not be joined meanwhile."""
        schema = pa.schema([TABLES[table][0].field(name) for name in columns])
        parts = self.parts(table)
        with ThreadPoolExecutor(READERS) as pool:
            waiting: deque[Future] = deque()
            for part in [*parts, *[None] * READERS]:
                if part is not None:
                    waiting.append(pool.submit(self.read_part, table, part, columns))
                if waiting and (part is None or len(waiting) >= READERS):
                    # Parts of an earlier version may lack a column: their rows have nulls there.
                    found = [schema.empty_table(), waiting.popleft().result()]
                    yield pa.concat_tables(found, promote_options="default").select(columns)

    def ids(self, table: str) -> IdSet:
        """The ids of a table's rows, in 16 bytes each; of parts that were read before nothing is read."""
        known, found = self._read_ids.get(table, (set(), IdSet.of()))
        if not known <= set(self.parts(table)):
            known, found = set(), IdSet.of()
        key = TABLES[table][1]
        fresh = self._every_part(table, lambda part: pack(self.read_part(table, part, [key])[key]), known)
        pa.default_memory_pool().release_unused()  # the strings that the ids were read as
        known = known | set(fresh)
        if fresh:
            # Handed over one by one, so that they are not in memory twice.
            found = found.plus(fresh.pop(part) for part in list(fresh))
        self._read_ids[table] = (known, found)
        return found

    def ids_by_part(self, table: str) -> dict[str, np.ndarray]:
        """The packed ids of every part (see `cyclepref.builder.run.ids.pack`), in order of name."""
        key = TABLES[table][1]
        return self._every_part(table, lambda part: pack(self.read_part(table, part, [key])[key]))

    def _every_part(self, table: str, read: Callable[[str], Any], but: Iterable[str] = ()) -> dict[str, Any]:
        """What `read` makes of each part, in order of name, all of one state of the table.

        Whoever joins or prunes parts writes the new ones before the old ones go: so a listing that is still good
        once everything is read has missed no row.
        """
        for _ in range(READS):
            before = [part for part in self.parts(table) if part not in but]
            try:
                with ThreadPoolExecutor(READERS) as pool:
                    made = list(pool.map(read, before))
            except FileNotFoundError:
                continue
            after = set(self.parts(table)) - set(but)
            if set(before) <= after and not any(part.startswith(JOINED) for part in after - set(before)):
                return dict(zip(before, made, strict=True))
        raise StoreError(f"the parts of {table} in {self.root} changed {READS} times while they were read: try again")

    def rows_in(self, table: str, part: str) -> int:
        """The rows of a part, by its footer alone."""
        with self._opened(table, part) as (file, _):
            return file.metadata.num_rows

    def fetch(self, table: str, parts: list[str], rows: list[int], columns: list[str]) -> pa.Table:
        """Columns of the rows at given places, in the order asked for; reads only the row groups it needs."""
        wanted: dict[str, list[int]] = {}
        for part, row in zip(parts, rows, strict=True):
            wanted.setdefault(part, []).append(row)
        found: dict[tuple[str, int], pa.Table] = {}
        for part, places in wanted.items():
            for row, content in self._picked(table, part, sorted(set(places)), columns):
                found[part, row] = content
        return pa.concat_tables([found[place] for place in zip(parts, rows, strict=True)])

    def _picked(self, table: str, part: str, rows: list[int], columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        with self._opened(table, part) as (file, sealed):
            read, content = -1, None
            for row in rows:
                group = int(np.searchsorted(sealed.ends, row, side="right"))
                if group != read:
                    read, content = group, sealed.check(file.read_row_group(group, columns=columns), group)
                # A copy: a slice would keep its whole row group in memory.
                yield row, content.take([row - int(sealed.starts[group])])

    def read_part(self, table: str, part: str, columns: list[str] | None = None) -> pa.Table:
        """One part: all its columns, or some.

        Raises:
            DamagedPart: if they are not what was written.
        """
        with self._opened(table, part) as (file, sealed):
            _refuse_foreign(table, file, sealed)
            return _believed(sealed.check(file.read(columns)), sealed)

    def examine(self, table: str, part: str) -> Iterator[pa.Table]:
        """All of a part, a row group at a time, read from its bytes as they are now.

        Raises:
            DamagedPart: if it is not what was written.
            StoreError: if its bytes cannot be read.
        """
        name = f"store/{table}/{part}"
        try:
            content = self.read_file(name, lambda file: file.read_buffer())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot read {self.address(name)} ({error}): mend the disk, or remove the file, and its rows are "
                "made again"
            ) from error
        with self._opened(table, part, pa.BufferReader(content)) as (file, sealed):
            _refuse_foreign(table, file, sealed)
            for rows in sealed.groups(file):
                yield _believed(rows, sealed)

    def set_aside(self, table: str, part: str) -> str:
        """Move a part to where nothing reads it; returns its new address. Only for the lock's holder."""
        name = f"{ASIDE}/{table}/{part}"
        self._fs.create_dir(f"{self._base}/{ASIDE}/{table}")
        self._fs.move(f"{self._base}/store/{table}/{part}", f"{self._base}/{name}")
        return self.address(name)

    @contextmanager
    def _opened(self, table: str, part: str, source: Any = None) -> Iterator[tuple[pq.ParquetFile, Seal]]:
        """A part, open, with its digests; whatever shows within that it is damaged is a DamagedPart."""
        try:
            with source or self._fs.open_input_file(f"{self._base}/store/{table}/{part}") as opened:
                file = pq.ParquetFile(opened)
                sealed = Seal(file, f"{table}/{part}")
                if sealed.columns is None and part.endswith(SEALED):
                    raise Damaged("it was written again by something else: its checksums are gone")
                yield file, sealed
        except (FileNotFoundError, StoreError):
            raise
        except UNREADABLE as error:
            raise DamagedPart(self, table, part, error) from error

    def _part(self, table: str, part: str, columns: tuple[str, ...]) -> pa.Table:
        """One part's columns; parts never change, so each is read once."""
        cached = self._read_parts.get((table, part, columns))
        if cached is None:
            cached = self.read_part(table, part, list(columns))
            cached = cached.append_column("part", pa.array([part] * cached.num_rows, pa.string()))
            cached = cached.append_column("row", pa.array(np.arange(cached.num_rows)))
            self._read_parts[table, part, columns] = cached
        return cached


def _refuse_foreign(table: str, file: pq.ParquetFile, sealed: Seal) -> None:
    """Raises Damaged if the file is no part of that table; one of an earlier version may lack a column."""
    schema, key = TABLES[table]
    found = file.schema_arrow
    if key not in found.names:
        raise Damaged(f"it has no column {key}, as {table} have")
    for field in found if sealed.columns is None else ():
        if field.name not in schema.names or field.type != schema.field(field.name).type:
            raise Damaged(f"its column {field.name} of {field.type} is none of {table}")


def _believed(rows: pa.Table, sealed: Seal) -> pa.Table:
    """Rows that no digests speak for are at least values that can be: text is UTF-8."""
    if sealed.columns is None:
        rows.validate(full=True)
    return rows


def first_of_each(rows: pa.Table, key: str) -> pa.Table:
    """The rows without those whose key came before."""
    if pc.count_distinct(rows[key]).as_py() == rows.num_rows:
        return rows
    numbered = rows.append_column("_at", pa.array(np.arange(rows.num_rows)))
    firsts = numbered.group_by(key, use_threads=False).aggregate([("_at", "min")])["_at_min"]
    return rows.take(pc.take(firsts, pc.sort_indices(firsts)))


def without(wanted: pa.Table, key: str, present: IdSet) -> pa.Table:
    """The wanted rows whose key is not among those present."""
    return wanted.filter(pc.invert(present.holds(wanted[key])))


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array, which is what `is_in` takes as a value set."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
