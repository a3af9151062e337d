"""The interface of the package `cyclereward` (hjbahng/cyclereward), on today's libraries.

from cyclepref.builder.reward.as_cyclereward import cyclereward

model, preprocess = cyclereward(device="cuda", model_type="CycleReward-Combo")
image = preprocess(Image.open("cat.jpg")).unsqueeze(0).to("cuda")
score = model.score(image, "a photo of a cat")
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.opening import ImageLike
from cyclepref.builder.reward.released.checkpoint import TOKENIZER
from cyclepref.builder.reward.released.load import load_published, published_repo
from cyclepref.builder.reward.released.stand_in import StandIn

MODELS = {
    "CycleReward-Combo": "cyclereward-combo",
    "CycleReward-I2T": "cyclereward-i2t",
    "CycleReward-T2I": "cyclereward-t2i",
}


class CycleReward(StandIn):
    """`score` takes the image first and the text second, as the package does."""

    @property
    def max_length(self) -> int:
        """The most tokens of a text that count."""
        return self.model.max_text_length

    @torch.no_grad()
    def score(self, image: torch.Tensor, prompt: str | Sequence[str]) -> torch.Tensor:
        """Rewards (images, 1) of preprocessed images (images, 3, 224, 224): one text for all, or one for each."""
        return self.model.reward_of_pixels(pixel_values=image, texts=prompt).unsqueeze(1)


def cyclereward(
    device: str | torch.device = "cuda",
    model_type: str = "CycleReward-Combo",
    cache_dir: str | Path = "./checkpoints",
    *,
    weights: str | Path | None = None,
    tokenizer: str | Path = TOKENIZER,
) -> tuple[CycleReward, Callable[[ImageLike], torch.Tensor]]:
    """The model, in evaluation mode, and its `preprocess`, which turns a picture into the tensor (3, 224, 224) that its
    `score` takes.

    If the package has downloaded its checkpoint into `cache_dir`, that one is used; otherwise it comes from the Hub.
    `weights` names a folder, checkpoint or Hub id instead; `tokenizer` is a folder, for machines that cannot download
    bert-base-uncased.

    Raises:
        RewardError: if `model_type` is unknown, or the weights cannot be found or downloaded.
    """
    if model_type not in MODELS:
        raise RewardError(f"unknown model_type {model_type!r}. Choose from: {', '.join(MODELS)}")
    kind, kept = MODELS[model_type], Path(cache_dir).expanduser() / f"{model_type}.pth"
    where = weights or (kept if kept.is_file() else published_repo(kind))
    model = CycleReward(load_published(where, kind, device, tokenizer).requires_grad_(False))
    return model, model.preprocess
