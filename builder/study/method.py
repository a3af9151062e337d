"""Measures the method on a run of the demo, where the truth is known.

How often preferences are true; how many errors are due to the metric (the ceiling: the same metric without a backward
model's mistakes); what more backward seeds gain; whether the reward model is better than the score that taught it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.build import build
from cyclepref.builder.catalog.resolve import metric_spec
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.pairing.pair import Direction, pair
from cyclepref.builder.run.content import content_by_id
from cyclepref.builder.run.store import Store
from cyclepref.builder.shapeworld import grammar, oracle
from cyclepref.builder.shapeworld.render import render
from cyclepref.builder.shapeworld.scenes import Group, Scene
from cyclepref.builder.study import agreement, by_model
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.recipe import Pairing, Recipe, parse_recipe
from cyclepref.schemas.run_files import RunJson

SEED_COUNTS = (1, 2, 4)
SEED_INPUTS = 300  # inputs of each cycle on which backward seeds are compared
_CEILING_SEED = 2_000_000  # seed of the true renders, different from every input's


class NoDemo(CyclePrefError):
    """The given folder has no finished demo."""


@dataclass(frozen=True)
class Finished:
    """One cycle of a finished demo, its truth known: `truth` by generation_id, in [0, 1].

    `pairs` are those of the recipe; `every_two` are all pairs of candidates whose outputs and scores differ;
    `means` are the models' mean cycle scores, the higher the better.
    """

    recipe: Recipe
    store: Store
    pairs: pa.Table
    every_two: pa.Table
    truth: dict[str, float]
    means: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> Finished:
        """A run directory of a ShapeWorld recipe. Raises NoDemo if there is no finished run."""
        store = Store(folder)
        run = store.read_json("run.json", RunJson)
        if run is None:
            raise NoDemo(f"{folder} holds no finished run: run `cyclepref demo --out {folder.parent}` first")
        recipe = parse_recipe(run["recipe"], where=f"the recipe of {folder}")
        metric = metric_spec(recipe.metric, recipe.shape.input, recipe.backward)
        made = store.read_view("candidates").filter(pc.field("status") == "ok")
        direction = Direction(metric.name, "", metric.higher_is_better)
        rule = Pairing(min_margin=0, poor_chosen=None)
        scores = store.read_view("scores")
        every_two, _ = pair(made, scores, recipe.shape.candidate, direction, rule)
        truth, means = agreement.truths(store, recipe.shape), by_model.model_means(made, scores, direction)
        return cls(recipe, store, store.read_view("pairs"), every_two, truth, means)


def read_demo(demo: Path) -> dict[str, Finished]:
    """Both cycles of the demo in a folder.

    Raises:
        NoDemo: if one of them is not finished.
    """
    return {name: Finished.read(demo / name) for name in CYCLES}


def measure(demo: Path) -> dict[str, dict[str, Any]]:
    """Everything this module measures, for each cycle of the demo in a folder.

    Raises:
        NoDemo: if one of its cycles is not finished.
    """
    finished = read_demo(demo)
    seeds = _seeds(finished)
    return {
        name: {
            "agreement": agreements(run),
            "ceiling": ceiling(run),
            "seeds": seeds[name],
            "reward": reward(run, demo / "reward"),
        }
        for name, run in finished.items()
    }


def agreements(run: Finished) -> dict[str, Any]:
    """Agreement of the cycle score on the recipe's pairs and on every two candidates, within a model and on upsets; of
    length and of the models' means on the pairs; and the share of pairs whose truth is tied."""
    length = agreement.lengths(run.store, run.recipe.shape)
    by_models = by_model.estimates(run.pairs, run.every_two, run.truth, run.means)
    return {
        "pairs": asdict(agreement.estimate(run.pairs, run.truth)),
        "tied": asdict(agreement.tied(run.pairs, run.truth)),
        "quartiles": [asdict(share) for share in agreement.by_margin_quartile(run.pairs, run.truth)],
        "upper half": asdict(agreement.upper_half(run.pairs, run.truth)),
        "every two": asdict(agreement.estimate(run.every_two, run.truth)),
        "length": asdict(agreement.estimate(run.pairs, run.truth, length.__getitem__)),
        **{name: asdict(found) for name, found in by_models.items()},
        "model_mean_gain": asdict(by_model.gain_of_means(run.pairs, run.truth, run.means)),
    }


def ceiling(run: Finished) -> dict[str, Any]:
    """Agreement of the same metric with a perfect backward model, and that of the cycle score.

    The reconstruction is replaced by what the candidate truly shows: the render of a caption's scene, or the
    description of the scene in an image. Captions that contradict themselves have no render; their pairs are left out
    of both.
    """
    candidates = run.store.read_view("candidates").filter(pc.field("status") == "ok")
    by_input = dict(zip(*(candidates[name].to_pylist() for name in ("generation_id", "input_id")), strict=True))
    meant = _meant(run, candidates)
    inputs = content_by_id(run.store, "inputs", "input_id", by_input.values())
    spec = metric_spec(run.recipe.metric, run.recipe.shape.input, run.recipe.backward)
    values = load_metric(spec).compare([inputs[by_input[id_]] for id_ in meant], list(meant.values()))
    sign = 1 if spec.higher_is_better else -1
    score = {id_: sign * value for id_, value in zip(meant, values, strict=True)}

    def beside(pairs: pa.Table) -> dict[str, Any]:
        known = pa.array(score, pa.string())
        kept = pairs.filter(pc.and_(*(pc.is_in(pairs[f"{side}_id"], known) for side in ("chosen", "rejected"))))
        return {
            "cycle": asdict(agreement.agreement(kept, run.truth)),
            "ceiling": asdict(agreement.agreement(kept, run.truth, score.__getitem__)),
        }

    return {"pairs": beside(run.pairs), "every two": beside(run.every_two)}


def _meant(run: Finished, candidates: pa.Table) -> dict[str, Any]:
    """The true content of each candidate in the other modality, by generation_id; captions without a scene are left
    out."""
    ids = candidates["generation_id"].to_pylist()
    if run.recipe.shape.candidate == "image":
        images = content_by_id(run.store, "generations", "generation_id", ids)
        scenes = oracle.recover([images[id_] for id_ in ids])
        return {id_: grammar.describe(scene) for id_, scene in zip(ids, scenes, strict=True)}
    scenes = {id_: scene_of(text) for id_, text in zip(ids, candidates["text"].to_pylist(), strict=True)}
    return {id_: render(scene, _CEILING_SEED) for id_, scene in scenes.items() if scene is not None}


def scene_of(caption: str) -> Scene | None:
    """The scene that a caption describes in any phrasing; None if it leaves something out or contradicts itself."""
    said = grammar.claims(caption)
    relations = [relation for _, relation, _ in said.relations]
    try:
        groups = tuple(Group(claim.count, claim.colour, claim.shape) for claim in said.groups)
        return Scene(groups, relations[0] if relations else None, said.background)
    except ValueError:
        return None


def _seeds(finished: dict[str, Finished]) -> dict[str, dict[str, Any]]:
    """Agreement with 1, 2 and 4 reconstructions of each candidate, by cycle, on the first inputs of each.

    Built in a copy of the run's store, which has most of the rows. A greedy backward captioner has no seeds, so it
    samples here, at temperature 1.
    """
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="cyclepref-seeds-") as scratch, Engine() as engine:
        for name, run in finished.items():
            out = Path(scratch) / name
            shutil.copytree(Path(run.store.root) / "store", out / "store")
            results[name] = {}
            for count in SEED_COUNTS:
                build(_with_seeds(run.recipe, count), out, engine=engine)
                again = Finished.read(out)
                results[name][str(count)] = {
                    "pairs": asdict(agreement.agreement(again.pairs, again.truth)),
                    "every two": asdict(agreement.agreement(again.every_two, again.truth)),
                }
    return results


def _with_seeds(recipe: Recipe, count: int) -> Recipe:
    inputs = recipe.inputs.model_copy(update={"limit": min(SEED_INPUTS, recipe.inputs.limit or SEED_INPUTS)})
    backward: dict[str, Any] = {"samples": count}
    if recipe.shape.backward_kind == "captioner":
        backward["settings"] = {**recipe.backward.settings, "temperature": 1.0}
    return recipe.model_copy(
        update={"inputs": inputs, "backward": recipe.backward.model_copy(update=backward), "max_failure_rate": 1.0}
    )


def reward(run: Finished, folder: Path) -> dict[str, Any]:
    """The reward model compared with the score that taught it, on the candidates of the test inputs.

    Also the model that it started from, before training on pairs.
    """
    from cyclepref.builder.reward.model import RewardModel
    from cyclepref.builder.reward.training.accuracy import candidate_rewards

    metrics = json.loads((folder / "metrics.json").read_text())
    judges = {
        "reward": RewardModel.from_pretrained(folder),
        "before training": RewardModel.from_captioner(metrics["start"], **metrics["settings"]["head"]),
    }
    results: dict[str, Any] = {}
    for name, model in judges.items():
        rewards = candidate_rewards(model, Path(run.store.root) / "dataset", "test")
        known = dict(zip(rewards["generation_id"].to_pylist(), rewards["reward"].to_pylist(), strict=True))
        for kind, pairs in (("pairs", run.pairs), ("every two", run.every_two)):
            unseen = pairs.filter(pc.is_in(pairs["chosen_id"], pa.array(known, pa.string())))
            results.setdefault(kind, {"cycle": asdict(agreement.agreement(unseen, run.truth))})[name] = against(
                unseen, run.truth, known.__getitem__
            )
    return results


def against(pairs: pa.Table, truth: dict[str, float], score: Callable[[str], float]) -> dict[str, Any]:
    """Agreement of a judge with the truth, and its gain over the cycle score: share, pairs, gain, low, high."""
    return {
        **asdict(agreement.agreement(pairs, truth, score)),
        **asdict(agreement.gain(pairs, truth, score)),
    }
