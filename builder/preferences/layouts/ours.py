"""Datasets of our own: a run directory, a published dataset, CyclePrefDB. The cycle score decides their pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from cyclepref.builder.preferences.layouts.items import Content, Judged, Picture
from cyclepref.builder.preferences.rankings import Rankings


@dataclass(frozen=True)
class CyclePref:
    """The published pairs of one split, input by input."""

    place: str
    rankings: Rankings
    pairs: pa.Table
    name: str = "cyclepref"
    scores: str | None = "cycle score"

    @property
    def split(self) -> str:
        """The split's name."""
        return self.rankings.split

    def __len__(self) -> int:
        return self.rankings.inputs.num_rows

    def __iter__(self) -> Iterator[Judged]:
        rows = np.asarray(self.rankings.candidates["row"])
        first = np.searchsorted(rows, np.arange(len(self) + 1))
        ids = self.rankings.inputs["input_id"].to_pylist()
        pairs, margins = self._grouped(rows, first)
        for at, input_id in enumerate(ids):
            yield self._judged(at, input_id, range(first[at], first[at + 1]), pairs[at], margins[at])

    def _grouped(self, rows: np.ndarray, first: np.ndarray) -> tuple[list, list]:
        pairs: list[list[tuple[int, int]]] = [[] for _ in range(len(self))]
        margins: list[list[float]] = [[] for _ in range(len(self))]
        columns = (self.pairs[name].to_pylist() for name in ("chosen", "rejected", "margin"))
        for chosen, rejected, margin in zip(*columns, strict=True):
            row = rows[chosen]
            pairs[row].append((int(chosen - first[row]), int(rejected - first[row])))
            margins[row].append(margin)
        return pairs, margins

    def _judged(self, at: int, input_id: str, places: range, pairs: list, margins: list) -> Judged:
        found, images = self.rankings.candidates.slice(places.start, len(places)), self.rankings.images
        of_text = self.rankings.cycle.candidate == "text"
        sign = 1 if self.rankings.higher_is_better else -1
        values = [sign * value for value in found["value"].to_pylist()]
        candidates: list[Content] = found["text"].to_pylist()
        if not of_text:
            ids = found["generation_id"].to_pylist()
            candidates = [
                Picture(f"candidate {id_}", partial(images.of_candidate, place))
                for id_, place in zip(ids, places, strict=True)
            ]
            shared: Content = self.rankings.inputs["text"][at].as_py()
        else:
            shared = Picture(f"input {input_id}", partial(images.of_input, at))
        models = found["model"].to_pylist()
        return Judged("text" if of_text else "image", input_id, shared, candidates, models, values, pairs, margins)
