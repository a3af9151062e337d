"""Other people's preference datasets as rankings, for training; images stay on disk.

Their candidates have no cycle score: a candidate's value is the number of candidates that it was preferred to, minus
those that were preferred to it. A margin is the layout's own (a difference of ranks or ratings, a share of votes), or
1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from cyclepref.builder.common.progress import Stage, stage
from cyclepref.builder.preferences.layouts.audit import AUDIT
from cyclepref.builder.preferences.layouts.detect import OURS, layout_of, open_rows_of
from cyclepref.builder.preferences.layouts.items import Content, Judged, JudgedError, Picture
from cyclepref.builder.preferences.layouts.mapped import mapped
from cyclepref.builder.preferences.layouts.rows import split_names
from cyclepref.builder.preferences.load import PairSource, open_pairs
from cyclepref.builder.preferences.rankings import PAIRS, Rankings
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.ids import digest, pair_id, text_id
from cyclepref.schemas.recipe import Pairing

# Only judged pairs exist, so a lower threshold cannot add any.
EVERY_PAIR = Pairing(min_margin=0, poor_chosen=None)


@dataclass(frozen=True)
class ForeignSplits:
    """A dataset in the layout `name`, one of `cyclepref.builder.preferences.layouts.detect.FORMS`; null: its rows show
    which."""

    place: str
    name: str | None
    revision: str | None = None
    progress: Stage = stage

    def splits(self) -> list[str]:
        """The splits that its files are named after; "train" if no name contains one."""
        return self._named or ["train"]

    def read(self, split: str) -> Rankings:
        """One of its splits, without candidates that were never compared.

        Raises:
            JudgedError: if a row does not follow the layout.
        """
        rows = open_rows_of(self.name, self.place, split if self._named else None, self.revision)
        found = _Found()
        with self.progress(f"{Path(self.place).name}: {split} read", len(rows)) as tick:
            for item in replace(rows, rows=mapped(rows.rows)):
                found.add(item)
                tick(1)
        return found.rankings(self.place, split)

    @cached_property
    def _named(self) -> list[str]:
        return split_names(self.place, self.revision)


def open_layout(
    dataset: str | Path, revision: str | None = None, progress: Stage = stage
) -> PairSource | ForeignSplits:
    """Open a dataset for training, named as for `cyclepref.builder.preferences.layouts.detect.open_judged`.

    Raises:
        LoadError: if there is no readable dataset.
    """
    name, place = layout_of(str(dataset), revision)
    if name == AUDIT:
        raise JudgedError(
            f"{dataset} is an audit, which says how good labels are: train on the run, and evaluate on its audit"
        )
    return open_pairs(place, revision) if name == OURS else ForeignSplits(place, name, revision, progress)


def absolute(dataset: str) -> str:
    """The name of a dataset or model with its path made absolute, so that it is valid in every working directory."""
    name, colon, place = "", "", dataset
    if not Path(dataset).expanduser().exists():
        name, colon, place = dataset.rpartition(":")
    found = Path(place).expanduser()
    return f"{name}{colon}{found.resolve()}" if found.exists() else dataset


@dataclass
class _Found:
    """Inputs; their candidates, each with the model that made it; which was preferred to which, and by how much."""

    kind: str = ""
    inputs: dict[str, Content] = field(default_factory=dict)
    candidates: dict[str, dict[str, tuple[Content, str]]] = field(default_factory=dict)
    pairs: dict[frozenset[str], tuple[str, str, float]] = field(default_factory=dict)

    def add(self, item: Judged) -> None:
        """Add one input's judgements; of two pairs with the same candidates the first counts."""
        self.kind = item.kind
        if not item.pairs:
            return
        input_id = _id(item.shared)
        self.inputs.setdefault(input_id, item.shared)
        ids = [digest("layout", input_id, _id(candidate)) for candidate in item.candidates]
        for id_, *candidate in zip(ids, item.candidates, item.models, strict=True):
            self.candidates.setdefault(input_id, {}).setdefault(id_, tuple(candidate))
        for (better, worse), margin in zip(item.pairs, item.margins or [1.0] * len(item.pairs), strict=True):
            both = (ids[better], ids[worse])
            if len(set(both)) == 2:
                self.pairs.setdefault(frozenset(both), (*both, margin))

    def rankings(self, place: str, split: str) -> Rankings:
        """Everything that was added, input by input."""
        [cycle] = (cycle for cycle in CYCLES.values() if cycle.candidate == self.kind)
        mine = [
            (id_, row, model, content)
            for row, input_id in enumerate(self.inputs)
            for id_, (content, model) in self.candidates[input_id].items()
        ]
        at = {id_: number for number, (id_, *_) in enumerate(mine)}
        contents, values = [content for *_, content in mine], [0.0] * len(mine)
        for better, worse, _ in self.pairs.values():
            values[at[better]] += 1
            values[at[worse]] -= 1
        ids = pa.array(at, pa.string())
        candidates = pa.table(
            {
                "generation_id": ids,
                "row": pa.array([row for _, row, *_ in mine], pa.int64()),
                "model": pa.array([model for *_, model, _ in mine], pa.string()),
                "models": pa.array([[model] if model else [] for *_, model, _ in mine], pa.list_(pa.string())),
                "text": _texts(contents),
                "value": pa.array(values, pa.float64()),
                "same": ids,
            }
        )
        inputs = pa.table({"input_id": pa.array(self.inputs, pa.string()), "text": _texts(self.inputs.values())})
        pairs = [
            {"pair_id": pair_id(*both, "labels"), "chosen": at[both[0]], "rejected": at[both[1]], "margin": margin}
            for *both, margin in self.pairs.values()
        ]
        table = pa.Table.from_pylist(pairs, schema=PAIRS)
        images = _Pictures([each.read for each in (*self.inputs.values(), *contents) if isinstance(each, Picture)])
        # An image's id is made from its path in the dataset, not from its content.
        given = cycle.input == "text"
        return Rankings(place, split, cycle, inputs, candidates, table, "labels", True, EVERY_PAIR, images, given)


def _id(content: Content) -> str:
    return text_id(content) if isinstance(content, str) else digest("picture", content.identity())


def _texts(contents: Any) -> pa.Array:
    return pa.array([each if isinstance(each, str) else None for each in contents], pa.string())


@dataclass(frozen=True)
class _Pictures:
    """The images of a split's inputs or candidates, each as a `Picture` that reads it from its file."""

    read: list[Callable[[], bytes]]

    def of_input(self, row: int) -> bytes:
        """As in `cyclepref.builder.preferences.rankings.Images`."""
        return self.read[row]()

    def of_candidate(self, place: int) -> bytes:
        """As in `cyclepref.builder.preferences.rankings.Images`."""
        return self.read[place]()

    def file_of(self, at: int) -> None:
        """As in `cyclepref.builder.preferences.rankings.Images`."""

    identity = None
