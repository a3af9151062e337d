"""Published reward models in their released layout -> `RewardModel`.

ImageReward (THUDM/ImageReward) and CycleReward (hjbahng/cyclereward) keep the layout of salesforce/BLIP: a vision
transformer under `blip.visual_encoder`, a BERT with cross-attention under `blip.text_encoder`, two projections that no
reward uses, and the head under `mlp.layers`. Values that the weights do not show are fixed in BLIP's code: attention
heads of width 64, epsilon 1e-6 in the image tower (`norm_layer` in models/vit.py) and 1e-12 in the text tower
(configs/med_config.json), dropout 0.1 in the text tower.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from transformers import BlipProcessor, CLIPImageProcessor, PreTrainedTokenizerBase

from cyclepref.builder.reward.config import CYCLEREWARD, IMAGEREWARD, RewardConfig
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel

HEAD_WIDTH = 64
VISION = "blip.visual_encoder."
TEXT = "blip.text_encoder."
# The prefix that torch's data-parallel modules add to each name.
PARALLEL = "module."
HEAD = "mlp.layers."
# Names in the checkpoints that no reward uses: contrastive projections, and a buffer that BERT once stored.
UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.(weight|bias)|blip\.text_encoder\.embeddings\.position_ids")
# Parts of the vision transformer's names -> their names in transformers.
VISION_NAMES = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("blocks.", "encoder.layers."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)


@dataclass(frozen=True)
class Kind:
    """One published model: its head's settings, the positions of its linear layers, its weights on the Hub, the licence
    in its authors' package, and its training data."""

    config: dict[str, Any]
    layers: tuple[int, ...]
    about: str
    repo: str
    licence: str
    datasets: tuple[str, ...]


GELU_LAYERS, DROPOUT_LAYERS = (0, 2, 4, 6, 8), (0, 2, 4, 6, 7)
CYCLE = "the weights of {name} (arXiv 2506.02095), converted"
KINDS = {
    f"cyclereward-{name.lower()}": Kind(
        CYCLEREWARD,
        GELU_LAYERS,
        CYCLE.format(name=f"CycleReward-{name}"),
        f"carolineec/CycleReward-{name}",
        "mit",
        tuple(f"carolineec/CyclePrefDB-{half}" for half in halves),
    )
    for name, halves in (("Combo", ("I2T", "T2I")), ("I2T", ("I2T",)), ("T2I", ("T2I",)))
} | {
    "imagereward": Kind(
        IMAGEREWARD,
        DROPOUT_LAYERS,
        "the weights of ImageReward-v1.0 (arXiv 2304.05977), converted",
        "THUDM/ImageReward",
        "apache-2.0",
        ("THUDM/ImageRewardDB",),
    )
}


def kind_of(name: str) -> Kind:
    """A published model by its name.

    Raises:
        RewardError: if the name is unknown; the message lists the choices.
    """
    if name not in KINDS:
        raise RewardError(f"unknown kind of checkpoint {name!r}. Choose from: {', '.join(KINDS)}")
    return KINDS[name]


def convert(weights: Mapping[str, torch.Tensor], kind: str, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """The reward model with these weights, in evaluation mode, with the processor of the original.

    Images are resized (bicubic, shorter edge) and cropped at the centre; the tokenizer is BERT's with BLIP's added
    tokens.

    Raises:
        RewardError: if `kind` is unknown, or the weights do not fit its architecture; the message names weights that
            are missing, unexpected or of another shape.
    """
    wanted = kind_of(kind)
    weights = _plain(weights)
    config = _config(weights, wanted)
    tokenizer = _blip_tokenizer(tokenizer, config.text_config.vocab_size)
    model = RewardModel(config)
    _load(model, weights, wanted)
    size = config.vision_config.image_size
    images = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    model.processor = BlipProcessor(images, tokenizer)
    return model.eval()


def _plain(weights: Any) -> dict[str, torch.Tensor]:
    """The state dict itself, without the wrappers that training scripts add."""
    for wrapper in ("model", "state_dict"):
        if isinstance(weights, Mapping) and isinstance(weights.get(wrapper), Mapping):
            weights = weights[wrapper]
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise RewardError("the checkpoint is not a state dict: it must map names to tensors")
    if not weights:
        raise RewardError("the checkpoint is empty: it has no weights")
    _refuse("named by no text", [repr(name) for name in weights if not isinstance(name, str)])
    plain = {name.removeprefix(PARALLEL): value for name, value in weights.items()}
    _refuse("there twice", [name for name in weights if PARALLEL + name in weights])
    return plain


def _config(weights: dict[str, torch.Tensor], kind: Kind) -> RewardConfig:
    """The config that fits the weights' shapes."""
    patch, positions = _shape(weights, f"{VISION}patch_embed.proj.weight", 4), _shape(weights, f"{VISION}pos_embed", 3)
    words, text_positions = (
        _shape(weights, f"{TEXT}embeddings.{name}_embeddings.weight", 2) for name in ("word", "position")
    )
    image_size = isqrt(positions[1] - 1) * patch[2]
    vision = {
        "hidden_size": patch[0],
        "intermediate_size": _shape(weights, f"{VISION}blocks.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": _count(weights, f"{VISION}blocks."),
        "num_attention_heads": _heads(patch[0]),
        "image_size": image_size,
        "patch_size": patch[2],
        "layer_norm_eps": 1e-6,
    }
    text = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "intermediate_size": _shape(weights, f"{TEXT}encoder.layer.0.intermediate.dense.weight", 2)[0],
        "num_hidden_layers": _count(weights, f"{TEXT}encoder.layer."),
        "num_attention_heads": _heads(words[1]),
        "max_position_embeddings": text_positions[0],
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    sizes = [_shape(weights, f"{HEAD}{layer}.weight", 2)[0] for layer in kind.layers[:-1]]
    return RewardConfig(text_config=text, vision_config=vision, head_sizes=sizes, **kind.config)


def _load(model: RewardModel, weights: dict[str, torch.Tensor], kind: Kind) -> None:
    renamed = {_name(name, kind): value for name, value in weights.items() if not UNUSED.fullmatch(name)}
    own = {name: value.shape for name, value in model.state_dict().items()}
    shapes = [
        f"{name} of {tuple(value.shape)} for {tuple(own[name])}"
        for name, value in renamed.items()
        if name in own and value.shape != own[name]
    ]
    _refuse("missing", own.keys() - renamed.keys())
    _refuse("unexpected", renamed.keys() - own.keys())
    _refuse("of another shape", shapes)
    _refuse("no plain floating-point tensors", [name for name, value in renamed.items() if not _plain_floats(value)])
    _refuse("not finite", [name for name, value in renamed.items() if not value.float().isfinite().all()])
    model.load_state_dict(renamed)


def _plain_floats(value: torch.Tensor) -> bool:
    """Whether a value is a dense floating-point tensor with content: not integer, complex, sparse, quantised or on
    meta."""
    return value.is_floating_point() and value.layout is torch.strided and not (value.is_meta or value.is_quantized)


def _name(name: str, kind: Kind) -> str:
    """A weight's name in `RewardModel`; an unknown name is kept, and then counts as unexpected."""
    if name.startswith(VISION):
        inner = name.removeprefix(VISION)
        if inner.startswith("norm."):
            return f"vision_model.post_layernorm.{inner.removeprefix('norm.')}"
        for before, after in VISION_NAMES:
            inner = inner.replace(before, after)
        return f"vision_model.{inner}"
    if name.startswith(TEXT):
        return f"text_model.{name.removeprefix(TEXT)}"
    layer, _, part = name.removeprefix(HEAD).partition(".")
    if name.startswith(HEAD) and layer.isdecimal() and int(layer) in kind.layers:
        # In our head each hidden layer is three modules: linear, activation, dropout.
        return f"head.{3 * kind.layers.index(int(layer))}.{part}"
    return name


def _shape(weights: dict[str, torch.Tensor], name: str, dimensions: int) -> torch.Size:
    if name not in weights:
        raise RewardError(
            f"the checkpoint has no {name}, so it is of another architecture or kind; it has "
            f"{', '.join(sorted(weights)[:5])}... ({len(weights)} names in all)"
        )
    shape = weights[name].shape
    if len(shape) != dimensions or not weights[name].numel():
        raise RewardError(
            f"the checkpoint's {name} is of shape {tuple(shape)}: it must have {dimensions} dimensions, none of them 0"
        )
    return shape


def _count(weights: dict[str, torch.Tensor], prefix: str) -> int:
    """The number of layers. If their numbers have a gap, loading reports missing and unexpected names."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)}
    return sum(number.isdecimal() for number in numbers)


def _heads(width: int) -> int:
    if width % HEAD_WIDTH:
        raise RewardError(f"a tower of width {width} is not BLIP's, whose attention heads have width {HEAD_WIDTH}")
    return width // HEAD_WIDTH


def _refuse(what: str, names: Any) -> None:
    if names:
        some = ", ".join(sorted(names)[:5])
        count = "1 weight is" if len(names) == 1 else f"{len(names)} weights are"
        raise RewardError(f"the checkpoint does not fit: {count} {what}: {some}")


def _blip_tokenizer(tokenizer: PreTrainedTokenizerBase, words: int) -> PreTrainedTokenizerBase:
    """BERT's tokenizer with BLIP's added tokens, so that each is read as one token as in the original.

    (As in `init_tokenizer` of salesforce/BLIP. Texts of rewards begin with neither.)
    """
    if len(tokenizer) == words - 2:
        tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) != words:
        raise RewardError(
            f"the tokenizer has {len(tokenizer)} tokens, the checkpoint's text tower {words}: these models use "
            "bert-base-uncased"
        )
    return tokenizer
