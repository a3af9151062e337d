"""Scores -> preference pairs. Pure: no model, no files; the one place that reads a metric's direction.

CyclePrefDB's rule (CycleReward, arXiv 2506.02095): every two candidates of one input are a pair, except equal
outputs, scores that are closer than a threshold, and pairs whose better candidate is itself poor. Here the
labels do not depend on the order in which candidates are listed.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.schemas import records
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.id_columns import hex_of, pair_digests
from cyclepref.schemas.recipe import Pairing

# Scores are compared as integers of this unit. On one type of CPU a score is the same to the last bit, whatever ran
# beside it. Where it is made again elsewhere, noise below a unit moves a gap by two units at most, and by none nearly
# always: it can never swap the labels of a pair if min_margin is 3e-6 or more, and it can bring in or leave out only
# pairs whose gap is within two units of min_margin (or whose chosen score is within one of poor_chosen).
UNIT = 1e-6
# What Python strips of a text that is ASCII.
ASCII_SPACE = " \t\n\v\f\r\x1c\x1d\x1e\x1f"


@dataclass(frozen=True)
class PairCount:
    """What became of every two candidates:
    possible = equal_outputs + too_close + within_noise + poor_chosen + other_models + kept."""

    possible: int
    equal_outputs: int
    too_close: int
    within_noise: int
    poor_chosen: int
    other_models: int
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
    scored = _scored(candidates, scores)
    distinct = distinct_outputs(scored, modality)
    oriented = direction.oriented(np.asarray(distinct["value"], dtype=np.float64))
    first, second = _all_pairs(_codes(distinct["input_id"]))
    gap = oriented[first] - oriented[second]
    close = (np.abs(gap) < _units(rule.min_margin)) | (gap == 0)
    chosen, rejected = np.where(gap > 0, first, second), np.where(gap > 0, second, first)
    noisy = ~close & _within_noise(distinct["generation_id"], first, second, gap, rule, samples)
    poor = np.zeros_like(close)
    if rule.poor_chosen is not None:
        poor = ~close & ~noisy & (oriented[chosen] < direction.sign * _units(rule.poor_chosen))
    kept = ~close & ~noisy & ~poor
    other = np.zeros_like(close)
    if rule.within == "model" or rule.balance is not None:
        other[kept] = _of_too_many_models(distinct, chosen[kept], rejected[kept], rule, direction)
        kept &= ~other
    table = _table(distinct, chosen[kept], rejected[kept], np.abs(gap[kept]), direction)
    of_input = np.bincount(_codes(scored["input_id"]))
    possible = int((of_input * (of_input - 1) // 2).sum())
    left_out = (possible - len(first), int(close.sum()), int(noisy.sum()), int(poor.sum()), int(other.sum()))
    return table, PairCount(possible, *left_out, table.num_rows)


def _scored(candidates: pa.Table, scores: pa.Table) -> pa.Table:
    """The candidates that have a score, with their `value`."""
    at = pc.index_in(flat_of(candidates["generation_id"]), value_set=flat_of(scores["generation_id"]))
    values = flat_of(scores["value"]).take(at)
    columns = candidates.select(["generation_id", "input_id", "model", "content_id", "text"])
    return columns.append_column("value", values).filter(pc.is_valid(at))


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
    ids: pa.ChunkedArray,
    first: np.ndarray,
    second: np.ndarray,
    gap: np.ndarray,
    rule: Pairing,
    samples: pa.Table | None,
) -> np.ndarray:
    """Which pairs' margins are below `min_margin_sd` standard errors, or have too few samples to know."""
    if rule.min_margin_sd is None:
        return np.zeros(len(gap), dtype=bool)
    if samples is None:
        raise ValueError("min_margin_sd needs the samples behind the scores")
    at = pc.index_in(flat_of(samples["generation_id"]), value_set=flat_of(ids))
    there = np.asarray(pc.is_valid(at))
    index = np.asarray(samples["sample_index"], dtype=np.int64)
    values = np.full((len(ids), int(index.max(initial=0)) + 1), np.nan)
    values[np.asarray(at.drop_null()), index[there]] = np.asarray(samples["value"], dtype=np.float64)[there]
    needed = np.rint(rule.min_margin_sd * paired_errors(values[first], values[second]) / UNIT)
    # Written so that an unknown error, NaN, is within noise.
    return ~(np.abs(gap) >= needed)


def _of_too_many_models(
    rows: pa.Table, chosen: np.ndarray, rejected: np.ndarray, rule: Pairing, direction: Direction
) -> np.ndarray:
    """Which pairs of different models `within` and `balance` leave out."""
    across = ~_one_model(rows["models"], chosen, rejected)
    if rule.balance is None:
        return across
    input_ = _codes(rows["input_id"])[chosen]
    own = np.bincount(input_[~across], minlength=int(input_.max(initial=-1)) + 1)
    # A hair is added so that a whole number that a float falls short of is not lost.
    room = np.floor(own * (1 - rule.balance) / rule.balance + 1e-9).astype(np.int64)
    at = np.flatnonzero(across)
    ids = flat_of(rows["generation_id"])
    made = pair_digests(ids.take(pa.array(chosen[at])), ids.take(pa.array(rejected[at])), direction.scored_by)
    at = at[_in_order(flat_of(rows["input_id"]), chosen[at], made)]  # by input, then by the pair's id
    starts = np.flatnonzero(np.diff(_codes(flat_of(rows["input_id"]).take(pa.array(chosen[at]))), prepend=-1))
    place = np.arange(len(at)) - np.repeat(starts, np.diff(np.append(starts, len(at))))
    left_out = np.zeros(len(chosen), dtype=bool)
    left_out[at[place >= room[input_[at]]]] = True
    return left_out


def _one_model(models: pa.ChunkedArray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether some model made both outputs of each pair; `models` lists the models of each output."""
    lists = flat_of(models)
    owner = np.asarray(pc.list_parent_indices(lists), dtype=np.int64)
    names = _codes(pc.list_flatten(lists))
    made = np.zeros((len(lists), int(names.max(initial=-1)) + 1), dtype=bool)
    made[owner, names] = True
    found = np.zeros(len(first), dtype=bool)
    for by in made.T:  # one model at a time, in flat memory
        found |= by[first] & by[second]
    return found


def same_text(text: str) -> str:
    """What two texts that count as equal have in common (CyclePrefDB's rule: strip and lower-case).

    By Python's strings alone: Arrow lower-cases a final sigma and a dotted capital I otherwise, and strips less.
    """
    return text.strip().lower()


def same_output(scored: pa.Table, modality: Modality) -> pa.Array | pa.ChunkedArray:
    """What makes two outputs of one input equal: a text as `same_text` says, an image by its pixels."""
    if modality == "image":
        return scored["content_id"]
    texts = flat_of(scored["text"])
    if pc.all(pc.string_is_ascii(texts)).as_py():  # of which Arrow and Python think alike
        return pc.ascii_lower(pc.ascii_trim(texts, ASCII_SPACE))
    return pa.array(map(same_text, texts.to_pylist()), pa.string())


def distinct_outputs(scored: pa.Table, modality: Modality) -> pa.Table:
    """One row for each distinct output of an input: the one with the smallest id, and all models that made it.

    `scored` has generation_id, input_id, model, content_id, text and value. Rows of one input stand together.
    """
    rows = scored.select(["input_id", "generation_id", "model", "value"])
    rows = rows.append_column("same", same_output(scored, modality))
    rows = rows.sort_by([("input_id", "ascending"), ("generation_id", "ascending")]).combine_chunks()
    input_, same = (_codes(rows[name]) for name in ("input_id", "same"))
    # Stable, so that of equal outputs the first is still the one with the smallest id.
    order = np.lexsort((same, input_))
    changes = (np.diff(input_[order]) != 0) | (np.diff(same[order]) != 0)
    output = np.zeros(len(order), dtype=np.int64)
    output[order[1:]] = np.cumsum(changes)
    firsts = order[np.concatenate([[True], changes])] if len(order) else order
    distinct = rows.select(["input_id", "generation_id", "model", "value"]).take(pa.array(firsts))
    return distinct.append_column("models", _models(output, flat_of(rows["model"]), len(firsts)))


def _models(output: np.ndarray, models: pa.Array, outputs: int) -> pa.Array:
    """The names of all models that made each output, in order; `output` says which one each of `models` made."""
    names = pa.array(sorted(pc.unique(models).to_pylist()), pa.string())
    made = np.unique(output * max(1, len(names)) + np.asarray(pc.index_in(models, value_set=names), dtype=np.int64))
    counts = np.bincount(made // max(1, len(names)), minlength=outputs)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, names.take(pa.array(made % max(1, len(names)))))


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number for each value: equal where the values are, in order of first appearance."""
    return np.asarray(flat_of(column).dictionary_encode().indices, dtype=np.int64)


def flat_of(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _all_pairs(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (i, j), i < j, of every two rows with one input; rows of one input stand together."""
    count = len(inputs)
    if count == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], inputs[1:] != inputs[:-1]]))
    ends = np.append(starts[1:], count)
    last = np.repeat(ends, ends - starts)
    later = last - np.arange(count) - 1
    first = np.repeat(np.arange(count), later)
    step = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    return first, first + 1 + step


def _table(rows: pa.Table, chosen: np.ndarray, rejected: np.ndarray, gap: np.ndarray, direction: Direction) -> pa.Table:
    ids = flat_of(rows["generation_id"])
    made = pair_digests(ids.take(pa.array(chosen)), ids.take(pa.array(rejected)), direction.scored_by)
    order = _in_order(flat_of(rows["input_id"]), chosen, made)
    better, worse = rows.take(pa.array(chosen[order])), rows.take(pa.array(rejected[order]))
    columns = {
        "pair_id": hex_of(made[order]),
        "input_id": better["input_id"],
        "chosen_id": better["generation_id"],
        "rejected_id": worse["generation_id"],
        "chosen_model": better["model"],
        "rejected_model": worse["model"],
        "chosen_models": better["models"],
        "rejected_models": worse["models"],
        "metric": pa.repeat(direction.metric, len(order)),
        "chosen_score": better["value"],
        "rejected_score": worse["value"],
        "margin": pa.array(gap[order] * UNIT, pa.float64()),
    }
    return pa.table(columns, schema=records.PAIR)


def _in_order(inputs: pa.Array, chosen: np.ndarray, made: np.ndarray) -> np.ndarray:
    """The order of pairs by (input_id, pair_id), `made` being the bytes of the pairs' ids, shape (n, 16)."""
    high, low = made.view(">u8").astype(np.uint64).T if len(made) else np.empty((2, 0), dtype=np.uint64)
    rank = _ranks(inputs)[chosen].astype(np.uint64)
    if not len(made) or rank.max() >= 2**20:
        return np.lexsort((low, high, rank))
    # As one number, with the beginning of the id below the input: half the time, if no two are equal.
    key = (rank << np.uint64(44)) | (high >> np.uint64(20))
    order = np.argsort(key)
    return order if (np.diff(key[order]) > 0).all() else np.lexsort((low, high, rank))


def _ranks(values: pa.Array) -> np.ndarray:
    """The place of each value among the distinct ones, in order."""
    encoded = values.dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), dtype=np.int64)
    ranks[np.asarray(pc.sort_indices(encoded.dictionary))] = np.arange(len(ranks))
    return ranks[np.asarray(encoded.indices)]


def _units(value: float) -> int:
    return round(value / UNIT)
