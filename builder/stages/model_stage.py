"""The skeleton of every stage that runs models: find the content that rows name, give the rows to hosts, account for
every row. On a host their content is read, their model works on it, and the results are written, failures first.

    wanted - what the store has -> located -> hosts: content read -> worker -> written -> receipts
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder import __version__
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.task import Ahead, Task
from cyclepref.builder.run.content import Contents, attach, locate
from cyclepref.builder.run.ids import IdSet
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import TABLES, Store
from cyclepref.builder.stages.accounting import Accountant, Count, Work
from cyclepref.builder.stages.steps import attempt, failed_with, failure, receipt
from cyclepref.schemas import records
from cyclepref.schemas.specs import Spec

# A measure is cheap next to a generation, so a part of its rows holds more batches.
MEASURED_BATCHES_PER_PART = 8


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

    `worker` loads a model from its spec on a host (see `cyclepref.builder.engine.task.Worker`), `roles` is the content
    that it works on, by name, and `order` sorts rows so that neighbours share content. `write` puts the results of rows
    into the store, the failures first, and returns a receipt. `rows_per_part` is the most rows of a block, and so of a
    part: what a kill can cost.
    """

    name: str
    table: str
    key: str
    worker: Callable[[Any], Any]
    roles: Mapping[str, Content]
    order: tuple[str, ...]
    write: Callable[..., pa.Table]
    rows_per_part: Callable[[Any], int]

    def run(
        self,
        wanted: pa.Table,
        specs: Mapping[str, Spec],
        accountant: Accountant,
        engine: Engine,
        ahead: Ahead | None = None,
        before: IdSet | None = None,
    ) -> dict[str, Count]:
        """Make the wanted rows that the store does not have; counts by model. `ahead` is what hosts may begin that have
        nothing left to do; `before` are the ids that the store had before any of the wanted rows were made ahead.

        Raises:
            BuildError: if a model fails too often, or a row is unaccounted for.
            EngineError: if a model cannot be loaded, or goes on dying.
        """
        store = accountant.store

        def do(todo: pa.Table) -> Iterator[pa.Table]:
            rows = self._located(todo, store)
            journal = Journal(store, self.name)
            work = (
                (self.task(spec, store, journal, table), mine.filter(pc.equal(mine["model"], name)))
                for table, mine in self._by_table(rows)
                for name, spec in specs.items()
            )
            yield from engine.run(work, ahead)

        return accountant.run(Work(self.name, self.table, self.key, wanted, before), do)

    def _located(self, todo: pa.Table, store: Store) -> pa.Table:
        """The rows with the place of each role's content, in order."""
        for role, content in self.roles.items():
            found = [
                locate(_of_table(todo, table, content), role, content.column, store.rows(table, [key]), key)
                for table, key in content.tables.items()
            ]
            todo = pa.concat_tables(found)
        return self.in_order(todo)

    def in_order(self, located: pa.Table) -> pa.Table:
        """Rows that have the places of their content, in the order in which they are given out."""
        return located.sort_by([(name, "ascending") for name in self.order])

    def _by_table(self, rows: pa.Table) -> list[tuple[str | None, pa.Table]]:
        """The rows by the table that has their content, where a role names several."""
        tables = {table for content in self.roles.values() if len(content.tables) > 1 for table in content.tables}
        return [(table, rows.filter(pc.equal(rows["table"], table))) for table in sorted(tables)] or [(None, rows)]

    def task(self, spec: Spec, store: Store, journal: Journal, table: str | None = None) -> Task:
        """The task of one model. `table` has the content of its rows, where a role names several."""
        tables = {role: table or next(iter(content.tables)) for role, content in self.roles.items()}
        return Task(
            stage=self.name,
            spec=spec,
            key=self.key,
            worker=self.worker,
            read=partial(read_contents, store=store, tables=tables, batch_size=spec.batch_size),
            write=partial(self.write, store=store),
            journal=journal,
            rows_per_part=self.rows_per_part(spec),
        )


def _of_table(rows: pa.Table, table: str, content: Content) -> pa.Table:
    return rows if len(content.tables) == 1 else rows.filter(pc.equal(rows["table"], table))


# ---- what runs on a host -----------------------------------------------------------------------------------------


def read_contents(
    block: pa.Table, store: Store, tables: Mapping[str, str], batch_size: int
) -> tuple[pa.Table, Contents]:
    """The rows of a block without the places of their contents, and the contents of the roles in `tables`."""
    places = {f"{role}_{what}" for role in tables for what in ("part", "row")}
    rows = block.select([name for name in block.column_names if name not in places])
    return rows, Contents(attach(block, store, tables), tables, batch_size)


def _as_it_is(value: Any) -> Any:
    return value


class Measuring:
    """A worker that gives every row a number, or the reason why it has none: `measure` takes a batch's contents, a list
    for each role, and `check` turns a number that cannot be into an exception."""

    def __init__(
        self, model: Any, measure: Callable[..., list[Any]], check: Callable[[Any], Any] = lambda value: value
    ):
        self.measure, self.check = Fitting(model, measure), check

    def __call__(self, rows: pa.Table, contents: Contents) -> list[Any]:
        """A number or an exception for each row."""
        results = [result for batch in contents.batches() for result in attempt(self.measure, *batch)]
        return [self.check(result) for result in results]

    def halvings(self) -> int:
        """As of `cyclepref.builder.engine.task.Worker`."""
        return self.measure.halvings()


def write_values(
    rows: pa.Table, values: list[Any], halved: int, store: Store, stage: str, table: str, key: str
) -> pa.Table:
    """Write values to a table of the store, failures (the exceptions among them) first; returns a receipt."""
    pairs = list(zip(rows.to_pylist(), values, strict=True))
    bad = [failed_with(value, row) for row, value in pairs if isinstance(value, Exception)]
    failed = [failure(row, key, stage, "content_id") for row in bad]
    schema, _ = TABLES[table]
    naming = "metric" if "metric" in schema.names else "model"  # what a model is called among similarities
    made = [
        {**row, naming: row["model"], "value": value, "code_version": __version__}
        for row, value in pairs
        if not isinstance(value, Exception)
    ]
    store.write_part("failures", pa.Table.from_pylist(failed, schema=records.FAILURE))
    store.write_part(table, pa.Table.from_pylist(made, schema=schema))
    return receipt(rows, len(failed), halved)
