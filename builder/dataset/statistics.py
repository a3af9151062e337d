"""What people should see of a preference dataset before they train on it, from its published files alone.

Two shortcuts are measured, since a reward model finds any: length alone, and which models made the candidates. A
dataset that these predict teaches them first.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cyclepref.builder.common import progress
from cyclepref.builder.common.near_duplicates import alike, signature
from cyclepref.builder.dataset.by_model import Labels, ModelScores, within_share
from cyclepref.builder.dataset.format import SPLITS
from cyclepref.builder.dataset.reader import DatasetFolder
from cyclepref.builder.pairing.pair import same_text
from cyclepref.schemas.errors import visible
from cyclepref.schemas.ids import digest

QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
BINS = 20
# Near-duplicates are looked for among the candidates of about this many inputs, drawn by the hash of their ids.
NEAR_INPUTS = 300
# From these shares on a shortcut is worth a warning. (Ours: chance is 0.5, and CyclePrefDB's labels agree with people
# in 0.6 of pairs, so a shortcut at 0.65 is stronger than the signal; models do differ, so their names may say more.)
LENGTH_WARNING, MODEL_WARNING = 0.65, 0.80
# A candidate that was cut says less than its model would have; from this share of a model's candidates on it is told.
CUT_WARNING = 0.01
# Accuracy on fewer test inputs than this has an interval of some ten points and more.
SMALL_SPLIT = 20


def statistics(published: DatasetFolder) -> dict[str, Any]:
    """The statistics of a dataset, as plain JSON values; what `cyclepref stats --json` prints.

    - `inputs`, `candidates`, `pairs`: counts; `splits`: inputs and pairs of each
    - `pairs_per_input`: min, mean, median, max, and `without`, the inputs that have none
    - `margins`: quantiles of the pairs' margins, in the deciding metric's units
    - `models`: names; `wins[i][j]`: pairs in which a candidate of model i was chosen over one of model j, a candidate
      that several models made counting for each of them
    - `transitivity`: `triangles` (three candidates, all paired), `cyclic` of them, and `open`, chains a > b > c without
      the pair a > c
    - `length`: share of pairs in which the longer candidate (characters; bytes of an encoded image) is the chosen one,
      ties counting half; `predicts`: that or its complement, whichever is larger
    - `identity`: share that "the model that won more often between these two" predicts, learned on one half of the
      inputs and tried on the other, both ways
    - `model_mean`: `within`, the share of pairs whose two candidates some model made both of; `predicts`, the share of
      pairs whose chosen candidate is of the model with the better mean score, equal means counting half; `explains`,
      the share of the scores' variance within inputs that lies between models (see builder/dataset/by_model.py)
    - `duplicates`: candidates that several models made, outputs that several inputs share, and near-duplicates (see
      builder/common/near_duplicates.py) among the candidates of one input, on a sample of inputs
    - `scores`: by metric, a histogram over the candidates (edges and counts), mean and quantiles
    - `truncated`: by model, its `candidates` and how many of them were `cut`: captions that ended at their token limit,
      images of prompts that no text encoder read to the end
    - `warnings`: sentences, where a shortcut predicts too much, candidates were cut, or a split is empty or small
    """
    inputs = published.input_count
    tally = Tally(min(1.0, NEAR_INPUTS / max(1, inputs)))
    with progress.stage("statistics", inputs) as tick:
        for split, row, pairs in published.inputs():
            tally.add(split, row, pairs)
            tick(1)
    return tally.result()


Scores = dict[str, dict[str, tuple[tuple[str, ...], float]]]  # metric -> generation_id -> who made it, its score


class Tally:
    """Counts that grow input by input. `near_share` of the inputs are searched for near-duplicates."""

    def __init__(self, near_share: float = 1.0):
        self._near_share = near_share
        self._splits: dict[str, Counter[str]] = {}
        self._per_input, self._margins = array("q"), array("d")
        self._scores: dict[str, array] = {}
        self._by_model: dict[str, ModelScores] = {}
        self._deciding, self._rises = "", 0.0  # the pairs' metric; by how much the chosen candidates' scores are higher
        self._wins: Counter[tuple[str, str]] = Counter()
        self._halves: tuple[Labels, Labels] = (Counter(), Counter())
        self._triangles: Counter[str] = Counter()
        self._outputs: Counter[int] = Counter()
        self._near: Counter[str] = Counter()
        self._models: set[str] = set()
        self._made, self._cut = Counter[str](), Counter[str]()
        self._several, self._longer = 0, 0.0

    def add(self, split: str, row: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
        """Count one input: its row of rankings, and its rows of pairs."""
        candidates = row["candidates"]
        self._splits.setdefault(split, Counter()).update(inputs=1, candidates=len(candidates), pairs=len(pairs))
        self._per_input.append(len(pairs))
        lengths, scores = {}, {}
        for candidate in candidates:
            output = _output(candidate)
            lengths[candidate["generation_id"]] = len(output)
            key = same_text(output) if isinstance(output, str) else output
            self._outputs[int(digest(key)[:15], 16)] += 1
            self._models.update(candidate["models"])
            self._made.update(candidate["models"])
            self._cut.update(candidate["models"] if candidate.get("truncated") else ())
            self._several += len(candidate["models"]) > 1
            for score in candidate["scores"]:
                self._scores.setdefault(score["metric"], array("d")).append(score["value"])
                made = tuple(candidate["models"]), score["value"]
                scores.setdefault(score["metric"], {})[candidate["generation_id"]] = made
        for metric, made in scores.items():
            self._by_model.setdefault(metric, ModelScores()).add(list(made.values()))
        self._add_pairs(row["input_id"], pairs, lengths, scores)
        self._triangles.update(triangles([(pair["chosen_id"], pair["rejected_id"]) for pair in pairs]))
        if int(digest("near", row["input_id"])[:13], 16) < self._near_share * 16**13:
            self._near.update(near_duplicates(candidates))

    def _add_pairs(self, input_id: str, pairs: list[dict[str, Any]], lengths: dict[str, int], scores: Scores) -> None:
        half = self._halves[int(digest("half", input_id)[0], 16) % 2]
        for pair in pairs:
            self._margins.append(pair["margin"])
            self._deciding, of = pair["metric"], scores[pair["metric"]]
            self._rises += of[pair["chosen_id"]][1] - of[pair["rejected_id"]][1]
            gap = lengths[pair["chosen_id"]] - lengths[pair["rejected_id"]]
            self._longer += 0.5 if gap == 0 else float(gap > 0)
            chosen, rejected = tuple(pair["chosen_models"]), tuple(pair["rejected_models"])
            half[chosen, rejected] += 1
            self._wins.update((a, b) for a in chosen for b in rejected)

    def result(self) -> dict[str, Any]:
        """The statistics of what was counted."""
        models, pairs = sorted(self._models), len(self._margins)
        longer = self._longer / pairs if pairs else None
        length = {"longer_chosen": longer, "predicts": None if longer is None else max(longer, 1 - longer)}
        identity = {"predicts": identity_share(*self._halves)}
        labels = self._halves[0] + self._halves[1]
        by_model = self._by_model.get(self._deciding, ModelScores())
        per_input = np.asarray(self._per_input)
        truncated = {model: {"candidates": self._made[model], "cut": self._cut[model]} for model in models}
        splits = {split: dict(count) for split, count in self._splits.items()}
        return {
            "inputs": len(per_input),
            "candidates": sum(count["candidates"] for count in self._splits.values()),
            "pairs": pairs,
            "splits": splits,
            "pairs_per_input": _summary(per_input),
            "margins": _quantiles(self._margins),
            "models": models,
            "wins": [[self._wins[a, b] for b in models] for a in models],
            "transitivity": {name: self._triangles[name] for name in ("triangles", "cyclic", "open")},
            "length": length,
            "identity": identity,
            "model_mean": {
                "within": within_share(labels),
                "predicts": by_model.predicted(labels, 1 if self._rises > 0 else -1),
                "explains": by_model.explained(),
            },
            "duplicates": {
                "made_by_several_models": self._several,
                "shared_by_several_inputs": sum(count for count in self._outputs.values() if count > 1),
                "near": {name: self._near[name] for name in ("inputs", "compared", "near")},
            },
            "scores": {metric: _histogram(values) for metric, values in sorted(self._scores.items())},
            "truncated": truncated,
            "warnings": [
                *warnings(length["predicts"], identity["predicts"]),
                *cut_warnings(truncated),
                *split_warnings(splits),
            ],
        }


def identity_share(first: Labels, second: Labels) -> float | None:
    """The share of pairs that the models' names predict: of two sets of models the one that won more often in the other
    half wins; one half never seen, or level, counts half a hit. None without pairs."""
    hits = total = 0.0
    for half, other in ((first, second), (second, first)):
        for (chosen, rejected), count in half.items():
            won, lost = other[chosen, rejected], other[rejected, chosen]
            hits += count * (0.5 if won == lost else float(won > lost))
            total += count
    return hits / total if total else None


def triangles(pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Of one input's pairs (chosen, rejected): triangles, those that go round in a circle, and open chains."""
    ids = {id_: at for at, id_ in enumerate(sorted({id_ for pair in pairs for id_ in pair}))}
    beats = np.zeros((len(ids), len(ids)), dtype=np.int64)
    for chosen, rejected in pairs:
        beats[ids[chosen], ids[rejected]] = 1
    paired = beats | beats.T
    chains = beats @ beats
    return {
        "triangles": int(np.trace(paired @ paired @ paired)) // 6,
        "cyclic": int(np.trace(chains @ beats)) // 3,
        "open": int(chains[(paired == 0) & ~np.eye(len(ids), dtype=bool)].sum()),
    }


def near_duplicates(candidates: list[dict[str, Any]]) -> dict[str, int]:
    """How many of every two candidates of one input are nearly the same."""
    made = [_signature(candidate) for candidate in candidates]
    compared = len(made) * (len(made) - 1) // 2
    near = sum(alike(made[a], made[b]) for a in range(len(made)) for b in range(a))
    return {"inputs": 1, "compared": compared, "near": near}


def warnings(length: float | None, identity: float | None) -> list[str]:
    """Sentences on shortcuts that predict too many pairs."""
    found = []
    if length is not None and length >= LENGTH_WARNING:
        found.append(
            f"Length alone predicts {length:.1%} of the pairs (warning from {LENGTH_WARNING:.0%} on): a model may "
            "learn it instead of alignment. Raise min_margin, or balance the pairs by length."
        )
    if identity is not None and identity >= MODEL_WARNING:
        found.append(
            f"The models' names alone predict {identity:.1%} of the pairs (warning from {MODEL_WARNING:.0%} on): a "
            "model may learn to tell models apart. Add models of equal strength, or balance the pairs by model."
        )
    return found


def cut_warnings(truncated: dict[str, dict[str, int]]) -> list[str]:
    """A sentence on each model whose candidates were cut."""
    return [
        f"{visible(model, keep='')}: {count['cut']} of {count['candidates']} candidates were cut at a token limit "
        f"({count['cut'] / count['candidates']:.0%}), which lowers their scores. Raise max_new_tokens (captions) or "
        "shorten the prompts (images), or leave these candidates out."
        for model, count in truncated.items()
        if count["cut"] and count["cut"] >= CUT_WARNING * count["candidates"]
    ]


def split_warnings(splits: dict[str, dict[str, int]]) -> list[str]:
    """Sentences on splits without pairs, and on those too small to measure anything with."""
    found = []
    for split in SPLITS if splits else ():
        count = splits.get(split, {"inputs": 0, "pairs": 0})
        if not count["pairs"]:
            found.append(f"The split {split} has {count['inputs']} inputs and no pairs. Add inputs, or set `splits`.")
        elif count["inputs"] < SMALL_SPLIT:
            found.append(
                f"The split {split} has only {count['inputs']} inputs: a share measured on them may be off by "
                f"{50 / count['inputs'] ** 0.5 * 1.96:.0f} points and more. Add inputs, or set `splits`."
            )
    return found


def _output(candidate: dict[str, Any]) -> str | bytes:
    return candidate["text"] if "text" in candidate else candidate["image"]["bytes"]


def _signature(candidate: dict[str, Any]) -> bytes:
    if "text" in candidate:
        return signature(candidate["text"], "text")
    from cyclepref.builder.common.images import decode

    return signature(decode(candidate["image"]["bytes"]), "image")


def _summary(counts: np.ndarray) -> dict[str, float | int]:
    if not len(counts):
        return {"min": 0, "mean": 0.0, "median": 0.0, "max": 0, "without": 0}
    places = {"min": int(counts.min()), "mean": float(counts.mean()), "median": float(np.median(counts))}
    return {**places, "max": int(counts.max()), "without": int((counts == 0).sum())}


def _quantiles(values: array) -> dict[str, float]:
    """Quantiles by their names ("0.5")."""
    if not len(values):
        return {}
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(np.asarray(values), QUANTILES), strict=True)}


def _histogram(values: array) -> dict[str, Any]:
    low, high = min(values), max(values)
    scale = max(1.0, abs(low), abs(high))
    if high - low <= 1e-9 * scale:  # equal but for roundings, between which numpy finds no room for bins
        low, high = low - scale / 2, high + scale / 2
    counts, edges = np.histogram(np.asarray(values), BINS, range=(low, high))
    mean = float(np.mean(values))
    return {"edges": edges.tolist(), "counts": counts.tolist(), "mean": mean, "quantiles": _quantiles(values)}
