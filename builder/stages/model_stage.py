"""The skeleton of every stage that runs models: find the content that rows name, give it to pools of workers in blocks
of one model, write what comes back, failures first, and account for every row.

    wanted - what the store has -> located -> blocks of one model -> content attached -> worker -> written -> receipts
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder import __version__
from cyclepref.builder.engine.engine import Engine, Lane
from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.plan import Pool, plan
from cyclepref.builder.run.content import attach, contents, locate
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import TABLES, Store
from cyclepref.builder.stages.accounting import Accountant, Count, Work
from cyclepref.builder.stages.steps import ahead, attempt, blocks_of, failure, reason, receipt
from cyclepref.schemas import records
from cyclepref.schemas.specs import Spec

# A measure is cheap next to a generation, so a part of its rows holds many batches.
MEASURES_PER_PART = 512


@dataclass(frozen=True)
class Content:
    """What a row brings to its model: the text or image whose id is in the row's `column`. `tables` are those of the
    store that may hold it, each with the column of its ids; where there are several, the row's own `table` says which.
    """

    column: str
    tables: Mapping[str, str]


@dataclass(frozen=True)
class ModelStage:
    """A stage that runs models over rows: their ids are in the column `key`, their model's name in `model`.

    `worker` is what an actor makes of its models' specs (see `cyclepref.builder.engine.supervisor.Worker`), `roles` is
    the content that it finds in a block, by the prefix of its columns, and `order` sorts rows so that neighbours share
    content. `write` turns a worker's block into parts of the store (the failures' first) and a receipt.
    `rows_per_part` is the most rows of a block, and so of a part: what a kill can cost.
    """

    name: str
    table: str
    key: str
    worker: type
    roles: Mapping[str, Content]
    order: tuple[str, ...]
    write: Callable[..., pa.Table]
    rows_per_part: Callable[[Any], int]

    def run(
        self, wanted: pa.Table, specs: Mapping[str, Spec], accountant: Accountant, engine: Engine
    ) -> dict[str, Count]:
        """Make the wanted rows that the store does not have; counts by model.

        Raises:
            BuildError: if a model fails too often, or a row is unaccounted for.
            EngineError: if a worker cannot start, or goes on dying.
        """
        store = accountant.store

        def do(todo: pa.Table) -> Iterator[pa.Table]:
            rows = self._located(todo, store)
            by_model = {name: rows.filter(pc.equal(rows["model"], name)) for name in specs}
            counts = {name: mine.num_rows for name, mine in by_model.items()}
            before = partial(_attached, store=store, roles=self.roles)
            after = partial(self.write, store=store)
            journal = Journal(store, self.name)
            for wave in plan(specs, counts, engine.cluster):
                lanes = [self._lane(pool, specs, by_model, journal) for pool in wave]
                yield from engine.run_pools(lanes, before, after)

        return accountant.run(Work(self.name, self.table, self.key, wanted), do)

    def _located(self, todo: pa.Table, store: Store) -> pa.Table:
        """The rows with the place of each role's content, in order."""
        for role, content in self.roles.items():
            found = [
                locate(_of_table(todo, table, content), role, content.column, store.rows(table, [key]), key)
                for table, key in content.tables.items()
            ]
            todo = pa.concat_tables(found)
        return todo.sort_by([(name, "ascending") for name in self.order])

    def _lane(self, pool: Pool, specs: Mapping[str, Spec], rows: Mapping[str, pa.Table], journal: Journal) -> Lane:
        """Blocks in order of model, so that an actor which serves several goes from one to the next."""
        mine = {name: specs[name] for name in pool.models}
        blocks = [
            block
            for name, spec in mine.items()
            for piece in self._of_one_table(rows[name])
            for block in blocks_of(piece, self.rows_per_part(spec))
        ]
        return lane(pool, mine, blocks, self.worker, self.key, journal)

    def _of_one_table(self, rows: pa.Table) -> list[pa.Table]:
        """The rows in pieces whose content is in one table of the store."""
        tables = {table for content in self.roles.values() if len(content.tables) > 1 for table in content.tables}
        return [rows.filter(pc.equal(rows["table"], table)) for table in sorted(tables)] or [rows]


def lane(
    pool: Pool, specs: Mapping[str, Spec], blocks: list[pa.Table], worker: type, key: str, journal: Journal
) -> Lane:
    """Blocks for one pool, whose workers are made of their models' specs."""
    return Lane(
        blocks, worker, dict(specs), key, journal, {"specs": list(specs.values())},
        actors=pool.actors, num_cpus=pool.num_cpus, num_gpus=pool.num_gpus,
    )  # fmt: skip


# ---- steps that run on the cluster -----------------------------------------------------------------------------


def _of_table(rows: pa.Table, table: str, content: Content) -> pa.Table:
    return rows if len(content.tables) == 1 else rows.filter(pc.equal(rows["table"], table))


def _attached(block: pa.Table, store: Store, roles: Mapping[str, Content]) -> pa.Table:
    """A block with the content of its roles."""
    tables = {
        role: next(iter(content.tables)) if len(content.tables) == 1 else block["table"][0].as_py()
        for role, content in roles.items()
    }
    return attach(block, store, tables)


def measured(block: pa.Table, run: Fitting, batch_size: int, roles: tuple[str, ...], check=lambda value: value):
    """A block of one model with a number for each row, or why there is none: the columns `value`, `error_class`,
    `message` and `halved` in place of the contents of `roles`, which `run` takes as lists, batch by batch.

    `batch_size` is the size that was asked for: that of the model's own spec may be halved under way.
    """
    results: list[Any] = []
    for given in ahead(lambda batch: [contents(batch, role) for role in roles], blocks_of(block, batch_size)):
        results += attempt(run, *given)
    return with_values(block, roles, [check(result) for result in results], run.halvings())


def with_values(block: pa.Table, roles: tuple[str, ...], values: list[Any], halved: int = 0) -> pa.Table:
    """A block with `values`, numbers or exceptions, in place of the contents of its roles."""
    gone = tuple(f"{role}_" for role in roles)
    block = block.select([name for name in block.column_names if not name.startswith(gone)])
    errors = [value if isinstance(value, Exception) else None for value in values]
    made = {
        "value": pa.array([None if e else v for v, e in zip(values, errors, strict=True)], pa.float64()),
        "error_class": pa.array([type(e).__name__ if e else None for e in errors], pa.string()),
        "message": pa.array([reason(e) if e else None for e in errors], pa.string()),
        "halved": pa.array([halved] + [0] * (len(values) - 1), pa.int64()),
    }
    for name, column in made.items():
        block = block.append_column(name, column)
    return block


def write_values(block: pa.Table, store: Store, stage: str, table: str, key: str) -> pa.Table:
    """Write a block's values to a table of the store, failures first; returns a receipt."""
    bad = block.filter(pc.is_valid(block["error_class"])).to_pylist()
    failed = [failure(row, key, stage, "content_id") for row in bad]
    good = block.filter(pc.is_null(block["error_class"]))
    good = good.append_column("code_version", pa.array([__version__] * good.num_rows, pa.string()))
    schema, _ = TABLES[table]
    if "metric" in schema.names:  # what a model is called among similarities
        good = good.rename_columns(["metric" if name == "model" else name for name in good.column_names])
    store.write_part("failures", pa.Table.from_pylist(failed, schema=records.FAILURE))
    store.write_part(table, good.select(schema.names))
    return receipt(block, len(failed))
