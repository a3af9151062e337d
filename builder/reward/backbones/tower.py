"""One tower, split into the parts that freezing works on."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn


class Tower(NamedTuple):
    """The modules before the layers, the layers in order, and the modules after them."""

    before: Sequence[nn.Module]
    layers: nn.ModuleList
    after: Sequence[nn.Module]

    def freeze(self, fix_rate: float) -> None:
        """Freeze the embeddings and the first `fix_rate` of the layers; 1 also freezes the modules after them."""
        for module in self.before:
            module.requires_grad_(fix_rate == 0)
        self.layers[: int(fix_rate * len(self.layers))].requires_grad_(False)
        if fix_rate == 1:
            for module in self.after:
                module.requires_grad_(False)
