"""What limits a cycle: each of its parts replaced by the truth, one at a time, on a finished demo.

    python -m cyclepref.builder.study.limits --demo runs/demo

Every row scores the candidates of the run again with one part replaced, and is compared with the truth on three sets of
pairs: the recipe's, those of them within one model, and every two candidates of one model. The last set is the hardest:
no score can be right there by knowing which model is the better one.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.catalog.resolve import metric_spec, model_spec
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.models import load_model
from cyclepref.builder.pairing.pair import same_output
from cyclepref.builder.run.content import content_by_id
from cyclepref.builder.shapeworld import grammar, oracle
from cyclepref.builder.shapeworld.render import render
from cyclepref.builder.shapeworld.scenes import Scene
from cyclepref.builder.study import agreement
from cyclepref.builder.study.method import Finished, read_demo, scene_of
from cyclepref.schemas.ids import generation_id, sample_seed
from cyclepref.schemas.run_files import RunJson

SETS = ("pairs", "same model", "every two of a model")
AS_IT_IS = "the cycle score as it is"
_RENDER_SEED = 2_000_000  # of the true renders, different from every input's

# A score for each candidate, the higher the better, by generation_id; candidates that have none are left out.
Judge = dict[str, float]


class Cycles:
    """The candidates of a run with their reconstructions, and what scores them again.

    `rows` are the candidates that were made, each with `generation_id`, `input_id`, `model` and `content_id`.
    """

    def __init__(self, run: Finished):
        self.run = run
        self.rows = _made(run).to_pylist()
        sources = run.store.rows("sources", ["input_id", "source"]).to_pylist()
        self.scenes = {row["input_id"]: grammar.parse(row["source"]) for row in sources}
        self.inputs = content_by_id(run.store, "inputs", "input_id", [row["input_id"] for row in self.rows])
        self.spec = metric_spec(run.recipe.metric, run.recipe.shape.input, run.recipe.backward)
        self._metric = load_metric(self.spec)

    def seeds(self, input_id: str) -> list[int | None]:
        """The seeds of the backward model's samples for the candidates of an input."""
        recipe = self.run.recipe
        if model_spec(recipe.backward, recipe.shape.backward_kind).greedy:
            return [None]
        return [sample_seed(recipe.seed, input_id, i, "backward") for i in range(recipe.backward.samples)]

    def reconstructions(self) -> list[list[Any]]:
        """Of each candidate the texts or images that the run's backward model made of it."""
        run = self.run
        models = (run.store.read_json("run.json", RunJson) or {})["models"]
        print_ = models[run.recipe.backward.label]["fingerprint"]
        ids = [
            [generation_id(row["content_id"], print_, seed) for seed in self.seeds(row["input_id"])]
            for row in self.rows
        ]
        found = content_by_id(run.store, "generations", "generation_id", itertools.chain(*ids))
        return [[found[id_] for id_ in some if id_ in found] for some in ids]

    def images(self) -> list[Any]:
        """The picture of each candidate of a t2i2t run."""
        ids = [row["generation_id"] for row in self.rows]
        found = content_by_id(self.run.store, "generations", "generation_id", ids)
        return [found[id_] for id_ in ids]

    def by_metric(self, reconstructions: Sequence[Sequence[Any]]) -> Judge:
        """The recipe's metric between each candidate's input and reconstructions, the mean over them."""
        sign = 1 if self.spec.higher_is_better else -1
        inputs = [self.inputs[row["input_id"]] for row in self.rows]
        flat = [(x, y) for x, some in zip(inputs, reconstructions, strict=True) for y in some]
        values = iter(self._metric.compare(*map(list, zip(*flat, strict=True))))
        return self._means([[sign * next(values) for _ in some] for some in reconstructions])

    def by_counting(self, reconstructions: Sequence[Sequence[Any]]) -> Judge:
        """The true alignment of each candidate's reconstructions with its input's scene, the mean over them."""
        scenes = [self.scenes[row["input_id"]] for row in self.rows]
        if self.run.recipe.shape.input == "text":
            read = zip(scenes, reconstructions, strict=True)
            return self._means([[oracle.truth(scene, text) for text in some] for scene, some in read])
        flat = [(s, image) for s, some in zip(scenes, reconstructions, strict=True) for image in some]
        values = iter(oracle.truth_of_images(*map(list, zip(*flat, strict=True))))
        return self._means([[next(values) for _ in some] for some in reconstructions])

    def _means(self, values: list[list[float]]) -> Judge:
        return {row["generation_id"]: sum(v) / len(v) for row, v in zip(self.rows, values, strict=True) if v}


def judges(cycles: Cycles) -> dict[str, Judge]:
    """The cycle score, and the scores with one part after another replaced by the truth, by what was replaced."""
    return (_of_images if cycles.run.recipe.shape.candidate == "image" else _of_captions)(cycles)


def _of_images(cycles: Cycles) -> dict[str, Judge]:
    """t2i2t: a picture is captioned, and the captions are compared with the prompt by SBERT."""
    images, made = cycles.images(), cycles.reconstructions()
    shown = oracle.recover(images)
    read = [[grammar.describe(scene)] for scene in shown]
    recipe = cycles.run.recipe
    captioner = load_model(model_spec(recipe.backward, recipe.shape.backward_kind))
    seeds = [cycles.seeds(row["input_id"]) for row in cycles.rows]
    clear = [render(scene, _RENDER_SEED) for scene in shown]
    flat = [(image, seed) for image, some in zip(clear, seeds, strict=True) for seed in some]
    said = iter(captioner.caption(*map(list, zip(*flat, strict=True))))
    of_clear = [[next(said).text for _ in some] for some in seeds]
    return {
        AS_IT_IS: cycles.by_metric(made),
        "metric: count attributes": cycles.by_counting(made),
        "picture: a render of what it shows": cycles.by_metric(of_clear),
        "picture and metric": cycles.by_counting(of_clear),
        "backward captioner: the recogniser": cycles.by_metric(read),
    }


def _of_captions(cycles: Cycles) -> dict[str, Judge]:
    """i2t2i: a caption is painted, and the picture is compared with the input by LPIPS."""
    made = cycles.reconstructions()
    shown = iter(oracle.recover([image for some in made for image in some]))
    clear = [[render(next(shown), _RENDER_SEED) for _ in some] for some in made]
    meant = [scene_of(row["text"]) for row in cycles.rows]
    return {
        AS_IT_IS: cycles.by_metric(made),
        "metric: count attributes": cycles.by_counting(made),
        "picture: a render of what it shows": cycles.by_metric(clear),
        "backward pipeline: a true render": cycles.by_metric([_rendered(scene) for scene in meant]),
    }


def _rendered(scene: Scene | None) -> list[Any]:
    """The render of a caption's scene; none if the caption leaves something out or contradicts itself."""
    return [] if scene is None else [render(scene, _RENDER_SEED)]


def _made(run: Finished) -> pa.Table:
    return run.store.read_view("candidates").filter(pc.field("status") == "ok").sort_by("generation_id")


def pair_sets(run: Finished) -> dict[str, pa.Table]:
    """The three sets of pairs, by the names in SETS. In the last one, which has those of equal scores too, the chosen
    side is the first by id."""
    pairs, made = run.pairs, _made(run)
    shared = [
        bool(set(a) & set(b))
        for a, b in zip(*(pairs[f"{side}_models"].to_pylist() for side in ("chosen", "rejected")), strict=True)
    ]
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    outputs = same_output(made, run.recipe.shape.candidate).to_pylist()
    for row, same in zip(made.to_pylist(), outputs, strict=True):
        groups[row["input_id"], row["model"]].setdefault(same, row["generation_id"])
    two = [
        (input_id, a, b)
        for (input_id, _), distinct in sorted(groups.items())
        for a, b in itertools.combinations(distinct.values(), 2)
    ]
    schema = pa.schema([(name, pa.string()) for name in ("input_id", "chosen_id", "rejected_id")])
    every_two = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in two], schema=schema)
    return dict(zip(SETS, (pairs, pairs.filter(pa.array(shared, pa.bool_())), every_two), strict=True))


def measure(run: Finished) -> dict[str, dict[str, Any]]:
    """Agreement with the truth of every row on every set of pairs: share, pairs, low, high.

    A pair counts if all of its row's scores are known; equal scores count one half.
    """
    sets = pair_sets(run)
    return {
        label: {name: judged(pairs, run.truth, judge) for name, pairs in sets.items()}
        for label, judge in judges(Cycles(run)).items()
    }


def judged(pairs: pa.Table, truth: dict[str, float], judge: Judge) -> dict[str, Any]:
    """Agreement of a judge with its interval by input, on the pairs of which it scored both sides."""
    known = pa.array(judge, pa.string())
    kept = pairs.filter(pc.and_(*(pc.is_in(pairs[f"{side}_id"], known) for side in ("chosen", "rejected"))))
    share = agreement.agreement(kept, truth, judge.__getitem__)
    if share.share is None:
        return {"share": None, "pairs": 0, "low": None, "high": None}
    low, high = agreement.share_interval(kept, truth, judge.__getitem__)
    return {"share": share.share, "pairs": share.pairs, "low": low, "high": high}


def table(cycle: str, results: dict[str, dict[str, Any]]) -> list[str]:
    """The results of one cycle as Markdown, a line for each row."""
    lines = [f"| {cycle}, replaced by the truth | {' | '.join(SETS)} |", "| --- |" + " --- |" * len(SETS)]
    return lines + [f"| {label} | {' | '.join(_cell(row[name]) for name in SETS)} |" for label, row in results.items()]


def _cell(found: dict[str, Any]) -> str:
    if found["share"] is None:
        return "none"
    share, low, high = (100 * found[name] for name in ("share", "low", "high"))
    return f"{share:.1f}% ({low:.1f} to {high:.1f}) of {found['pairs']:,}"


def main(argv: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Print the tables of both cycles, and write the numbers as JSON if wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m cyclepref.builder.study.limits",
        description="Replace each part of a finished demo's cycles by the truth, and measure agreement with it.",
        epilog="example: cyclepref demo --out runs/demo && python -m cyclepref.builder.study.limits --demo runs/demo",
    )
    parser.add_argument("--demo", type=Path, required=True, help="folder of a finished `cyclepref demo`")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    options = parser.parse_args(argv)
    results = {}
    for name, run in read_demo(options.demo).items():
        results[name] = measure(run)
        say("\n".join([*table(name, results[name]), ""]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
