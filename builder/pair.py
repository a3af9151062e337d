"""Scores -> preference pairs. Pure: no model, no files; the one place that reads a metric's direction.

CyclePrefDB's rule (CycleReward, arXiv 2506.02095): every two candidates of one input are a pair, except equal
outputs, scores that are closer than a threshold, and pairs whose better candidate is itself poor. Here the
labels do not depend on the order in which candidates are listed.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import records
from schemas.cycle import Modality
from schemas.ids import pair_id
from schemas.recipe import Pairing

# Scores are compared as integers of this unit. On one type of CPU a score is the same to the last bit, whatever ran
# beside it. Where it is made again elsewhere, noise below a unit moves a gap by two units at most, and by none nearly
# always: it can never swap the labels of a pair if min_margin is 3e-6 or more, and it can bring in or leave out only
# pairs whose gap is within two units of min_margin (or whose chosen score is within one of poor_chosen).
UNIT = 1e-6


@dataclass(frozen=True)
class PairCount:
    """What became of every two candidates: possible = equal_outputs + too_close + poor_chosen + kept."""

    possible: int
    equal_outputs: int
    too_close: int
    poor_chosen: int
    kept: int

    def to_dict(self) -> dict[str, int]:
        """For run.json."""
        return asdict(self)


@dataclass(frozen=True)
class Direction:
    """What pairing has to know of the scores: the metric's name and direction, and an id of all that made them."""

    metric: str
    scored_by: str
    higher_is_better: bool


def pair(
    candidates: pa.Table, scores: pa.Table, modality: Modality, direction: Direction, rule: Pairing
) -> tuple[pa.Table, PairCount]:
    """Pair the scored candidates of each input: the Pair view, ordered by (input_id, pair_id), and what was left out.

    `candidates` and `scores` as in schemas/records.py, in any order. Two candidates of one input with the same
    score to 1e-6 are never a pair, whatever `min_margin` is.
    """
    scored = candidates.select(["generation_id", "input_id", "model", "content_id", "text"]).join(
        scores.select(["generation_id", "value"]), keys="generation_id", join_type="inner"
    )
    distinct = distinct_outputs(scored, modality)
    oriented = np.rint(np.asarray(distinct["value"], dtype=np.float64) / UNIT).astype(np.int64)
    sign = 1 if direction.higher_is_better else -1
    oriented = sign * oriented
    first, second = _all_pairs(distinct["input_id"])
    gap = oriented[first] - oriented[second]
    close = (np.abs(gap) < _units(rule.min_margin)) | (gap == 0)
    chosen, rejected = np.where(gap > 0, first, second), np.where(gap > 0, second, first)
    poor = np.zeros_like(close)
    if rule.poor_chosen is not None:
        poor = ~close & (oriented[chosen] < sign * _units(rule.poor_chosen))
    kept = ~close & ~poor
    table = _table(distinct, chosen[kept], rejected[kept], np.abs(gap[kept]), direction)
    possible = len(_all_pairs(scored.sort_by("input_id")["input_id"])[0])
    count = PairCount(possible, possible - len(first), int(close.sum()), int(poor.sum()), table.num_rows)
    return table, count


def distinct_outputs(scored: pa.Table, modality: Modality) -> pa.Table:
    """One row for each distinct output of an input: the one with the smallest id, and all models that made it.

    `scored` has generation_id, input_id, model, content_id, text and value.

    Texts are equal after strip and lower-case, images if their pixels are.
    """
    same = pc.utf8_lower(pc.utf8_trim_whitespace(scored["text"])) if modality == "text" else scored["content_id"]
    rows = scored.append_column("same", same).sort_by(
        [("input_id", "ascending"), ("same", "ascending"), ("generation_id", "ascending")]
    )
    grouped = rows.group_by(["input_id", "same"], use_threads=False).aggregate(
        [("generation_id", "first"), ("model", "first"), ("value", "first"), ("model", "distinct")]
    )
    models = pa.array([sorted(names) for names in grouped["model_distinct"].to_pylist()], pa.list_(pa.string()))
    return pa.table(
        {
            "input_id": grouped["input_id"],
            "generation_id": grouped["generation_id_first"],
            "model": grouped["model_first"],
            "value": grouped["value_first"],
            "models": models,
        }
    )


def _all_pairs(input_ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (i, j), i < j, of every two rows with one input; rows of one input stand together."""
    codes = np.asarray(input_ids.to_numpy(zero_copy_only=False), dtype=object)
    count = len(codes)
    if count == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    ends = np.append(starts[1:], count)
    last = np.repeat(ends, ends - starts)
    later = last - np.arange(count) - 1
    first = np.repeat(np.arange(count), later)
    step = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    return first, first + 1 + step


def _table(rows: pa.Table, chosen: np.ndarray, rejected: np.ndarray, gap: np.ndarray, direction: Direction) -> pa.Table:
    better, worse = rows.take(pa.array(chosen)), rows.take(pa.array(rejected))
    ids = [
        pair_id(a, b, direction.scored_by)
        for a, b in zip(better["generation_id"].to_pylist(), worse["generation_id"].to_pylist(), strict=True)
    ]
    columns = {
        "pair_id": pa.array(ids, pa.string()),
        "input_id": better["input_id"],
        "chosen_id": better["generation_id"],
        "rejected_id": worse["generation_id"],
        "chosen_model": better["model"],
        "rejected_model": worse["model"],
        "chosen_models": better["models"],
        "rejected_models": worse["models"],
        "metric": pa.array([direction.metric] * len(ids), pa.string()),
        "chosen_score": better["value"],
        "rejected_score": worse["value"],
        "margin": pa.array(gap * UNIT, pa.float64()),
    }
    return pa.table(columns, schema=records.PAIR).sort_by([("input_id", "ascending"), ("pair_id", "ascending")])


def _units(value: float) -> int:
    return round(value / UNIT)
