"""Unclear pictures of training scenes, for a captioner that has to read what a weak pipeline paints.

Three kinds, each with its scene as the answer: pictures worn much more than `data.worn` does, pictures that fade into
another scene, and half-painted ones: the latents of a render, noised part of the way and denoised by a weak pipeline
that is told nothing. No scene of any of them is held out, the one that a picture fades into neither.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch.nn import functional as F

from cyclepref.builder.shapeworld.grammar import describe
from cyclepref.builder.shapeworld.scenes import Scene
from cyclepref.builder.shapeworld.training import data
from cyclepref.builder.shapeworld.training.loop import step_seed

PAINTERS = ("sd-early", "sd3-early")
POOL, _POOL_BATCH = 8192, 64
_STEPS = 10  # of a whole painting; a half-painted picture begins at one from the fourth to the eighth


def battered(clean: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1], shrunk to between 6 and 24 pixels and enlarged again, under strong noise, or
    both; then worn."""
    count = len(clean)
    small = F.interpolate(clean, size=int(torch.randint(6, 25, ())), mode="area")
    x = torch.where(data.share(count), F.interpolate(small, size=clean.shape[-2:], mode="bicubic"), clean)
    x = torch.where(data.share(count), x + torch.randn_like(x) * 0.3 * torch.rand(count, 1, 1, 1), x)
    return data.worn(x.clamp(0, 1))


def fading(name: str, step: int, scenes: list[Scene]) -> torch.Tensor:
    """Renders (n, 3, 64, 64) in [0, 1] of the scenes, each faded by up to a half into one with another attribute."""
    others = data.altered_scenes(scenes, 1, step_seed(name, step))
    # The same seeds, so that what both scenes share is drawn in nearly the same place.
    clean, far = data.pictures(name, step, scenes), data.pictures(name, step, others)
    return data.worn(torch.lerp(clean, far, 0.5 * torch.rand(len(scenes), 1, 1, 1)))


class HalfPainted:
    """Half-painted pictures of training scenes, made once by the weak pipelines in `weights` and kept in `path`."""

    def __init__(self, weights: Path, path: Path, count: int = POOL):
        kept = torch.load(path, weights_only=True) if path.exists() else {}
        if len(kept.get("captions", ())) != count:
            print(f"half-painting {count} pictures", flush=True)
            kept = _half_paint(weights, count)
            torch.save(kept, path)
        self.pictures, self.captions = kept["pictures"], kept["captions"]

    def batch(self, count: int) -> tuple[torch.Tensor, list[str]]:
        """Some of the pictures, (count, 3, 64, 64) in [0, 1], and the descriptions of their scenes."""
        chosen = torch.randint(len(self.captions), (count,))
        return self.pictures[chosen].float() / 255, [self.captions[i] for i in chosen.tolist()]


@torch.no_grad()
def _half_paint(weights: Path, count: int) -> dict:
    pipelines = [DiffusionPipeline.from_pretrained(weights / name, dtype=torch.float32) for name in PAINTERS]
    pictures, captions = [], []
    for step in range(-(-count // _POOL_BATCH)):
        torch.manual_seed(step_seed("half-painted", step))
        scenes = data.training_scenes("half-painted", step, _POOL_BATCH)
        clean = data.pictures("half-painted", step, scenes)
        painted = half_painted(pipelines[step % len(pipelines)], clean, int(torch.randint(3, 8, ())))
        pictures.append((painted * 255).round().to(torch.uint8))
        captions += map(describe, scenes)
    return {"pictures": torch.cat(pictures)[:count], "captions": captions[:count]}


@torch.no_grad()
def half_painted(pipeline: DiffusionPipeline, clean: torch.Tensor, begin: int) -> torch.Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1], noised to the level before step `begin` of ten and painted on from there under
    an empty prompt (SDEdit, Meng et al. 2021, arXiv 2108.01073)."""
    count, vae, scheduler = len(clean), pipeline.vae, pipeline.scheduler
    latents = vae.encode((clean * 2 - 1).to(vae.dtype)).latents * vae.config.scaling_factor
    scheduler.set_timesteps(_STEPS)
    times = scheduler.timesteps[begin:]
    noise = torch.randn_like(latents)
    if hasattr(scheduler, "sigmas"):
        scheduler.set_begin_index(begin)
        latents = scheduler.scale_noise(latents, times[:1].expand(count), noise)
        words, _, pooled, _ = pipeline.encode_prompt("", None, None, do_classifier_free_guidance=False,
                                                     num_images_per_prompt=count, max_sequence_length=16)  # fmt: skip
        told = {"encoder_hidden_states": words, "pooled_projections": pooled}
        denoiser = pipeline.transformer
    else:
        latents = scheduler.add_noise(latents, noise, times[:1].expand(count))
        words, _ = pipeline.encode_prompt("", vae.device, count, do_classifier_free_guidance=False)
        told, denoiser = {"encoder_hidden_states": words}, pipeline.unet
    for time in times:
        output = denoiser(latents, timestep=time.expand(count), **told).sample
        latents = scheduler.step(output, time, latents).prev_sample.to(vae.dtype)
    decoded = vae.decode(latents / vae.config.scaling_factor).sample
    return (decoded.float() / 2 + 0.5).clamp(0, 1)
