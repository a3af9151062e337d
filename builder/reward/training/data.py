"""Preference datasets for training: one item is an input with its candidates and its pairs.

Pairs of one input share its image or text and most of their candidates. Read input by input, the shared side is
encoded once and every candidate is scored once, however many pairs it is in: 8 candidates make up to 28 pairs, which
is 8 rewards instead of 56.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cyclepref.builder.common.progress import Stage, stage
from cyclepref.builder.preferences.filters import Filters
from cyclepref.builder.preferences.layouts.as_rankings import open_layout
from cyclepref.builder.preferences.load import select
from cyclepref.builder.preferences.rankings import LoadError, Rankings


class PreferenceError(LoadError):
    """A preference dataset that cannot be used for training; the message names the place, the value and the rule."""


class SplitImage(NamedTuple):
    """An image of a split, read on demand."""

    split: "PreferenceSplit"
    of: str  # "input" or "candidate"
    place: int

    def read(self) -> bytes:
        """The encoded image."""
        images = self.split.rankings.images
        return images.of_input(self.place) if self.of == "input" else images.of_candidate(self.place)

    def __str__(self) -> str:
        rankings = self.split.rankings
        table, column = (rankings.inputs, "input_id") if self.of == "input" else (rankings.candidates, "generation_id")
        return f"{self.of} {table[column][self.place].as_py()} of {self.split}"


@dataclass(frozen=True)
class PreferenceInput:
    """One input with its candidates: one image and many texts (i2t2i), or many images and one text (t2i2t).

    Candidate k is (image k, text k); the input's side is the same for all. `pairs` are (chosen, rejected) as indices of
    candidates; `margins`, one for each pair, are in the units of the deciding score.
    """

    cycle: str
    generation_ids: list[str]
    images: list[SplitImage]
    texts: list[str]
    pairs: list[tuple[int, int]]
    margins: list[float]


class PreferenceSplit(torch.utils.data.Dataset):
    """One split of a preference dataset: `split[i]` is its i-th input; its images are read on demand.

    `generation_ids` are those of all candidates, input by input; `pairs[i]` and `margins[i]` belong to input i.
    """

    def __init__(self, rankings: Rankings, pairs: pa.Table):
        self.rankings, self.name = rankings, rankings.split
        self.cycle = rankings.cycle.name
        self.generation_ids: list[str] = rankings.candidates["generation_id"].to_pylist()
        rows = np.asarray(rankings.candidates["row"])
        self._first = np.searchsorted(rows, np.arange(rankings.inputs.num_rows + 1))
        self.pairs, self.margins = _grouped(str(self), rows, self._first, pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PreferenceInput:
        places = range(self._first[index], self._first[index + 1])
        if self.cycle == "i2t2i":
            images = [SplitImage(self, "input", index)]
            texts = self.rankings.candidates["text"][places.start : places.stop].to_pylist()
        else:
            images = [SplitImage(self, "candidate", place) for place in places]
            texts = [self.rankings.inputs["text"][index].as_py()]
        ids = self.generation_ids[places.start : places.stop]
        return PreferenceInput(self.cycle, ids, images, texts, self.pairs[index], self.margins[index])

    @property
    def pair_count(self) -> int:
        """The number of pairs in the split."""
        return sum(map(len, self.pairs))

    @property
    def with_pairs(self) -> list[int]:
        """Indices of the inputs that have a pair."""
        return [index for index, pairs in enumerate(self.pairs) if pairs]

    def __str__(self) -> str:
        return str(self.rankings)


def load_preferences(
    source: str | Path, filters: Filters | None = None, revision: str | None = None, progress: Stage = stage
) -> dict[str, PreferenceSplit]:
    """All splits of a preference dataset that have inputs, by name; every pair is in exactly one.

    `source` is what `cyclepref.builder.preferences.load.load_pairs` reads (a finished run, a dataset folder,
    CyclePrefDB's layout, or a repository on the Hub), or a dataset in another layout (see
    `cyclepref.builder.preferences.layouts.as_rankings.open_layout`). `filters` leave out pairs (see
    `cyclepref.builder.preferences.filters.Filters`).

    Raises:
        LoadError: if there is no dataset, or it is inconsistent.
        PreferenceError: if it has no input; if a margin is missing or not a finite number; if a pair compares
            candidates of two inputs, a candidate with itself, or two that another pair compares.
    """
    opened = open_layout(source, revision, progress)
    splits = {name: opened.read(name) for name in opened.splits()}
    if not splits:
        raise PreferenceError(f"the dataset at {source} is empty: it has no input in any split")
    filters = filters or Filters()
    return {name: PreferenceSplit(read, select(read, filters)[0]) for name, read in splits.items()}


def _grouped(
    where: str, rows: np.ndarray, first: np.ndarray, pairs: pa.Table
) -> tuple[list[list[tuple[int, int]]], list[list[float]]]:
    """The pairs of each input, as (chosen, rejected) places among its candidates, and their margins."""
    grouped: list[list[tuple[int, int]]] = [[] for _ in first[1:]]
    margins: list[list[float]] = [[] for _ in first[1:]]
    seen: set[frozenset[int]] = set()
    columns = (pairs[name].to_pylist() for name in ("pair_id", "chosen", "rejected", "margin"))
    for pair_id, chosen, rejected, margin in zip(*columns, strict=True):
        _check(where, pair_id, rows, chosen, rejected, margin, seen)
        row = rows[chosen]
        grouped[row].append((int(chosen - first[row]), int(rejected - first[row])))
        margins[row].append(float(margin))
    return grouped, margins


def _check(where: str, pair_id: str, rows: Any, chosen: int, rejected: int, margin: Any, seen: set) -> None:
    both = frozenset((chosen, rejected))
    if margin is None or not 0 <= margin < float("inf"):
        raise PreferenceError(f"{where}: pair {pair_id} has the margin {margin}; it must be a number of 0 or more")
    if rows[chosen] != rows[rejected]:
        raise PreferenceError(f"{where}: pair {pair_id} compares candidates of two inputs")
    if len(both) < 2 or both in seen:
        raise PreferenceError(f"{where}: pair {pair_id} compares one candidate, or two that were compared before")
    seen.add(both)
