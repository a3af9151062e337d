"""Inputs x reconstructions -> similarities; their mean, spread and count for each candidate -> scores."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder import __version__
from builder.catalog.resolve import Resolved
from builder.engine.engine import Engine, Lane
from builder.engine.memory import Fitting
from builder.engine.plan import Pool, plan
from builder.metrics import load_metric
from builder.run.in_flight import Journal
from builder.run.store import Store, first_of_each
from builder.stages.accounting import (
    Accountant,
    Count,
    Work,
    ahead,
    attach,
    attempt,
    blocks_of,
    contents,
    failure,
    locate,
    reason,
    receipt,
)
from schemas import records
from schemas.ids import similarity_id
from schemas.specs import MetricSpec

# Comparing is cheap next to generating, so a part holds many batches.
ROWS_PER_PART = 512

STAGE = "scores"

# A candidate's similarity by one metric and one reconstruction.
SAMPLE = pa.schema(
    [
        ("generation_id", pa.string()),
        ("input_id", pa.string()),
        ("sample_index", pa.int64()),
        ("metric", pa.string()),
        ("fingerprint", pa.string()),
        ("value", pa.float64()),
    ]
)


class NotANumber(ValueError):
    """A metric returned NaN or infinity."""


def want(reconstructions: pa.Table, metrics: list[Resolved]) -> pa.Table:
    """The comparisons that are needed: each distinct (input, content of a reconstruction, metric) once.

    `reconstructions` has input_id and content_id of those that were made.
    """
    inputs, contents_ = _columns(reconstructions, "input_id", "content_id")
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


def samples(
    candidates: pa.Table, reconstructions: pa.Table, similarities: pa.Table, metrics: list[Resolved]
) -> pa.Table:
    """A row of SAMPLE for each candidate, reconstruction and metric.

    `reconstructions` has source_id (the candidate's content), input_id, content_id and sample_index; those of one
    input with the same index share their seed. What could not be compared has no row.
    """
    found = dict(zip(similarities["similarity_id"].to_pylist(), similarities["value"].to_pylist(), strict=True))
    made: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for input_, source, content, index in zip(
        *_columns(reconstructions, "input_id", "source_id", "content_id", "sample_index"), strict=True
    ):
        made.setdefault((input_, source), []).append((index, content))
    rows: list[tuple] = []
    for metric in metrics:
        print_ = metric.fingerprint
        for id_, input_, source in zip(*_columns(candidates, "generation_id", "input_id", "content_id"), strict=True):
            for index, content in made.get((input_, source), ()):
                value = found.get(similarity_id(input_, content, print_))
                if value is not None:
                    rows.append((id_, input_, index, metric.name, print_, value))
    table = pa.Table.from_pylist([dict(zip(SAMPLE.names, row, strict=True)) for row in rows], schema=SAMPLE)
    return table.sort_by([(name, "ascending") for name in ("metric", "input_id", "generation_id", "sample_index")])


def scores(samples: pa.Table) -> pa.Table:
    """The Score view: mean, population standard deviation and count of each candidate's samples, by metric.

    A candidate without any reconstruction that could be scored has no row.
    """
    groups: dict[tuple, list[float]] = {}
    # In order of sample index, so that a mean's last bits do not depend on the order of the rows.
    *keys, values = _columns(
        samples.sort_by("sample_index"), "generation_id", "input_id", "metric", "fingerprint", "value"
    )
    for *key, value in zip(*keys, values, strict=True):
        groups.setdefault(tuple(key), []).append(value)
    rows = [(*key, np.mean(group), np.std(group), len(group)) for key, group in groups.items()]
    return score_view([dict(zip(records.SCORE.names, row, strict=True)) for row in rows])


def score_view(rows: list[dict[str, Any]]) -> pa.Table:
    """Score records in the order of the view."""
    table = pa.Table.from_pylist(rows, schema=records.SCORE)
    return table.sort_by([(name, "ascending") for name in ("input_id", "generation_id", "metric")])


def of_metric(rows: pa.Table, metric: str) -> pa.Table:
    """The rows of one metric, or of the mix, among samples or scores."""
    return rows.filter(pc.equal(rows["metric"], metric))


def _columns(rows: pa.Table, *names: str) -> list[list[Any]]:
    return [rows[name].to_pylist() for name in names]
