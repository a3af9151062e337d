"""One tower, as freezing sees it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn


class Tower(NamedTuple):
    """What comes before the layers, the layers in order, and what comes after them."""

    before: Sequence[nn.Module]
    layers: nn.ModuleList
    after: Sequence[nn.Module]

    def freeze(self, fix_rate: float) -> None:
        """Keep the embeddings and the first `fix_rate` of the layers as they are; at 1 what comes after them too."""
        for module in self.before:
            module.requires_grad_(fix_rate == 0)
        self.layers[: int(fix_rate * len(self.layers))].requires_grad_(False)
        if fix_rate == 1:
            for module in self.after:
                module.requires_grad_(False)
