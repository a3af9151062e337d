"""A finished run directory without a model: contents and scores are made up, all else is written by the real steps."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from cyclepref.builder.common.images import content_id, encode
from cyclepref.builder.dataset.edition import release_bare
from cyclepref.builder.dataset.views import Views, WritePlan
from cyclepref.builder.pairing.pair import Direction, pair
from cyclepref.builder.run.store import Store
from cyclepref.schemas import records
from cyclepref.schemas.cycle import CYCLES, Cycle
from cyclepref.schemas.ids import digest, generation_id, sample_seed, text_id
from cyclepref.schemas.recipe import Pairing, Recipe, Splits

RULE = {"min_margin": 0.05, "poor_chosen": 0.3}
# The better a model, the higher its scores: what a reward could learn instead of looking.
MODELS = {"weak": 0.2, "middling": 0.4, "strong": 0.6}
METRICS = {"i2t2i": ("lpips-alex", False), "t2i2t": ("sbert", True)}
COLOURS, SHAPES = ("red", "green", "blue", "white"), ("circle", "square", "star")


def make_run(out: Path, cycle_name: str, inputs: int = 40, samples: int = 2, pairs: dict | None = None) -> Path:
    """Write a run of `inputs` inputs with `samples` candidates of each of MODELS."""
    cycle, store = CYCLES[cycle_name], Store(out)
    metric, higher = METRICS[cycle_name]
    sources = [_content(cycle.input, f"{cycle_name} input {number}") for number in range(inputs)]
    store.write_part("inputs", _table([{**s, "input_id": s["content_id"]} for s in sources], records.INPUT))
    made, scores = [], []
    for source in sources:
        for model, level in MODELS.items():
            for index in range(samples):
                row = _candidate(cycle, source["content_id"], model, index)
                value = min(1.0, level + 0.4 * random.Random(row["generation_id"]).random())
                scores.append({**row, "metric": metric, "value": value if higher else 1 - value, "n": 1, "spread": 0.0})
                made.append(row)
    store.write_part("generations", _table(made, records.GENERATION))
    candidates, scored = _table(made, records.CANDIDATE), _table(scores, records.SCORE)
    rule = Pairing.model_validate(pairs or RULE)
    found, _ = pair(candidates, scored, cycle.candidate, Direction(metric, "scored", higher), rule)
    for view, rows in (("candidates", candidates), ("scores", scored), ("pairs", found)):
        store.write_view(view, rows)
    named = pa.table({"input_id": [s["content_id"] for s in sources], "source": ["made"] * inputs})
    keyed = [{"source_key": digest(row["input_id"]), **row} for row in named.to_pylist()]
    store.write_part("sources", _table(keyed, records.SOURCE))
    views = Views.of_tables(cycle, named, candidates, scored, found, metric)
    plan = WritePlan(Splits(train=0.6, validation=0.2, test=0.2), sorted(MODELS))
    counts = {"dataset": release_bare(store, views, plan, "mit", "made")}
    recipe = Recipe.model_validate(
        {
            "name": "made", "cycle": cycle_name, "inputs": {"source": "shapeworld", "limit": inputs},
            "forward": [{"model": model, "samples": samples} for model in MODELS], "backward": {"model": "back"},
            "metric": {"metric": metric}, "pairs": rule,
        }
    )  # fmt: skip
    models = {metric: {"higher_is_better": higher}}
    store.write_json("run.json", {"recipe": recipe.model_dump(mode="json"), "models": models, "counts": counts})
    return out


def _candidate(cycle: Cycle, input_id: str, model: str, index: int) -> dict:
    seed = sample_seed(0, input_id, index, "forward")
    # Strong and middling models agree now and then: then they made one candidate.
    name = "agreed" if model != "weak" and index == 0 and int(input_id[0], 16) < 5 else f"{model} {index}"
    content = _content(cycle.candidate, f"{input_id} {name}")
    ids = {"generation_id": generation_id(input_id, digest(model), seed), "source_id": input_id, "input_id": input_id}
    about = {"model": model, "fingerprint": digest(model), "seed": seed, "sample_index": index, "status": "ok"}
    return {**content, **ids, **about, "truncated": False, "code_version": "test", "raw_text": content["text"]}


def _content(modality: str, name: str) -> dict:
    """A text or an image that is a function of its name."""
    rng = random.Random(name)
    if modality == "text":
        words = [rng.choice(COLOURS), rng.choice(SHAPES), "on", rng.choice(COLOURS), rng.choice(SHAPES)]
        text = f"{' '.join(words)} {digest(name)[:6]}"
        return {"content_id": text_id(text), "modality": "text", "text": text, "image": None}
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return {
        "content_id": content_id(image),
        "modality": "image",
        "text": None,
        "image": encode(image),
        "width": 16,
        "height": 16,
    }


def _table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
