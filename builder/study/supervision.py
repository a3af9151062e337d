"""What the supervision of the world's LPIPS is worth: i2t2i's agreement with the truth with and without it.

Its backbone was trained to order pictures by the number of wrong attributes, so the world's own truth is in the metric.
On a run's stored images the trained features are compared with the same AlexNet's random features and with pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import lpips
import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image

from cyclepref.builder.catalog.resolve import metric_spec, model_spec
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.run.content import content_by_id
from cyclepref.builder.study import agreement, by_model
from cyclepref.builder.study.method import Finished
from cyclepref.schemas.ids import generation_id, sample_seed
from cyclepref.schemas.run_files import RunJson

RANDOM_SEEDS = (0, 1, 2)  # random features differ: three of them
Compare = Callable[[Sequence[Image.Image], Sequence[Image.Image]], Sequence[float]]


def measure(run: Finished) -> dict[str, dict[str, Any]]:
    """For each metric the agreement with its intervals on the recipe's pairs, on every two candidates, and on every two
    of one model; a judge's ties count half. `run` is one of i2t2i."""
    ids, inputs, back = _pictures(run)
    kinds = {"pairs": run.pairs, "every two": run.every_two, "every two of one model": by_model.within(run.every_two)}
    results = {}
    for name, compare in _metrics(run).items():
        score = {id_: -value for id_, value in zip(ids, compare(inputs, back), strict=True)}
        results[name] = {
            kind: asdict(agreement.estimate(pairs, run.truth, score.__getitem__)) for kind, pairs in kinds.items()
        }
    return results


def pixel_error(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> list[float]:
    """Mean squared difference of the pixels of pictures of equal size, in [0, 1]."""
    shown = zip(first, second, strict=True)
    return [float(np.square((np.asarray(a, float) - np.asarray(b, float)) / 255).mean()) for a, b in shown]


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The results as Markdown, a row for each metric."""
    kinds = list(next(iter(results.values())))
    lines = [f"| i2t2i, the images compared by | {' | '.join(kinds)} |", "| --- |" + " --- |" * len(kinds)]
    for name, found in results.items():
        cells = [_cell(found[kind]) for kind in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(of: dict[str, Any]) -> str:
    if not of["pairs"]:
        return "none"
    return f"{of['share']:.1%} of {of['pairs']:,} ({of['low']:.1%} to {of['high']:.1%})"


def _metrics(run: Finished) -> dict[str, Compare]:
    spec = metric_spec(run.recipe.metric, run.recipe.shape.input, run.recipe.backward)
    metrics: dict[str, Compare] = {"the trained features": load_metric(spec).compare}
    for seed in RANDOM_SEEDS:
        metrics[f"random features {seed + 1}"] = _random_features(spec, seed)
    return metrics | {"pixels (mean squared error)": pixel_error}


def _random_features(spec: Any, seed: int) -> Compare:
    metric: Any = load_metric(spec)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = lpips.LPIPS(net="alex", pnet_rand=True, lpips=False, verbose=False)
    metric.model.net.load_state_dict(fresh.net.state_dict())
    return metric.compare


def _pictures(run: Finished) -> tuple[list[str], list[Image.Image], list[Image.Image]]:
    """Of every candidate that every-two pairs name: its id, its input, and its first reconstruction."""
    told = run.store.read_json("run.json", RunJson)["models"][run.recipe.backward.label]
    greedy = model_spec(run.recipe.backward, run.recipe.shape.backward_kind).greedy
    rows = run.store.read_view("candidates").filter(pc.field("status") == "ok").to_pylist()
    named = set(run.every_two["chosen_id"].to_pylist()) | set(run.every_two["rejected_id"].to_pylist())
    made = {}
    for row in rows:
        if row["generation_id"] in named:
            seed = None if greedy else sample_seed(run.recipe.seed, row["input_id"], 0, "backward")
            made[row["generation_id"]] = row["input_id"], generation_id(row["content_id"], told["fingerprint"], seed)
    inputs = content_by_id(run.store, "inputs", "input_id", [input_ for input_, _ in made.values()])
    back = content_by_id(run.store, "generations", "generation_id", [id_ for _, id_ in made.values()])
    return list(made), [inputs[input_] for input_, _ in made.values()], [back[id_] for _, id_ in made.values()]
