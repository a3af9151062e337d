"""What the scorers of a run say of its pairs, beside one another: each metric, the embedded world's truth, and length
alone; where they agree, and by how large a margin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cyclepref.builder.common.near_duplicates import alike, signature
from cyclepref.builder.report.gallery import Candidate, Gallery
from cyclepref.builder.reward.evaluation.bootstrap import intervals

LENGTH, TRUTH = "longer is better", "truth of the embedded world"
PARTS = 4
# Near-duplicates are looked for among the candidates of so many inputs.
NEAR_INPUTS = 200


@dataclass(frozen=True)
class Verdicts:
    """Of each pair: `owner`, the number of its input, its `margin`, and by how much each scorer prefers the chosen
    candidate, NaN where it does not know; all of shape (pairs,)."""

    owner: np.ndarray
    margin: np.ndarray
    gaps: dict[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """Pairs of margins from `low` to `high`: the share on which two agree, its 95% interval (None for one input), and
    how many pairs are behind it."""

    low: float
    high: float
    share: float
    interval: tuple[float, float] | tuple[None, None]
    pairs: int


def verdicts(gallery: Gallery) -> Verdicts:
    """What every scorer of a gallery says of its pairs. Length is a baseline: words of a caption; there is none of
    images."""
    scorers = scorers_of(gallery)
    owner, margin = [], []
    gaps: dict[str, list[float]] = {name: [] for name in scorers}
    for number, each in enumerate(gallery.inputs):
        for pair in each.pairs:
            owner.append(number)
            margin.append(pair.margin)
            for name, score in scorers.items():
                gaps[name].append(score(each.candidates[pair.chosen]) - score(each.candidates[pair.rejected]))
    arrays = {name: np.array(values, dtype=float) for name, values in gaps.items()}
    known = {name: values for name, values in arrays.items() if len(values) and not np.isnan(values).all()}
    return Verdicts(np.array(owner, dtype=np.int64), np.array(margin, dtype=float), known)


def scorers_of(gallery: Gallery) -> dict[str, Callable[[Candidate], float]]:
    """Scorer -> how good it finds a candidate, the higher the better; NaN where it does not know."""
    found: dict[str, Callable[[Candidate], float]] = {}
    for metric in gallery.metrics:
        sign = 1 if gallery.higher[metric] else -1
        found[metric] = lambda one, metric=metric, sign=sign: sign * one.scores.get(metric, np.nan)
    found[TRUTH] = lambda one: np.nan if one.truth is None else one.truth
    found[LENGTH] = lambda one: np.nan if one.text is None else float(len(one.text.split()))
    return found


def agreement(first: np.ndarray, second: np.ndarray) -> tuple[float | None, int]:
    """The share of pairs on which two prefer the same candidate, of those on which both prefer one; and how many."""
    both = ~np.isnan(first) & ~np.isnan(second) & (first != 0) & (second != 0)
    if not both.any():
        return None, 0
    return float((np.sign(first[both]) == np.sign(second[both])).mean()), int(both.sum())


def by_margin(found: Verdicts, gaps: np.ndarray) -> list[Part]:
    """How often a scorer prefers the chosen candidate, in each quarter of the margins; pairs that it finds equal, or
    does not know, are left out."""
    informative = ~np.isnan(gaps) & (gaps != 0)
    margin, owner, hit = found.margin[informative], found.owner[informative], (gaps[informative] > 0).astype(float)
    return parts_of(margin, owner, hit)


def parts_of(margin: np.ndarray, owner: np.ndarray, hit: np.ndarray) -> list[Part]:
    """Mean of `hit` (pairs,) in each quarter of the margins, smallest first, with intervals by input."""
    if not len(margin):
        return []
    order = np.argsort(margin, kind="stable")
    parts = []
    for some in np.array_split(order, PARTS):
        if len(some):
            bounds = intervals({"hit": hit[some]}, owner[some])["hit"]
            low, high = float(margin[some].min()), float(margin[some].max())
            parts.append(Part(low, high, float(hit[some].mean()), bounds, len(some)))
    return parts


def stability(gallery: Gallery) -> list[Part]:
    """How often other backward seeds give the same label, in each quarter of the margins: the sign over the one half of
    a pair's seeds against that over the other half. Empty where pairs have one seed."""
    sign = 1 if gallery.higher.get(gallery.decides, True) else -1
    margin, owner, hit = [], [], []
    for number, each in enumerate(gallery.inputs):
        for pair in each.pairs:
            a, b = each.candidates[pair.chosen].samples, each.candidates[pair.rejected].samples
            shared = sorted((seed for seed in a if seed in b), key=str)
            if len(shared) < 2:
                continue
            gaps = np.array([sign * (a[seed] - b[seed]) for seed in shared])
            first, second = gaps[::2].mean(), gaps[1::2].mean()
            margin.append(pair.margin)
            owner.append(number)
            hit.append(0.5 if first * second == 0 else float(first * second > 0))
    return parts_of(np.array(margin), np.array(owner, dtype=np.int64), np.array(hit))


def near_duplicates(gallery: Gallery, pictures: Callable[[Sequence[Candidate]], list]) -> tuple[int, int]:
    """How many of every two candidates of an input are nearly the same, and how many twos were looked at; of
    NEAR_INPUTS inputs at most. `pictures` decodes candidates that are images."""
    near = compared = 0
    step = max(1, len(gallery.inputs) // NEAR_INPUTS)
    for each in gallery.inputs[::step][:NEAR_INPUTS]:
        if gallery.cycle.candidate == "text":
            made = [signature(c.text or "", "text") for c in each.candidates]
        else:
            made = [signature(image, "image") for image in pictures(each.candidates)]
        compared += len(made) * (len(made) - 1) // 2
        near += sum(alike(made[a], made[b]) for a in range(len(made)) for b in range(a))
    return near, compared
