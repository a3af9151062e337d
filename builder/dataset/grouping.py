"""Near-duplicate inputs -> groups that share a split, for ever.

A group is named by its founder, the input that began it, and lies in the founder's split: an input that is like no
other is its own group. `groups.parquet` in the run directory records every input's group, and what is recorded is
never changed: inputs that come later join a group that is there or begin one of their own. So no input ever moves.
What that costs: two groups that a later input connects stay two, and that input joins the nearer one. Within one build
new inputs are taken in order of id, so that the groups of a run are a function of its inputs and of which of them
were there before.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from cyclepref.builder.common import progress
from cyclepref.builder.common.near_duplicates import signature
from cyclepref.builder.run.content import attach, contents, locate
from cyclepref.builder.run.groups import Groups, read_groups, write_groups
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.steps import blocks_of
from cyclepref.schemas.cycle import Modality

if TYPE_CHECKING:  # it loads ray, which merging two records does not need
    from cyclepref.builder.engine.engine import Engine

ROWS_PER_TASK = 256
READ = pa.schema([("input_id", pa.string()), ("signature", pa.binary())])


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
