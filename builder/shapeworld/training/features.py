"""The LPIPS backbone: AlexNet features trained to tell the attributes of a scene.

Distances between its activations (Zhang et al. 2018, arXiv 1801.03924, without learned layer weights) then follow
counts, colours, shapes and places. The weights load into `lpips.LPIPS(net="alex", pnet_rand=True, lpips=False)`.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import alexnet

from builder.shapeworld.recogniser import HEADS, targets
from builder.shapeworld.training import data
from builder.shapeworld.training.loop import Job, Progress, Run, fit
from builder.shapeworld.training.recogniser import attribute_loss

NAME = "lpips"
STEPS, BATCH = 4000, 64
# lpips' own input normalisation of pictures in [-1, 1]: ScalingLayer in lpips/lpips.py.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# lpips cuts torchvision's feature stack into slices; the layers keep their numbers in it.
_SLICES = {0: "slice1", 3: "slice2", 6: "slice3", 8: "slice4", 10: "slice5"}


class AttributeNet(nn.Module):
    """AlexNet's convolutions (3x3x256 from 64x64 pixels) with one linear head an attribute on the deepest features."""

    def __init__(self):
        super().__init__()
        self.features = alexnet(weights=None).features[:12]
        self.heads = nn.ModuleDict({name: nn.Linear(256 * 9, len(values)) for name, values in HEADS.items()})
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (n, choices) of each head for pictures (n, 3, 64, 64) in [-1, 1]."""
        features = self.features((pictures - self.shift) / self.scale)
        features = nn.functional.dropout(features, 0.2, self.training).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}


def loss(model: AttributeNet, step: int) -> torch.Tensor:
    """Cross-entropy of all attributes on clean and worn renders."""
    scenes = data.training_scenes(NAME, step, BATCH)
    pictures = data.worn(data.pictures(NAME, step, scenes)) * 2 - 1
    return attribute_loss(model(pictures.to(model.shift.device)), targets(scenes))


def export(model: AttributeNet, progress: Progress, run: Run) -> None:
    """Save the convolutions under the names of lpips' own AlexNet (`loss.net`), in half precision."""
    folder = run.out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for number, part in _SLICES.items():
        layer = model.features[number]
        state[f"{part}.{number}.weight"] = layer.weight.detach().half().contiguous()
        state[f"{part}.{number}.bias"] = layer.bias.detach().half().contiguous()
    save_file(state, folder / "model.safetensors")


def train(run: Run) -> None:
    """Train the features and save them as model.safetensors."""
    torch.manual_seed(2)
    fit(Job(NAME, AttributeNet(), loss, lambda m, p: export(m, p, run), STEPS, BATCH, lr=5e-4), run)
