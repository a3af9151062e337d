"""Confidence intervals of means over pairs, by a bootstrap that draws inputs with all of their pairs.

The pairs of one input share candidates, so they are not independent, and a percentile bootstrap by input (Efron &
Tibshirani 1993, chapter 13) draws inputs. All judges use the same draws, so that their differences are paired.
"""

import numpy as np

DRAWS = 2_000
LEVELS = (2.5, 97.5)
Interval = tuple[float, float] | tuple[None, None]


def intervals(values: dict[str, np.ndarray], owner: np.ndarray, seed: int = 0) -> dict[str, Interval]:
    """The 95% interval of the mean of each column of `values`, each (pairs,), `owner` (pairs,) naming the input. With a
    single input both ends are None: every draw would be the same and the interval would have no width.

    The result depends on the values and the order of the inputs' names, not on the order of pairs or on other columns.
    """
    names = list(values)
    _, place = np.unique(owner, return_inverse=True)
    count = np.bincount(place)
    if len(count) == 1:
        return dict.fromkeys(names, (None, None))
    total = np.stack([np.bincount(place, values[name], minlength=len(count)) for name in names])
    random = np.random.default_rng(seed)
    draws = np.empty((DRAWS, len(names)))
    for at in range(DRAWS):
        weight = np.bincount(random.integers(len(count), size=len(count)), minlength=len(count))
        draws[at] = total @ weight / (count @ weight)
    low, high = np.percentile(draws, LEVELS, axis=0)
    return {name: (float(low[at]), float(high[at])) for at, name in enumerate(names)}
