"""Tables -> parquet shards for the Hub, some rows at a time: memory does not grow with the dataset."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cyclepref.builder.dataset import format as dataset_format
from cyclepref.builder.run.folder import Folder

INPUTS_PER_BATCH = 64
# A row group is written once it holds this much: large enough to be read fast, small enough for the Hub's viewer, which
# reads whole row groups. As many inputs are read together as fit into a quarter of it.
BATCH_BYTES = 32 * 2**20
SHARD_BYTES = 256 * 2**20


def in_batches(members: list[str], read: Callable[[list[str]], pa.Table]) -> Iterator[pa.Table]:
    """What `read` makes of some inputs at a time: as many as fit into a quarter of BATCH_BYTES, by those before."""
    at, count = 0, 4
    while at < len(members):
        table = read(members[at : at + count])
        yield table
        at += count
        count = max(1, min(INPUTS_PER_BATCH, BATCH_BYTES * count // (4 * max(1, table.nbytes))))


def write_shards(store: Folder, name: str, schema: pa.Schema, batches: Iterator[pa.Table]) -> tuple[set[str], int]:
    """Parquet files `name-00000.parquet`, ..., each closed once it holds SHARD_BYTES; returns their names and rows."""
    names: set[str] = set()
    groups, rows = _row_groups(batches), [0]
    waiting = next(groups, None)
    while waiting is not None:
        names.add(shard := f"{name}-{len(names):05d}.parquet")
        store.write_file(shard, partial(_write_shard, schema=schema, first=waiting, groups=groups, rows=rows))
        waiting = next(groups, None)
    return names, rows[0]


def _row_groups(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Batches joined until they are worth a row group."""
    waiting: list[pa.Table] = []
    for batch in batches:
        waiting.append(batch)
        if sum(table.nbytes for table in waiting) >= BATCH_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write_shard(sink: Any, schema: pa.Schema, first: pa.Table, groups: Iterator[pa.Table], rows: list[int]) -> None:
    """One file. Images are compressed already, and neither a dictionary nor statistics of them is of any use."""
    size, leaves, images = 0, dataset_format.leaves(schema), dataset_format.image_columns(schema)
    options = {
        "compression": {leaf: "NONE" if leaf in images else "ZSTD" for leaf in leaves},
        "use_dictionary": [leaf for leaf in leaves if leaf not in images],
        "write_statistics": [leaf for leaf in leaves if leaf not in images],
        # Small pages with an index let the Hub's viewer and streaming readers fetch a few rows.
        "write_page_index": True,
    }
    with pq.ParquetWriter(sink, schema, **options) as writer:
        for table in chain([first], groups):
            writer.write_table(table.cast(schema))
            rows[0] += table.num_rows
            size += table.nbytes
            if size >= SHARD_BYTES:
                return
