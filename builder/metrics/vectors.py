"""Cosines of embeddings, with a cache so that each distinct item is embedded once."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

# Vectors that a worker keeps: about 100 MB of 768 numbers each.
KEPT = 16_384


class Vectors:
    """Cosines of embedded items; a worker keeps the vectors that it used last, `kept` of them.

    `embed` turns items into vectors, shape (items, dimension); a vector must not depend on its neighbours. Items with
    the same `key` are the same.
    """

    def __init__(self, embed: Callable[[list[Any]], np.ndarray], key: Callable[[Any], str], kept: int = KEPT):
        self._embed, self._key, self._limit = embed, key, kept
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def cosines(self, inputs: list[Any], reconstructions: list[Any]) -> np.ndarray:
        """Cosine in [-1, 1] of each input with its reconstruction, shape (pairs,); NaN for a vector of zeros."""
        x, y = ([self._key(item) for item in items] for items in (inputs, reconstructions))
        distinct = dict(zip([*x, *y], [*inputs, *reconstructions], strict=True))
        vectors = {key: self._kept.pop(key) for key in distinct if key in self._kept}
        # Sorted by key, so that the batches do not depend on the order of the rows.
        new = sorted(distinct.keys() - vectors.keys())
        if new:
            made = np.asarray(self._embed([distinct[key] for key in new]), dtype=np.float64)
            with np.errstate(invalid="ignore"):
                made /= np.linalg.norm(made, axis=1, keepdims=True)
            vectors |= dict(zip(new, made, strict=True))
        self._keep(vectors)
        # Rounding can make the cosine of equal vectors exceed 1.
        return np.clip([vectors[a] @ vectors[b] for a, b in zip(x, y, strict=True)], -1, 1)

    def _keep(self, vectors: dict[str, np.ndarray]) -> None:
        self._kept.update(vectors)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
