"""CLIP and SigLIP, tiny, with random weights."""

import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipImageProcessor,
    SiglipProcessor,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from cyclepref.builder.reward.model import RewardConfig, RewardModel

WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION = {"image_size": 16, "patch_size": 8, **WIDTH}


def make_dual(backbone: str, captioner, **config) -> RewardModel:
    """A reward model on tiny towers, which reads texts with the tokenizer of the tiny captioner."""
    tokenizer = AutoTokenizer.from_pretrained(captioner)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 3, **WIDTH}
    torch.manual_seed(2)
    if backbone == "clip":
        shapes = {"text_config": CLIPTextConfig(**text), "vision_config": CLIPVisionConfig(**VISION)}
        reader = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        processor = CLIPProcessor(reader, tokenizer)
        shapes["projection_dim"] = 24
    else:
        shapes = {"text_config": SiglipTextConfig(**text, projection_size=32)}
        shapes["vision_config"] = SiglipVisionConfig(**VISION)
        processor = SiglipProcessor(SiglipImageProcessor(size={"height": 16, "width": 16}), tokenizer)
    model = RewardModel(RewardConfig(backbone=backbone, head_sizes=[8], **shapes, **config))
    model.processor = processor
    return model.eval()
