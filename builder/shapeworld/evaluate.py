"""Measure the shipped models on held-out scenes: python -m builder.shapeworld.evaluate

Everything is measured on scenes that no training has seen, with the models loaded by plain `from_pretrained`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from builder.shapeworld import models, oracle
from builder.shapeworld.grammar import describe
from builder.shapeworld.recogniser import as_tensor
from builder.shapeworld.render import render
from builder.shapeworld.scenes import Scene, altered, sample_scenes

_RENDER_SEED, _SCENE_SEED = 1_000_000, 20  # seeds that no demo recipe uses


def evaluate(count: int, weights: Path = models.WEIGHTS, only: Sequence[str] = ()) -> dict:
    """All measurements over `count` held-out scenes, as nested dicts of numbers; `only` names models to look at.

    Shares are in [0, 1]. Raises ValueError for a count that is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}: give the number of scenes to measure on")
    scenes = sample_scenes(count, _SCENE_SEED, held_out=True)
    renders = [render(scene, _RENDER_SEED + i) for i, scene in enumerate(scenes)]
    wanted = [name for name in (*models.CAPTIONERS, *models.PIPELINES) if not only or name in only]
    results: dict = {"count": count, "image oracle": image_oracle_accuracy(scenes, renders)}
    results["lpips"] = lpips_ordering(scenes, weights)
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

    Counts, colours and shapes are those of the first group in canonical order, and of the second where there is one.
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
    """How well LPIPS orders renders of a scene with 0 to 3 wrong attributes: the share of unequal pairs ordered truly.

    Both pictures have a jitter of their own. `distance k` is the mean distance with k attributes wrong.
    """
    metric, columns = models.lpips_metric(weights), {}
    first = as_tensor([render(scene, _RENDER_SEED + i) for i, scene in enumerate(scenes)]) * 2 - 1
    for wrong in range(4):
        others = [altered(scene, wrong, i) for i, scene in enumerate(scenes)]
        second = as_tensor([render(other, i) for i, other in enumerate(others)]) * 2 - 1
        columns[wrong] = torch.cat([metric(a, b) for a, b in zip(first.split(64), second.split(64), strict=True)])
    ordered = [columns[a] < columns[b] for a, b in itertools.combinations(range(4), 2)]
    distances = {f"distance {wrong}": column.mean().item() for wrong, column in columns.items()}
    return {"ordered": torch.cat(ordered).float().mean().item(), **distances}


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

    On generated pictures a caption is held against what the image oracle sees in the picture, not against the prompt.
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


def table(results: dict) -> str:
    """The measurements as text, a block a kind of model."""
    lines = [f"image oracle on {results['count']} fresh renders: " + _row(results["image oracle"])]
    lines.append("LPIPS: " + _row(results["lpips"]))
    lines += [f"{name:12} paints: {_row(row)}" for name, row in results["pipelines"].items()]
    for name, sources in results["captioners"].items():
        lines += [f"{name:12} reads {source:9}: {_row(row)}" for source, row in sources.items()]
    lines.append("MB: " + ", ".join(f"{name} {size / 1e6:.2f}" for name, size in results["bytes"].items()))
    return "\n".join(lines)


def _row(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" if value < 10 else f"{name} {value:.0f}" for name, value in row.items())


def main(argv: list[str] | None = None) -> None:
    """Print the table, and write the numbers as JSON when asked."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.shapeworld.evaluate",
        description="Measure the embedded world's models on held-out scenes.",
        epilog="example: python -m builder.shapeworld.evaluate --count 64 --only sd3 blip",
    )
    parser.add_argument("--count", type=int, default=256, help="held-out scenes to measure on (%(default)s)")
    parser.add_argument("--only", nargs="+", default=(), choices=(*models.CAPTIONERS, *models.PIPELINES))
    parser.add_argument("--weights", type=Path, default=models.WEIGHTS)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    models.quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = evaluate(options.count, options.weights, options.only)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
