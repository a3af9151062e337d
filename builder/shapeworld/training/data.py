"""What the models learn from: fresh renders of scenes outside the held-out side, and pictures worn on purpose."""

from __future__ import annotations

import random

import torch
from torch.nn import functional as F

from builder.shapeworld.recogniser import as_tensor
from builder.shapeworld.render import render
from builder.shapeworld.scenes import Scene, is_held_out, random_scene
from builder.shapeworld.training.loop import step_seed


def training_scenes(name: str, step: int, count: int) -> list[Scene]:
    """`count` scenes for one step of a job, none of them held out."""
    rng = random.Random(f"{name}/{step}/scenes")
    scenes = []
    while len(scenes) < count:
        scene = random_scene(rng)
        if not is_held_out(scene):
            scenes.append(scene)
    assert not any(map(is_held_out, scenes)), "a held-out scene was drawn for training"
    return scenes


def pictures(name: str, step: int, scenes: list[Scene]) -> torch.Tensor:
    """Renders of the scenes, each with a jitter of its own: float (n, 3, 64, 64) in [0, 1]."""
    seed = step_seed(name, step)
    return as_tensor([render(scene, seed + i) for i, scene in enumerate(scenes)])


def worn(clean: torch.Tensor, autoencoder) -> torch.Tensor:
    """Make pictures look like generated ones, so that who learns from them can read those too.

    A third goes through the autoencoder with noise on the latents; half of all are blurred, or given pixel noise, or
    both; brightness varies a little. Shape and range stay (n, 3, h, w) in [0, 1]. Randomness is torch's own.
    """
    x = clean.clone()
    count = len(x)
    if autoencoder is not None:
        through = torch.rand(count) < 0.33
        with torch.no_grad():
            latents = autoencoder.encode(x[through] * 2 - 1).latents
            latents = latents + torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1) * 0.35 * latents.std()
            x[through] = autoencoder.decode(latents).sample.float() / 2 + 0.5
    blurred = torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.4)
    x = torch.lerp(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), blurred)
    noisy = torch.rand(count, 1, 1, 1) * 0.06 * (torch.rand(count, 1, 1, 1) < 0.4)
    x = x + torch.randn_like(x) * noisy
    x = x * (1 + 0.06 * torch.randn(count, 1, 1, 1)) + 0.02 * torch.randn(count, 3, 1, 1)
    return x.clamp(0, 1)
