"""BLIP (arXiv 2201.12086): a text model with cross-attention to a vision transformer.

The form of ImageReward (arXiv 2304.05977) and CycleReward (arXiv 2506.02095). The text layers are those of
transformers, but this file runs them: an image's keys and values are the same for all of its texts, so they are
computed once for each image. The library's own loop computes them for each pair (two thirds of the cost of a caption of
20 tokens in BLIP-large: 7.4 of 11.4 GFLOP).
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import BlipTextModel, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextAttention, BlipTextLayer

from cyclepref.builder.reward.backbones.tower import Tower
from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.head import Likelihood

# Keys and values of the images in one text layer, both (images, heads, patches + 1, width of a head).
Memory = list[tuple[torch.Tensor, torch.Tensor]]


class Blip:
    """Texts are read together with their image: the head reads a state of the pair."""

    joint = True

    def towers(self, config: RewardConfig) -> dict[str, nn.Module]:
        """A vision transformer, a text model, and the caption decoder's head if `likelihood_weight` is not 0."""
        made: dict[str, nn.Module] = {
            "vision_model": BlipVisionModel(config.vision_config),
            "text_model": BlipTextModel(config.text_config, add_pooling_layer=False),
        }
        return made | ({"likelihood": Likelihood(config.text_config)} if config.likelihood_weight else {})

    def width(self, config: RewardConfig) -> int:
        """Width of the text model."""
        return config.text_config.hidden_size

    def encode_images(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        """(images, 3, height, width) -> (images, patches + 1, width of the vision tower)."""
        return model.vision_model(pixel_values=pixel_values).last_hidden_state

    def read_images(self, model: Any, image_states: torch.Tensor) -> Memory:
        """Keys and values of the images in every text layer."""
        memory = []
        for layer in model.text_model.encoder.layer:
            cross = layer.crossattention.self
            memory.append((_heads(cross, cross.key(image_states)), _heads(cross, cross.value(image_states))))
        return memory

    def pair_states(
        self,
        model: Any,
        memory: Memory,
        image_index: torch.Tensor | None,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        text_index: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The pooled states of the pairs, and their weighted likelihood."""
        if text_index is not None:
            input_ids, attention_mask = input_ids[text_index], attention_mask[text_index]
        config = model.config
        first_only = config.pooling == "first" and not config.likelihood_weight
        states = _read(model, memory, image_index, input_ids, attention_mask, first_only)
        if not config.likelihood_weight:
            return _pool(config.pooling, states, attention_mask), 0.0
        words = model.text_model.get_input_embeddings().weight
        bonus = config.likelihood_weight * model.likelihood(states, words, input_ids, attention_mask)
        return _pool(config.pooling, states, attention_mask), bonus

    def parts(self, model: Any) -> list[Tower]:
        """Vision and text tower; the last normalisation is never frozen."""
        return [
            Tower([model.vision_model.embeddings], model.vision_model.encoder.layers, []),
            Tower([model.text_model.embeddings], model.text_model.encoder.layer, []),
        ]


def _read(
    model: Any,
    memory: Memory,
    image_index: torch.Tensor | None,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    first_only: bool,
) -> torch.Tensor:
    """States after the last text layer: (n, length, width), or (n, 1, width) of the first tokens alone."""
    text = model.text_model
    states, length = text.embeddings(input_ids=input_ids), input_ids.shape[1]
    seen = attention_mask.bool()[:, None, None, :]
    if model.config.text_mask == "causal":
        seen = seen & torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
    for layer, (keys, values) in zip(text.encoder.layer, memory, strict=True):
        if image_index is not None:
            keys, values = keys[image_index], values[image_index]
        last = layer is text.encoder.layer[-1]
        states = _layer(layer, states, states[:, :1] if first_only and last else states, seen, keys, values)
    return states


def _layer(
    layer: BlipTextLayer,
    states: torch.Tensor,
    queries: torch.Tensor,
    seen: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """One text layer: attention to the text, attention to the image, and the feed-forward part."""
    own = layer.attention.self
    text = _heads(own, own.key(states)), _heads(own, own.value(states))
    queries = _attend(layer.attention, queries, *text, seen)
    queries = _attend(layer.crossattention, queries, keys, values, None)
    return layer.feed_forward_chunk(queries)


def _attend(
    block: BlipTextAttention,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor | None,
) -> torch.Tensor:
    own = block.self
    dropout = own.dropout.p if own.training else 0.0
    context = scaled_dot_product_attention(_heads(own, own.query(queries)), keys, values, seen, dropout)
    return block.output(context.transpose(1, 2).flatten(2), queries)


def _heads(attention: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """(n, length, width) -> (n, heads, length, width of a head)."""
    return states.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def _pool(pooling: str, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(n, length, width) -> (n, width)."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1]
    weights = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
