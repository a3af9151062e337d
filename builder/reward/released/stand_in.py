"""The common part of the stand-ins for released packages: the original module's interface on a `RewardModel`."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional as vision
from transformers import PreTrainedTokenizerBase

from cyclepref.builder.common.images import decode
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.opening import ImageLike, open_image, read_image
from cyclepref.builder.reward.preprocess import FILTERS, pixels, tokens

IMAGES_AT_ONCE = 64


class StandIn(nn.Module):
    """A module with the attributes that users of the originals need: `blip`, `mlp`, `mean`, `std`, `preprocess`,
    `device`; `model` is the reward model itself."""

    def __init__(self, model: RewardModel):
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        """The device of the weights. Users of the originals set it by hand; setting it here moves the weights."""
        return self.model.device

    @device.setter
    def device(self, device: str | torch.device) -> None:
        self.to(device)

    @property
    def blip(self) -> "Blip":
        """The towers and the tokenizer."""
        return Blip(self.model)

    @property
    def mlp(self) -> nn.Module:
        """The head: from the state of the first token (n, width) to (n, 1)."""
        return self.model.head

    @property
    def mean(self) -> float:
        """The mean that is subtracted from the head's output."""
        return self.model.config.reward_mean

    @property
    def std(self) -> float:
        """The standard deviation that divides the head's output minus `mean`."""
        return self.model.config.reward_std

    def preprocess(self, image: ImageLike) -> torch.Tensor:
        """A picture as the tensor (3, height, width) that the towers read.

        As the originals do it: resized (bicubic, shorter edge) and cropped in the picture's own mode, then converted to
        RGB. So palettes, transparency and EXIF rotation are treated differently than in `RewardModel.score`.
        """
        processor = self.model.need_processor()
        images, edge = processor.image_processor, processor.image_processor.size.get("shortest_edge")
        if edge is None:  # not a model in the originals' layout
            return pixels(processor, [open_image(image)])[0]
        picture = _as_it_is(image)
        try:
            picture = vision.resize(picture, edge, FILTERS[images.resample])
            picture = vision.center_crop(picture, [images.crop_size["height"], images.crop_size["width"]])
        except ValueError as error:
            raise RewardError(f"Pillow cannot resize mode {picture.mode!r}: convert it to RGB first") from error
        return vision.normalize(vision.to_tensor(picture.convert("RGB")), images.image_mean, images.image_std)

    @torch.no_grad()
    def every(self, prompts: Sequence[str], images: Sequence[ImageLike]) -> torch.Tensor:
        """Rewards (images, prompts) of every image with every prompt, on the CPU."""
        texts = tokens(self.model.need_processor(), prompts, self.model.max_text_length)
        texts = {name: value.to(self.device) for name, value in texts.items()}
        rows = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            some = torch.stack([self.preprocess(image) for image in images[start : start + IMAGES_AT_ONCE]])
            memory = self.model.read_images(self.model.encode_images(some.to(self.device, self.model.dtype)))
            columns = torch.arange(len(prompts), device=self.device).split(max(1, IMAGES_AT_ONCE // len(some)))
            found = [self._block(memory, len(some), texts, column) for column in columns]
            rows.append(torch.cat(found, dim=1))
        return torch.cat(rows)

    def _block(self, memory: Any, images: int, texts: dict[str, torch.Tensor], column: torch.Tensor) -> torch.Tensor:
        places = torch.arange(images, device=self.device).repeat_interleave(len(column))
        rewards = self.model.rewards(memory, **texts, image_index=places, text_index=column.repeat(images))
        return rewards.float().cpu().unflatten(0, (images, len(column)))


class Blip:
    """The attribute `blip`, for code that calls the original's steps one by one."""

    def __init__(self, model: RewardModel):
        self._model = model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """BERT's tokenizer, with BLIP's two tokens."""
        return self._model.need_processor().tokenizer

    def visual_encoder(self, image: torch.Tensor) -> torch.Tensor:
        """States (n, patches + 1, width) of pixels (n, 3, height, width) that `preprocess` made."""
        return self._model.encode_images(image)

    def text_encoder(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """States of texts read with images; `last_hidden_state` is (n, length, width)."""
        return self._model.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            return_dict=return_dict,
        )


def _as_it_is(image: ImageLike) -> Image.Image:
    """A picture in its own mode, without EXIF rotation or a white background; files are checked as everywhere."""
    if isinstance(image, str | Path):
        data = read_image(image)
        decode(data)
        image = Image.open(io.BytesIO(data))
    return image if isinstance(image, Image.Image) else open_image(image)
