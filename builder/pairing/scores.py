"""Similarities -> samples_of and cycle cycle_scores of candidates: mean, spread and count by metric."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.schemas import records
from cyclepref.schemas.ids import similarity_id
from cyclepref.schemas.resolved import Resolved

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


def samples_of(
    candidates: pa.Table, reconstructions: pa.Table, similarities: pa.Table, metrics: list[Resolved]
) -> pa.Table:
    """A row of SAMPLE for each candidate, reconstruction and metric.

    `reconstructions` has source_id (the candidate's content), input_id, content_id and sample_index; those of one
    input with the same index share their seed. What could not be compared has no row.
    """
    found = dict(zip(similarities["similarity_id"].to_pylist(), similarities["value"].to_pylist(), strict=True))
    made: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for input_, source, content, index in zip(
        *columns(reconstructions, "input_id", "source_id", "content_id", "sample_index"), strict=True
    ):
        made.setdefault((input_, source), []).append((index, content))
    rows: list[tuple] = []
    for metric in metrics:
        print_ = metric.fingerprint
        for id_, input_, source in zip(*columns(candidates, "generation_id", "input_id", "content_id"), strict=True):
            for index, content in made.get((input_, source), ()):
                value = found.get(similarity_id(input_, content, print_))
                if value is not None:
                    rows.append((id_, input_, index, metric.name, print_, value))
    table = pa.Table.from_pylist([dict(zip(SAMPLE.names, row, strict=True)) for row in rows], schema=SAMPLE)
    return table.sort_by([(name, "ascending") for name in ("metric", "input_id", "generation_id", "sample_index")])


def cycle_scores(samples_of: pa.Table) -> pa.Table:
    """The Score view: mean, population standard deviation and count of each candidate's samples_of, by metric.

    A candidate without any reconstruction that could be scored has no row.
    """
    groups: dict[tuple, list[float]] = {}
    # In order of sample index, so that a mean's last bits do not depend on the order of the rows.
    *keys, values = columns(
        samples_of.sort_by("sample_index"), "generation_id", "input_id", "metric", "fingerprint", "value"
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
    """The rows of one metric, or of the mix, among samples_of or cycle_scores."""
    return rows.filter(pc.equal(rows["metric"], metric))


def columns(rows: pa.Table, *names: str) -> list[list[Any]]:
    """Columns of a table as lists, in the order of `names`."""
    return [rows[name].to_pylist() for name in names]
