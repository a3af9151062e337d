"""How much of the scores the model that made a candidate explains, counted input by input."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

Makers = tuple[str, ...]
Labels = Counter[tuple[Makers, Makers]]  # of pairs, by the models that made the chosen and the rejected candidate


class ModelScores:
    """The scores of one metric by model. A candidate that several models made counts for each of them."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        self._ahead: Counter[str] = Counter()  # of the mean of the same input
        self._squares = 0.0

    def add(self, made: Sequence[tuple[Makers, float]]) -> None:
        """Count one input: who made each of its candidates, and their scores."""
        rows = [(model, value) for models, value in made for model in models]
        middle = float(np.mean([value for _, value in rows])) if rows else 0.0
        for model, value in rows:
            self._count[model] += 1
            self._total[model] += value
            self._ahead[model] += value - middle
            self._squares += (value - middle) ** 2

    def mean(self, models: Makers) -> float:
        """The mean score of a model; of several, the mean of theirs."""
        return float(np.mean([self._total[model] / self._count[model] for model in models]))

    def explained(self) -> float | None:
        """Eta squared: the share, in [0, 1], of the scores' variance within inputs that lies between models.

        With d the difference of a score from the mean of its input, and a(m) the mean of d over model m's n(m)
        candidates: sum of n(m) a(m)^2 over models / sum of d^2 over candidates. None if no scores of an input differ.
        """
        between = sum(total**2 / self._count[model] for model, total in self._ahead.items())
        return min(1.0, between / self._squares) if self._squares else None

    def predicted(self, labels: Labels, sign: int) -> float | None:
        """The share of pairs whose chosen candidate is of the model with the better mean score, equal means counting
        one half; `sign` is 1 if higher is better and -1 if lower is. None without pairs."""
        hits = 0.0
        for (chosen, rejected), count in labels.items():
            gap = sign * (self.mean(chosen) - self.mean(rejected))
            hits += count * (0.5 if gap == 0 else float(gap > 0))
        return hits / labels.total() if labels else None


def within_share(labels: Labels) -> float | None:
    """The share of pairs whose two candidates some model made both of. None without pairs."""
    same = sum(count for (chosen, rejected), count in labels.items() if not set(chosen).isdisjoint(rejected))
    return same / labels.total() if labels else None
