"""The quality of the embedded world's models, measured on scenes that no training has seen.

The models are loaded by plain `from_pretrained`, as a user would load them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.metrics import Metric, load_metric
from cyclepref.builder.shapeworld import models, oracle
from cyclepref.builder.shapeworld.grammar import describe
from cyclepref.builder.shapeworld.render import render
from cyclepref.builder.shapeworld.scenes import Scene, altered, sample_scenes

_RENDER_SEED, _SCENE_SEED = 1_000_000, 20  # seeds that no demo recipe uses
_WRONG = range(4)


def measure(count: int, weights: Path = models.WEIGHTS, only: Sequence[str] = ()) -> dict:
    """All measurements over `count` held-out scenes, as nested dicts of numbers; `only` names the models to measure.

    Shares are in [0, 1]. Raises ValueError for a count that is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}: give the number of scenes to measure on")
    scenes = sample_scenes(count, _SCENE_SEED, held_out=True)
    renders = [render(scene, _RENDER_SEED + i) for i, scene in enumerate(scenes)]
    wanted = [name for name in (*models.CAPTIONERS, *models.PIPELINES) if not only or name in only]
    results: dict = {"count": count, "image oracle": image_oracle_accuracy(scenes, renders)}
    results["lpips"] = lpips_ordering(scenes, weights)
    results["sbert"] = sbert_ordering(scenes)
    pictures = {"renders": renders}
    results["pipelines"] = {}
    for name in models.PIPELINES:
        if name in wanted:
            results["pipelines"][name], pictures[name] = pipeline_quality(name, scenes, weights)
    results["captioners"] = {
        name: captioner_quality(name, scenes, pictures, weights) for name in models.CAPTIONERS if name in wanted
    }
    results["bytes"] = sizes(weights)
    return results


def image_oracle_accuracy(scenes: Sequence[Scene], renders: Sequence[Image.Image]) -> dict[str, float]:
    """The share of fresh renders on which the image oracle gets each attribute right, and the whole scene.

    Counts, colours and shapes are those of the first group in canonical order, and of the second if there is one.
    """
    seen = oracle.recover(renders)
    hits: dict[str, list[bool]] = {name: [] for name in ("scene", "background", "relation", "count", "colour", "shape")}
    for true, found in zip(scenes, seen, strict=True):
        hits["scene"].append(true == found)
        hits["background"].append(true.background == found.background)
        hits["relation"].append(true.relation == found.relation)
        for group, other in itertools.zip_longest(true.groups, found.groups[: len(true.groups)]):
            for name in ("count", "colour", "shape"):
                hits[name].append(getattr(group, name) == getattr(other, name, None))
    return {name: _mean(values) for name, values in hits.items()}


def lpips_ordering(scenes: Sequence[Scene], weights: Path) -> dict[str, float]:
    """How well LPIPS orders renders of a scene with 0 to 3 wrong attributes, each with a jitter of its own.

    This is the ceiling of agreement in i2t2i. See `_ordering` for what is returned.
    """
    spec = CATALOG["lpips-shapeworld"].model_copy(update={"repo": str(weights / "lpips")})
    shown = [render(scene, _RENDER_SEED + i) for i, scene in enumerate(scenes)]
    others = [[render(altered(scene, k, i), i) for i, scene in enumerate(scenes)] for k in _WRONG]
    return _ordering(load_metric(spec), shown, others, sign=-1)


def sbert_ordering(scenes: Sequence[Scene]) -> dict[str, float]:
    """How well SBERT orders descriptions of a scene with 0 to 3 wrong attributes: the ceiling of t2i2t."""
    others = [[describe(altered(scene, k, i)) for i, scene in enumerate(scenes)] for k in _WRONG]
    return _ordering(load_metric(CATALOG["sbert"]), [describe(scene) for scene in scenes], others, sign=1)


def _ordering(metric: Metric, inputs: list, others: list[list], sign: int) -> dict[str, float]:
    """The share of unequal pairs ordered truly, ties counting half, and the mean value with k attributes wrong.

    `others[k]` are the inputs with k attributes wrong; `sign` is -1 for a distance.
    """
    columns = torch.tensor([metric.compare(inputs, other) for other in others], dtype=torch.float64)
    gaps = torch.stack([sign * (columns[a] - columns[b]) for a, b in itertools.combinations(_WRONG, 2)])
    right = (gaps > 0).double() + 0.5 * (gaps == 0).double()
    means = {f"{k} wrong": column.mean().item() for k, column in enumerate(columns)}
    return {"ordered": right.mean().item(), **means}


def pipeline_quality(name: str, scenes: Sequence[Scene], weights: Path) -> tuple[dict[str, float], list[Image.Image]]:
    """Attributes right and truth of a pipeline's pictures by the image oracle, milliseconds a picture, the pictures."""
    paint = models.painter(name, weights)
    prompts = [describe(scene) for scene in scenes]
    paint(prompts[:1], [0])
    began = time.monotonic()
    images = paint(prompts, list(range(len(prompts))))
    seconds = time.monotonic() - began
    seen = [describe(scene) for scene in oracle.recover(images)]
    return _quality(scenes, seen) | {"ms": 1000 * seconds / len(images)}, images


def captioner_quality(name: str, scenes: Sequence[Scene], pictures: dict, weights: Path) -> dict[str, dict]:
    """Attributes right and truth of a captioner on each set of pictures, and milliseconds a caption.

    On generated pictures a caption is compared with what the image oracle sees in the picture, not with the prompt.
    """
    caption = models.captioner(name, weights)
    caption(pictures["renders"][:1])
    results = {}
    for source, images in pictures.items():
        shown = scenes if source == "renders" else oracle.recover(images)
        began = time.monotonic()
        captions = caption(images)
        seconds = time.monotonic() - began
        words = _mean(len(text.split()) for text in captions)
        results[source] = _quality(shown, captions) | {"words": words, "ms": 1000 * seconds / len(images)}
    return results


def sizes(weights: Path) -> dict[str, int]:
    """Bytes of each model's folder, of the largest file, and of all files."""
    files = {path: path.stat().st_size for path in weights.rglob("*") if path.is_file()}
    folders: dict[str, int] = {}
    for path, size in files.items():
        top = path.relative_to(weights).parts[0]
        folders[top] = folders.get(top, 0) + size
    return dict(sorted(folders.items())) | {"largest file": max(files.values()), "total": sum(files.values())}


def _quality(scenes: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    return {
        "right": _mean(map(oracle.attributes_right, scenes, captions)),
        "truth": _mean(map(oracle.truth, scenes, captions)),
        "whole": _mean(describe(scene) == caption for scene, caption in zip(scenes, captions, strict=True)),
    }


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)
