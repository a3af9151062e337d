"""Measures where a reward model's quality comes from: its labels, its data, and the models that made its candidates.

The demo's own reward is trained on both cycles (Combo). It is compared with rewards of equal settings: one trained on
each cycle alone, one on the same pairs with true labels (the ceiling for better labels), and one that has never seen a
candidate of one family of models. Two more train all their layers, on the pairs and on true labels, to show what more
freedom gains with either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from cyclepref.builder.study import agreement
from cyclepref.builder.study.method import Finished, NoDemo, against
from cyclepref.builder.study.relabel import of_family, true_pairs, write_pairs
from cyclepref.schemas.ids import digest

# Models whose names begin with this are left out of training and measured separately; their architecture differs from
# the others'.
HELD_OUT = {"i2t2i": "shapeworld-llava", "t2i2t": "shapeworld-sd3"}
COMBO, ALONE, ORACLE, UNSEEN = "Combo", "one cycle alone", "oracle-trained Combo", "Combo without these models"
FREE, FREE_ORACLE = "Combo, all layers trained", "oracle-trained Combo, all layers trained"
FOLDER = "rewards"
# The settings that these two change: the best of few tries, by validation accuracy.
ALL_LAYERS = {
    "fix_rate": 0.0, "learning_rate": 3e-4, "epochs": 8, "patience": 3, "inputs_per_step": 16, "image_weight": 1.0,
}  # fmt: skip


def measure(demo: Path, finished: dict[str, Finished]) -> dict[str, dict[str, Any]]:
    """For each cycle, on test inputs: agreement with the truth of the cycle score, of length, and of each reward.

    `pairs` and `every two` as in method.py; `held-out models` are every two candidates of the family HELD_OUT. Missing
    models are trained into DEMO/rewards: four that take as long as the demo's own, and two that take some ten minutes
    each.

    Raises:
        NoDemo: if the demo has no reward model.
    """
    trained = train(demo, finished)
    results: dict[str, dict[str, Any]] = {}
    for name, run in finished.items():
        judges = {COMBO: demo / "reward", ALONE: trained[name], ORACLE: trained["oracle"], UNSEEN: trained["unseen"]}
        judges |= {FREE: trained["free"], FREE_ORACLE: trained["free-oracle"]}
        known = {judge: _rewards(path, run) for judge, path in judges.items()}
        length = agreement.lengths(run.store, run.recipe.shape)
        ids = pa.array(known[COMBO], pa.string())
        kinds = {"pairs": run.pairs, "every two": run.every_two}
        kinds["held-out models"] = of_family(run.every_two, HELD_OUT[name], 2)
        results[name] = {}
        for kind, pairs in kinds.items():
            test = pairs.filter(pc.is_in(pairs["chosen_id"], value_set=ids))
            asked = [judge for judge in known if judge != UNSEEN or kind == "held-out models"]
            scores = {judge: known[judge] for judge in asked} | {"length": length}
            results[name][kind] = {"cycle score": asdict(agreement.agreement(test, run.truth))} | {
                judge: against(test, run.truth, found.__getitem__) for judge, found in scores.items()
            }
    return results


def train(demo: Path, finished: dict[str, Finished]) -> dict[str, Path]:
    """The reward models other than the demo's own: one of each cycle by its name, "oracle", "unseen", "free" and
    "free-oracle". Existing ones that were trained on these pairs with these settings are kept.

    Raises:
        NoDemo: if the demo has no reward model, whose settings they share.
    """
    metrics = demo / "reward" / "metrics.json"
    if not metrics.is_file():
        raise NoDemo(f"{demo} has no reward model: run `cyclepref demo --out {demo}` first")
    plan = {name: {name: run.pairs} for name, run in finished.items()}
    plan["oracle"] = {name: true_pairs(run) for name, run in finished.items()}
    plan["unseen"] = {name: of_family(run.pairs, HELD_OUT[name], 0) for name, run in finished.items()}
    plan["free"], plan["free-oracle"] = {name: run.pairs for name, run in finished.items()}, plan["oracle"]
    told = json.loads(metrics.read_text(encoding="utf-8"))
    return {
        which: _trained(
            demo / FOLDER / which,
            {name: (finished[name], pairs) for name, pairs in chosen.items()},
            told["start"],
            told["settings"] | (ALL_LAYERS if which.startswith("free") else {}),
        )
        for which, chosen in plan.items()
    }


def _trained(folder: Path, chosen: dict[str, tuple[Finished, pa.Table]], start: str, settings: dict[str, Any]) -> Path:
    from cyclepref.builder.reward.training.settings import TrainSettings
    from cyclepref.builder.reward.training.train import train_reward

    ids = [pairs[side].to_pylist() for _, pairs in chosen.values() for side in ("chosen_id", "rejected_id")]
    identity = digest(json.dumps([settings, start], sort_keys=True), *chain(*ids))
    made = folder / "made_from.json"
    if made.is_file() and json.loads(made.read_text(encoding="utf-8")) == identity:
        return folder / "model"
    made.unlink(missing_ok=True)
    datasets = [write_pairs(run, pairs, folder / name) for name, (run, pairs) in chosen.items()]
    with _one_thread():
        train_reward(datasets, start, folder / "model", TrainSettings.model_validate(settings), replace=True)
    made.write_text(json.dumps(identity), encoding="utf-8")
    return folder / "model"


@contextmanager
def _one_thread() -> Iterator[None]:
    """A model of this size trains faster on one thread than on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _rewards(folder: Path, run: Finished) -> dict[str, float]:
    """The reward of every candidate of the test inputs, by generation_id."""
    from cyclepref.builder.reward.model import RewardModel
    from cyclepref.builder.reward.training.accuracy import candidate_rewards

    found = candidate_rewards(RewardModel.from_pretrained(folder), Path(run.store.root) / "dataset", "test")
    return dict(zip(found["generation_id"].to_pylist(), found["reward"].to_pylist(), strict=True))
