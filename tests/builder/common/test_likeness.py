"""Near-duplicates are recognised through what re-encoding and retyping do, and other content is left alone."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from cyclepref.builder.common.near_duplicates import alike, bands, distance, image_signature, signature, text_signature

LONG = "a long prompt of a medieval castle on a hill, digital art by nobody,"


def photo(seed: int) -> Image.Image:
    """A picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize((320, 240))).astype(int)
        for n in (3, 7, 20)
    ]
    return Image.fromarray((sum(layers) // 3).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


@pytest.mark.parametrize("seed", range(5))
def test_a_resized_recompressed_or_brightened_picture_is_alike(seed):
    first = photo(seed)
    for other in (first.resize((100, 75)), as_jpeg(first, 40), ImageEnhance.Brightness(first).enhance(1.1)):
        assert alike(image_signature(first), image_signature(other))


def test_other_pictures_and_mirror_images_are_not_alike():
    made = [image_signature(photo(seed)) for seed in range(20)]
    assert not any(alike(made[a], made[b]) for a in range(20) for b in range(a))
    assert not alike(made[0], image_signature(photo(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def test_pictures_without_structure_are_alike_by_their_colour_only():
    white, black = (image_signature(Image.new("RGB", (50, 50), colour)) for colour in ("white", "black"))
    assert white == image_signature(Image.new("RGB", (9, 80), "white"))
    assert not alike(white, black)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("A dog, running on the beach!", "a dog running  on the BEACH", True),
        ("a castle on a hill at sunset, digital art", "a castle on a hill at sunset - digital art.", True),
        (f"{LONG} at sunset, with dragons and a river", f"{LONG} at sunrise, with dragons and a river", True),
        ("a red dog", "a red cat", False),
        ("a photo of two dogs", "a photo of three dogs", False),
        ("one red circle on a white background", "one blue circle on a white background", False),
    ],
)
def test_texts_are_alike_if_little_but_their_typing_differs(first, second, expected):
    assert alike(text_signature(first), text_signature(second)) is expected


@given(st.text(max_size=60))
def test_every_text_has_a_signature_and_is_alike_itself(text):
    made = signature(text, "text")
    assert len(made) == 256
    assert distance(made, made) == 0


@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=4))
def test_pictures_within_four_bits_always_share_a_band(bits, flipped):
    other = bits
    for bit in flipped:
        other ^= 1 << bit
    a, b = bits.to_bytes(8, "big"), other.to_bytes(8, "big")
    assert alike(a, b)
    assert set(bands(a)) & set(bands(b))


def test_signatures_never_change():
    """They are recorded in run directories: another value here needs a new likeness.VERSION."""
    assert text_signature("a red dog")[:8].hex() == TEXT
    assert image_signature(Image.linear_gradient("L")).hex() == IMAGE


TEXT, IMAGE = "50e83e05c5163b00", "8000800080008000"
