"""Training data: fresh renders of scenes that are not held out, and deliberately degraded pictures."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from cyclepref.builder.shapeworld.recogniser import as_tensor
from cyclepref.builder.shapeworld.render import render
from cyclepref.builder.shapeworld.scenes import Scene, altered, is_held_out, random_scene
from cyclepref.builder.shapeworld.training.loop import step_seed


def training_scenes(name: str, step: int, count: int) -> list[Scene]:
    """`count` scenes for one step of a job, none of them held out."""
    rng = random.Random(f"{name}/{step}/scenes")
    scenes = []
    while len(scenes) < count:
        scene = random_scene(rng)
        if not is_held_out(scene):
            scenes.append(scene)
    return scenes


def altered_scenes(scenes: list[Scene], wrong: int, seed: int) -> list[Scene]:
    """Each scene with `wrong` of its attributes changed, none of the results held out.

    A change may lead to a held-out scene: the scene is then changed again with the next seed.
    """
    return [next(itertools.filterfalse(is_held_out, _changes(scene, wrong, seed))) for scene in scenes]


def _changes(scene: Scene, wrong: int, seed: int) -> Iterator[Scene]:
    return (altered(scene, wrong, seed + again) for again in itertools.count())


def pictures(name: str, step: int, scenes: list[Scene]) -> torch.Tensor:
    """Renders of the scenes, each with a jitter of its own: float (n, 3, 64, 64) in [0, 1].

    Raises ValueError for a held-out scene: every picture that a model is trained on is rendered here.
    """
    for scene in filter(is_held_out, scenes):
        raise ValueError(
            f"the scene {scene.key} is held out from training: draw scenes by training_scenes and altered_scenes"
        )
    seed = step_seed(name, step)
    return as_tensor([render(scene, seed + i) for i, scene in enumerate(scenes)])


def worn(clean: torch.Tensor) -> torch.Tensor:
    """Degrade pictures so that they look like generated ones, and a model trained on them can read those too.

    Independently of each other, four in ten are bent by a smooth field of a pixel or so, four in ten lose detail
    (shrunk to between 16 and 48 pixels and enlarged again), four in ten get pixel noise; contrast and tint vary a
    little. Shape and range stay (n, 3, 64, 64) in [0, 1]. Random numbers come from torch's global generator.
    """
    count = len(clean)
    x = torch.where(share(count), _bent(clean), clean)
    small = F.interpolate(x, size=int(torch.randint(16, 49, ())), mode="area")
    x = torch.where(share(count), F.interpolate(small, size=x.shape[-2:], mode="bicubic"), x)
    x = torch.where(share(count), x + torch.randn_like(x) * 0.06 * torch.rand(count, 1, 1, 1), x)
    x = x * (1 + 0.06 * torch.randn(count, 1, 1, 1)) + 0.02 * torch.randn(count, 3, 1, 1)
    return x.clamp(0, 1)


def share(count: int) -> torch.Tensor:
    """Four in ten of `count` pictures, as a mask (count, 1, 1, 1)."""
    return torch.rand(count, 1, 1, 1) < 0.4


def _bent(x: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, h, w) sampled along a smooth random displacement of about 0.8 pixels."""
    count, _, height, width = x.shape
    shift = F.interpolate(torch.randn(count, 2, 9, 9), size=(height, width), mode="bicubic") * (1.6 / width)
    identity = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), x.shape, align_corners=False)
    grid = identity + shift.permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
