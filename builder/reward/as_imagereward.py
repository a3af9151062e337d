"""The interface of the package `image-reward` (THUDM/ImageReward), on today's libraries.

import cyclepref.builder.reward.as_imagereward as RM

model = RM.load("ImageReward-v1.0")
ranking, rewards = model.inference_rank(prompt, ["1.webp", "2.webp"])
model.score(prompt, "1.webp")
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from cyclepref.builder.reward.opening import ImageLike
from cyclepref.builder.reward.released.checkpoint import TOKENIZER
from cyclepref.builder.reward.released.load import load_published, published_repo
from cyclepref.builder.reward.released.stand_in import StandIn

MODELS = {"ImageReward-v1.0": "imagereward"}
# Where the package keeps the checkpoint.
ROOT, CHECKPOINT = "~/.cache/ImageReward", "ImageReward.pt"


class ImageReward(StandIn):
    """Every method takes the text first and the image second, as the package does."""

    def score(self, prompt: str, image_path: ImageLike | list[ImageLike]) -> float | list[float]:
        """The reward of one image; of a list of images, the rewards that `inference_rank` gives."""
        if isinstance(image_path, list | tuple):
            return self.inference_rank(prompt, image_path)[1]
        return self.every([prompt], [image_path]).item()

    def inference_rank(
        self, prompt: str | Sequence[str], generations_list: Sequence[ImageLike]
    ) -> tuple[list[int] | int, list[float] | float]:
        """The rank of each image, 1 for the best, and its reward; both in the order given.

        As in the package, one image and one prompt give two numbers instead of lists, and several prompts give the
        rewards of each image with each prompt in one list, image by image. Equal rewards rank in the order given.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        rewards = self.every(prompts, list(generations_list)).flatten()
        order = rewards.argsort(descending=True, stable=True)
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(1, len(order) + 1)
        return ranks.squeeze().tolist(), rewards.squeeze().tolist()

    def score_gard(
        self, prompt_ids: torch.Tensor, prompt_attention_mask: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """Rewards (n, 1) of normalised pixels (n, 3, 224, 224) and tokenised prompts (n, length); differentiable. (The
        name is the package's spelling.)"""
        texts = {"input_ids": prompt_ids, "attention_mask": prompt_attention_mask}
        return self.model(pixel_values=image.to(self.device, self.model.dtype), **texts).unsqueeze(1)


def load(
    name: str = "ImageReward-v1.0",
    device: str | torch.device | None = None,
    download_root: str | Path | None = None,
    med_config: str | Path | None = None,
    *,
    tokenizer: str | Path = TOKENIZER,
) -> ImageReward:
    """ImageReward by its name, or from a folder, a checkpoint file or a Hub id; in evaluation mode.

    `device` is the GPU if there is one, unless given. If the package has downloaded its checkpoint into `download_root`
    (its default: ~/.cache/ImageReward), that one is used; otherwise it comes from the Hub. `med_config` is accepted for
    compatibility and ignored, since the weights determine the shape. `tokenizer` is a folder, for machines that cannot
    download bert-base-uncased.

    Raises:
        RewardError: if there is no such model, or its weights cannot be found or downloaded.
    """
    where: str | Path = name
    if name in MODELS:
        kept = Path(download_root or ROOT).expanduser() / CHECKPOINT
        where = kept if kept.is_file() else published_repo(MODELS[name])
    return ImageReward(load_published(where, "imagereward", device, tokenizer).requires_grad_(False))
