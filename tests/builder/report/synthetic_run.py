"""A large run directory in seconds: rows as a build leaves them, with made-up contents; and one that means harm."""

import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from cyclepref.builder.pairing.pair import Direction, pair
from cyclepref.builder.pairing.scores import cycle_scores, of_metric
from cyclepref.builder.run.store import Store
from cyclepref.schemas import records
from cyclepref.schemas.cycle import CYCLES, Cycle
from cyclepref.schemas.ids import digest, sample_seed
from cyclepref.schemas.recipe import Pairing, Recipe

METRICS = {"closeness": True, "distance": False}
WORDS = (
    "a",
    "red",
    "green",
    "round",
    "square",
    "small",
    "circle",
    "star",
    "on",
    "under",
    "table",
    "sky",
    "with",
    "two",
)
MODELS = ("plain", "bold", "careful")
PICTURES, SIZE = 64, 32
HOSTILE = (
    '<script>window.harm="script"</script>',
    "<img src=x onerror=\"window.harm='image'\">",
    "\u202eredro eht desrever\u202c \u200f\u2066",
    "'\"><svg onload=window.harm='svg'>",
    "{{ 7 * 7 }} ${window.harm='template'} </script><script>window.harm='end'</script>",
    "long " * 20_000,
    '<a href="javascript:window.harm=1">press</a><b>bold</b>',
    "nul \x00 bell \x07 escape \x1b[31m \ufeff \u2028 line",
)


def synthetic_run(
    out: Path, cycle_name: str, inputs: int, seeds: int = 2, hostile: bool = False, first: int = 0
) -> Path:
    """Write `inputs` inputs with a candidate of each model, `seeds` reconstructions of each, and two metrics. Later
    models are better more often than not; the metrics disagree on every fifteenth input."""
    cycle, store, rng = CYCLES[cycle_name], Store(out), random.Random(inputs)
    content = Contents(rng, hostile)
    models = [f"{name} {HOSTILE[at]}" for at, name in enumerate(MODELS)] if hostile else MODELS
    sources, made, back, similar, samples = [], [], [], [], []
    for at in range(first, first + inputs):
        id_ = digest("input", at)
        name = f"{HOSTILE[at % len(HOSTILE)][:200]}/{at}.png" if hostile else f"folder {at % 5}/{at}.png"
        source = {"input_id": id_, "source": name, "source_key": digest("source", at)}
        sources.append(content.of(cycle.input, id_, at) | source)
        for number, model in enumerate(models):
            key = digest("candidate", at, number)
            candidate = content.of(cycle.candidate, key, at + number)
            made.append(candidate | _about(model, key, id_, number) | {"truncated": rng.random() < 0.05})
            level = rng.gauss(0.4 + 0.1 * number, 0.15)
            for sample in range(seeds):
                again = digest("back", at, number, sample)
                result = content.of(cycle.input, again, at + sample)
                seed = sample_seed(0, id_, sample, "backward")
                back.append(result | _about("backward", again, candidate["content_id"], seed))
                value = min(1.0, max(0.0, rng.gauss(level, 0.05)))
                for row in _similarities(id_, result["content_id"], value, odd=at % 15 == 7):
                    similar.append(row)
                    samples.append(row | {"generation_id": key, "sample_index": sample})
    store.write_part("inputs", _table(sources, records.INPUT))
    store.write_part("sources", _table(sources, records.SOURCE))
    store.write_part("generations", _table([*made, *back], records.GENERATION))
    store.write_part("similarities", _table(similar, records.SIMILARITY))
    _views(store, cycle, made, samples, hostile)
    return out


class Contents:
    """Texts and pictures, a function of their key."""

    def __init__(self, rng: random.Random, hostile: bool):
        self.rng, self.hostile = rng, hostile
        self.pictures = [_picture(at) for at in range(PICTURES)]

    def of(self, modality: str, key: str, at: int) -> dict:
        """A row's content."""
        if modality == "image":
            image = self.pictures[int(key[:4], 16) % PICTURES]
            size = {"width": SIZE, "height": SIZE}
            return {"content_id": digest("content", key), "modality": modality, "image": image, **size}
        text = HOSTILE[at % len(HOSTILE)] if self.hostile else " ".join(self.rng.choices(WORDS, k=4 + at % 27))
        return {"content_id": digest("content", key), "modality": modality, "text": f"{text} {key[:4]}"}


def _about(model: str, key: str, source: str, seed: int) -> dict:
    ids = {"generation_id": key, "source_id": source, "input_id": source, "fingerprint": digest(model)}
    return {**ids, "model": model, "seed": seed, "draw": 0, "sample_index": 0, "status": "ok", "code_version": "test"}


def _similarities(input_id: str, content: str, closeness: float, odd: bool) -> list[dict]:
    """The values of both metrics, which say the opposite of each other on an `odd` input."""
    distance = closeness**2 if odd else 1 - closeness**2
    return [
        {"similarity_id": digest(input_id, content, metric), "input_id": input_id, "content_id": content,
         "metric": metric, "fingerprint": digest(metric), "value": closeness if higher else distance,
         "code_version": "test"}
        for metric, higher in METRICS.items()
    ]  # fmt: skip


def _views(store: Store, cycle: Cycle, made: list[dict], samples: list[dict], hostile: bool) -> None:
    candidates, scores = _table(made, records.CANDIDATE), cycle_scores(pa.Table.from_pylist(samples))
    rule = Pairing(by="closeness", min_margin=0.02)
    deciding = of_metric(scores, "closeness")
    pairs, count = pair(candidates, deciding, cycle.candidate, Direction("closeness", "scored", True), rule)
    for view, rows in (("candidates", candidates), ("scores", scores), ("pairs", pairs)):
        store.write_view(view, rows)
    source = {"image": "images", "text": "prompts"}[cycle.input]
    recipe = Recipe.model_validate({
        "name": "synthetic", "cycle": cycle.name, "inputs": {"source": source, "path": "photos"},
        "forward": [{"model": f"model-{at}"} for at in range(len(MODELS))], "backward": {"model": "backward"},
        "metrics": [{"metric": metric} for metric in METRICS], "pairs": rule.model_dump(),
    }).model_dump(mode="json")  # fmt: skip
    if hostile:  # no recipe is called that; a run.json from elsewhere may say so
        recipe["name"] = HOSTILE[0]
    models = {name: {"fingerprint": digest(name), "higher_is_better": higher} for name, higher in METRICS.items()}
    inputs = len({row["input_id"] for row in made})
    counts = {"inputs": {"read": inputs, "unique": inputs, "duplicate": 0, "failed": 0}, "pairs": count.to_dict()}
    run = {"cyclepref": "test", "python": "3", "recipe": recipe, "models": models, "counts": counts}
    store.write_json("run.json", run)


def _picture(at: int) -> bytes:
    pixels = np.random.default_rng(at).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
