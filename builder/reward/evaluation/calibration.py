"""Whether sigmoid(difference of rewards) is the probability that it claims to be."""

from typing import Any

import numpy as np

BINS = 10


def calibration(gaps: np.ndarray) -> dict[str, Any]:
    """Reliability of a Bradley-Terry reward, where `gaps` (pairs,) are the better candidate's reward minus the worse's.

    Its confidence in its own choice is sigmoid(|gap|), in [0.5, 1); it is right if the gap is positive. `bins` are
    equal in width: confidence and accuracy are means over the pairs in each; empty ones are left out. `error` is the
    expected calibration error, the mean of |accuracy - confidence| over bins weighted by pairs (Guo et al. 2017, arXiv
    1706.04599, equation 3), `overconfidence` the mean of confidence - accuracy. They lie in [0, 0.5] and [-0.5, 0.5].
    """
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    hits = (gaps > 0) + 0.5 * (gaps == 0)
    part = np.minimum((2 * (confidence - 0.5) * BINS).astype(int), BINS - 1)
    bins = []
    for at in range(BINS):
        mine = part == at
        if mine.any():
            edges = {"from": 0.5 + at / (2 * BINS), "to": 0.5 + (at + 1) / (2 * BINS)}
            means = {"confidence": float(confidence[mine].mean()), "accuracy": float(hits[mine].mean())}
            bins.append({**edges, **means, "pairs": int(mine.sum())})
    error = sum(each["pairs"] * abs(each["accuracy"] - each["confidence"]) for each in bins) / len(gaps)
    return {"bins": bins, "error": error, "overconfidence": float((confidence - hits).mean())}
