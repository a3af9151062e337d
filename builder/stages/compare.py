"""Inputs x reconstructions or candidates -> similarities; their mean, spread and count for each candidate -> scores."""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.run.store import flat
from cyclepref.builder.stages.accounting import Accountant, Count
from cyclepref.builder.stages.model_stage import MEASURED_BATCHES_PER_PART, Content, Measuring, ModelStage, write_values
from cyclepref.schemas.id_columns import similarity_ids
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import MetricSpec

STAGE = "scores"
WANTED = pa.schema(
    [(name, pa.string()) for name in ("input_id", "content_id", "similarity_id", "model", "fingerprint")]
)


class NotANumber(ValueError):
    """A metric returned NaN or infinity."""


def wanted_similarities(reconstructions: pa.Table, candidates: pa.Table, metrics: list[Resolved]) -> pa.Table:
    """The comparisons that are needed: each distinct (input, content, metric) once, the content being of a
    reconstruction or of a candidate, as the metric compares.

    Both tables have input_id and content_id of what was made.
    """
    made = {"reconstruction": reconstructions, "candidate": candidates}
    distinct_of = {
        what: rows.select(["input_id", "content_id"])
        .group_by(["input_id", "content_id"], use_threads=False)
        .aggregate([])
        for what, rows in made.items()
    }
    tables = []
    for metric in metrics:
        distinct = distinct_of[metric.spec.compares]
        columns = {
            "input_id": distinct["input_id"],
            "content_id": distinct["content_id"],
            "similarity_id": similarity_ids(
                flat(distinct["input_id"]), flat(distinct["content_id"]), metric.fingerprint
            ),
            "model": pa.repeat(metric.name, distinct.num_rows),
            "fingerprint": pa.repeat(metric.fingerprint, distinct.num_rows),
        }
        tables.append(pa.table(columns, schema=WANTED))
    return pa.concat_tables([WANTED.empty_table(), *tables])


def compare(wanted: pa.Table, metrics: list[Resolved], accountant: Accountant, engine: Engine) -> dict[str, Count]:
    """Compute the wanted similarities that the store does not have; counts by metric."""
    return SCORING.run(wanted, {metric.name: metric.spec for metric in metrics}, accountant, engine)


class Comparer(Measuring):
    """Loads a metric; gives every row (an input `x`, a reconstruction or candidate `y`) a similarity."""

    def __init__(self, spec: MetricSpec):
        metric = load_metric(spec)
        super().__init__(metric, metric.compare, _checked)


def _checked(result: Any) -> Any:
    if isinstance(result, Exception) or np.isfinite(result):
        return result
    return NotANumber(f"the metric returned {result}")


SCORING = ModelStage(
    name=STAGE,
    table="similarities",
    key="similarity_id",
    worker=Comparer,
    roles={"x": Content("input_id", {"inputs": "input_id"}), "y": Content("content_id", {"generations": "content_id"})},
    order=("x_part", "x_row", "content_id"),
    write=partial(write_values, stage=STAGE, table="similarities", key="similarity_id"),
    rows_per_part=lambda spec: spec.batch_size * MEASURED_BATCHES_PER_PART,
)
