"""The towers that a reward model can use, one file each.

A backbone has no weights of its own: the towers are modules of the model, named as in transformers, and a backbone
knows how to make, run and freeze them.
"""

from typing import Any, Protocol

import torch
from torch import nn

from cyclepref.builder.reward.backbones.blip import Blip
from cyclepref.builder.reward.backbones.clip import Clip
from cyclepref.builder.reward.backbones.siglip import Siglip
from cyclepref.builder.reward.backbones.tower import Tower
from cyclepref.builder.reward.config import RewardConfig


class Backbone(Protocol):
    """How one kind of towers reads images and texts. `model` is the reward model whose modules they are."""

    # True if a text is read together with its image, False if each is embedded on its own, once.
    joint: bool

    def towers(self, config: RewardConfig) -> dict[str, nn.Module]:
        """New modules with random weights, by name."""

    def width(self, config: RewardConfig) -> int:
        """Width of the state that the head reads."""

    def encode_images(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        """States of images: (images, 3, height, width) -> (images, ...)."""

    def read_images(self, model: Any, image_states: torch.Tensor) -> Any:
        """What the text tower needs from the images, computed once for all texts."""

    def encode_texts(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings of texts (texts, width); only where `joint` is False."""

    def pair_states(
        self,
        model: Any,
        memory: Any,
        image_index: torch.Tensor | None,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        text_index: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The states (n, width) that the head reads, and what is added to its output."""

    def parts(self, model: Any) -> list[Tower]:
        """The towers, in the parts that can be frozen."""


BACKBONES: dict[str, Backbone] = {"blip": Blip(), "clip": Clip(), "siglip": Siglip()}
