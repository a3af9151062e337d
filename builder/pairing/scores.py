"""Similarities -> samples and cycle scores of candidates: mean, spread and count by metric."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.schemas import records
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
    """A row of SAMPLE for each candidate, reconstruction and metric; one for each candidate of a metric that compares
    candidates themselves, as sample 0.

    `reconstructions` has source_id (the candidate's content), input_id, content_id and sample_index; those of one
    input with the same index share their seed. `similarities` has input_id, content_id, fingerprint and value. What
    could not be compared has no row.
    """
    made = reconstructions.select(["input_id", "source_id", "content_id", "sample_index"])
    keys = ["input_id", "content_id"]
    of = candidates.select(["generation_id", *keys]).rename_columns(["generation_id", "input_id", "source_id"])
    back = of.join(made, keys=["input_id", "source_id"], join_type="inner").combine_chunks()
    itself = candidates.select(["generation_id", *keys]).combine_chunks()
    itself = itself.append_column("sample_index", pa.repeat(0, itself.num_rows))
    # What was compared, and the two ids that name a comparison as one text.
    of_kind = {what: (rows, _together(rows)) for what, rows in (("reconstruction", back), ("candidate", itself))}
    tables = [SAMPLE.empty_table()]
    for metric in metrics:
        rows, compared = of_kind[metric.spec.compares]
        found = similarities.filter(pc.equal(similarities["fingerprint"], metric.fingerprint)).combine_chunks()
        value = found["value"].combine_chunks().take(pc.index_in(compared, value_set=_together(found)))
        mine = rows.select(["generation_id", "input_id", "sample_index"])
        mine = mine.append_column("metric", pa.repeat(metric.name, rows.num_rows))
        mine = mine.append_column("fingerprint", pa.repeat(metric.fingerprint, rows.num_rows))
        mine = mine.append_column("value", value)
        tables.append(mine.filter(pc.is_valid(value)))
    table = pa.concat_tables(tables)
    return table.sort_by([(name, "ascending") for name in ("metric", "input_id", "generation_id", "sample_index")])


def _together(rows: pa.Table) -> pa.Array:
    """What was compared in each row, as one text: an input and the content of a reconstruction."""
    return pc.binary_join_element_wise(rows["input_id"], rows["content_id"], "/").combine_chunks()


def cycle_scores(samples: pa.Table) -> pa.Table:
    """The Score view: mean, population standard deviation and count of each candidate's samples, by metric.

    A candidate without any reconstruction that could be scored has no row.
    """
    keys = ("input_id", "generation_id", "metric", "fingerprint")
    # In order of sample index, so that a mean's last bits do not depend on the order of the rows.
    rows = samples.sort_by([(name, "ascending") for name in (*keys, "sample_index")]).combine_chunks()
    starts, counts = runs(rows, keys)
    values = np.asarray(rows["value"])
    mean, spread = np.empty(len(starts)), np.empty(len(starts))
    for count in np.unique(counts):
        mine = counts == count
        drawn = values[starts[mine][:, None] + np.arange(count)]
        mean[mine], spread[mine] = drawn.mean(axis=1), drawn.std(axis=1)
    firsts = rows.select(["generation_id", "input_id", "metric", "fingerprint"]).take(pa.array(starts))
    for name, column in (("value", mean), ("spread", spread), ("n", counts)):
        firsts = firsts.append_column(name, pa.array(column))
    return score_view(firsts)


def runs(rows: pa.Table, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of rows with equal keys begins, and how many rows it has. They stand in order."""
    if not rows.num_rows:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    begins = np.ones(rows.num_rows, dtype=bool)
    begins[1:] = False
    for key in keys:
        column = rows[key].combine_chunks()
        begins[1:] |= np.asarray(pc.not_equal(column[1:], column[:-1]))
    starts = np.flatnonzero(begins)
    return starts, np.diff(np.append(starts, rows.num_rows))


def score_view(rows: pa.Table) -> pa.Table:
    """Score records in the order of the view."""
    return rows.cast(records.SCORE).sort_by([(name, "ascending") for name in ("input_id", "generation_id", "metric")])


def of_metric(rows: pa.Table, metric: str) -> pa.Table:
    """The rows of one metric, or of the mix, among samples or cycle scores."""
    return rows.filter(pc.equal(rows["metric"], metric))
