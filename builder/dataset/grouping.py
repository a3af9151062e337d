"""Near-duplicate inputs -> groups that share a split, for ever.

A group is named by its founder, the input that began it, and lies in the founder's split: an input that is like no
other is its own group. `groups.parquet` in the run directory records every input's group, and what is recorded is
never changed: inputs that come later join a group that is there or begin one of their own. So no input ever moves.
What that costs: two groups that a later input connects stay two, and that input joins the nearer one. Within one build
new inputs are taken in order of id, so that the groups of a run are a function of its inputs and of which of them
were there before.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from builder.common import progress
from builder.common.near_duplicates import VERSION, alike, bands, distance, signature
from builder.run.folder import StoreError
from builder.run.seal import UNREADABLE, read_sealed, write_sealed
from builder.run.store import Store
from builder.stages.accounting import attach, blocks_of, contents, locate
from schemas.cycle import Modality

if TYPE_CHECKING:  # it loads ray, which merging two records does not need
    from builder.engine.engine import Engine

FILE = "groups.parquet"
GROUP = pa.schema([("input_id", pa.string()), ("group", pa.string()), ("signature", pa.binary())])
ROWS_PER_TASK = 256
READ = pa.schema([("input_id", pa.string()), ("signature", pa.binary())])


class Groups:
    """Which group each input belongs to. `largest` is the most inputs that a group may have."""

    def __init__(self, rows: Iterable[dict[str, Any]] = (), largest: int = 50):
        self.largest = largest
        self.of: dict[str, str] = {}
        self._signatures: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._bands: dict[tuple[int, bytes], list[str]] = {}
        for row in rows:
            self._put(row["input_id"], row["group"], row["signature"])

    def add(self, signatures: dict[str, bytes]) -> None:
        """Give the inputs that have no group one, in order of id."""
        for input_id in sorted(signatures.keys() - self.of.keys()):
            mine = signatures[input_id]
            near = {other for key in bands(mine) for other in self._bands.get(key, ())}
            found = [
                (distance(mine, self._signatures[other]), self.of[other])
                for other in near
                if alike(mine, self._signatures[other])
            ]
            open_ = [pair for pair in found if self._sizes[pair[1]] < self.largest]
            self._put(input_id, min(open_)[1] if open_ else input_id, mine)

    def table(self) -> pa.Table:
        """Every input with its group and signature, in order of id."""
        ids = sorted(self.of)
        columns = [ids, [self.of[id_] for id_ in ids], [self._signatures[id_] for id_ in ids]]
        return pa.table(dict(zip(GROUP.names, columns, strict=True)), schema=GROUP)

    def _put(self, input_id: str, group: str, mine: bytes) -> None:
        self.of[input_id], self._signatures[input_id] = group, mine
        self._sizes[group] = self._sizes.get(group, 0) + 1
        for key in bands(mine):
            self._bands.setdefault(key, []).append(input_id)


def group(inputs: pa.Table, modality: Modality, largest: int, store: Store, engine: "Engine") -> dict[str, str]:
    """The group of every input (column input_id), recording those of inputs that have none yet.

    Raises:
        StoreError: if the run's record of groups cannot be read: without it inputs might move.
    """
    groups = Groups(read_groups(store), largest)
    wanted = inputs["input_id"].to_pylist()
    new = sorted(set(wanted) - groups.of.keys())
    if new:
        signatures: dict[str, bytes] = {}
        with progress.stage("near-duplicates", len(new)) as tick:
            for read in _signatures(new, modality, store, engine):
                signatures |= dict(zip(read["input_id"].to_pylist(), read["signature"].to_pylist(), strict=True))
                tick(read.num_rows)
        groups.add(signatures)
        write_groups(store, groups)
    return {id_: groups.of[id_] for id_ in wanted}


def read_groups(store: Store) -> list[dict[str, Any]]:
    """What a run has recorded; nothing if it has recorded nothing.

    Raises:
        StoreError: if the record is broken or of another version.
    """
    if not store.exists(FILE):
        return []
    try:
        table = store.read_file(FILE, lambda file: read_sealed(file, FILE))
    except UNREADABLE as error:
        raise StoreError(f"cannot read {store.address(FILE)} ({error}): restore it, or inputs might move") from error
    version = (table.schema.metadata or {}).get(b"likeness", b"").decode()
    if version != str(VERSION):
        raise StoreError(
            f"{store.address(FILE)} was recorded with likeness {version or 'unknown'}, and this is {VERSION}: build "
            "with the version of CyclePref that recorded it, or in a new directory"
        )
    return table.to_pylist()


def write_groups(store: Store, groups: Groups) -> None:
    """Record the groups, as a whole."""
    table = groups.table().replace_schema_metadata({"likeness": str(VERSION)})
    store.write_file(FILE, lambda sink: write_sealed(table, FILE, sink, compression="zstd"))


def merge_groups(runs: list[Store], into: Store) -> None:
    """Record in a merged run what its parts recorded; where two disagree on an input the first of `runs` is right."""
    recorded = [row for run in (into, *runs) for row in read_groups(run)]
    first = {row["input_id"]: row for row in reversed(recorded)}
    if first:
        write_groups(into, Groups(first.values()))


def _signatures(ids: list[str], modality: Modality, store: Store, engine: "Engine") -> Iterator[pa.Table]:
    """(input_id, signature) of inputs, some at a time: images on the cluster, since decoding them takes long."""
    rows = pa.table({"input_id": pa.array(ids, pa.string())})
    rows = locate(rows, "it", "input_id", store.rows("inputs", ["input_id"]), "input_id")
    blocks = blocks_of(rows.sort_by([("it_part", "ascending"), ("it_row", "ascending")]), ROWS_PER_TASK)
    read = partial(attach, store=store, tables={"it": "inputs"})
    sign = partial(signatures_of, modality=modality)
    if modality == "image":
        yield from engine.run_tasks(blocks, read, sign)
    else:
        yield from (sign(read(block)) for block in blocks)


def signatures_of(block: pa.Table, modality: Modality) -> pa.Table:
    """The signatures of a block of inputs with their content."""
    made = [signature(content, modality) for content in contents(block, "it")]
    return pa.table({"input_id": block["input_id"], "signature": pa.array(made, pa.binary())}).cast(READ)
