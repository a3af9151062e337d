"""Scores -> preference pairs. Pure: no model, no files; the one place that reads a metric's direction.

CyclePrefDB's rule (CycleReward, arXiv 2506.02095): every two candidates of one input are a pair, except equal
outputs, scores that are closer than a threshold, and pairs whose better candidate is itself poor. Here the
labels do not depend on the order in which candidates are listed.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from cyclepref.schemas import records
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import pair_id
from cyclepref.schemas.recipe import Pairing

# Scores are compared as integers of this unit. On one type of CPU a score is the same to the last bit, whatever ran
# beside it. Where it is made again elsewhere, noise below a unit moves a gap by two units at most, and by none nearly
# always: it can never swap the labels of a pair if min_margin is 3e-6 or more, and it can bring in or leave out only
# pairs whose gap is within two units of min_margin (or whose chosen score is within one of poor_chosen).
UNIT = 1e-6


@dataclass(frozen=True)
class PairCount:
    """What became of every two candidates:
    possible = equal_outputs + too_close + within_noise + poor_chosen + kept."""

    possible: int
    equal_outputs: int
    too_close: int
    within_noise: int
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

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        return 1 if self.higher_is_better else -1

    def oriented(self, values: np.ndarray) -> np.ndarray:
        """Scores as integers of UNIT, the higher the better."""
        return self.sign * np.rint(values / UNIT).astype(np.int64)

    def place(self, value: float, low: float, high: float) -> float:
        """Where a score lies between its worst (0) and its best (1) possible value, [low, high] being its range."""
        return (value - low if self.higher_is_better else high - value) / (high - low)


def pair(
    candidates: pa.Table,
    scores: pa.Table,
    modality: Modality,
    direction: Direction,
    rule: Pairing,
    samples: pa.Table | None = None,
) -> tuple[pa.Table, PairCount]:
    """Pair the scored candidates of each input: the Pair view, ordered by (input_id, pair_id), and what was left out.

    `candidates` and `scores` as in schemas/records.py, in any order, the scores of one metric. `samples`, which
    `min_margin_sd` needs, has generation_id, sample_index and value. Two candidates of one input with the same
    score to 1e-6 are never a pair, whatever `min_margin` is.
    """
    scored = candidates.select(["generation_id", "input_id", "model", "content_id", "text"]).join(
        scores.select(["generation_id", "value"]), keys="generation_id", join_type="inner"
    )
    distinct = distinct_outputs(scored, modality)
    oriented = direction.oriented(np.asarray(distinct["value"], dtype=np.float64))
    first, second = _all_pairs(distinct["input_id"])
    gap = oriented[first] - oriented[second]
    close = (np.abs(gap) < _units(rule.min_margin)) | (gap == 0)
    chosen, rejected = np.where(gap > 0, first, second), np.where(gap > 0, second, first)
    noisy = ~close & _within_noise(distinct["generation_id"].to_pylist(), first, second, gap, rule, samples)
    poor = np.zeros_like(close)
    if rule.poor_chosen is not None:
        poor = ~close & ~noisy & (oriented[chosen] < direction.sign * _units(rule.poor_chosen))
    kept = ~close & ~noisy & ~poor
    table = _table(distinct, chosen[kept], rejected[kept], np.abs(gap[kept]), direction)
    possible = len(_all_pairs(scored.sort_by("input_id")["input_id"])[0])
    left_out = (possible - len(first), int(close.sum()), int(noisy.sum()), int(poor.sum()))
    return table, PairCount(possible, *left_out, table.num_rows)


def paired_errors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Standard error of the difference of two means over the same seeds, shape (pairs,); NaN below two seeds.

    `first` and `second`, shape (pairs, samples), hold the scores of the two candidates' reconstructions, NaN where
    there is none. The reconstructions of all candidates of an input share their seeds, so the samples are paired,
    and what the seeds do to both cancels: with d the n differences of those that both have,
    sqrt(sum((d - mean(d))**2) / (n - 1)) / sqrt(n) (Student 1908, The probable error of a mean, Biometrika 6).
    """
    difference = first - second
    there = ~np.isnan(difference)
    count = there.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, difference, 0).sum(axis=1) / count
        squares = np.where(there, difference - mean[:, None], 0) ** 2
        error = np.sqrt(squares.sum(axis=1) / (count - 1) / count)
    return np.where(count < 2, np.nan, error)


def _within_noise(
    ids: list[str], first: np.ndarray, second: np.ndarray, gap: np.ndarray, rule: Pairing, samples: pa.Table | None
) -> np.ndarray:
    """Which pairs' margins are below `min_margin_sd` standard errors, or have too few samples to know."""
    if rule.min_margin_sd is None:
        return np.zeros(len(gap), dtype=bool)
    if samples is None:
        raise ValueError("min_margin_sd needs the samples behind the scores")
    values = np.full((len(ids), max(samples["sample_index"].to_pylist(), default=0) + 1), np.nan)
    row = {id_: at for at, id_ in enumerate(ids)}
    for id_, index, value in zip(
        *(samples[n].to_pylist() for n in ("generation_id", "sample_index", "value")), strict=True
    ):
        if id_ in row:
            values[row[id_], index] = value
    needed = np.rint(rule.min_margin_sd * paired_errors(values[first], values[second]) / UNIT)
    # Written so that an unknown error, NaN, is within noise.
    return ~(np.abs(gap) >= needed)


def same_text(text: str) -> str:
    """What two texts that count as equal have in common (CyclePrefDB's rule: strip and lower-case).

    By Python's strings alone: Arrow lower-cases a final sigma and a dotted capital I otherwise, and strips less.
    """
    return text.strip().lower()


def same_output(scored: pa.Table, modality: Modality) -> pa.Array | pa.ChunkedArray:
    """What makes two outputs of one input equal: a text as `same_text` says, an image by its pixels."""
    if modality == "image":
        return scored["content_id"]
    return pa.array(map(same_text, scored["text"].to_pylist()), pa.string())


def distinct_outputs(scored: pa.Table, modality: Modality) -> pa.Table:
    """One row for each distinct output of an input: the one with the smallest id, and all models that made it.

    `scored` has generation_id, input_id, model, content_id, text and value.
    """
    rows = scored.append_column("same", same_output(scored, modality)).sort_by(
        [("input_id", "ascending"), ("same", "ascending"), ("generation_id", "ascending")]
    )
    grouped = rows.group_by(["input_id", "same"], use_threads=False).aggregate(
        [("generation_id", "first"), ("model", "first"), ("value", "first"), ("model", "distinct")]
    )
    # Arrow's groups come in no order that could be relied on, and whoever pairs takes an input's rows from one place.
    grouped = grouped.sort_by([("input_id", "ascending"), ("same", "ascending")])
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
