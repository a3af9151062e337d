"""The published reward models, written a second time: their layout of weights, and what they compute.

From the papers (ViT: arXiv 2010.11929, pre-norm blocks; BERT: arXiv 1810.04805, post-norm layers; BLIP: arXiv
2201.12086, cross-attention between a layer's self-attention and its feed-forward part; ImageReward and CycleReward:
an MLP on the first token's state). Plain torch functions on a dict of tensors: nothing of this project, nothing of
transformers.
"""

import math

import torch
from torch.nn.functional import gelu, layer_norm, linear

Weights = dict[str, torch.Tensor]
HEADS_OF = 64
CYCLEREWARD_HEAD, IMAGEREWARD_HEAD = (0, 2, 4, 6, 8), (0, 2, 4, 6, 7)


def random_weights(
    head: tuple[int, ...], vision_width=192, text_width=128, blocks=3, layers=2, size=32, patch=16, words=60, places=40
) -> Weights:
    """Weights in the released layout, drawn so that every part of them matters to the reward."""
    rng = torch.Generator().manual_seed(0)
    made: Weights = {}

    def add(name: str, *shape: int, around: float = 0.0, scale: float | None = None) -> None:
        scale = scale or (0.5 if len(shape) == 1 else 1.2 / math.sqrt(math.prod(shape[1:])))
        made[name] = around + scale * torch.randn(*shape, generator=rng)

    def dense(name: str, out: int, width: int) -> None:
        add(f"{name}.weight", out, width)
        add(f"{name}.bias", out, scale=0.2)

    def norm(name: str, width: int) -> None:
        add(f"{name}.weight", width, around=1.0, scale=0.3)
        add(f"{name}.bias", width, scale=0.2)

    image = "blip.visual_encoder"
    add(f"{image}.cls_token", 1, 1, vision_width, scale=1.0)
    add(f"{image}.pos_embed", 1, (size // patch) ** 2 + 1, vision_width, scale=0.5)
    add(f"{image}.patch_embed.proj.weight", vision_width, 3, patch, patch)
    add(f"{image}.patch_embed.proj.bias", vision_width)
    for block in range(blocks):
        name = f"{image}.blocks.{block}"
        norm(f"{name}.norm1", vision_width)
        dense(f"{name}.attn.qkv", 3 * vision_width, vision_width)
        dense(f"{name}.attn.proj", vision_width, vision_width)
        norm(f"{name}.norm2", vision_width)
        dense(f"{name}.mlp.fc1", 2 * vision_width, vision_width)
        dense(f"{name}.mlp.fc2", vision_width, 2 * vision_width)
    norm(f"{image}.norm", vision_width)

    text = "blip.text_encoder"
    made[f"{text}.embeddings.position_ids"] = torch.arange(places)[None]
    add(f"{text}.embeddings.word_embeddings.weight", words, text_width, scale=1.0)
    add(f"{text}.embeddings.position_embeddings.weight", places, text_width, scale=0.5)
    norm(f"{text}.embeddings.LayerNorm", text_width)
    for layer in range(layers):
        for attention, width in (("attention", text_width), ("crossattention", vision_width)):
            name = f"{text}.encoder.layer.{layer}.{attention}"
            dense(f"{name}.self.query", text_width, text_width)
            dense(f"{name}.self.key", text_width, width)
            dense(f"{name}.self.value", text_width, width)
            dense(f"{name}.output.dense", text_width, text_width)
            norm(f"{name}.output.LayerNorm", text_width)
        name = f"{text}.encoder.layer.{layer}"
        dense(f"{name}.intermediate.dense", 3 * text_width, text_width)
        dense(f"{name}.output.dense", text_width, 3 * text_width)
        norm(f"{name}.output.LayerNorm", text_width)
    dense("blip.vision_proj", 32, vision_width)
    dense("blip.text_proj", 32, text_width)
    sizes = [text_width, 48, 24, 12, 6, 1]
    for place, width, out in zip(head, sizes, sizes[1:], strict=False):
        dense(f"mlp.layers.{place}", out, width)
    return made


def dense(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(weights: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k' / sqrt(64)) v in heads of 64; `hidden` (n, keys) marks keys that nobody sees."""

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:2], -1, HEADS_OF).permute(0, 2, 1, 3)

    scores = split(q) @ split(k).transpose(-1, -2) / math.sqrt(HEADS_OF)
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, None, :], -math.inf)
    return (scores.softmax(-1) @ split(v)).permute(0, 2, 1, 3).reshape(q.shape)


def patch_embedding(weights: Weights, pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, size, size) -> (n, patches + 1, width): each patch flattened and projected, [CLS] first, places added."""
    kernel = weights["blip.visual_encoder.patch_embed.proj.weight"]
    patch = kernel.shape[-1]
    n, _, height, width = pixels.shape
    cut = pixels.reshape(n, 3, height // patch, patch, width // patch, patch).permute(0, 2, 4, 1, 3, 5).flatten(3)
    embedded = linear(cut.flatten(1, 2), kernel.flatten(1), weights["blip.visual_encoder.patch_embed.proj.bias"])
    first = weights["blip.visual_encoder.cls_token"].expand(n, -1, -1)
    return torch.cat([first, embedded], 1) + weights["blip.visual_encoder.pos_embed"]


def vision_block(weights: Weights, block: int, x: torch.Tensor) -> torch.Tensor:
    name = f"blip.visual_encoder.blocks.{block}"
    q, k, v = dense(weights, f"{name}.attn.qkv", norm(weights, f"{name}.norm1", x, 1e-6)).chunk(3, -1)
    x = x + dense(weights, f"{name}.attn.proj", attention(q, k, v))
    inner = gelu(dense(weights, f"{name}.mlp.fc1", norm(weights, f"{name}.norm2", x, 1e-6)))
    return x + dense(weights, f"{name}.mlp.fc2", inner)


def image_states(weights: Weights, pixels: torch.Tensor) -> torch.Tensor:
    x = patch_embedding(weights, pixels)
    for block in range(count(weights, "blip.visual_encoder.blocks.")):
        x = vision_block(weights, block, x)
    return norm(weights, "blip.visual_encoder.norm", x, 1e-6)


def text_embedding(weights: Weights, ids: torch.Tensor) -> torch.Tensor:
    name = "blip.text_encoder.embeddings"
    words, places = weights[f"{name}.word_embeddings.weight"], weights[f"{name}.position_embeddings.weight"]
    return norm(weights, f"{name}.LayerNorm", words[ids] + places[: ids.shape[1]], 1e-12)


def text_layer(
    weights: Weights, layer: int, x: torch.Tensor, hidden: torch.Tensor, image: torch.Tensor
) -> torch.Tensor:
    """Self-attention, cross-attention to the image, feed-forward; each followed by a residual and a norm."""
    name = f"blip.text_encoder.encoder.layer.{layer}"
    for part, source, unseen in (("attention", None, hidden), ("crossattention", image, None)):
        seen = x if source is None else source
        q, k, v = (
            dense(weights, f"{name}.{part}.self.{role}", given)
            for role, given in (("query", x), ("key", seen), ("value", seen))
        )
        found = dense(weights, f"{name}.{part}.output.dense", attention(q, k, v, unseen))
        x = norm(weights, f"{name}.{part}.output.LayerNorm", x + found, 1e-12)
    inner = dense(weights, f"{name}.output.dense", gelu(dense(weights, f"{name}.intermediate.dense", x)))
    return norm(weights, f"{name}.output.LayerNorm", x + inner, 1e-12)


def head(weights: Weights, places: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """CycleReward's MLP has GELU between its layers, ImageReward's nothing (in evaluation)."""
    for place in places[:-1]:
        x = dense(weights, f"mlp.layers.{place}", x)
        x = gelu(x) if places == CYCLEREWARD_HEAD else x
    return dense(weights, f"mlp.layers.{places[-1]}", x)


def reward(
    weights: Weights, places: tuple[int, ...], pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """(n,) of n images with n texts, before any normalisation of the output."""
    image, x = image_states(weights, pixels), text_embedding(weights, ids)
    for layer in range(count(weights, "blip.text_encoder.encoder.layer.")):
        x = text_layer(weights, layer, x, mask == 0, image)
    return head(weights, places, x[:, 0]).squeeze(-1)


def count(weights: Weights, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
