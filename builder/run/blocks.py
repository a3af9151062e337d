"""Tables in order of their inputs, a block of inputs at a time: what a build derives is larger than memory.

A block is the inputs whose ids begin alike. What is derived of them is written to files of a temporary folder (TMPDIR
says where) and mapped into memory from there, so that the system reads what is looked at and takes it back when it
needs the room.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.run.ids import Strings, pack

# Rows that are put in order of their block together.
ROWS_AT_ONCE = 2**18
# Blocks that are derived at a time: while one is hashed, which holds Python's lock, Arrow and numpy work on another.
AT_A_TIME = 2

Made = TypeVar("Made")


def block_of(ids: Strings, blocks: int) -> np.ndarray:
    """The block of each id, in [0, blocks), by what it begins with: blocks are in order of their ids."""
    return ((pack(ids)[:, 0] >> np.uint64(32)) * np.uint64(blocks) >> np.uint64(32)).astype(np.int64)


def side_by_side(work: Callable[[Any], Made], items: Iterable[Any]) -> Iterator[Made]:
    """What `work` makes of each item, in order; some are worked on at a time, each in a thread."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        working: deque[Future[Made]] = deque()
        for item in items:
            working.append(pool.submit(work, item))
            if len(working) > AT_A_TIME:
                yield working.popleft().result()
        while working:
            yield working.popleft().result()


@dataclass(frozen=True)
class Piece:
    """Some rows: how many (None if that is not known yet), their first and last input_id, and how they are had: all
    columns, or those that are named at least."""

    rows: int | None
    first: str | None
    last: str | None
    load: Callable[..., pa.Table]


class Blocks:
    """A table in order of input_id, in pieces that are read when they are asked for."""

    def __init__(self, schema: pa.Schema, pieces: list[Piece]):
        self.schema, self.pieces = schema, pieces

    @classmethod
    def of(cls, rows: pa.Table) -> "Blocks":
        """A table that is in memory."""
        rows = rows.sort_by("input_id")
        return cls(rows.schema, [piece_of(rows, lambda *_: rows)])

    @property
    def num_rows(self) -> int:
        """How many rows there are in all."""
        return sum(piece.load().num_rows if piece.rows is None else piece.rows for piece in self.pieces)

    def __iter__(self) -> Iterator[pa.Table]:
        return (piece.load() for piece in self.pieces)

    def table(self) -> pa.Table:
        """All rows as one table; those of a temporary file stay there."""
        return pa.concat_tables([self.schema.empty_table(), *self])

    def between(self, first: str, last: str) -> pa.Table:
        """The rows of all inputs from one to another, and some of their neighbours'."""
        found = [p for p in self.pieces if p.first is not None and p.first <= last and first <= str(p.last)]
        return pa.concat_tables([self.schema.empty_table(), *(piece.load() for piece in found)])

    def of_inputs(self, ids: list[str]) -> pa.Table:
        """The rows of some inputs, whose ids are in order."""
        rows = self.between(ids[0], ids[-1]) if ids else self.schema.empty_table()
        return rows.filter(pc.is_in(rows["input_id"], value_set=pa.array(ids, pa.string())))

    def column(self, name: str, size: int) -> Iterator[pa.Array]:
        """A column's values, `size` at a time."""
        waiting = pa.array([], self.schema.field(name).type)
        for piece in self.pieces:
            waiting = pa.concat_arrays([waiting, *piece.load([name])[name].chunks])
            while len(waiting) >= size:
                yield waiting[:size]
                waiting = waiting[size:]
        if len(waiting):
            yield waiting

    def where(self, keep: Callable[[pa.Table], pa.Table]) -> "Blocks":
        """The rows that `keep` leaves of each piece."""
        return Blocks(self.schema, [Piece(None, p.first, p.last, partial(_kept, p, keep)) for p in self.pieces])


def piece_of(rows: pa.Table, load: Callable[..., pa.Table]) -> Piece:
    """The piece of rows, in order of input_id where they have one, which `load` gives again."""
    ends = (None, None)
    if rows.num_rows and "input_id" in rows.column_names:
        ids = rows["input_id"]
        ends = (ids[0].as_py(), ids[-1].as_py())
    return Piece(rows.num_rows, *ends, load)


def _kept(piece: Piece, keep: Callable[[pa.Table], pa.Table], _: list[str] | None = None) -> pa.Table:
    return keep(piece.load())


class Scratch:
    """A temporary folder for what is derived; it is gone when the block of code that opened it ends."""

    def __enter__(self) -> "Scratch":
        self._folder = tempfile.TemporaryDirectory(prefix="cyclepref-")
        self._files = 0
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._folder.cleanup()

    def file(self, schema: pa.Schema) -> "ScratchFile":
        """A new file for rows of this schema."""
        self._files += 1
        return ScratchFile(f"{self._folder.name}/{self._files}.arrow", schema)

    def table(self, schema: pa.Schema, blocks: Iterable[pa.Table]) -> Blocks:
        """A table by its blocks, one after the other: block number n is piece number n."""
        file, pieces = self.file(schema), []
        for rows in blocks:
            at = file.add(rows)
            pieces.append(piece_of(rows, partial(file.rows, at)))
        file.close()
        return Blocks(schema, pieces)

    def by_block(self, schema: pa.Schema, tables: Iterable[pa.Table], key: str, blocks: int) -> "ByBlock":
        """Rows in any order, to be had by the block of the id in their column `key`. Rows of one block keep their
        order."""
        return ByBlock(self.file(schema), tables, key, blocks)


class ScratchFile:
    """Tables in a file, which are mapped into memory once it is closed."""

    def __init__(self, path: str, schema: pa.Schema):
        self.path, self.schema, self._ends = path, schema, [0]
        self._writer = pa.ipc.new_file(pa.OSFile(path, "wb"), schema)
        self._reader: pa.ipc.RecordBatchFileReader | None = None

    def add(self, rows: pa.Table) -> int:
        """Write a table; returns its number."""
        batches = rows.select(self.schema.names).cast(self.schema).combine_chunks().to_batches()
        for batch in batches:
            self._writer.write_batch(batch)
        self._ends.append(self._ends[-1] + len(batches))
        return len(self._ends) - 2

    def close(self) -> None:
        """No more tables come."""
        self._writer.close()
        self._reader = pa.ipc.open_file(pa.memory_map(self.path))

    def rows(self, number: int, _: list[str] | None = None) -> pa.Table:
        """A table by its number: all columns, since none is read before it is looked at."""
        assert self._reader is not None, "it is still being written"
        batches = [self._reader.get_batch(at) for at in range(self._ends[number], self._ends[number + 1])]
        return pa.Table.from_batches(batches, self.schema)


class ByBlock:
    """Rows by the block of an id, from tables in any order (see `Scratch.by_block`)."""

    def __init__(self, file: ScratchFile, tables: Iterable[pa.Table], key: str, blocks: int):
        self._file, self._places = file, []
        for rows in _together(tables, file.schema):
            block = block_of(rows[key], blocks)
            order = np.argsort(block, kind="stable")
            file.add(rows.take(pa.array(order)))
            self._places.append(np.searchsorted(block[order], np.arange(blocks + 1)))
        file.close()

    def of(self, block: int) -> pa.Table:
        """The rows of a block."""
        found = [
            self._file.rows(at).slice(places[block], places[block + 1] - places[block])
            for at, places in enumerate(self._places)
        ]
        return pa.concat_tables([self._file.schema.empty_table(), *found])


def _together(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables joined until they have some rows."""
    waiting: list[pa.Table] = []
    for rows in tables:
        waiting.append(rows.select(schema.names))
        if sum(some.num_rows for some in waiting) >= ROWS_AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
