"""Best of n on the embedded world: the true alignment of the caption or picture that a reward picks from n.

A captioner and a pipeline each make 16 candidates for scenes that no reward was trained on. The reward models, the
cycle score (which needs a reconstruction of each candidate) and length each pick one. The weaker models make the
candidates, since there is nothing to pick if all are right.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from cyclepref.builder.build import build
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.reward.evaluation.best_of import SIZES, Group, curves
from cyclepref.builder.reward.evaluation.draw import best_of_n
from cyclepref.builder.run.content import content_by_id
from cyclepref.builder.study import agreement
from cyclepref.builder.study.method import Finished
from cyclepref.builder.study.rewards import COMBO, ORACLE
from cyclepref.schemas.recipe import ModelChoice, Recipe

INPUTS = 200
# The samples of a single model, as a user of a reward draws them.
MODELS: dict[str, dict[str, Any]] = {
    "i2t2i": {"model": "shapeworld-llava-early", "settings": {"temperature": 1.0}},
    "t2i2t": {"model": "shapeworld-sd-early"},
}
FOLDER = "best_of_n"
CYCLE, LENGTH = "cycle score", "length"


def measure(
    demo: Path, finished: dict[str, Finished], rewards: dict[str, Path], inputs: int = INPUTS
) -> dict[str, Any]:
    """For each cycle the curves of `cyclepref.builder.reward.evaluation.best_of.curves` in true alignment, [0, 1], and
    the seconds per candidate of the cycle score and of a reward. `rewards` are folders by name.

    Builds what is missing into DEMO/best_of_n: 16 candidates for each of `inputs` scenes that the demo has not used.
    """
    offset = sum(run.recipe.inputs.limit for run in finished.values())
    results = {}
    with Engine() as engine:
        for name, run in finished.items():
            out = demo / FOLDER / name
            told = build(recipe_of(run.recipe, name, offset, inputs), out, engine=engine)
            results[name] = _measured(Finished.read(out), rewards, told)
    return results


def recipe_of(recipe: Recipe, cycle: str, offset: int, inputs: int) -> Recipe:
    """The demo's recipe with the samples of one model, on other scenes."""
    forward = [ModelChoice.model_validate({**MODELS[cycle], "samples": max(SIZES)})]
    scenes = recipe.inputs.model_copy(update={"offset": offset, "limit": inputs})
    return recipe.model_copy(update={"name": f"{recipe.name}-best-of-n", "inputs": scenes, "forward": forward})


def _measured(run: Finished, rewards: dict[str, Path], told: dict[str, Any]) -> dict[str, Any]:
    rows = run.store.read_view("candidates").filter(pc.field("status") == "ok").sort_by("generation_id").to_pylist()
    scores = run.store.read_view("scores")
    sign = 1 if told["models"][run.recipe.metric.label]["higher_is_better"] else -1
    cycle = dict(zip(scores["generation_id"].to_pylist(), scores["value"].to_pylist(), strict=True))
    rows = [row for row in rows if row["generation_id"] in cycle]
    values = {CYCLE: {id_: sign * value for id_, value in cycle.items()}}
    values[LENGTH] = agreement.lengths(run.store, run.recipe.shape)
    seconds = {CYCLE: sum(told["seconds"].get(stage, 0.0) for stage in ("reconstructions", "scores")) / len(rows)}
    for name, folder in rewards.items():
        began = time.monotonic()
        values[name] = _rewards(folder, run, rows)
        seconds[name] = (time.monotonic() - began) / len(rows)
    by_input: dict[str, list[str]] = {}
    for row in rows:
        by_input.setdefault(row["input_id"], []).append(row["generation_id"])
    judges = [*rewards, CYCLE, LENGTH]
    groups: list[Group] = [
        (number, np.array([run.truth[id_] for id_ in ids]),
         {judge: np.array([values[judge][id_] for id_ in ids]) for judge in judges})
        for number, ids in enumerate(by_input.values())
    ]  # fmt: skip
    return {"model": MODELS[run.recipe.cycle]["model"], "seconds": seconds, **(curves(groups) or {"curves": {}})}


def _rewards(folder: Path, run: Finished, rows: list[dict[str, Any]]) -> dict[str, float]:
    from cyclepref.builder.reward.model import RewardModel

    model = RewardModel.from_pretrained(folder).eval()
    inputs = content_by_id(run.store, "inputs", "input_id", [row["input_id"] for row in rows])
    shared = [inputs[row["input_id"]] for row in rows]
    own: list[Any] = [row["text"] for row in rows]
    if run.recipe.shape.candidate == "image":
        made = content_by_id(run.store, "generations", "generation_id", [row["generation_id"] for row in rows])
        own, shared = shared, [made[row["generation_id"]] for row in rows]
    scores = model.score(images=shared, texts=own)
    return dict(zip((row["generation_id"] for row in rows), scores, strict=True))


def table(results: dict[str, Any]) -> list[str]:
    """The curves as Markdown, one row for each judge and cycle."""
    sizes = [point["n"] for found in results.values() for point in next(iter(found["curves"].values()), [])]
    columns = sorted(set(sizes))
    lines = [
        f"| true alignment of the best of n | {' | '.join(f'n = {n}' for n in columns)} | ms a candidate |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    for cycle, found in results.items():
        for judge, points in found["curves"].items():
            value = {point["n"]: f"{100 * point['score']:.1f}%" for point in points}
            cost = found["seconds"].get(judge)
            cells = [value.get(n, "") for n in columns] + [f"{1000 * cost:.1f}" if cost is not None else ""]
            lines.append(f"| {cycle}, picked by {judge} | {' | '.join(cells)} |")
    return lines


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the curves into a picture, one panel for each cycle."""
    shown = {name: found for name, found in results.items() if found["curves"]}
    wide, tall, gap = 470, 340, 24
    sheet = Image.new("RGB", (len(shown) * (wide + gap) + gap, tall + 2 * gap), "white")
    pen = ImageDraw.Draw(sheet)
    for at, (name, found) in enumerate(shown.items()):
        kind = "captions" if name == "i2t2i" else "images"
        what = f"true alignment of {kind} by {found['model'].removeprefix('shapeworld-')}"
        best_of_n(pen, (gap + at * (wide + gap), gap, wide, tall), found, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def picked_by(demo: Path, trained: dict[str, Path]) -> dict[str, Path]:
    """The reward models that pick: the demo's own, and the one trained on true labels."""
    return {COMBO: demo / "reward", ORACLE: trained["oracle"]}
