"""The judges' scores on a dataset: for each pair how much each judge prefers the better candidate."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from cyclepref.builder.preferences.layouts.items import JudgedDataset
from cyclepref.builder.reward.evaluation.decoded import Shown, Unreadable, show
from cyclepref.builder.reward.evaluation.errors import EvaluationError
from cyclepref.builder.reward.evaluation.judges import Judge
from cyclepref.builder.reward.evaluation.names import CYCLE

INPUTS_AT_ONCE = 16


@dataclass
class Collected:
    """The judges' scores on a dataset. For each pair: `owner` (the number of its input; equal inputs share one), `gaps`
    (judge -> its score of the better candidate minus that of the worse), `margin` (NaN if unknown), `words` (of the
    prompt, or the mean of both captions) and `models` (of the better, of the worse).

    `groups` are the inputs with known scores: (owner, scores, judge -> its scores).
    """

    kind: str
    owner: np.ndarray
    gaps: dict[str, np.ndarray]
    margin: np.ndarray
    words: np.ndarray
    models: list[tuple[str, str]]
    groups: list[tuple[int, np.ndarray, dict[str, np.ndarray]]]
    ties: int
    unreadable: Unreadable

    @property
    def inputs(self) -> int:
        """The number of inputs with a pair."""
        return len(np.unique(self.owner))


@dataclass
class _Columns:
    owners: dict[str, int] = field(default_factory=dict)
    owner: list[int] = field(default_factory=list)
    gaps: dict[str, list[float]] = field(default_factory=dict)
    margin: list[float] = field(default_factory=list)
    words: list[float] = field(default_factory=list)
    models: list[tuple[str, str]] = field(default_factory=list)
    groups: list[tuple[int, np.ndarray, dict[str, np.ndarray]]] = field(default_factory=list)

    def add(self, each: Shown, scores: dict[str, list[float]]) -> None:
        owner = self.owners.setdefault(each.key, len(self.owners))
        for (better, worse), margin in zip(each.pairs, each.margins or [np.nan] * len(each.pairs), strict=True):
            self.owner.append(owner)
            self.margin.append(margin)
            self.words.append(_words(each, better, worse))
            self.models.append((each.models[better], each.models[worse]))
            for name, values in scores.items():
                self.gaps.setdefault(name, []).append(values[better] - values[worse])
        if each.scores is not None:
            judged = {name: np.asarray(values) for name, values in scores.items()}
            self.groups.append((owner, np.asarray(each.scores), judged))

    def places(self) -> np.ndarray:
        """The number of each input in the order of content ids, so that the order of rows has no influence."""
        keys = list(self.owners)
        found = np.empty(len(keys), dtype=np.int64)
        found[np.argsort(keys)] = np.arange(len(keys))
        return found


def collect(layout: JudgedDataset, judges: list[Judge], tick: Callable[[int], None] = lambda done: None) -> Collected:
    """Score every candidate of a dataset with every judge; `tick` is called with the number of rows done.

    Images that do not decode are left out with their pairs, and listed. The judge `cycle` is left out if the dataset
    has no cycle scores.

    Raises:
        EvaluationError: if no pair of the dataset can be judged, or it mixes both cycles.
    """
    judges = [judge for judge in judges if judge.name != CYCLE or layout.scores == "cycle score"]
    columns, unreadable, kinds, ties = _Columns(), Unreadable(), set(), 0
    rows = iter(layout)
    while some := list(islice(rows, INPUTS_AT_ONCE)):
        kinds |= {item.kind for item in some}
        ties += sum(item.ties for item in some)
        wanted = (item for item in some if item.pairs or item.scores is not None)
        shown = list(_readable(show(item, unreadable) for item in wanted))
        judged = {judge.name: judge.score(shown) for judge in judges} if shown else {}
        for at, each in enumerate(shown):
            columns.add(each, {name: values[at] for name, values in judged.items()})
        tick(len(some))
    _refuse(layout, columns, kinds, ties, unreadable)
    place = columns.places()
    arrays = {name: np.asarray(values) for name, values in columns.gaps.items()}
    return Collected(
        kinds.pop(), place[np.asarray(columns.owner)], arrays, np.asarray(columns.margin), np.asarray(columns.words),
        columns.models, [(int(place[owner]), *rest) for owner, *rest in columns.groups], ties, unreadable,
    )  # fmt: skip


def _readable(shown: Iterable[Shown | None]) -> Iterator[Shown]:
    return (each for each in shown if each is not None)


def _words(each: Shown, better: int, worse: int) -> float:
    if each.kind == "text":
        return (each.sizes[better] + each.sizes[worse]) / 2
    return float(len(str(each.shared).split()))


def _refuse(layout: JudgedDataset, columns: _Columns, kinds: set[str], ties: int, unreadable: Unreadable) -> None:
    if not kinds:
        raise EvaluationError(f"{layout.place} is empty: it has no input")
    if len(kinds) > 1:
        raise EvaluationError(f"{layout.place} has pairs of texts and pairs of images: give them as two datasets")
    if not columns.owner:
        why = f"{ties} ties, {unreadable.pairs} lost with {len(unreadable.images)} images that do not decode"
        raise EvaluationError(f"{layout.place} has no pair to judge ({why}): give another split or dataset")
