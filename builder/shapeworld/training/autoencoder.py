"""The autoencoder under both text-to-image pipelines: AutoencoderTiny, 64x64x3 pixels to 16x16x4 latents."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from cyclepref.builder.shapeworld.training import data
from cyclepref.builder.shapeworld.training.loop import Job, Progress, Run, fit

NAME = "autoencoder"
STEPS, BATCH = 3600, 8  # many small steps, since the number of steps sharpens edges
LATENT_SIZE, LATENT_CHANNELS = 16, 4
_WIDTHS = {"encoder": 32, "decoder": 48}


def build() -> AutoencoderTiny:
    """An untrained autoencoder of half a million parameters, most of them in the decoder."""
    return AutoencoderTiny(
        encoder_block_out_channels=(_WIDTHS["encoder"],) * 3,
        decoder_block_out_channels=(_WIDTHS["decoder"],) * 3,
        num_encoder_blocks=(0, 1, 2),
        num_decoder_blocks=(2, 1, 0),
        latent_channels=LATENT_CHANNELS,
    )


def loss(model: AutoencoderTiny, step: int) -> torch.Tensor:
    """L1 + MSE of pictures decoded from noisy latents, plus a term that keeps the latents at unit size.

    The noise makes the decoder robust to small errors of a diffusion model.
    """
    scenes = data.training_scenes(NAME, step, BATCH)
    target = data.pictures(NAME, step, scenes).to(model.device, memory_format=torch.channels_last) * 2 - 1
    latents = model.encode(target).latents.float()
    noisy = latents + 0.1 * latents.detach().std() * torch.randn_like(latents)
    error = model.decode(noisy).sample.float() - target
    size = (latents.mean(dim=(0, 2, 3)).square() + (latents.std(dim=(0, 2, 3)) - 1).square()).mean()
    return error.abs().mean() + error.square().mean() + 0.01 * size


@torch.no_grad()
def export(model: AutoencoderTiny, progress: Progress, run: Run) -> None:
    """Save to the work folder, with the scale that gives its latents unit size; pipelines contain copies.

    The loss keeps their mean near 0, so there is no shift: StableDiffusionPipeline would not apply one.
    """
    scenes = data.training_scenes(NAME, -1, 256)
    target = data.pictures(NAME, -1, scenes).to(model.device) * 2 - 1
    latents = model.encode(target).latents.float()
    error = (model.decode(latents).sample.float() - target).square().mean() / 4
    model.register_to_config(scaling_factor=1 / latents.square().mean().sqrt().item())
    print(f"{NAME}: {-10 * error.log10().item():.1f} dB, latents of size {latents.std().item():.2f}", flush=True)
    model.save_pretrained(run.work / NAME)


def train(run: Run) -> None:
    """Train the autoencoder to the end and save it."""
    torch.manual_seed(0)
    model = build().to(memory_format=torch.channels_last)
    fit(Job(NAME, model, loss, lambda m, p: export(m, p, run), STEPS, BATCH, lr=1e-3), run)


def load(work: Path, dtype: torch.dtype = torch.float32) -> AutoencoderTiny:
    """The trained autoencoder, frozen. Raises OSError when it has not been trained."""
    model = AutoencoderTiny.from_pretrained(work / NAME, dtype=dtype)
    return model.eval().requires_grad_(False)


def encoder_hash(work: Path) -> str:
    """A hash of the encoder's weights, since cached latents are valid for one encoder only."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in load(work).encoder.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
