import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from builder.images import content_id, decode, encode, to_store


def file_of(image: Image.Image, format_: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_an_image_survives_encoding_exactly(width, height, rng):
    image = Image.frombytes("RGB", (width, height), rng.randbytes(width * height * 3))
    assert decode(encode(image)).tobytes() == image.tobytes()
    assert to_store(encode(image)).content_id == content_id(image)


def test_a_plain_jpeg_is_stored_as_it_came():
    data = file_of(Image.new("RGB", (8, 6), "red"), "JPEG")
    assert to_store(data).data == data


def test_rotation_is_applied_and_written_into_the_pixels():
    image = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = to_store(file_of(image, "JPEG", exif=exif))
    assert (stored.width, stored.height) == (4, 8)
    assert Image.open(io.BytesIO(stored.data)).size == (4, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_what_a_person_sees(mode):
    grey = np.full((4, 4), 128, dtype=np.uint8)
    image = Image.fromarray(grey).convert("RGB").convert(mode) if mode[0] not in "IF" else None
    if image is None:
        levels = (grey.astype(np.uint16) * 257).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
        image = Image.fromarray(levels)
    data = file_of(image, "TIFF")
    assert decode(data).mode == "RGB"
    if mode not in ("1", "P"):  # these round to their few colours
        assert abs(decode(data).getpixel((1, 1))[0] - 128) <= 2


def test_transparency_becomes_white():
    assert decode(file_of(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"not an image", file_of(Image.new("RGB", (64, 64), "red"))[:60]])
def test_what_is_no_whole_picture_raises(data):
    with pytest.raises((OSError, SyntaxError)):
        decode(data)
