"""Best of n: the expected true score of the candidate that a judge picks from n, exact over all draws of n."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cyclepref.builder.reward.evaluation.bootstrap import intervals

SIZES = (1, 2, 4, 8, 16)
ORACLE = "best possible"
# One input's candidates: (number of the input, their true scores, judge -> its scores).
Group = tuple[int, np.ndarray, dict[str, np.ndarray]]


def expected_best(truth: np.ndarray, scores: np.ndarray, n: int) -> float:
    """The mean true score of the candidate with the largest score among n of the N given, over all C(N, n) draws.

    By order statistics: the i-th largest (from 0) is the largest in C(N-1-i, n-1) of the draws. Candidates with equal
    scores are picked with equal probability. `truth` and `scores` are (N,).

    Raises:
        ValueError: if n is not between 1 and N.
    """
    count = len(truth)
    if not 1 <= n <= count:
        raise ValueError(f"n must be between 1 and the {count} candidates, got {n}")
    _, level = np.unique(-scores, return_inverse=True)
    mean = np.bincount(level, truth) / np.bincount(level)
    chance = np.empty(count)
    chance[0] = n / count
    for i in range(count - 1):
        chance[i + 1] = chance[i] * max(0, count - n - i) / (count - 1 - i)
    return float(chance @ mean[np.sort(level)])


def curves(groups: Sequence[Group], sizes: Sequence[int] = SIZES) -> dict[str, Any] | None:
    """For each judge, and for an oracle that picks by the truth, the expected true score of the best of n.

    All points use the same inputs: those with enough candidates for the largest n, which is the largest of `sizes` that
    half of the inputs reach. Intervals are from a bootstrap over inputs. None if no input has two candidates.
    """
    counts = np.array([len(truth) for _, truth, _ in groups])
    used = [n for n in sizes if len(counts) and (counts >= n).mean() >= 0.5]
    if not used or used[-1] < 2:
        return None
    kept = [group for group in groups if len(group[1]) >= used[-1]]
    owner = np.array([number for number, _, _ in kept])
    values = {
        (name, n): np.array([expected_best(truth, judged.get(name, truth), n) for _, truth, judged in kept])
        for name in [*kept[0][2], ORACLE]
        for n in used
    }
    bounds = intervals(values, owner)
    lines = {
        name: [
            {"n": n, "score": float(values[name, n].mean()), "low": bounds[name, n][0], "high": bounds[name, n][1]}
            for n in used
        ]
        for name in [*kept[0][2], ORACLE]
    }
    mean = float(np.mean([truth.mean() for _, truth, _ in kept]))
    return {"inputs": len(np.unique(owner)), "of": len(groups), "mean": mean, "curves": lines}
