"""Reads preference pairs from a run directory, a dataset folder, the Hub, or CyclePrefDB's own layout.

import cyclepref

pairs = cyclepref.load_pairs("runs/mine", split="train", min_margin=0.1)
pairs[0]["image"], pairs[0]["chosen"], pairs[0]["rejected"], pairs[0]["margin"]
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset

from cyclepref.builder.common.places import may_be_on_hub, not_here
from cyclepref.builder.pairing.pair import UNIT, Direction, pair
from cyclepref.builder.preferences.as_dataset import as_dataset
from cyclepref.builder.preferences.cycleprefdb import CyclePrefDB
from cyclepref.builder.preferences.filters import FilterError, Filters
from cyclepref.builder.preferences.published import HubDataset
from cyclepref.builder.preferences.rankings import PAIRS, LoadError, Rankings
from cyclepref.builder.run.folder import Folder
from cyclepref.builder.run.record import PROGRESS_FILE
from cyclepref.schemas.recipe import Pairing
from cyclepref.schemas.run_files import ProgressFile, RunJson

# The default of `poor_chosen`: the threshold with which the dataset was built stays.
AS_BUILT: Literal["as-built"] = "as-built"
Poor = float | None | Literal["as-built"]


def load_pairs(
    path_or_repo: str | Path,
    split: str = "train",
    *,
    min_margin: float | None = None,
    max_margin: float | None = None,
    poor_chosen: Poor = AS_BUILT,
    top_vs_bottom: bool = False,
    max_pairs_per_input: int | None = None,
    balance_by_model: bool = False,
    higher_is_better: bool | None = None,
    revision: str | None = None,
) -> Dataset:
    """The preference pairs of a split, one row for each, ordered by the ids of input and pair.

    Columns: `image` (i2t2i) or `prompt` (t2i2t); `chosen` and `rejected` (texts, or images); `margin` (>= 0, in the
    metric's own units); pair_id, input_id, chosen_id, rejected_id, chosen_model, rejected_model, chosen_models,
    rejected_models (all models that made it), chosen_score, rejected_score. It is an ordinary `datasets.Dataset`:
    images use the Image feature, are RGB, and are decoded when a row is read; rows are memory-mapped (see
    builder/preferences/as_dataset.py).

    `min_margin` may be below what the dataset was built with: then pairs are made again from its rankings, by the rules
    of builder/pairing/pair.py and without a model. `poor_chosen`, a score, leaves out pairs whose chosen candidate is
    worse; None keeps them. If it is given, the pairs are always made again. A pair that was not published gets an id
    made from its candidates and the metric. The other filters are those of
    `cyclepref.builder.preferences.filters.Filters`.

    `path_or_repo` is a finished run directory, a dataset folder, a folder in CyclePrefDB's layout (whose thresholds are
    by default the paper's), or a repository on the Hub, at `revision`. `higher_is_better` is the direction of the
    score, needed only if no pair shows it.

    Raises:
        LoadError: if there is no readable dataset, it has no such split, or an image of a pair cannot be read.
        FilterError: if a filter is outside its range, or no pair is left; the message says what each filter removed.

    >>> pairs = cyclepref.load_pairs("runs/mine", min_margin=0.1)
    >>> pairs[0]["image"].size, pairs[0]["margin"] >= 0.1
    ((16, 16), True)
    """
    source = open_pairs(path_or_repo, revision)
    rankings = source.read(split)
    filters = Filters(min_margin, max_margin, top_vs_bottom, max_pairs_per_input, balance_by_model)
    pairs, removed = select(rankings, filters, poor_chosen, higher_is_better)
    refuse_empty(pairs.num_rows, str(rankings), removed)
    return as_dataset(rankings, pairs)


@dataclass(frozen=True)
class PairSource:
    """A place with pairs: its layout, and the content of run.json if it is a run's."""

    layout: HubDataset | CyclePrefDB
    run: dict[str, Any] | None

    def splits(self) -> list[str]:
        """Its splits."""
        return self.layout.splits()

    def read(self, split: str) -> Rankings:
        """One of its splits.

        Raises:
            LoadError: if it has no split of that name.
        """
        known = self.splits()
        if split not in known:
            has = f"choose from {', '.join(known)}" if known else "it has no split with an input"
            raise LoadError(f"{self.layout.place} has no split {split!r}: {has}")
        return self.layout.read(split, self.run)


def open_pairs(path_or_repo: str | Path, revision: str | None = None) -> PairSource:
    """Open the dataset at a path, or in a repository on the Hub.

    Raises:
        LoadError: if there is no dataset, or the run has not finished.
    """
    text = str(path_or_repo)
    if "://" in text:
        raise LoadError(f"{text} is an address: pairs are read from this machine or the Hub; copy its `dataset` here")
    path = Path(path_or_repo).expanduser()
    if not path.exists():
        if may_be_on_hub(text):
            return PairSource(HubDataset(text, revision), None)
        raise LoadError(f"{not_here(text)}: give a run directory, a dataset folder or a repository (org/name)")
    if not path.is_dir():
        raise LoadError(f"{path} is not a folder: give a run directory, a dataset folder or a repository (org/name)")
    if revision is not None:
        raise LoadError(f"{path} is a folder, which has no revision {revision!r}: leave it out")
    if (path / "store").is_dir() or (path / "run.json").is_file():
        return PairSource(HubDataset(str(path / "dataset")), _finished(path))
    if not (path / "rankings").is_dir() and CyclePrefDB(path).files:
        return PairSource(CyclePrefDB(path), None)
    if not any(path.rglob("*.parquet")):
        raise LoadError(f"{path} is not a run directory and holds no dataset; a build writes its dataset to `dataset`")
    return PairSource(HubDataset(str(path)), None)


def _finished(path: Path) -> dict[str, Any] | None:
    """The content of run.json; refuses a run whose latest build is unfinished."""
    store = Folder(path)
    state = (store.read_json(PROGRESS_FILE, ProgressFile) or {"state": "finished"})["state"]
    missing = [name for name in ("run.json", "dataset/README.md") if not (path / name).is_file()]
    if state != "finished" or missing:
        what = f"its latest build is {state}" if state != "finished" else f"it has no {missing[0]}"
        older = "" if missing else f", or give {path / 'dataset'} for what an earlier build finished"
        raise LoadError(
            f"{path} is not finished: {what}. `cyclepref status {path}` says what is missing; build to the end{older}"
        )
    return store.read_json("run.json", RunJson)


def select(
    rankings: Rankings, filters: Filters, poor_chosen: Poor = AS_BUILT, higher_is_better: bool | None = None
) -> tuple[pa.Table, dict[str, int]]:
    """The pairs (a table of `cyclepref.builder.preferences.rankings.PAIRS`) of a split, and how many were removed by
    which rule.

    Raises:
        LoadError: if pairs have to be made again and the dataset lacks information for that. FilterError: see
        `Filters`.
    """
    pairs, removed = rankings.pairs, {}
    rule = _new_rule(rankings, filters.min_margin, poor_chosen)
    if rule is not None:
        pairs, removed = _pair_again(rankings, rule, higher_is_better)
    assert pairs is not None, "a dataset without published pairs has a rule"
    kept, more = filters.apply(rankings, pairs)
    return _in_order(rankings, kept), removed | {name: count for name, count in more.items() if count or not removed}


def _in_order(rankings: Rankings, pairs: pa.Table) -> pa.Table:
    """Sort by input and pair, so that the order of the rankings' rows has no influence."""
    input_ids = rankings.inputs["input_id"].take(rankings.candidates["row"].take(pairs["chosen"]))
    keys = [("input_id", "ascending"), ("pair_id", "ascending")]
    return pairs.append_column("input_id", input_ids).sort_by(keys).drop_columns(["input_id"])


def refuse_empty(pairs: int, where: str, removed: dict[str, int]) -> None:
    """Refuse a selection without pairs; the error says what each rule removed.

    Raises:
        FilterError: if no pair is left.
    """
    if not pairs:
        counts = ", ".join(f"{name} {count:,}" for name, count in removed.items())
        why = f"removed: {counts}. Loosen what removed most" if counts else "it was built without any; see its card"
        raise FilterError(f"{where} has no pair left: {why}")


def _new_rule(rankings: Rankings, min_margin: float | None, poor_chosen: Poor) -> Pairing | None:
    """The rule to make pairs with, or None if the published pairs include all that are asked for."""
    built = rankings.rule
    if poor_chosen != AS_BUILT:
        if poor_chosen is not None and not math.isfinite(poor_chosen):
            raise FilterError(f"poor_chosen is {poor_chosen!r}: give a score, or None to keep all")
        if min_margin is None and built is None:
            raise LoadError(
                f"poor_chosen makes pairs again, but {rankings} does not say from which margin on: give min_margin"
            )
        models = {} if built is None else {"within": built.within, "balance": built.balance}
        margin = built.min_margin if min_margin is None else min_margin
        return Pairing(min_margin=margin, poor_chosen=poor_chosen, **models)
    if rankings.pairs is None:
        return built if min_margin is None else built.model_copy(update={"min_margin": min_margin})
    if min_margin is None or min_margin >= _built_margin(rankings):
        return None
    if built is None:
        raise LoadError(
            f"min_margin {min_margin:g} is below the smallest margin in {rankings}: pairs have to be made again, and "
            "it does not say which chosen candidates were too poor. Give poor_chosen too (a score, or None to keep all)"
        )
    if built.min_margin_sd is not None:
        raise LoadError(
            f"min_margin {min_margin:g} is below the {built.min_margin:g} that {rankings} was built with. It was built "
            "with min_margin_sd too, which rankings cannot apply: give poor_chosen too, to pair by margin alone"
        )
    return built.model_copy(update={"min_margin": min_margin})


def _built_margin(rankings: Rankings) -> float:
    """The smallest margin above which the published pairs are complete."""
    if rankings.rule is not None:
        return rankings.rule.min_margin
    margins = np.asarray(rankings.pairs["margin"])
    return round(float(margins.min()) / UNIT) * UNIT - UNIT / 2 if len(margins) else float("inf")


def _pair_again(rankings: Rankings, rule: Pairing, higher_is_better: bool | None) -> tuple[pa.Table, dict[str, int]]:
    higher = rankings.higher_is_better if higher_is_better is None else higher_is_better
    if higher is None:
        raise LoadError(f"{rankings} has no pair that shows whether a higher score is better: give higher_is_better")
    found = rankings.candidates
    columns = {name: found[name] for name in ("generation_id", "model", "text", "value")}
    columns["input_id"] = rankings.inputs["input_id"].take(found["row"])
    columns["content_id"] = found["same"]
    table = pa.table(columns)
    candidates = table.select(["generation_id", "input_id", "model", "content_id", "text"])
    scores = table.select(["generation_id", "value"])
    direction = Direction(rankings.metric, rankings.metric, higher)
    made, count = pair(candidates, scores, rankings.cycle.candidate, direction, rule)
    place = {id_: at for at, id_ in enumerate(found["generation_id"].to_pylist())}
    sides = {side: [place[id_] for id_ in made[f"{side}_id"].to_pylist()] for side in ("chosen", "rejected")}
    ids = _known_ids(rankings, made, sides)
    removed = {name: n for name, n in count.to_dict().items() if name not in ("possible", "kept", "within_noise")}
    return pa.table({"pair_id": ids, **sides, "margin": made["margin"]}).cast(PAIRS), removed


def _known_ids(rankings: Rankings, made: pa.Table, sides: dict[str, list[int]]) -> list[str]:
    """Pair ids; pairs that were published keep theirs."""
    known: dict[tuple[int, int], str] = {}
    if rankings.pairs is not None:
        columns = (rankings.pairs[name].to_pylist() for name in ("chosen", "rejected", "pair_id"))
        known = {(chosen, rejected): id_ for chosen, rejected, id_ in zip(*columns, strict=True)}
    places = zip(sides["chosen"], sides["rejected"], strict=True)
    return [known.get(place, id_) for place, id_ in zip(places, made["pair_id"].to_pylist(), strict=True)]
