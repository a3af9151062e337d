"""The interface of the package `cyclereward` (hjbahng/cyclereward), on today's libraries.

from builder.reward.as_cyclereward import cyclereward

model, preprocess = cyclereward(device="cuda", model_type="CycleReward-Combo")
image = preprocess(Image.open("cat.jpg")).unsqueeze(0).to("cuda")
score = model.score(image, "a photo of a cat")
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from builder.reward.checkpoint import TOKENIZER
from builder.reward.errors import RewardError
from builder.reward.model import RewardModel
from builder.reward.opening import ImageLike, open_image
from builder.reward.preprocess import pixels
from builder.reward.published import load_published, published_repo

MODELS = {
    "CycleReward-Combo": "cyclereward-combo",
    "CycleReward-I2T": "cyclereward-i2t",
    "CycleReward-T2I": "cyclereward-t2i",
}


class CycleReward:
    """`score` takes the image first and the text second, as the package does; `model` has the rest."""

    def __init__(self, model: RewardModel):
        self.model, self.device = model, model.device

    def score(self, image: torch.Tensor, prompt: str | Sequence[str]) -> torch.Tensor:
        """Rewards (images, 1) of preprocessed images (images, 3, 224, 224): one text for all, or one for each."""
        with torch.no_grad():
            return self.model.reward_of_pixels(pixel_values=image, texts=prompt).unsqueeze(1)


def cyclereward(
    device: str = "cuda",
    model_type: str = "CycleReward-Combo",
    weights: str | Path | None = None,
    tokenizer: str | Path = TOKENIZER,
) -> tuple[CycleReward, Callable[[ImageLike], torch.Tensor]]:
    """The model, and what turns a picture into the tensor (3, 224, 224) that its `score` takes.

    The tensor is of the picture resized (bicubic, shorter edge) and cropped at the centre. `weights` is a folder, a
    checkpoint or a Hub id instead of the published one; `tokenizer` is a folder where bert-base-uncased cannot be
    downloaded.

    Raises:
        RewardError: for an unknown `model_type`, or if the weights cannot be had.
    """
    if model_type not in MODELS:
        raise RewardError(f"unknown model_type {model_type!r}. Choose from: {', '.join(MODELS)}")
    kind = MODELS[model_type]
    model = load_published(weights or published_repo(kind), kind, device, tokenizer).requires_grad_(False)

    def preprocess(image: Image.Image) -> torch.Tensor:
        return pixels(model.need_processor(), [open_image(image)])[0]

    return CycleReward(model), preprocess
