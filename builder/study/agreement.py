"""How often preferences agree with the truth, which only the embedded world knows.

Agreement is the share of pairs in which the better-scored candidate is truly better; pairs with equal truth are left
out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from cyclepref.builder.run.content import content_by_id, locate
from cyclepref.builder.run.store import Store
from cyclepref.builder.shapeworld import grammar, oracle
from cyclepref.schemas.cycle import Cycle

DRAWS = 10_000  # bootstrap draws: the interval's ends then vary by less than a twentieth of its width


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] and its number of pairs; None if there are no pairs."""

    share: float | None
    pairs: int


@dataclass(frozen=True)
class Gain:
    """The difference between two judges' shares on the same pairs, in [-1, 1], with its 95% interval.

    All None if there are no pairs.
    """

    gain: float | None
    low: float | None
    high: float | None
    pairs: int
    inputs: int


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], its 95% interval (inputs are drawn with all their pairs), and its number of pairs.

    All but `pairs` are None if there are no pairs.
    """

    share: float | None
    low: float | None
    high: float | None
    pairs: int


def truths(store: Store, cycle: Cycle) -> dict[str, float]:
    """True alignment in [0, 1] of every candidate of a ShapeWorld run, by its generation_id.

    An input is named by its scene's description. Captions are read by the grammar, images by the image oracle.
    """
    candidates = store.read_view("candidates")
    candidates = candidates.filter(pa.compute.equal(candidates["status"], "ok"))
    sources = store.rows("sources", ["input_id", "source"])
    names = dict(zip(sources["input_id"].to_pylist(), sources["source"].to_pylist(), strict=True))
    ids = candidates["generation_id"].to_pylist()
    scenes = [grammar.parse(names[id_]) for id_ in candidates["input_id"].to_pylist()]
    if cycle.candidate == "text":
        texts = candidates["text"].to_pylist()
        values = [oracle.truth(scene, text) for scene, text in zip(scenes, texts, strict=True)]
    else:
        images = content_by_id(store, "generations", "generation_id", ids)
        values = oracle.truth_of_images(scenes, [images[id_] for id_ in ids])
    return dict(zip(ids, values, strict=True))


def lengths(store: Store, cycle: Cycle) -> dict[str, float]:
    """The length of each candidate, a shortcut that a judge must not rely on: words of a caption, PNG bytes of an
    image."""
    candidates = store.read_view("candidates")
    candidates = candidates.filter(pa.compute.equal(candidates["status"], "ok"))
    ids = candidates["generation_id"].to_pylist()
    if cycle.candidate == "text":
        return {id_: len(text.split()) for id_, text in zip(ids, candidates["text"].to_pylist(), strict=True)}
    return dict(zip(ids, map(len, _encoded(store, ids)), strict=True))


def agreement(pairs: pa.Table, truth: dict[str, float], score: Callable[[str], float] | None = None) -> Share:
    """Share of pairs ordered as the truth orders them: by their chosen side, or by `score` of a candidate's id.

    A tie of `score` counts one half.
    """
    right = _right(pairs, truth, score)
    return Share(float(right.mean()) if len(right) else None, len(right))


def by_margin_quartile(pairs: pa.Table, truth: dict[str, float]) -> list[Share]:
    """Agreement of the chosen side in each quarter of the pairs with unequal truth, the smallest margins first."""
    informative = _informative(pairs, truth)
    ordered = informative.sort_by([("margin", "ascending"), ("pair_id", "ascending")])
    bounds = np.linspace(0, ordered.num_rows, 5).round().astype(int)
    return [agreement(ordered.slice(a, b - a), truth) for a, b in pairwise(bounds)]


def upper_half(pairs: pa.Table, truth: dict[str, float]) -> Share:
    """Agreement of the chosen side in the half of the pairs with unequal truth that has the larger margins."""
    third, fourth = by_margin_quartile(pairs, truth)[2:]
    count = third.pairs + fourth.pairs
    right = sum(quarter.share * quarter.pairs for quarter in (third, fourth) if quarter.share is not None)
    return Share(right / count if count else None, count)


def gain(pairs: pa.Table, truth: dict[str, float], score: Callable[[str], float], seed: int = 0) -> Gain:
    """How much more often `score` is right than the chosen side is, with the interval of a paired bootstrap by input.

    Inputs are drawn with all their pairs (the pairs of one input share candidates, so they are not independent), and
    both judges use the same draws: percentile bootstrap, Efron & Tibshirani 1993, chapter 13.
    """
    informative = _informative(pairs, truth)
    if not informative.num_rows:
        return Gain(None, None, None, 0, 0)
    ahead = _right(informative, truth, score) - _right(informative, truth, None)
    low, high, inputs = _interval(ahead, informative, seed)
    return Gain(float(ahead.mean()), low, high, len(ahead), inputs)


def share_interval(
    pairs: pa.Table, truth: dict[str, float], score: Callable[[str], float] | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95% interval of `agreement`, with the bootstrap by input of `gain`.

    Raises ValueError if no pair has unequal truth.
    """
    informative = _informative(pairs, truth)
    if not informative.num_rows:
        raise ValueError("without a pair of unequal truth there is no interval: ask `agreement` first")
    return _interval(_right(informative, truth, score), informative, seed)[:2]


def estimate(pairs: pa.Table, truth: dict[str, float], score: Callable[[str], float] | None = None) -> Estimate:
    """`agreement` with its interval."""
    found = agreement(pairs, truth, score)
    low, high = share_interval(pairs, truth, score) if found.pairs else (None, None)
    return Estimate(found.share, low, high, found.pairs)


def tied(pairs: pa.Table, truth: dict[str, float]) -> Estimate:
    """The share of pairs, of all, whose candidates are equally true: labelled although neither is better."""
    if not pairs.num_rows:
        return Estimate(None, None, None, 0)
    level = np.array([truth[a] == truth[b] for a, b in zip(*_sides(pairs), strict=True)], dtype=float)
    low, high, _ = _interval(level, pairs, seed=0)
    return Estimate(float(level.mean()), low, high, pairs.num_rows)


def _interval(values: np.ndarray, pairs: pa.Table, seed: int) -> tuple[float, float, int]:
    """The 95% interval of the mean of the pairs' values if inputs are drawn with all their pairs; how many inputs."""
    _, owner = np.unique(pairs["input_id"].to_pylist(), return_inverse=True)
    total, count = np.bincount(owner, values), np.bincount(owner)
    inputs = len(count)
    draws = np.random.default_rng(seed).multinomial(inputs, [1 / inputs] * inputs, size=DRAWS)
    low, high = np.percentile((draws @ total) / (draws @ count), [2.5, 97.5])
    return float(low), float(high), inputs


def _informative(pairs: pa.Table, truth: dict[str, float]) -> pa.Table:
    gaps = [truth[a] - truth[b] for a, b in zip(*_sides(pairs), strict=True)]
    return pairs.filter(pa.array([gap != 0 for gap in gaps], pa.bool_()))


def _right(pairs: pa.Table, truth: dict[str, float], score: Callable[[str], float] | None) -> np.ndarray:
    chosen, rejected = _sides(_informative(pairs, truth))
    true_gap = np.array([truth[a] - truth[b] for a, b in zip(chosen, rejected, strict=True)])
    if score is None:
        return (true_gap > 0).astype(float)
    gap = np.array([score(a) - score(b) for a, b in zip(chosen, rejected, strict=True)])
    return np.where(gap == 0, 0.5, (np.sign(gap) == np.sign(true_gap)).astype(float))


def _sides(pairs: pa.Table) -> tuple[list[Any], list[Any]]:
    return pairs["chosen_id"].to_pylist(), pairs["rejected_id"].to_pylist()


def _encoded(store: Store, ids: list[str]) -> list[bytes]:
    rows = pa.table({"generation_id": ids, "order": range(len(ids))})
    made = store.rows("generations", ["generation_id"])
    rows = locate(rows, "it", "generation_id", made, "generation_id").sort_by("order")
    places = rows["it_part"].to_pylist(), rows["it_row"].to_pylist()
    return store.fetch("generations", *places, columns=["image"])["image"].to_pylist()
