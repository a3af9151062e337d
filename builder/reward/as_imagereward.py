"""The interface of the package `image-reward` (THUDM/ImageReward), on today's libraries.

import builder.reward.as_imagereward as RM

model = RM.load("ImageReward-v1.0")
ranking, rewards = model.inference_rank(prompt, ["1.webp", "2.webp"])
model.score(prompt, "1.webp")
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from builder.reward.checkpoint import TOKENIZER
from builder.reward.model import RewardModel
from builder.reward.opening import ImageLike
from builder.reward.published import load_published, published_repo

MODELS = {"ImageReward-v1.0": "imagereward"}


class ImageReward:
    """Every method takes the text first and the image second, as the package does; `model` has the rest."""

    def __init__(self, model: RewardModel):
        self.model, self.device = model, model.device

    def score(self, prompt: str, image: ImageLike | Sequence[ImageLike]) -> float | list[float]:
        """The reward of one image, or a list of the rewards of several."""
        if isinstance(image, list | tuple):
            return self.inference_rank(prompt, image)[1]
        return self.model.score(images=image, texts=prompt)[0]

    def inference_rank(self, prompt: str, generations_list: Sequence[ImageLike]) -> tuple[list[int], list[float]]:
        """The rank of each image, 1 for the best, and its reward; both in the order given."""
        found = self.model.rank(prompt=prompt, images=list(generations_list))
        ranks = [0] * len(found.order)
        for rank, place in enumerate(found.order, 1):
            ranks[place] = rank
        return ranks, found.rewards

    def score_gard(
        self, prompt_ids: torch.Tensor, prompt_attention_mask: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """Rewards (n, 1) of normalised pixels (n, 3, 224, 224) and tokenised prompts (n, length); differentiable. (The
        package spells it so.)"""
        texts = {"input_ids": prompt_ids, "attention_mask": prompt_attention_mask}
        return self.model(pixel_values=image, **texts).unsqueeze(1)


def load(name: str = "ImageReward-v1.0", device: str | None = None, tokenizer: str | Path = TOKENIZER) -> ImageReward:
    """ImageReward by its name, or from a folder, a checkpoint file or a Hub id.

    `device` is the GPU if there is one, unless given; `tokenizer` is a folder where bert-base-uncased cannot be
    downloaded.

    Raises:
        RewardError: if there is no such model, or its weights cannot be had.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    where = published_repo(MODELS[name]) if name in MODELS else name
    return ImageReward(load_published(where, "imagereward", device, tokenizer).requires_grad_(False))
