"""Every picture that a person could see is read as they see it; anything else is one clear error."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from cyclepref.builder.common import images
from cyclepref.builder.common.images import UnreadableImage, content_id, decode, encode, to_store

RED = Image.new("RGB", (8, 6), "red")
MIDDLE = 128


def file_of(image: Image.Image, format_: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *chunks: bytes) -> bytes:
    """A PNG by hand: what Pillow will not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows(pixel: list[int], dtype: str, size: int = 4) -> bytes:
    return (b"\0" + np.array(pixel * size, dtype).tobytes()) * size


def grey(value: float, dtype: str) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, dtype))


def pixel(data: bytes) -> tuple[int, int, int]:
    return decode(data).getpixel((1, 1))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_an_image_survives_encoding_exactly(width, height, rng):
    image = Image.frombytes("RGB", (width, height), rng.randbytes(width * height * 3))
    assert decode(encode(image)).tobytes() == image.tobytes()
    assert to_store(encode(image)).content_id == content_id(image)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0garbage"}, {"icc_profile": b"bad"}])
@pytest.mark.parametrize("tail", [b"", b"garbage" * 99])
def test_a_plain_jpeg_is_stored_as_it_came(options, tail):
    data = file_of(RED, "JPEG", **options) + tail
    assert to_store(data).data == data


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_is_applied_and_written_into_the_pixels(format_, orientation):
    """A red bar at the top and a blue one at the left, stored as a camera held that way would."""
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("blue", (0, 0, 8, 32))
    upright.paste("red", (0, 0, 48, 8))
    undo = {**images.TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(orientation)
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = orientation
    stored = to_store(file_of(upright.transpose(undo) if undo is not None else upright, format_, exif=exif))
    assert (stored.width, stored.height) == (48, 32)
    plain = Image.open(io.BytesIO(stored.data)).convert("RGB")
    assert plain.size == (48, 32)
    off = np.abs(np.asarray(plain, dtype=int)[::31, ::47] - np.asarray(upright, dtype=int)[::31, ::47])
    assert off.max() < 100


def test_a_png_of_interlaced_rows_is_read():
    """Adam7 by hand: a 1x1 picture is in its first pass alone."""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1))
    data += chunk(b"IDAT", zlib.compress(b"\0\x01\x02\x03")) + chunk(b"IEND", b"")
    assert decode(data).getpixel((0, 0)) == (1, 2, 3)


MODES = {
    "grey": grey(MIDDLE, "uint8"),
    "grey of 16 bits": grey(MIDDLE * 257, "uint16"),
    "grey of 16 bits in 32": grey(MIDDLE * 257, "int32"),
    "grey of 8 bits in 32": grey(MIDDLE, "int32"),
    "floats to 65535": grey(MIDDLE * 257, "float32"),
    "floats to 255": grey(MIDDLE, "float32"),
    "floats to 1": grey(MIDDLE / 255, "float32"),
    **{mode: grey(MIDDLE, "uint8").convert("RGB").convert(mode) for mode in ("RGBA", "LA", "CMYK", "YCbCr")},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_what_a_person_sees(mode):
    assert pixel(file_of(MODES[mode], "TIFF")) == pytest.approx((MIDDLE,) * 3, abs=2)


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (file_of(Image.new("1", (4, 4), 1), "TIFF", compression="group4"), (255, 255, 255)),
        (file_of(RED.convert("P"), "GIF"), (255, 0, 0)),
        (file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
        (png(4, 4, 16, 2, rows([MIDDLE * 256] * 3, ">u2")), (MIDDLE,) * 3),
        (b"P5 4 4 65535\n" + np.full(16, 255, ">u2").tobytes(), (1, 1, 1)),
        (b"P5 4 4 1023\n" + np.full(16, 512, ">u2").tobytes(), (MIDDLE,) * 3),
        (b"P3 2 2 255\n" + b"1 2 3 " * 4, (1, 2, 3)),
        (b"Pf 2 2 -1.0\n" + np.full(4, 0.5, "<f4").tobytes(), (MIDDLE,) * 3),
    ],
)
def test_few_bits_and_many_are_scaled_and_not_clipped(data, seen):
    assert pixel(data) == pytest.approx(seen, abs=1)


TRANSPARENT = {
    "RGBA": file_of(Image.new("RGBA", (4, 4), (255, 0, 0, 0))),
    "LA": file_of(Image.new("LA", (4, 4), (9, 0))),
    "RGBA of 16 bits": png(4, 4, 16, 6, rows([99, 99, 99, 0], ">u2")),
    "a palette's entry": file_of(Image.new("P", (4, 4)), transparency=0),
    "a palette with alpha": file_of(Image.new("P", (4, 4)), transparency=bytes(256)),
    "a GIF's entry": file_of(Image.new("P", (4, 4)), "GIF", transparency=0),
    "one colour": png(4, 4, 8, 2, rows([1, 2, 3], "u1"), chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))),
    "one grey": png(4, 4, 8, 0, rows([9], "u1"), chunk(b"tRNS", struct.pack(">H", 9))),
    "one grey of 16 bits": png(4, 4, 16, 0, rows([999], ">u2"), chunk(b"tRNS", struct.pack(">H", 999))),
    "WebP": file_of(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_becomes_white_and_is_stored_so(kind):
    stored = to_store(TRANSPARENT[kind])
    assert pixel(TRANSPARENT[kind]) == (255, 255, 255)
    plain = Image.open(io.BytesIO(stored.data))
    assert (plain.mode, plain.getpixel((1, 1)), plain.info) == ("RGB", (255, 255, 255), {})


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_is_its_first_frame(format_):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], format_, save_all=True, append_images=frames[1:])
    assert pixel(data) == pytest.approx((255, 0, 0), abs=2)
    assert getattr(Image.open(io.BytesIO(to_store(data).data)), "n_frames", 1) == 1


def swapped_profile() -> bytes:
    """sRGB's ICC profile with red and green exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colours_are_those_of_the_embedded_profile(format_):
    data = file_of(Image.new("RGB", (8, 8), "red"), format_, icc_profile=swapped_profile())
    assert pixel(data) == pytest.approx((0, 255, 0), abs=3)
    stored = Image.open(io.BytesIO(to_store(data).data))
    assert stored.getpixel((1, 1)) == pytest.approx((0, 255, 0), abs=3)
    assert "icc_profile" not in stored.info


def test_a_profile_of_srgb_itself_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = file_of(RED, "JPEG", icc_profile=profile)
    assert to_store(data).data == data


NOISE = Image.effect_noise((64, 64), 90).convert("RGB")
TEXT_BOMB = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**24)))
BROKEN = {
    "nothing": (b"", "the file is empty"),
    "text": (b"hello", "not a picture in one of JPEG, .*: it begins with 68 65 6c 6c 6f$"),
    "a program for Ghostscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    **{
        f"the first half of a {format_}": (file_of(NOISE, format_)[: len(file_of(NOISE, format_)) // 2], "broken")
        for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    },
    "a bomb": (png(60_000, 60_000, 8, 2, b"\0"), "exceeds limit"),
    "a bomb in a BMP": (b"BM" + bytes(16) + struct.pack("<ii", 60_000, 60_000), "broken"),
    "a strip": (file_of(Image.new("RGB", (1, 101))), "1x101 pixels: crop it to at most 100 to 1"),
    "text that unpacks to a lot": (png(4, 4, 8, 0, rows([9], "u1"), TEXT_BOMB), "too large"),
    "floats without a white": (file_of(grey(1e9, "float32"), "TIFF"), "grey values go from 1e"),
    "a float that is none": (file_of(grey(float("nan"), "float32"), "TIFF"), "grey values go from nan to nan"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_picture_is_one_error_with_its_reason(kind):
    data, reason = BROKEN[kind]
    messages = set()
    for _ in range(2):
        with pytest.raises(UnreadableImage, match=reason) as caught:
            decode(data)
        messages.add(str(caught.value))
    assert len(messages) == 1, "a failure row's message is a function of the file"


def test_a_size_limit_of_our_own_holds_whatever_a_library_does_to_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImage, match="60000x60000 pixels, more than 178,956,970: make it smaller"):
        decode(png(60_000, 60_000, 8, 2, b"\0"))


def test_a_jpeg_that_goes_over_its_pixels_without_end_is_refused_before_it_is_decoded(monkeypatch):
    data = file_of(NOISE, "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    again = data[:scan] + data[scan:-2] * 200 + data[-2:]
    assert images._jpeg_scans(again) == 200 * images._jpeg_scans(data) > 0
    monkeypatch.setattr(images, "MAX_SCANNED_PIXELS", 64 * 64 * 100)
    assert decode(data).size == (64, 64)
    with pytest.raises(UnreadableImage, match="goes 2000 times over its 64x64 pixels"):
        decode(again)


@pytest.mark.parametrize("data", [b"P3 2 2 255\n" + b"1 2 3 " * 4, b"P6 2 2 1023\n" + bytes(24)])
def test_what_is_decoded_in_python_has_a_limit_of_its_own(data, monkeypatch):
    assert decode(data).size == (2, 2)
    monkeypatch.setattr(images, "MAX_SLOW_BYTES", 9)
    with pytest.raises(UnreadableImage, match=r"this kind of PPM is slow to read at \d+ bytes: save it as PNG"):
        decode(data)


def test_scans_are_counted_in_the_picture_alone():
    """A thumbnail in the metadata and what follows the end are not decoded."""
    thumbnail = file_of(RED, "JPEG")
    data = file_of(RED, "JPEG", exif=b"Exif\0\0" + thumbnail) + thumbnail * 9
    assert images._jpeg_scans(data) == 1


@pytest.mark.slow
def test_the_largest_pictures_stay_within_memory():
    """16-bit grey with a transparent value, at the limit: the mode that costs most."""
    code = (
        "import resource, sys; from PIL import Image; from cyclepref.builder.common.images import MAX_PIXELS, decode\n"
        "side = int(MAX_PIXELS**0.5); Image.MAX_IMAGE_PIXELS = None\n"
        "head = b'P5 %d %d 65535 ' % (side, side)\n"
        "assert decode(head + bytes(2 * side * side)).size == (side, side)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.getcwd())
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 4 * 2**20
