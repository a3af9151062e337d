"""Images and texts as the towers read them."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import BlipProcessor

from builder.images import decode, encode

logger = logging.getLogger(__name__)

ImageLike = Image.Image | str | Path


def open_image(image: ImageLike) -> Image.Image:
    """An image in the canonical form of builder/images.py, whatever its mode.

    Raises:
        TypeError: if it is neither a PIL image nor a path.
        OSError: if the file is missing or no picture.
    """
    if isinstance(image, str | Path):
        return decode(Path(image).read_bytes())
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"an image must be a PIL image or the path of a file, got {type(image).__name__}: {image!r:.80}"
        )
    return image if image.mode == "RGB" else decode(encode(image))


def pixels(processor: BlipProcessor, images: Sequence[Image.Image]) -> torch.Tensor:
    """Pixel values of RGB images: float, (images, 3, height, width), resized and normalised as the processor says."""
    return processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]


def tokens(processor: BlipProcessor, texts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, both (texts, longest text), padded on the right.

    Texts of more than `max_length` tokens are cut to it, and a warning says how many were.
    """
    encoded = processor.tokenizer(
        list(texts),
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    cut = sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    if cut:
        logger.warning(
            "%d of %d texts were cut to %d tokens, the most this reward model reads",
            cut,
            len(texts),
            max_length,
        )
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
