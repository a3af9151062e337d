"""Towers in two halves: the frozen first layers, and the rest, which reads their output.

During training the first half's output depends on the content alone, so it is computed once (see
builder/reward/training/frozen_cache.py). Texts have a first half only in dual encoders: every text layer of BLIP sees
the image.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from cyclepref.builder.reward.backbones.tower import Tower
from cyclepref.schemas.ids import digest


class Half(NamedTuple):
    """The frozen part of a tower: its first `layers` layers; `whole` if everything after them is frozen too, so that
    its embedding is final. `tower` is "image" or "text"."""

    tower: str
    layers: int
    whole: bool


def frozen_half(model: Any, tower: str) -> Half | None:
    """The frozen half of one tower of a reward model, or None if its embeddings are trained."""
    if tower == "text" and model.backbone.joint:
        return None
    part: Tower = model.backbone.parts(model)[0 if tower == "image" else 1]
    if any(map(_learns, part.before)):
        return None
    learning = [index for index, layer in enumerate(part.layers) if _learns(layer)]
    layers = min(learning, default=len(part.layers))
    return Half(tower, layers, bool(part.after) and not learning and not any(map(_learns, part.after)))


def _learns(module: torch.nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def half_fingerprint(model: Any, half: Half) -> str:
    """Id of everything that a half's output depends on: its architecture, its weights, and the preprocessing."""
    part = model.backbone.parts(model)[0 if half.tower == "image" else 1]
    modules = [*part.before, *part.layers[: half.layers], *(part.after if half.whole else ())]
    config = model.config.vision_config if half.tower == "image" else model.config.text_config
    processor = model.need_processor()
    reader = processor.image_processor.to_json_string() if half.tower == "image" else model.max_text_length
    parts: list[bytes | str | int] = [model.config.backbone, config.to_json_string(), str(half), reader]
    for module in modules:
        for name, weight in sorted(module.state_dict().items()):
            raw = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
            parts += [name, str(tuple(weight.shape)), raw.numpy().tobytes()]
    return digest("reward prefix", *parts)


# ---- images ------------------------------------------------------------------------------------------------------


def begin_images(model: Any, half: Half, pixel_values: torch.Tensor) -> torch.Tensor:
    """(images, 3, height, width) -> the input of `finish_images`: (images, places, width), or (images, width) if the
    whole tower is frozen."""
    if half.whole:
        return model.encode_images(pixel_values)
    vision = model.vision_model
    states = vision.embeddings(pixel_values)
    if model.config.backbone == "clip":
        states = vision.pre_layrnorm(states)
    return _run(states, vision.encoder.layers[: half.layers], False)


def finish_images(model: Any, half: Half, states: torch.Tensor) -> torch.Tensor:
    """The rest of `RewardModel.encode_images`."""
    if half.whole:
        return states
    vision = model.vision_model
    states = _run(states, vision.encoder.layers[half.layers :], False)
    if model.config.backbone == "clip":
        return model.visual_projection(vision.post_layernorm(states[:, 0]))
    states = vision.post_layernorm(states)
    return vision.head(states) if model.config.backbone == "siglip" else states


# ---- texts of dual encoders --------------------------------------------------------------------------------------


def begin_texts(model: Any, half: Half, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(texts, length) -> the input of `finish_texts`: (texts, length, width), or (texts, width) if the whole tower is
    frozen. (SigLIP reads texts at their full length.)"""
    if half.whole:
        return model.backbone.encode_texts(model, input_ids, attention_mask)
    if model.config.backbone == "siglip":
        input_ids = full_length(model, input_ids, attention_mask)
    text = model.text_model
    return _run(text.embeddings(input_ids=input_ids), text.encoder.layers[: half.layers], _causal(model))


def finish_texts(model: Any, half: Half, states: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """The rest of `encode_texts` of a dual encoder: (texts, width)."""
    if half.whole:
        return states
    text = model.text_model
    states = text.final_layer_norm(_run(states, text.encoder.layers[half.layers :], _causal(model)))
    if model.config.backbone == "siglip":
        return text.head(states[:, -1])
    return model.text_projection(states[torch.arange(len(states), device=states.device), _ends(text, input_ids)])


def _ends(text: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """The position at which CLIP reads each text: its end token, or the largest id for configs with a wrong end token
    (2)."""
    ids = input_ids.int()
    return ids.argmax(-1) if text.eos_token_id == 2 else (ids == text.eos_token_id).int().argmax(-1)


def full_length(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Pad texts to SigLIP's full length, the number of its positions."""
    text = model.config.text_config
    ids = input_ids.masked_fill(attention_mask == 0, text.pad_token_id)
    return pad(ids, (0, text.max_position_embeddings - ids.shape[1]), value=text.pad_token_id)


def _causal(model: Any) -> bool:
    return model.config.backbone == "clip"


def _run(states: torch.Tensor, layers: Any, causal: bool) -> torch.Tensor:
    """Run transformer layers. Padding needs no mask: it is on the right, which causal layers do not see."""
    mask = None
    if causal:
        length = states.shape[1]
        mask = torch.full((1, 1, length, length), float("-inf"), dtype=states.dtype, device=states.device).triu(1)
    for layer in layers:
        states = layer(states, attention_mask=mask, is_causal=False)
    return states
