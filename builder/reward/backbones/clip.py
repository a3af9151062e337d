"""CLIP (arXiv 2103.00020): two transformers, each with a projection into the joint space."""

from typing import Any

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel

from cyclepref.builder.reward.backbones.dual import Dual
from cyclepref.builder.reward.backbones.tower import Tower
from cyclepref.builder.reward.config import RewardConfig


class Clip(Dual):
    """The head reads the projected embeddings without normalising them to length 1."""

    def towers(self, config: RewardConfig) -> dict[str, nn.Module]:
        """Both towers and both projections, named as in `CLIPModel`."""
        width = config.projection_dim
        return {
            "vision_model": CLIPVisionModel(config.vision_config),
            "text_model": CLIPTextModel(config.text_config),
            "visual_projection": nn.Linear(config.vision_config.hidden_size, width, bias=False),
            "text_projection": nn.Linear(config.text_config.hidden_size, width, bias=False),
        }

    def width(self, config: RewardConfig) -> int:
        """Both embeddings."""
        return 2 * config.projection_dim

    def encode_images(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        """(images, 3, height, width) -> (images, projection_dim)."""
        return model.visual_projection(model.vision_model(pixel_values=pixel_values).pooler_output)

    def encode_texts(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(texts, length) -> (texts, projection_dim), of each text's end token."""
        states = model.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return model.text_projection(states.pooler_output)

    def parts(self, model: Any) -> list[Tower]:
        """Both towers with their projections."""
        vision, text = model.vision_model, model.text_model
        before = [vision.embeddings, vision.pre_layrnorm]
        return [
            Tower(before, vision.encoder.layers, [vision.post_layernorm, model.visual_projection]),
            Tower([text.embeddings], text.encoder.layers, [text.final_layer_norm, model.text_projection]),
        ]
