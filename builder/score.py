"""Inputs x reconstructions -> similarities; their mean, spread and count for each candidate -> scores."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder import __version__
from builder.engine import Engine, Lane
from builder.journal import Journal
from builder.memory import Fitting
from builder.metrics import load_metric
from builder.models.resolve import Resolved
from builder.plan import plan
from builder.stage import Accountant, Count, Work, ahead, attach, attempt, blocks_of, contents, failure, locate, receipt
from builder.store import Store, first_of_each
from schemas import records
from schemas.ids import similarity_id
from schemas.specs import MetricSpec

# Comparing is cheap next to generating, so a part holds many batches.
ROWS_PER_PART = 512

STAGE = "scores"


class NotANumber(ValueError):
    """A metric returned NaN or infinity."""


def want(reconstructions: pa.Table, metric: Resolved) -> pa.Table:
    """The comparisons that are needed: each distinct (input, content of a reconstruction) once.

    `reconstructions` has input_id and content_id of those that were made.
    """
    print_ = metric.fingerprint
    ids = [
        similarity_id(input_, content, print_)
        for input_, content in zip(
            reconstructions["input_id"].to_pylist(), reconstructions["content_id"].to_pylist(), strict=True
        )
    ]
    wanted = reconstructions.select(["input_id", "content_id"])
    wanted = wanted.append_column("similarity_id", pa.array(ids, pa.string()))
    for name, value in (("model", metric.name), ("fingerprint", print_)):
        wanted = wanted.append_column(name, pa.array([value] * len(ids), pa.string()))
    return first_of_each(wanted, "similarity_id")


def compare(wanted: pa.Table, metric: Resolved, accountant: Accountant, engine: Engine) -> dict[str, Count]:
    """Compute the wanted similarities that the store does not have; counts under the metric's name."""
    store = accountant.store

    def do(todo: pa.Table) -> Iterator[pa.Table]:
        located = locate(todo, "x", "input_id", store.rows("inputs", ["input_id"]), "input_id")
        located = locate(located, "y", "content_id", store.rows("generations", ["content_id"]), "content_id")
        located = located.sort_by([("x_part", "ascending"), ("x_row", "ascending"), ("content_id", "ascending")])
        before = partial(attach, store=store, tables={"x": "inputs", "y": "generations"})
        after = partial(write_similarities, store=store)
        [[pool]] = plan({metric.name: metric.spec}, {metric.name: todo.num_rows}, engine.cluster)
        blocks = blocks_of(located, ROWS_PER_PART)
        specs, journal = {metric.name: metric.spec}, Journal(store, STAGE)
        what = {"specs": specs, "key": "similarity_id", "journal": journal, "kwargs": {"spec": metric.spec}}
        lane = Lane(blocks, Comparer, **what, actors=pool.actors, num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)
        yield from engine.run_pools([lane], before, after)

    return accountant.run(Work(STAGE, "similarities", "similarity_id", wanted), do)


class Comparer:
    """The worker of an actor: loads its metric once, and gives every row a value or the reason why not."""

    def __init__(self, spec: MetricSpec):
        self.metric, self.batch_size = load_metric(spec), spec.batch_size
        self.compare = Fitting(self.metric, self.metric.compare)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Adds `value`, `error_class`, `message` and `halved` to a block with the contents of `x` and `y`."""
        batches = blocks_of(block, self.batch_size)
        results: list[Any] = []
        for x, y in ahead(lambda batch: (contents(batch, "x"), contents(batch, "y")), batches):
            results += attempt(self.compare, x, y)
        return _with_values(block, [_checked(result) for result in results], self.compare.halvings())

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
        "message": pa.array([str(e) if e else None for e in errors], pa.string()),
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


def scores(candidates: pa.Table, reconstructions: pa.Table, similarities: pa.Table, metric: Resolved) -> pa.Table:
    """The Score view: mean, population standard deviation and count of each candidate's similarities.

    `reconstructions` has source_id (the candidate's content), input_id, content_id and sample_index. A candidate
    without any reconstruction that could be scored has no row.
    """
    mine = similarities.filter(pc.equal(similarities["fingerprint"], metric.fingerprint))
    values = dict(
        zip(zip(*_columns(mine, "input_id", "content_id"), strict=True), mine["value"].to_pylist(), strict=True)
    )
    found: dict[tuple[str, str], list[float]] = {}
    # In order of sample index, so that a mean's last bits do not depend on the order of the rows.
    for input_, source, content in zip(
        *_columns(reconstructions.sort_by("sample_index"), "input_id", "source_id", "content_id"), strict=True
    ):
        if (input_, content) in values:
            found.setdefault((input_, source), []).append(values[input_, content])
    rows = []
    for id_, input_, content in zip(*_columns(candidates, "generation_id", "input_id", "content_id"), strict=True):
        if (input_, content) in found:
            sample = np.array(found[input_, content])
            row = (id_, input_, metric.name, metric.fingerprint, sample.mean(), sample.std(), len(sample))
            rows.append(dict(zip(records.SCORE.names, row, strict=True)))
    return pa.Table.from_pylist(rows, schema=records.SCORE).sort_by(
        [("input_id", "ascending"), ("generation_id", "ascending")]
    )


def _columns(rows: pa.Table, *names: str) -> list[list[Any]]:
    return [rows[name].to_pylist() for name in names]
