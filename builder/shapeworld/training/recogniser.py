"""Training of the image oracle's classifier (builder/shapeworld/recogniser.py)."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from cyclepref.builder.shapeworld.recogniser import HEADS, Recogniser, targets
from cyclepref.builder.shapeworld.training import data
from cyclepref.builder.shapeworld.training.loop import Job, Progress, Run, fit

NAME = "oracle"
STEPS, BATCH = 3000, 32


def attribute_loss(logits: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy, summed over the heads."""
    return sum(F.cross_entropy(logits[name].float(), wanted[name].to(logits[name].device)) for name in HEADS)


def train(run: Run) -> None:
    """Train the classifier on clean and degraded renders, and save it as model.safetensors."""
    torch.manual_seed(1)
    model = Recogniser().to(memory_format=torch.channels_last)

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        scenes = data.training_scenes(NAME, step, BATCH)
        pictures = data.worn(data.pictures(NAME, step, scenes))
        pictures = pictures.to(run.device, memory_format=torch.channels_last)
        return attribute_loss(model(pictures), targets(scenes))

    fit(Job(NAME, model, loss, lambda m, p: export(m, p, run), STEPS, BATCH, lr=2e-3), run)


def export(model: Recogniser, progress: Progress, run: Run) -> None:
    """Save the weights in half precision, batch statistics included."""
    folder = run.out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
