"""Inputs x reconstructions -> similarities; their mean, spread and count for each candidate -> scores."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder import __version__
from cyclepref.builder.engine.engine import Engine, Lane
from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.plan import Pool, plan
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.pairing.scores import columns
from cyclepref.builder.run.content import attach, contents, locate
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store, first_of_each
from cyclepref.builder.stages.accounting import Accountant, Count, Work
from cyclepref.builder.stages.steps import ahead, attempt, blocks_of, failure, reason, receipt
from cyclepref.schemas import records
from cyclepref.schemas.ids import similarity_id
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import MetricSpec

# Comparing is cheap next to generating, so a part holds many batches.
ROWS_PER_PART = 512

STAGE = "scores"


class NotANumber(ValueError):
    """A metric returned NaN or infinity."""


def wanted_similarities(reconstructions: pa.Table, metrics: list[Resolved]) -> pa.Table:
    """The comparisons that are needed: each distinct (input, content of a reconstruction, metric) once.

    `reconstructions` has input_id and content_id of those that were made.
    """
    inputs, contents_ = columns(reconstructions, "input_id", "content_id")
    tables = []
    for metric in metrics:
        print_ = metric.fingerprint
        ids = [similarity_id(x, y, print_) for x, y in zip(inputs, contents_, strict=True)]
        wanted = reconstructions.select(["input_id", "content_id"])
        for name, column in (
            ("similarity_id", ids), ("model", [metric.name] * len(ids)), ("fingerprint", [print_] * len(ids)),
        ):  # fmt: skip
            wanted = wanted.append_column(name, pa.array(column, pa.string()))
        tables.append(wanted)
    return first_of_each(pa.concat_tables(tables), "similarity_id")


def compare(wanted: pa.Table, metrics: list[Resolved], accountant: Accountant, engine: Engine) -> dict[str, Count]:
    """Compute the wanted similarities that the store does not have; counts by metric."""
    store = accountant.store
    specs = {metric.name: metric.spec for metric in metrics}

    def do(todo: pa.Table) -> Iterator[pa.Table]:
        located = locate(todo, "x", "input_id", store.rows("inputs", ["input_id"]), "input_id")
        located = locate(located, "y", "content_id", store.rows("generations", ["content_id"]), "content_id")
        located = located.sort_by([("x_part", "ascending"), ("x_row", "ascending"), ("content_id", "ascending")])
        rows = {name: located.filter(pc.equal(located["model"], name)) for name in specs}
        before = partial(attach, store=store, tables={"x": "inputs", "y": "generations"})
        after = partial(write_similarities, store=store)
        journal = Journal(store, STAGE)
        for wave in plan(specs, {name: part.num_rows for name, part in rows.items()}, engine.cluster):
            yield from engine.run_pools([_lane(pool, specs, rows, journal) for pool in wave], before, after)

    return accountant.run(Work(STAGE, "similarities", "similarity_id", wanted), do)


def _lane(pool: Pool, specs: dict[str, MetricSpec], rows: dict[str, pa.Table], journal: Journal) -> Lane:
    """Blocks in order of metric, each of one metric."""
    blocks = [block for name in pool.models for block in blocks_of(rows[name], ROWS_PER_PART)]
    mine = {name: specs[name] for name in pool.models}
    what = {"specs": mine, "key": "similarity_id", "journal": journal, "kwargs": {"specs": list(mine.values())}}
    return Lane(blocks, Comparer, **what, actors=pool.actors, num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)


class Comparer:
    """The worker of an actor: loads its metrics once, and gives every row a value or the reason why not."""

    def __init__(self, specs: list[MetricSpec]):
        metrics = {spec.name: load_metric(spec) for spec in specs}
        self.compare = {name: Fitting(metric, metric.compare) for name, metric in metrics.items()}
        self.batch_sizes = {spec.name: spec.batch_size for spec in specs}

    def __call__(self, block: pa.Table) -> pa.Table:
        """Adds `value`, `error_class`, `message` and `halved` to a block of one metric with the contents of `x` and
        `y`."""
        name = block["model"][0].as_py()
        compare, batches = self.compare[name], blocks_of(block, self.batch_sizes[name])
        results: list[Any] = []
        for x, y in ahead(lambda batch: (contents(batch, "x"), contents(batch, "y")), batches):
            results += attempt(compare, x, y)
        return _with_values(block, [_checked(result) for result in results], compare.halvings())

    @staticmethod
    def give_up(block: pa.Table, error: Exception) -> pa.Table:
        """The block as if every row had failed with `error`."""
        return _with_values(block, [error] * block.num_rows, 0)


def _with_values(block: pa.Table, values: list[Any], halved: int) -> pa.Table:
    block = block.select([name for name in block.column_names if not name.startswith(("x_", "y_"))])
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


def _checked(result: Any) -> Any:
    if isinstance(result, Exception) or np.isfinite(result):
        return result
    return NotANumber(f"the metric returned {result}")


def write_similarities(block: pa.Table, store: Store) -> pa.Table:
    """Write a block's values, failures first; returns a receipt."""
    bad = block.filter(pc.is_valid(block["error_class"]))
    failed = [failure(row, "similarity_id", STAGE, "content_id") for row in bad.to_pylist()]
    good = block.filter(pc.is_null(block["error_class"])).rename_columns(
        ["metric" if name == "model" else name for name in block.column_names]
    )
    good = good.append_column("code_version", pa.array([__version__] * good.num_rows, pa.string()))
    store.write_part("failures", pa.Table.from_pylist(failed, schema=records.FAILURE))
    store.write_part("similarities", good.select(records.SIMILARITY.names))
    return receipt(block, len(failed))
