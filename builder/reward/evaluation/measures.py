"""How often a judge prefers the better candidate: over all pairs, and where."""

from typing import Any

import numpy as np

from cyclepref.builder.reward.evaluation.bootstrap import intervals
from cyclepref.builder.reward.evaluation.collect import Collected


def right(gaps: np.ndarray) -> np.ndarray:
    """1 if the better candidate has the larger score, 0.5 if both scores are equal, else 0; (pairs,)."""
    return (gaps > 0) + 0.5 * (gaps == 0)


def accuracies(found: Collected, main: str) -> dict[str, dict[str, Any]]:
    """For each judge: pairwise accuracy in [0, 1] with its 95% interval, ties of its scores, and the same by margin
    quartile, by length quartile and by pair of models; `gain` is the accuracy of `main` minus the judge's."""
    hits = {name: right(gaps) for name, gaps in found.gaps.items()}
    ahead = {f"gain {name}": hits[main] - hits[name] for name in hits}
    bounds = intervals(hits | ahead, found.owner)
    table: dict[str, dict[str, Any]] = {}
    for name, values in hits.items():
        low, high = bounds[name]
        table[name] = {"accuracy": float(values.mean()), "low": low, "high": high}
        table[name]["equal_scores"] = int((found.gaps[name] == 0).sum())
        if name != main:
            low, high = bounds[f"gain {name}"]
            table[name]["gain"] = {"mean": float(ahead[f"gain {name}"].mean()), "low": low, "high": high}
        table[name]["by_margin"] = by_quartile(found.margin, values)
        table[name]["by_words"] = by_quartile(found.words, values)
        table[name]["by_models"] = by_models(found.models, values)
    return table


def by_quartile(values: np.ndarray, hits: np.ndarray) -> list[dict[str, float]]:
    """Accuracy in each quarter of `values`, smallest first: from, to, accuracy, pairs.

    Equal values are always in the same quarter, so quarters may differ in size or be missing.
    """
    known = ~np.isnan(values)
    values, hits = values[known], hits[known]
    if not len(values) or values.min() == values.max():
        return []
    part = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values, side="left")
    rows = []
    for quarter in np.unique(part):
        mine = part == quarter
        low, high = float(values[mine].min()), float(values[mine].max())
        rows.append({"from": low, "to": high, "accuracy": float(hits[mine].mean()), "pairs": int(mine.sum())})
    return rows


def by_models(models: list[tuple[str, str]], hits: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy for every two models, whichever of them made the better candidate; in order of name."""
    found: dict[tuple[str, ...], list[float]] = {}
    for both, hit in zip(models, hits.tolist(), strict=True):
        if all(both):
            found.setdefault(tuple(sorted(both)), []).append(hit)
    return [
        {"models": list(both), "accuracy": float(np.mean(mine)), "pairs": len(mine)}
        for both, mine in sorted(found.items())
    ]
