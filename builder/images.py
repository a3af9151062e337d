"""Pictures as CyclePref sees them: 8-bit RGB, upright, first frame, alpha on white.

`IMAGE_CANON` in schemas/ids.py names this canonical form; change both together.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from schemas.ids import image_id

# The only decoders that untrusted bytes reach; Pillow has others that start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
ENDINGS = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
# Formats that every consumer of a dataset can open; anything else is stored as PNG.
KEEP = {"JPEG", "PNG", "WEBP"}
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class StoredImage:
    """An image as the store keeps it: its content id, its size in pixels and encoded bytes."""

    content_id: str
    width: int
    height: int
    data: bytes


def decode(data: bytes) -> Image.Image:
    """Decode a file's bytes into the canonical form.

    Raises:
        PIL.UnidentifiedImageError, OSError, ValueError, PIL.Image.DecompressionBombError: if they are no whole
            picture, or one of more than about 179 million pixels.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        opened.seek(0)
        opened.load()
        return _to_rgb(ImageOps.exif_transpose(opened))


def to_store(data: bytes) -> StoredImage:
    """Identify a file's picture and keep its bytes as they are, unless a plain decoder would show it otherwise."""
    image = decode(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        frames = getattr(opened, "n_frames", 1)
        upright = opened.getexif().get(ORIENTATION_TAG, 1) == 1
        plain = opened.format in KEEP and opened.mode == "RGB" and frames == 1 and upright
    return StoredImage(content_id(image), image.width, image.height, data if plain else encode(image))


def content_id(image: Image.Image) -> str:
    """Content id of a canonical image."""
    return image_id(image.width, image.height, image.tobytes())


def encode(image: Image.Image) -> bytes:
    """PNG bytes of an image. Lossless: what is scored is what was generated."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow would clip these to 255; scale 16 bits to 8 as a viewer does.
        levels = np.clip(np.asarray(image, dtype=np.float64) / 257.0, 0, 255)
        return Image.fromarray(levels.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
