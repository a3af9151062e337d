"""Images and texts as the towers read them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision
from transformers import ProcessorMixin

from builder.files import read_file
from builder.images import UnreadableImage, decode, encode
from builder.reward.errors import ImageNotFound, RewardError, WrongType

logger = logging.getLogger(__name__)

ImageLike = Image.Image | str | Path | np.ndarray | torch.Tensor
# The resampling filters that image processors name by Pillow's numbers.
FILTERS = {2: InterpolationMode.BILINEAR, 3: InterpolationMode.BICUBIC}


class Texts(NamedTuple):
    """Tokenised texts: `ids` of each, special tokens included; `cut` are the places of those that were too long."""

    ids: list[list[int]]
    cut: list[int]


def image_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image or many as a list; an array or tensor of four dimensions is many."""
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    several = isinstance(images, Sequence) and not isinstance(images, str)
    return list(images) if several else [images]


def open_image(image: ImageLike) -> Image.Image:
    """An image in the canonical form of builder/images.py, whatever its mode.

    An array is (height, width, 3) or (height, width), a tensor (3, height, width); both of bytes, or of floats in
    [0, 1], which are rounded to bytes.

    Raises:
        WrongType: if it is none of these.
        ImageNotFound, UnreadableImage: if the file is missing, or no whole picture.
        RewardError: if an array or tensor has another shape or other values.
    """
    if isinstance(image, str | Path):
        return _open_file(Path(image))
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise RewardError(f"a tensor of one image is (3, height, width), got {tuple(image.shape)}")
        return Image.fromarray(_bytes(image.detach().float().cpu().permute(1, 2, 0).numpy(), image.dtype))
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise RewardError(f"an array of one image is (height, width, 3) or (height, width), got {image.shape}")
        return Image.fromarray(_bytes(image, image.dtype)).convert("RGB")
    if not isinstance(image, Image.Image):
        raise WrongType(
            "an image must be a PIL image, the path of a file, an array or a tensor, "
            f"got {type(image).__name__}: {image!r:.80}"
        )
    return image if image.mode == "RGB" else decode(encode(image))


def read_image(path: str | Path) -> bytes:
    """The bytes of an image's file.

    Raises:
        ImageNotFound, RewardError: if there is no file, or it is none that can be read (a folder, a pipe).
    """
    data = read_file(Path(path))
    if isinstance(data, FileNotFoundError):
        raise ImageNotFound(f"no such image: {path}") from data
    if isinstance(data, OSError):
        raise RewardError(f"cannot read the image {path}: {data.strerror or data}") from data
    return data


def _open_file(path: Path) -> Image.Image:
    try:
        return decode(read_image(path))
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error


def _bytes(values: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype in (np.uint8, torch.uint8):
        return values.astype(np.uint8)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    floating = dtype.is_floating_point if isinstance(dtype, torch.dtype) else np.issubdtype(dtype, np.floating)
    if not floating or not (low >= 0 and high <= 1):
        raise RewardError(
            f"an image's values are bytes, or floats from 0 to 1; got {dtype} from {low:g} to {high:g} "
            "(pixels that are normalised already go to `reward_of_pixels`)"
        )
    return np.rint(values * 255).astype(np.uint8)


def pixels(processor: ProcessorMixin, images: Sequence[Image.Image]) -> torch.Tensor:
    """Pixel values of RGB images: float, (images, 3, height, width), resized and normalised as the processor says.

    Where a processor resizes the shorter edge and crops the centre, Pillow does both, with torchvision's rounding:
    that is how CLIP, ImageReward and CycleReward read images, and other ways differ by up to a pixel's shift.
    """
    image_processor, options = processor.image_processor, {}
    edge = image_processor.size.get("shortest_edge")
    if edge and getattr(image_processor, "do_center_crop", False) and image_processor.resample in FILTERS:
        crop = image_processor.crop_size["height"], image_processor.crop_size["width"]
        way = FILTERS[image_processor.resample]
        images = [vision.center_crop(vision.resize(image, edge, way), crop) for image in images]
        options = {"do_resize": False, "do_center_crop": False}
    return image_processor(images=list(images), return_tensors="pt", **options)["pixel_values"]


def tokenise(processor: ProcessorMixin, texts: Sequence[str], max_length: int) -> Texts:
    """Ids of texts, those of more than `max_length` tokens cut to it (their end token stays).

    Raises:
        WrongType: if one is no text.
    """
    for text in texts:
        if not isinstance(text, str):
            raise WrongType(f"a text must be a str, got {type(text).__name__}: {text!r:.80}")
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
    """Say that texts were cut, if any was."""
    if cut:
        logger.warning("%d of %d texts were cut to %d tokens, the most this reward model reads", cut, texts, max_length)
