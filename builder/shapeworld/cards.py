"""Write a model card beside each folder of weights: python -m cyclepref.builder.shapeworld.cards RESULTS

RESULTS is the file that `python -m cyclepref.builder.study.evaluate --json RESULTS` wrote; steps and times come from
the checkpoints of the training run, so every figure in a card was measured.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from cyclepref.builder.shapeworld import models
from cyclepref.builder.shapeworld.training import autoencoder, captioners, features, painters, recogniser

_BATCH = {
    "autoencoder": autoencoder.BATCH,
    "oracle": recogniser.BATCH,
    "lpips": features.BATCH,
    **dict.fromkeys(("blip", "llava", captioners.READER), captioners.BATCH),
    **dict.fromkeys(painters.STEPS, painters.BATCH),
}
_LOAD_CAPTIONER = "AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)"
_LOAD_PIPELINE = "DiffusionPipeline.from_pretrained(folder, dtype=torch.bfloat16)"


@dataclass(frozen=True)
class Made:
    """The cost of a model's training: optimizer steps, examples seen, wall-clock seconds."""

    steps: int
    examples: int
    seconds: float


def made(name: str, work: Path) -> Made:
    """The cost of a model's training, from its checkpoint in `work`, or for an early sibling from its note there."""
    note = work / f"{name}.txt"
    if note.exists():
        steps, seconds = note.read_text().split()[:2]
    else:
        state = torch.load(work / f"{name}.pt", weights_only=True, map_location="cpu")
        steps, seconds = state["step"], state["seconds"]
    return Made(int(steps), int(steps) * _BATCH[name.removesuffix("-early")], float(seconds))


def card(name: str, about: str, load: str, quality: list[str], making: Made, hardware: str) -> str:
    """The card of one folder, in Markdown."""
    job = name.removesuffix("-early")
    measured = "\n".join(f"- {line}" for line in quality)
    return f"""# {name}

{about} A tiny model of the embedded world ShapeWorld, of no use outside it.

- Data: renders of scenes outside the held-out side (`builder/shapeworld/scenes.py`), {making.examples:,} examples seen.
- Training: {making.steps:,} steps, {making.seconds / 60:.0f} minutes of wall-clock time on {hardware}.
- Command: `python -m cyclepref.builder.shapeworld.train --only {job}`
- Load: `{load}`

Measured on held-out scenes with `python -m cyclepref.builder.study.evaluate`:

{measured}
"""


def captioner_card(name: str, results: dict, making: Made, hardware: str) -> str:
    """The card of a captioner."""
    family = "BLIP" if name.startswith("blip") else "LLaVA (CLIP vision, Llama text)"
    about = f"A {family} captioner for 64x64 pictures; greedy, at most {models.NEW_TOKENS} new tokens."
    if name.startswith("llava"):
        about += f' Asked "{models.QUESTION}" through its chat template.'
    if name.endswith("-early"):
        about += " An early checkpoint, kept as the weaker sibling."
    if name == captioners.READER:
        about += (
            " The finished llava, trained on: a quarter of its pictures are worn renders, the others battered, fading"
            " into another scene, or half-painted by the weak pipelines (`training/unclear.py`)."
        )
    quality = [
        f"on {source}: {row['right']:.1%} of attributes right, truth {row['truth']:.3f}, "
        f"{row['whole']:.1%} of captions wholly right"
        for source, row in results["captioners"][name].items()
    ]
    return card(name, about, _LOAD_CAPTIONER, quality, making, hardware)


def pipeline_card(name: str, results: dict, work: Path, hardware: str) -> str:
    """The card of a text-to-image pipeline."""
    kind = (
        "StableDiffusion3Pipeline (flow matching)" if name.startswith("sd3") else "StableDiffusionPipeline (UNet, DDIM)"
    )
    sampling = ", ".join(f"{key}={value}" for key, value in models.SAMPLING[name].items())
    about = f"A {kind} for 64x64 pictures, sampled with {sampling}."
    if name.endswith("-early"):
        about += " An early checkpoint, kept as the weaker sibling."
    row = results["pipelines"][name]
    quality = [
        f"attributes right by the image oracle: {row['right']:.1%}, truth {row['truth']:.3f}, "
        f"{row['whole']:.1%} of pictures wholly right",
        f"{row['ms']:.0f} ms a picture in batches of 16 in bfloat16 on one thread of a busy CPU",
    ]
    vae = made("autoencoder", work)
    about += (
        f" Its autoencoder, shared by all pipelines here, took {vae.steps:,} steps and {vae.seconds / 60:.0f} minutes;"
        f" the pipeline then learned from latents of {painters.POOL:,} renders."
    )
    return card(name, about, _LOAD_PIPELINE, quality, made(name, work), hardware)


def write(results: dict, weights: Path, work: Path, hardware: str) -> None:
    """Write README.md into every folder of weights."""
    for name in models.CAPTIONERS:
        text = captioner_card(name, results, made(name, work), hardware)
        (weights / name / "README.md").write_text(text)
    for name in models.PIPELINES:
        text = pipeline_card(name, results, work, hardware)
        (weights / name / "README.md").write_text(text)
    row = results["image oracle"]
    quality = [f"{attribute} right: {share:.1%}" for attribute, share in row.items()]
    about = "The image oracle: a convolutional classifier that recovers a scene from a 64x64 picture."
    text = card(
        "oracle", about, "cyclepref.builder.shapeworld.oracle.recover(images)", quality, made("oracle", work), hardware
    )
    (weights / "oracle" / "README.md").write_text(text)
    row = results["lpips"]
    quality = [f"pairs of renders with 0 to 3 wrong attributes ordered truly: {row['ordered']:.1%}"]
    quality += [f"mean distance with {name}: {value:.3f}" for name, value in row.items() if name != "ordered"]
    about = (
        "AlexNet features as the backbone of LPIPS, trained so that the picture with fewer wrong attributes is nearer,"
        " and to tell the attributes. Each example is a reference and four pictures with 0 to 3 attributes altered."
        " What this supervision is worth, on the images of a demo (i2t2i, every two candidates): the cycle score agrees"
        " with the truth in 89.5% of pairs with features so trained, in 74.1% to 74.4% with random ones, and in 74.1%"
        " with the pixels' squared error (docs/embedded-world.md)."
    )
    load = 'lpips.LPIPS(net="alex", pnet_rand=True, lpips=False).net.load_state_dict(load_file(path))'
    (weights / "lpips" / "README.md").write_text(card("lpips", about, load, quality, made("lpips", work), hardware))


def main(argv: list[str] | None = None) -> None:
    """Write the cards."""
    parser = argparse.ArgumentParser(
        prog="python -m cyclepref.builder.shapeworld.cards", description=__doc__.split("\n")[0]
    )
    parser.add_argument("results", type=Path, help="JSON written by cyclepref.builder.study.evaluate --json")
    parser.add_argument("--weights", type=Path, default=models.WEIGHTS)
    parser.add_argument("--work", type=Path, default=Path(".shapeworld"), help="folder of checkpoints (%(default)s)")
    parser.add_argument("--hardware", default="an unnamed machine", help='such as "one core of a Xeon with AMX"')
    options = parser.parse_args(argv)
    write(json.loads(options.results.read_text())["models"], options.weights, options.work, options.hardware)


if __name__ == "__main__":
    main()
