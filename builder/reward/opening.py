"""Opens everything that users may give as an image, in the canonical form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cyclepref.builder.common.files import read_file
from cyclepref.builder.common.images import UnreadableImage, decode, encode
from cyclepref.builder.reward.errors import ImageNotFound, RewardError, WrongType

ImageLike = Image.Image | str | Path | np.ndarray | torch.Tensor


def image_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image or many as a list; an array or tensor with four dimensions is many images."""
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    several = isinstance(images, Sequence) and not isinstance(images, str)
    return list(images) if several else [images]


def open_image(image: ImageLike) -> Image.Image:
    """An image in the canonical form of builder/common/images.py, whatever its mode.

    An array is (height, width, 3) or (height, width), a tensor (3, height, width); both hold bytes, or floats in [0,
    1], which are rounded to bytes.

    Raises:
        WrongType: if it is none of these.
        ImageNotFound, UnreadableImage: if the file is missing, or not a complete picture. RewardError: if an array or
        tensor has another shape or other values.
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
        ImageNotFound, RewardError: if there is no file, or it cannot be read (a folder, a pipe).
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
            "(use `reward_of_pixels` for normalised pixels)"
        )
    return np.rint(values * 255).astype(np.uint8)
