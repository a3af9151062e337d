"""The image oracle's classifier: a small convolutional network that reads a scene from a picture.

It sees a picture as a layout (alone, above, left of) with a first part (alone, upper or left) and a second (lower or
right), and gives the log-probabilities of each part's count, colour and shape, and of the background. It shares no
weights and no architecture with the captioners that it judges.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from cyclepref.builder.shapeworld.render import SIZE
from cyclepref.builder.shapeworld.scenes import BACKGROUNDS, COLOURS, COUNTS, SHAPES, Group, Scene

LAYOUTS = ("alone", "above", "left of")
_PART = {"count": COUNTS, "colour": COLOURS, "shape": SHAPES}
HEADS = {
    "layout": LAYOUTS,
    "background": BACKGROUNDS,
    **{f"first {slot}": values for slot, values in _PART.items()},
    **{f"second {slot}": values for slot, values in _PART.items()},
}


class Recogniser(nn.Module):
    """Convolutions to an 8x8 map, then one linear head for each attribute over the whole map."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers, channels = [], 3
        for out in (width, width * 2, width * 2):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            layers += [nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
            channels = out
        layers += [nn.Conv2d(channels, width // 2, 1), nn.ReLU(), nn.Flatten()]
        self.trunk = nn.Sequential(*layers, nn.Linear(width // 2 * 64, 128), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(values)) for name, values in HEADS.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (n, choices) of each head for pictures (n, 3, 64, 64) in [0, 1]."""
        features = self.trunk(pictures * 2 - 1)
        return {name: head(features) for name, head in self.heads.items()}


def parts(scene: Scene) -> tuple[str, list[Group]]:
    """The layout of a scene, and its groups from the upper or left one on."""
    if scene.relation is None:
        return "alone", list(scene.groups)
    if scene.relation in ("above", "left of"):
        return scene.relation, list(scene.groups)
    return ("above" if scene.relation == "below" else "left of"), list(scene.groups[::-1])


def targets(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """The index (n,) of each head's true choice; -100, which cross-entropy ignores, if there is no second part."""
    rows: dict[str, list[int]] = {name: [] for name in HEADS}
    for scene in scenes:
        layout, groups = parts(scene)
        rows["layout"].append(LAYOUTS.index(layout))
        rows["background"].append(BACKGROUNDS.index(scene.background))
        for part, group in zip(("first", "second"), [*groups, None], strict=False):
            for slot, values in _PART.items():
                rows[f"{part} {slot}"].append(-100 if group is None else values.index(getattr(group, slot)))
    return {name: torch.tensor(row) for name, row in rows.items()}


def load(folder: Path) -> Recogniser:
    """The trained classifier of a folder. Raises FileNotFoundError, with the command that makes it, without weights."""
    path = folder / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: make it with python -m cyclepref.builder.shapeworld.train --only oracle"
        )
    model = Recogniser()
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return model.eval()


def as_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL images of one size as float (n, 3, height, width) in [0, 1]."""
    array = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(255)


@torch.inference_mode()
def read(model: Recogniser, images: Sequence[Image.Image]) -> list[Scene]:
    """The most likely scene of each picture; other sizes than 64x64 are resized."""
    sized = [im.convert("RGB") if im.size == (SIZE, SIZE) else im.convert("RGB").resize((SIZE, SIZE)) for im in images]
    logits = model(as_tensor(sized))
    columns = {name: F.log_softmax(values.float(), dim=-1).tolist() for name, values in logits.items()}
    scenes = []
    for i in range(len(sized)):
        row = {name: dict(zip(HEADS[name], values[i], strict=True)) for name, values in columns.items()}
        halves = [{slot: row[f"{part} {slot}"] for slot in _PART} for part in ("first", "second")]
        scenes.append(best_scene(row["layout"], halves, row["background"]))
    return scenes


def best_scene(layout: dict, halves: list[dict], background: dict) -> Scene:
    """The most likely scene given log-probabilities: of the layout ("alone", "above", "left of"), of each part's count,
    colour and shape (first part: alone, upper or left; second: lower or right), and of the background.
    """
    ground = max(background, key=background.get)
    alone = [max(halves[0][part], key=halves[0][part].get) for part in ("count", "colour", "shape")]
    pair_layout = max(("above", "left of"), key=layout.get)
    if layout["alone"] >= layout[pair_layout]:
        return Scene((Group(*alone),), None, ground)
    counts = [max(half["count"], key=half["count"].get) for half in halves]
    ranked = [
        sorted(
            ((c + s, colour, shape) for colour, c in half["colour"].items() for shape, s in half["shape"].items()),
            reverse=True,
        )[:2]
        for half in halves
    ]  # two groups of one colour and shape are not a scene, so the less certain one takes its second choice
    options = [(a, b) for a, b in itertools.product(*ranked) if a[1:] != b[1:]]
    first, second = max(options, key=lambda pair: pair[0][0] + pair[1][0])
    return Scene((Group(counts[0], *first[1:]), Group(counts[1], *second[1:])), pair_layout, ground)
