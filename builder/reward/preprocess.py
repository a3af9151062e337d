"""Preprocessing of images and texts for the towers."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision
from transformers import ProcessorMixin

from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.given import check_text

logger = logging.getLogger(__name__)

# The resampling filters that image processors name by Pillow's numbers.
FILTERS = {2: InterpolationMode.BILINEAR, 3: InterpolationMode.BICUBIC}
# Decoders in half precision exceed [0, 1] slightly.
RANGE_SLACK = 0.02


class Texts(NamedTuple):
    """Tokenised texts: `ids` of each, special tokens included; `cut` are the indices of texts that were too long."""

    ids: list[list[int]]
    cut: list[int]


def pixels(processor: ProcessorMixin, images: Sequence[Image.Image]) -> torch.Tensor:
    """Pixel values of RGB images: float, (images, 3, height, width), resized and normalised as the processor says.

    If a processor resizes the shorter edge and crops the centre, Pillow does both, with torchvision's rounding, as in
    CLIP, ImageReward and CycleReward; other ways shift the image by up to a pixel.
    """
    image_processor, options = processor.image_processor, {}
    edge = image_processor.size.get("shortest_edge")
    if edge and getattr(image_processor, "do_center_crop", False) and image_processor.resample in FILTERS:
        crop = image_processor.crop_size["height"], image_processor.crop_size["width"]
        way = FILTERS[image_processor.resample]
        images = [vision.center_crop(vision.resize(image, edge, way), crop) for image in images]
        options = {"do_resize": False, "do_center_crop": False}
    return image_processor(images=list(images), return_tensors="pt", **options)["pixel_values"]


def normalised(processor: ProcessorMixin, images: torch.Tensor) -> torch.Tensor:
    """As `pixels`, from colours (images, 3, height, width), floats in [0, 1]; differentiable.

    Raises:
        RewardError: if the images have another shape, dtype or range.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not images.numel():
        raise RewardError(
            f"images are floats (images, 3, height, width) in [0, 1], got {images.dtype} {tuple(images.shape)}"
        )
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):
        raise RewardError(
            f"the colours of images are in [0, 1], got {low:g} to {high:g}: a decoder's -1 to 1 is `x / 2 + 0.5`; "
            "give normalised pixels to `reward_of_pixels`"
        )
    image_processor = processor.image_processor
    edge = image_processor.size.get("shortest_edge")
    size = edge or [image_processor.size["height"], image_processor.size["width"]]
    if getattr(image_processor, "do_resize", True):
        images = vision.resize(images, size, FILTERS[image_processor.resample], antialias=True)
    if getattr(image_processor, "do_center_crop", False):
        crop = image_processor.crop_size
        images = vision.center_crop(images, [crop["height"], crop["width"]])
    if getattr(image_processor, "do_normalize", True):
        images = vision.normalize(images, image_processor.image_mean, image_processor.image_std)
    return images


def tokenise(processor: ProcessorMixin, texts: Sequence[str], max_length: int) -> Texts:
    """Ids of texts; longer ones are cut to `max_length` tokens, and keep their end token.

    Raises:
        WrongType: if one is not a text.
        RewardError: if one is not Unicode.
    """
    for text in texts:
        check_text(text)
    options = {"padding": False, "return_attention_mask": False}
    ids = processor.tokenizer(list(texts), truncation=False, verbose=False, **options)["input_ids"]
    cut = [at for at, each in enumerate(ids) if len(each) > max_length]
    for at in cut:
        ids[at] = processor.tokenizer(texts[at], truncation=True, max_length=max_length, **options)["input_ids"]
    return Texts(ids, cut)


def pad(processor: ProcessorMixin, ids: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, both (texts, longest text), padded on the right."""
    length = max(map(len, ids))
    empty = processor.tokenizer.pad_token_id
    return {
        "input_ids": torch.tensor([[*each, *[empty] * (length - len(each))] for each in ids]),
        "attention_mask": torch.tensor([[1] * len(each) + [0] * (length - len(each)) for each in ids]),
    }


def tokens(processor: ProcessorMixin, texts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
    """`tokenise` and `pad`; a warning says how many texts were cut."""
    found = tokenise(processor, texts, max_length)
    warn_of_cut(len(found.cut), len(texts), max_length)
    return pad(processor, found.ids)


def warn_of_cut(cut: int, texts: int, max_length: int) -> None:
    """Log a warning if texts were cut."""
    if cut:
        logger.warning("%d of %d texts were cut to %d tokens, the most this reward model reads", cut, texts, max_length)
