"""SigLIP (arXiv 2303.15343): two transformers that end in the joint space."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import SiglipTextModel, SiglipVisionModel

from cyclepref.builder.reward.backbones.dual import Dual
from cyclepref.builder.reward.backbones.tower import Tower
from cyclepref.builder.reward.config import RewardConfig


class Siglip(Dual):
    """Texts are padded to the full length and read without a mask, as in SigLIP's training; the last position is the
    embedding."""

    def towers(self, config: RewardConfig) -> dict[str, nn.Module]:
        """Both towers, named as in `SiglipModel`."""
        return {
            "vision_model": SiglipVisionModel(config.vision_config),
            "text_model": SiglipTextModel(config.text_config),
        }

    def width(self, config: RewardConfig) -> int:
        """Both embeddings."""
        return config.vision_config.hidden_size + config.text_config.projection_size

    def encode_images(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        """(images, 3, height, width) -> (images, width of the vision tower)."""
        return model.vision_model(pixel_values=pixel_values).pooler_output

    def encode_texts(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(texts, length) -> (texts, projection_size)."""
        text = model.config.text_config
        ids = input_ids.masked_fill(attention_mask == 0, text.pad_token_id)
        ids = functional.pad(ids, (0, text.max_position_embeddings - ids.shape[1]), value=text.pad_token_id)
        return model.text_model(input_ids=ids).pooler_output

    def parts(self, model: Any) -> list[Tower]:
        """Both towers with their heads."""
        vision, text = model.vision_model, model.text_model
        return [
            Tower([vision.embeddings], vision.encoder.layers, [vision.post_layernorm, vision.head]),
            Tower([text.embeddings], text.encoder.layers, [text.final_layer_norm, text.head]),
        ]
