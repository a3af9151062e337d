"""The models of a run ranked by their pairs: who beats whom, and Bradley-Terry strengths with intervals by input."""

from dataclasses import dataclass

import numpy as np

from cyclepref.builder.report.gallery import Gallery

DRAWS = 200
LEVELS = (2.5, 97.5)
# A model that was never beaten has no finite strength: every two models that met are given half a win each (Agresti's
# way with empty cells), which moves others by little.
PRIOR = 0.5


@dataclass(frozen=True)
class Ranking:
    """`wins[a][b]`: pairs in which a candidate of model a was chosen over one of model b; a candidate that several
    models made counts for each in equal parts. `strength` is the share of wins that Bradley-Terry (1952) expects of a
    model against the others on average, in [0, 1], with its 95% interval; None where a model has no pair with another.
    """

    models: list[str]
    wins: np.ndarray
    strength: list[tuple[float, float, float] | None]


def rank_models(gallery: Gallery, seed: int = 0) -> Ranking:
    """Rank a gallery's models. The interval is a percentile bootstrap that draws inputs with all their pairs, since the
    pairs of one input share candidates (Efron & Tibshirani 1993, chapter 13)."""
    owner, cell, weight = _contests(gallery)
    count, size = len(gallery.models), len(gallery.inputs)
    wins = np.bincount(cell, weight, minlength=count**2).reshape(count, count)
    middle = expected_shares(wins)
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS if len(cell) else 0):
        times = np.bincount(random.integers(size, size=size), minlength=size)
        drawn.append(expected_shares(np.bincount(cell, weight * times[owner], minlength=count**2).reshape(wins.shape)))
    bounds = np.nanpercentile(drawn, LEVELS, axis=0) if drawn else np.full((2, count), np.nan)
    known = (wins + wins.T).sum(axis=1) > 0
    strength = [
        (float(middle[at]), float(bounds[0][at]), float(bounds[1][at])) if known[at] else None for at in range(count)
    ]
    return Ranking(gallery.models, wins, strength)


def expected_shares(wins: np.ndarray) -> np.ndarray:
    """What share of its pairs each model is expected to win against each other model with pairs, on average; shape
    (models,), NaN for a model without pairs. `wins` (models, models) counts wins of the row over the column."""
    # Loaded here, since it brings pandas.
    import evalica

    met = (wins + wins.T) > 0
    wins = wins + PRIOR * met
    rows, columns = np.nonzero(wins)
    if not len(rows):
        return np.full(len(wins), np.nan)
    fitted = evalica.bradley_terry(
        rows.tolist(),
        columns.tolist(),
        [evalica.Winner.X] * len(rows),
        weights=wins[rows, columns].tolist(),
        limit=1000,
    )
    strength = np.full(len(wins), np.nan)
    strength[fitted.scores.index.to_numpy(dtype=int)] = fitted.scores.to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        against = strength[:, None] / (strength[:, None] + strength[None, :])
    np.fill_diagonal(against, np.nan)
    shares = np.full(len(wins), np.nan)
    there = ~np.isnan(against).all(axis=1)
    shares[there] = np.nanmean(against[there], axis=1)
    return shares


def _contests(gallery: Gallery) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each win of a model over another: the number of its input, its cell in the matrix of wins, its weight."""
    place = {name: at for at, name in enumerate(gallery.models)}
    owner, cell, weight = [], [], []
    for number, each in enumerate(gallery.inputs):
        for pair in each.pairs:
            won, lost = (each.candidates[at].models for at in (pair.chosen, pair.rejected))
            for a in won:
                for b in lost:
                    if a != b:
                        owner.append(number)
                        cell.append(place[a] * len(place) + place[b])
                        weight.append(1 / (len(won) * len(lost)))
    return np.array(owner, np.int64), np.array(cell, np.int64), np.array(weight, np.float64)
