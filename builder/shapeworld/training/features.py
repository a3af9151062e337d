"""The LPIPS backbone: AlexNet features trained so that distances between pictures grow with the number of wrong
attributes.

LPIPS (Zhang et al. 2018, arXiv 1801.03924) tunes its backbone on human two-alternative choices: which of two pictures
is nearer to a reference. Here the world makes the choices: the picture with fewer attributes altered is nearer. The
features also learn to classify the attributes. The weights load into `lpips.LPIPS(net="alex", pnet_rand=True,
lpips=False)`: the same features, compared without learned layer weights.
"""

from __future__ import annotations

import itertools

import lpips
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from cyclepref.builder.shapeworld.recogniser import HEADS, targets
from cyclepref.builder.shapeworld.training import data
from cyclepref.builder.shapeworld.training.loop import Job, Progress, Run, fit, step_seed
from cyclepref.builder.shapeworld.training.recogniser import attribute_loss

NAME = "lpips"
STEPS, BATCH = 6000, 24  # references per step; each is compared with pictures with 0, 1, 2 and 3 altered attributes
_WRONG = range(4)
_HEADS_SHARE = 0.1  # weight of the attribute loss beside the ranking loss


class Features(nn.Module):
    """LPIPS's own AlexNet, with one linear head for each attribute on its deepest features (3x3x256 from 64x64
    pixels)."""

    def __init__(self):
        super().__init__()
        self.lpips = lpips.LPIPS(net="alex", pnet_rand=True, pnet_tune=True, lpips=False, verbose=False)
        self.heads = nn.ModuleDict({name: nn.Linear(256 * 9, len(values)) for name, values in HEADS.items()})

    def layers(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """The five layers' activations of pictures (n, 3, 64, 64) in [-1, 1]."""
        return list(self.lpips.net(self.lpips.scaling_layer(pictures)))

    def forward(self, pictures: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Activations of the five layers scaled to unit length, and logits (n, choices) of each head."""
        layers = self.layers(pictures)
        deepest = F.dropout(layers[-1], 0.2, self.training).flatten(1)
        return [unit(layer) for layer in layers], {name: head(deepest) for name, head in self.heads.items()}


def unit(layer: torch.Tensor) -> torch.Tensor:
    """Activations (n, c, h, w) scaled to length 1 over channels, as LPIPS does, with a gradient where all are 0."""
    return layer.float() * torch.rsqrt(layer.float().square().sum(dim=1, keepdim=True) + 1e-10)


def distances(first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
    """LPIPS (n,) between the scaled activations of two batches: squared differences, averaged over places."""
    return sum((a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(first, second, strict=True))


def loss(model: Features, step: int) -> torch.Tensor:
    """Logistic loss for ordering every pair of altered pictures by their number of wrong attributes, on degraded
    renders.

    Plus the cross-entropy of all attributes.
    """
    scenes = data.training_scenes(NAME, step, BATCH)
    seed = step_seed(NAME, step)
    shown = scenes + [scene for wrong in _WRONG for scene in data.altered_scenes(scenes, wrong, seed)]
    pictures = data.worn(data.pictures(NAME, step, shown)) * 2 - 1
    layers, logits = model(pictures.to(next(model.parameters()).device))
    groups = [layer.split(BATCH) for layer in layers]
    reference = [group[0] for group in groups]
    column = [distances(reference, [group[1 + wrong] for group in groups]) for wrong in _WRONG]
    ranking = [F.softplus(4 * (column[a] - column[b])).mean() for a, b in itertools.combinations(_WRONG, 2)]
    return sum(ranking) / len(ranking) + _HEADS_SHARE * attribute_loss(logits, targets(shown)) / len(HEADS)


def export(model: Features, progress: Progress, run: Run) -> None:
    """Save the convolutions under the names of lpips' own AlexNet (`loss.net`), in half precision."""
    folder = run.out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().half().contiguous() for name, value in model.lpips.net.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def train(run: Run) -> None:
    """Train the features and save them as model.safetensors."""
    torch.manual_seed(2)
    fit(Job(NAME, Features(), loss, lambda m, p: export(m, p, run), STEPS, BATCH, lr=5e-4), run)
