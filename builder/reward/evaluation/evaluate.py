"""`evaluate`: a reward model against baselines on datasets of judgements; one dict of numbers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cyclepref.builder.common.progress import Tick, stage
from cyclepref.builder.preferences.layouts.detect import open_judged
from cyclepref.builder.preferences.layouts.items import JudgedDataset
from cyclepref.builder.reward.evaluation.best_of import curves
from cyclepref.builder.reward.evaluation.calibration import calibration
from cyclepref.builder.reward.evaluation.collect import Collected, collect
from cyclepref.builder.reward.evaluation.judges import Reward, make_judges
from cyclepref.builder.reward.evaluation.leak import check_leak, inputs_of
from cyclepref.builder.reward.evaluation.measures import accuracies
from cyclepref.builder.reward.evaluation.names import CYCLE, DEFAULT, REWARD, check_names
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.seen import Seen, read_seen

CYCLE_OF_CANDIDATE = {"text": "i2t2i", "image": "t2i2t"}
UNREADABLE_NAMED = 10


def evaluate(
    model: RewardModel,
    place: str | Path,
    datasets: Sequence[str],
    *,
    against: Sequence[str] = DEFAULT,
    split: str | None = None,
    allow_leak: bool = False,
    batch_size: int = 64,
    progress: Callable[[str, int], AbstractContextManager[Tick]] = stage,
) -> dict[str, Any]:
    """All measurements for each dataset: leak, counts, `judges` (see `measures.accuracies`), calibration of the reward,
    and best-of-n curves if the dataset has scores.

    `place` is the folder or Hub id of `model`, from which the list of its training inputs is read. `datasets` are
    arguments of `cyclepref.builder.preferences.layouts.detect.open_judged`, `against` those of `make_judges`.

    Raises:
        JudgedError, LoadError: if a dataset cannot be read.
        LeakError: if the model, or a reward model in `against`, was trained on inputs of it, unless `allow_leak`.
        EvaluationError: if no pair of it can be judged, or `against` has an unknown name.
        RewardError: if a reward is not a finite number.
    """
    check_names(against)
    opened = [open_judged(dataset, split) for dataset in datasets]
    judges = make_judges(tuple(against), batch_size, model.device)
    seen = {name: read_seen(where) for name, where in _models(place, against).items()}
    cycles = list(seen[REWARD].cycles)
    leaks = [_leaks(layout, seen, allow_leak, progress) for layout in opened]
    result: dict[str, Any] = {"model": str(place), "trained_on": cycles, "allow_leak": allow_leak, "datasets": []}
    for layout, leak in zip(opened, leaks, strict=True):
        reward = Reward(REWARD, model, batch_size)
        with progress(f"judge {Path(layout.place).name}", len(layout)) as tick:
            found = collect(layout, [reward, *judges], tick)
        entry = about(layout, found, cycles) | {"leak": leak.pop(REWARD), "leaks_of_judges": leak}
        entry["texts_cut"] = reward.truncated
        if CYCLE in against and CYCLE not in found.gaps:
            entry["notes"].append("it has no cycle scores to compare with")
        result["datasets"].append(entry | measured(found))
    return result


def _models(place: str | Path, against: Sequence[str]) -> dict[str, str | Path]:
    """The places of all reward models: the evaluated one and those in `against`."""
    others = {name: name.removeprefix(f"{REWARD}:") for name in against if name.startswith(f"{REWARD}:")}
    return {REWARD: place, **others}


def _leaks(
    layout: JudgedDataset,
    seen: dict[str, Seen],
    allow: bool,
    progress: Callable[[str, int], AbstractContextManager[Tick]],
) -> dict[str, dict[str, object]]:
    """For each model the training inputs that are in a dataset (see `check_leak`)."""
    inputs = {}
    if any(each.ids for each in seen.values()):
        with progress(f"leaks into {Path(layout.place).name}", len(layout)) as tick:
            inputs = inputs_of(layout, tick)
    who = {REWARD: "the model"}
    return {name: check_leak(layout.place, inputs, each, allow, who.get(name, name)) for name, each in seen.items()}


def about(layout: JudgedDataset, found: Collected, cycles: list[str]) -> dict[str, Any]:
    """A dataset's description: its layout, what was left out of it, and remarks on its labels."""
    cycle = CYCLE_OF_CANDIDATE[found.kind]
    notes = []
    if cycles and cycle not in cycles:
        kinds = {"i2t2i": "texts", "t2i2t": "images"}
        notes.append(f"the model was trained on pairs of {kinds[cycles[0]]} alone, and these are of {kinds[cycle]}")
    if layout.scores == "cycle score":
        notes.append("the cycle score made these labels: it agrees with them by construction")
        if any((truth < 0).any() for _, truth, _ in found.groups):
            notes.append("lower cycle scores are better here: they are shown with their sign turned")
    return {
        "dataset": layout.place, "layout": layout.name, "split": layout.split, "candidates": found.kind,
        "inputs": found.inputs, "pairs": len(found.owner), "ties_left_out": found.ties, "notes": notes,
        "unreadable": {
            "images": len(found.unreadable.images), "pairs": found.unreadable.pairs,
            "some": found.unreadable.images[:UNREADABLE_NAMED],
        },
        "scores": layout.scores,
    }  # fmt: skip


def measured(found: Collected) -> dict[str, Any]:
    """The numbers themselves."""
    return {
        "judges": accuracies(found, REWARD),
        "calibration": calibration(found.gaps[REWARD]),
        "best_of_n": curves(found.groups),
    }
