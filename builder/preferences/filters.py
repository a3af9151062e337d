"""Filters on the pairs of a split: thresholds on margins, a limit for each input, balanced models. Pure.

The result depends only on the pairs and the settings: if some of many are taken, hashes of their ids decide which.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from cyclepref.builder.pairing.pair import UNIT
from cyclepref.builder.preferences.rankings import Rankings
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.ids import digest


class FilterError(CyclePrefError, ValueError):
    """Filters that are not valid, or that leave no pair."""


@dataclass(frozen=True)
class Filters:
    """Filters, applied in this order; the default keeps every pair.

    - `min_margin`, `max_margin`: margins in the deciding metric's own units, both ends kept, compared as integers of
      1e-6 as in builder/pairing/pair.py
    - `top_vs_bottom`: keeps of each input only its best candidate against its worst, if that is a pair
    - `max_pairs_per_input`: keeps at most so many pairs of each input, chosen by the hash of their ids
    - `balance_by_model`: for every two models, keeps as many wins of one as of the other, chosen by the hash of their
      ids, so that a reward that knows only the models' names is right half of the time. Pairs of one model's own
      candidates stay.

    Raises:
        FilterError: if a value is outside its range.
    """

    min_margin: float | None = None
    max_margin: float | None = None
    top_vs_bottom: bool = False
    max_pairs_per_input: int | None = None
    balance_by_model: bool = False

    def __post_init__(self) -> None:
        for name in ("min_margin", "max_margin"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise FilterError(f"{name} is {value!r}: a margin is a number of 0 or more, in the metric's own units")
        if self.min_margin is not None and self.max_margin is not None and self.max_margin < self.min_margin:
            raise FilterError(
                f"max_margin {self.max_margin:g} is below min_margin {self.min_margin:g}: no pair can meet both"
            )
        if self.max_pairs_per_input is not None and self.max_pairs_per_input < 1:
            raise FilterError(f"max_pairs_per_input is {self.max_pairs_per_input!r}: give 1 or more, or leave it out")

    @property
    def given(self) -> dict[str, object]:
        """The filters that are not at their default, by name."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }

    def apply(self, rankings: Rankings, pairs: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        """The pairs (a table of `cyclepref.builder.preferences.rankings.PAIRS`) that are kept, and how many each filter
        removed.

        Raises:
            FilterError: if models are to be balanced and the model of a candidate is not known.
        """
        removed = {}
        for name in self.given:
            kept = STEPS[name](self, rankings, pairs)
            removed[name] = len(kept) - int(kept.sum())
            pairs = pairs.filter(pa.array(kept))
        return pairs, removed


def _units(values: object) -> np.ndarray:
    return np.rint(np.asarray(values, dtype=np.float64) / UNIT).astype(np.int64)


def _top_vs_bottom(filters: Filters, rankings: Rankings, pairs: pa.Table) -> np.ndarray:
    """Choose by scores, and by hash if two candidates share the best or the worst score."""
    values, rows = _units(rankings.candidates["value"]), np.asarray(rankings.candidates["row"])
    low = np.full(rankings.inputs.num_rows, np.iinfo(np.int64).max)
    high = np.full(rankings.inputs.num_rows, np.iinfo(np.int64).min)
    np.minimum.at(low, rows, values)
    np.maximum.at(high, rows, values)
    chosen, rejected = np.asarray(pairs["chosen"]), np.asarray(pairs["rejected"])
    extremes = np.sort(np.stack([values[chosen], values[rejected]]), axis=0)
    wide = (extremes[0] == low[rows[chosen]]) & (extremes[1] == high[rows[chosen]])
    groups = (row if at else None for row, at in zip(rows[chosen].tolist(), wide.tolist(), strict=True))
    return _first_of(groups, _hashes(rankings, pairs), lambda group: 1)


def _max_per_input(filters: Filters, rankings: Rankings, pairs: pa.Table) -> np.ndarray:
    rows = np.asarray(rankings.candidates["row"])[np.asarray(pairs["chosen"])].tolist()
    return _first_of(rows, _hashes(rankings, pairs), lambda group: int(filters.max_pairs_per_input or 0))


def _balance(filters: Filters, rankings: Rankings, pairs: pa.Table) -> np.ndarray:
    models = rankings.candidates["model"].to_pylist()
    if not all(models):
        raise FilterError(
            f"balance_by_model needs the model of each candidate, but {rankings} does not name them: leave it out"
        )
    sides = zip(*(pairs[side].to_pylist() for side in ("chosen", "rejected")), strict=True)
    wins = [(models[chosen], models[rejected]) for chosen, rejected in sides]
    counts: dict[object, int] = defaultdict(int)
    for each in wins:
        counts[each] += 1
    return _first_of(
        wins,
        _hashes(rankings, pairs),
        lambda each: counts[each] if each[0] == each[1] else min(counts[each], counts[each[::-1]]),
    )


def _hashes(rankings: Rankings, pairs: pa.Table) -> list[str]:
    ids = rankings.candidates["generation_id"].to_pylist()
    sides = zip(*(pairs[side].to_pylist() for side in ("chosen", "rejected")), strict=True)
    return [digest("keep", ids[chosen], ids[rejected]) for chosen, rejected in sides]


def _first_of(groups: Iterable, hashes: list[str], room: Callable[[object], int]) -> np.ndarray:
    """The rows with the smallest hashes of each group, as many as `room` says; rows of the group None are left out."""
    members: dict[object, list[tuple[str, int]]] = defaultdict(list)
    for at, group in enumerate(groups):
        if group is not None:
            members[group].append((hashes[at], at))
    kept = np.zeros(len(hashes), dtype=bool)
    for group, found in members.items():
        kept[[at for _, at in sorted(found)[: room(group)]]] = True
    return kept


Step = Callable[[Filters, Rankings, pa.Table], np.ndarray]
STEPS: dict[str, Step] = {
    "min_margin": lambda filters, _, pairs: _units(pairs["margin"]) >= _units(filters.min_margin),
    "max_margin": lambda filters, _, pairs: _units(pairs["margin"]) <= _units(filters.max_margin),
    "top_vs_bottom": _top_vs_bottom,
    "max_pairs_per_input": _max_per_input,
    "balance_by_model": _balance,
}
