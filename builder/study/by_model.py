"""What of the agreement with the truth is due to which model made a candidate, and what to the candidate itself.

A label may be right because it knows the better model: "always prefer the candidate whose model has the higher mean
cycle score" is right of such pairs without looking at any candidate. What that judge cannot order are pairs of one
model with itself, and it is wrong about upsets. Whoever uses the score on the samples of one model (best of n, DPO,
RL) lives on the former.
"""

import numpy as np
import pyarrow as pa

from cyclepref.builder.pairing.pair import Direction
from cyclepref.builder.study.agreement import Estimate, Gain, estimate, gain


def model_means(candidates: pa.Table, scores: pa.Table, direction: Direction) -> dict[str, float]:
    """Each model's mean cycle score over its scored candidates, with its sign changed if lower is better."""
    value = dict(zip(*(scores[name].to_pylist() for name in ("generation_id", "value")), strict=True))
    found: dict[str, list[float]] = {}
    for id_, model in zip(*(candidates[name].to_pylist() for name in ("generation_id", "model")), strict=True):
        if id_ in value:
            found.setdefault(model, []).append(value[id_])
    return {model: direction.sign * float(np.mean(values)) for model, values in found.items()}


def of_model(pairs: pa.Table, means: dict[str, float]) -> dict[str, float]:
    """For each candidate of the pairs the mean score of its model; of several that made it, the mean of theirs."""
    makers: dict[str, list[str]] = {}
    for side in ("chosen", "rejected"):
        makers |= zip(pairs[f"{side}_id"].to_pylist(), pairs[f"{side}_models"].to_pylist(), strict=True)
    return {id_: float(np.mean([means[model] for model in models])) for id_, models in makers.items()}


def within(pairs: pa.Table) -> pa.Table:
    """The pairs whose two candidates are of one model: some model made both."""
    sides = zip(pairs["chosen_models"].to_pylist(), pairs["rejected_models"].to_pylist(), strict=True)
    return pairs.filter(pa.array([not set(a).isdisjoint(b) for a, b in sides], pa.bool_()))


def upsets(pairs: pa.Table, truth: dict[str, float], mean: dict[str, float]) -> pa.Table:
    """The pairs whose truly better candidate is of the model with the lower mean score; `mean` as of `of_model`."""
    sides = zip(pairs["chosen_id"].to_pylist(), pairs["rejected_id"].to_pylist(), strict=True)
    return pairs.filter(pa.array([(truth[a] - truth[b]) * (mean[a] - mean[b]) < 0 for a, b in sides], pa.bool_()))


def estimates(
    pairs: pa.Table, every_two: pa.Table, truth: dict[str, float], means: dict[str, float]
) -> dict[str, Estimate]:
    """Agreement of the cycle score within a model, on the pairs and on every two candidates, and on upsets of the
    pairs; and that of the judge by the models' means on the pairs, whose ties (two candidates of one model) count half.
    """
    mean = of_model(pairs, means)
    return {
        "same_model": estimate(within(pairs), truth),
        "same_model_every_two": estimate(within(every_two), truth),
        "upsets": estimate(upsets(pairs, truth, mean), truth),
        "model_mean_baseline": estimate(pairs, truth, mean.__getitem__),
    }


def gain_of_means(pairs: pa.Table, truth: dict[str, float], means: dict[str, float]) -> Gain:
    """How much more often the judge by the models' means is right of the pairs than the cycle score is."""
    return gain(pairs, truth, of_model(pairs, means).__getitem__)
