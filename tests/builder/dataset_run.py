"""A run directory made of rows, without a model: views of known content for tests of what is published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.common.images import content_id, encode
from cyclepref.builder.dataset.card import Facts
from cyclepref.builder.dataset.views import Views, WritePlan
from cyclepref.builder.pairing.pair import Direction, pair
from cyclepref.builder.pairing.scores import SAMPLE, cycle_scores
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant
from cyclepref.schemas import records
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.ids import digest, text_id
from cyclepref.schemas.recipe import Recipe, parse_recipe
from cyclepref.schemas.resolved import Resolved

MODELS = ("strong", "middle", "weak")
COUNT = {"wanted": 1, "ok": 1, "failed": 0, "reused": 1}


@dataclass
class Run:
    """A run directory with inputs and generations in its store, and the views over them."""

    store: Store
    recipe: Recipe
    views: Views
    facts: Facts

    def plan(self, **changes: Any) -> WritePlan:
        return WritePlan(**{"splits": self.recipe.splits, "models": sorted(MODELS), **changes})

    def accountant(self) -> Accountant:
        return Accountant(self.store, self.recipe.max_failure_rate)


def noise(seed: int, side: int = 24) -> Image.Image:
    """A picture that PNG cannot make smaller: its size in bytes is that of its pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def make_run(place: Path, cycle: str = "t2i2t", inputs: int = 20, side: int = 24, **recipe: Any) -> Run:
    """`inputs` inputs, each with a candidate of each of MODELS; the stronger a model, the higher its score."""
    store, shape = Store(place), CYCLES[cycle]
    contents = [f"prompt number {at} about a {digest('word', at)[:9]}" for at in range(inputs)]
    sources = [_image(at, side) if shape.input == "image" else {"text": c} for at, c in enumerate(contents)]
    keys = [row.get("content_id") or text_id(row["text"]) for row in sources]
    rows = [{"input_id": key, "modality": shape.input, "text": row.get("text"), "image": row.get("image")}
            for key, row in zip(keys, sources, strict=True)]  # fmt: skip
    store.write_part("inputs", pa.Table.from_pylist(rows, schema=records.INPUT))
    candidates, back, samples, written = [], [], [], []
    for at, key in enumerate(keys):
        for rank, model in enumerate(MODELS):
            number = 1000 + at * len(MODELS) + rank
            made = _image(number, side) if shape.candidate == "image" else _text(f"{model} says {number}" + " x" * rank)
            id_ = digest("candidate", key, model)
            common = {"generation_id": id_, "model": model, "fingerprint": digest(model), "seed": number, **made}
            written.append({"source_id": key, "truncated": False, "cut_by": [], "code_version": "1", **common})
            candidates.append({"input_id": key, "sample_index": 0, "truncated": False, "status": "ok", **common})
            again = _image(5000 + number, side) if shape.input == "image" else _text(f"{number} back")
            back_id = digest("back", id_)
            link = {"generation_id": back_id, "source_id": made["content_id"], "model": "back", "seed": at}
            link["fingerprint"] = digest("back")
            written.append({**link, "truncated": False, "cut_by": [], "code_version": "1", **again})
            back.append({**link, "input_id": key, "sample_index": 0, "content_id": again["content_id"]})
            value = 0.9 - 0.2 * rank + 0.001 * (at % 7)
            samples.append((id_, key, 0, "sbert", "f", value))
    for start in range(0, len(written), 256):
        part = [{name: row.get(name) for name in records.GENERATION.names} for row in written[start : start + 256]]
        store.write_part("generations", pa.Table.from_pylist(part, schema=records.GENERATION))
    return _run(store, cycle, keys, candidates, back, samples, recipe)


def _run(store: Store, cycle: str, keys: list, candidates: list, back: list, samples: list, changes: dict) -> Run:
    recipe = parse_recipe(
        {
            "name": "test", "cycle": cycle, "inputs": {"source": "shapeworld", "limit": 1},
            "forward": [{"model": "a/b", "name": name} for name in MODELS],
            "backward": {"model": "a/b"}, "metric": {"metric": "sbert"},
            "pairs": {"min_margin": 0.1, "poor_chosen": None},
            "splits": {"train": 0.6, "validation": 0.2, "test": 0.2}, **changes,
        }
    )  # fmt: skip
    made = pa.Table.from_pylist(
        [{name: row.get(name) for name in records.CANDIDATE.names} for row in candidates], schema=records.CANDIDATE
    )
    table = pa.Table.from_pylist([dict(zip(SAMPLE.names, row, strict=True)) for row in samples], schema=SAMPLE)
    scores, direction = cycle_scores(table), Direction("sbert", "f", True)
    pairs, count = pair(made, scores, recipe.shape.candidate, direction, recipe.pairs)
    inputs = pa.table({"input_id": sorted(keys), "source": [f"source {key}" for key in sorted(keys)]})
    views = Views.of_tables(recipe.shape, inputs, made, scores, pairs, "sbert", pa.Table.from_pylist(back), table)
    spec = CATALOG["shapeworld-blip"]
    models = [Resolved(spec.model_copy(update={"name": name}), {"weights": name}) for name in (*MODELS, "back")]
    counts = {stage: dict.fromkeys(MODELS, COUNT) for stage in ("candidates", "reconstructions", "scores")}
    counts |= {"inputs": dict.fromkeys(("read", "unique", "duplicate", "failed"), len(keys)), "pairs": count.to_dict()}
    metric = Resolved(CATALOG["sbert"], {"sha256": "f"})
    return Run(store, recipe, views, Facts(recipe, models, [metric], direction, counts, "1", "mit"))


def _image(seed: int, side: int) -> dict[str, Any]:
    image = noise(seed, side)
    return {"content_id": content_id(image), "image": encode(image), "width": side, "height": side}


def _text(text: str) -> dict[str, Any]:
    return {"content_id": text_id(text), "text": text}
