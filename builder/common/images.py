"""Pictures as CyclePref sees them: 8-bit sRGB, upright, first frame, alpha on white.

`IMAGE_CANON` in schemas/ids.py names this canonical form; change both together. A file's bytes are untrusted: its size
and the limits below bound the time and memory that one picture can take.
"""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.ids import image_id

# The only decoders that untrusted bytes reach; Pillow has others that start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
ENDINGS = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
# Formats that every consumer of a dataset can open; anything else is stored as PNG.
KEEP = {"JPEG", "PNG", "WEBP"}
ORIENTATION_TAG = 0x0112
# The operation that turns a picture with this EXIF orientation upright; 1 is upright already.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's own limit against decompression bombs, repeated here because any library may change Pillow's.
MAX_PIXELS = 178_956_970
# A narrower picture shows nothing, and a captioner that scales its shorter side up runs out of memory.
MAX_ASPECT = 100
# A progressive JPEG may scan all of its pixels again for every hundred bytes; cameras and editors write 10 scans.
MAX_SCANNED_PIXELS = 2**32
# Formats that Pillow decodes in Python, at some microseconds a byte: plain and odd-depth PPM, run-length BMP.
SLOW_CODECS, MAX_SLOW_BYTES = {"ppm", "ppm_plain", "bmp_rle"}, 32 * 2**20
# In a JPEG an FF begins a marker, unless it is stuffing (00), a restart (D0 to D7) or another fill byte.
JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN, TEM = 0xD8, 0xD9, 0xDA, 0x01

# The Pillow mode of the pixels that an ICC profile of this colour space describes.
PROFILED = {"CMYK": "CMYK", "GRAY": "L", "RGB": "RGB"}


class UnreadableImage(CyclePrefError, ValueError):
    """Bytes that are not a complete picture, or a picture that is too large or too narrow to work on."""


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
        UnreadableImage: if they are not a complete picture in one of FORMATS, or it exceeds MAX_PIXELS or MAX_ASPECT.
            The message depends on the bytes alone.
    """
    return _read(data)[0]


def to_store(data: bytes) -> StoredImage:
    """Identify a file's picture and keep its bytes as they are, unless a plain decoder would show it otherwise.

    Raises:
        UnreadableImage: as `decode`.
    """
    image, plain = _read(data)
    return StoredImage(content_id(image), image.width, image.height, data if plain else encode(image))


def shows_itself(source: bytes | Path) -> bool:
    """Whether a reader that only turns pictures upright, like the Image feature of the datasets library, shows the same
    as `decode`. Only the header is read.

    Raises:
        UnreadableImage: if its header is of none of FORMATS.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with _told(source), Image.open(file, formats=FORMATS) as opened:
        return _is_plain(opened) and _profile(opened) is None


def content_id(image: Image.Image) -> str:
    """Content id of a canonical image."""
    return image_id(image.width, image.height, image.tobytes())


def encode(image: Image.Image) -> bytes:
    """PNG bytes of an image. Lossless: what is scored is what was generated."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def _read(data: bytes) -> tuple[Image.Image, bool]:
    """The canonical image, and whether a plain decoder shows the same one."""
    if not data:
        raise UnreadableImage("the file is empty")
    with _told(data), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        _check_size(opened, data)
        opened.seek(0)
        opened.load()
        return _canonical(opened)


@contextmanager
def _told(data: bytes | Path) -> Iterator[None]:
    """Turn every exception of a decoder into an UnreadableImage."""
    try:
        yield
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        # Not Pillow's own message, which contains the address of a buffer and so differs each time.
        begins = f": it begins with {data[:8].hex(' ')}" if isinstance(data, bytes) else ""
        known = f"{', '.join(FORMATS)}, or its header is broken{begins}"
        raise UnreadableImage(f"not a picture in one of {known}") from error
    # Decoders raise all kinds of exceptions (struct.error, IndexError, ...): each means that the file is broken.
    except Exception as error:
        raise UnreadableImage(f"the picture is broken ({type(error).__name__}: {error})") from error


def _check_size(opened: Image.Image, data: bytes) -> None:
    """Refuse a picture that would take too much time or memory, before any pixel is decoded."""
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"the picture has {width}x{height} pixels, more than {MAX_PIXELS:,}: make it smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(f"the picture has {width}x{height} pixels: crop it to at most {MAX_ASPECT} to 1")
    if len(data) > MAX_SLOW_BYTES and any(tile[0] in SLOW_CODECS for tile in opened.tile):
        raise UnreadableImage(f"this kind of {opened.format} is slow to read at {len(data):,} bytes: save it as PNG")
    scans = _jpeg_scans(data) if data[:2] == b"\xff\xd8" else 1
    if width * height * scans > MAX_SCANNED_PIXELS:
        raise UnreadableImage(f"the JPEG goes {scans} times over its {width}x{height} pixels: save it anew")


def _jpeg_scans(data: bytes) -> int:
    scans, found = 0, JPEG_MARKER.search(data)
    while found:
        marker, end = found[1][0], found.end()
        if marker == END_OF_IMAGE:
            break
        scans += marker == START_OF_SCAN
        if marker not in (START_OF_IMAGE, TEM):
            end += int.from_bytes(data[end : end + 2], "big")
        found = JPEG_MARKER.search(data, end)
    return scans


def _canonical(opened: Image.Image) -> tuple[Image.Image, bool]:
    rgb, turn = _to_rgb(opened), TURNS.get(_orientation(opened))
    profile = _profile(opened)
    plain = _is_plain(opened) and turn is profile is None
    if profile is not None:
        rgb = ImageCms.applyTransform(opened if profile.input_mode == opened.mode else rgb, profile)
    if turn is not None:
        rgb = rgb.transpose(turn)
    # A profile or a transparent colour that is left here would be written into the PNG.
    rgb.info = {}
    return rgb, plain


def _is_plain(opened: Image.Image) -> bool:
    """Whether it is one picture of opaque RGB in a format that every reader has."""
    several = getattr(opened, "is_animated", False)
    return opened.format in KEEP and opened.mode == "RGB" and "transparency" not in opened.info and not several


def _orientation(opened: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    try:
        return opened.getexif().get(ORIENTATION_TAG, 1)
    # Viewers ignore metadata that cannot be parsed and show the picture as it is stored; so do we.
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1


def _profile(opened: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """The transform from an embedded ICC profile's colours to sRGB; None if there is no profile or it changes no
    colour."""
    if not opened.info.get("icc_profile"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(opened.info["icc_profile"]))
        mode = PROFILED.get(source.profile.xcolor_space.strip())
        if mode is None or (mode != "RGB" and mode != opened.mode) or (mode == "RGB" and opened.mode == "CMYK"):
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if mode == "RGB" and _changes_nothing(transform) else transform
    # Viewers assume sRGB if the profile cannot be read; so do we.
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform leaves 216 test colours unchanged up to rounding. The profile's name does not tell, since
    names vary."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    shown = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return int(np.abs(shown.astype(int) - colours).max()) <= 2


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled as a viewer does it; Pillow would clip at 255."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        levels = values.astype(np.uint32)
        levels += 128
        levels //= 257
        if "transparency" in image.info:
            levels[values == image.info["transparency"]] = 255
    else:
        levels = values.astype(np.float32)
        levels *= 255 / _white(image, values)
        np.rint(levels, out=levels)
    return Image.fromarray(levels.astype(np.uint8))


def _white(image: Image.Image, values: np.ndarray) -> int:
    """The value that means white. Floats and 32-bit integers do not define it, so it is the smallest usual one that
    fits."""
    low, high = values.min(), values.max()
    usual = (1, 255, 65535) if image.mode == "F" else (65535,) if image.format == "PPM" else (255, 65535)
    fitting = [white for white in usual if low >= 0 and high <= white]
    if not fitting:
        scales = ", ".join(map(str, usual))
        raise UnreadableImage(f"its grey values go from {low:g} to {high:g}: scale them to 0 to one of {scales}")
    return fitting[0]
