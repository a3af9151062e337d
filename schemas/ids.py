"""Content-addressed ids: every id is a hash of what determines the row, never of a position, a path or a time.

An id is the hex form (32 characters) of a 16-byte BLAKE2b digest. Two runs that want the same row give it the same id;
resuming, growing and merging runs need nothing else.
"""

import hashlib
import json
import unicodedata
from typing import Any

# Raise it when the canonical form of an image changes (see builder/common/images.py), since that changes the pixels.
IMAGE_CANON = "rgb-1"

TAGS = {str: b"s", int: b"i", bytes: b"b"}


def digest(*parts: bytes | str | int | None) -> str:
    """Hash a sequence of parts into 32 hex characters; ("ab", "c") and ("a", "bc") differ.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    return hashlib.blake2b(b"".join(map(framed, parts)), digest_size=16).hexdigest()


def framed(part: bytes | str | int | None) -> bytes:
    """A part as it is hashed: with its kind and length before it."""
    tag = b"0" if part is None else TAGS[type(part)]
    data = part if isinstance(part, bytes) else b"" if part is None else str(part).encode()
    return tag + len(data).to_bytes(8, "little") + data


def text_id(text: str) -> str:
    """Id of a text: its NFC form, so that two encodings of one letter are one text."""
    return digest("text", unicodedata.normalize("NFC", text))


def image_id(width: int, height: int, rgb: bytes) -> str:
    """Id of an image: its size and its 8-bit RGB pixels (`width * height * 3` bytes, row by row).

    Raises:
        ValueError: if the pixels do not fill the size.
    """
    if len(rgb) != width * height * 3:
        raise ValueError(f"an RGB image of {width}x{height} has {width * height * 3} bytes of pixels, got {len(rgb)}")
    return digest("image", IMAGE_CANON, width, height, rgb)


def fingerprint(settings: dict[str, Any]) -> str:
    """Id of a set of settings that change an output, whatever the order of its keys."""
    return digest("settings", json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False))


def sample_seed(recipe_seed: int, input_id: str, sample_index: int, role: str) -> int:
    """Seed of one sample, in [0, 2**63): a function of the recipe's seed, the input and the sample index.

    `role` is "forward" or "backward". A backward seed does not depend on the candidate: the reconstructions of all
    candidates of one input share their seeds, so that the backward model's noise cancels in the comparison.
    """
    return int(digest("seed", role, recipe_seed, input_id, sample_index)[:16], 16) >> 1


def resample_seed(seed: int, draw: int) -> int:
    """Seed of a sample's draw after the first (`draw` >= 1), in [0, 2**63)."""
    return int(digest("draw", seed, draw)[:16], 16) >> 1


def generation_id(source_id: str, model_fingerprint: str, seed: int | None) -> str:
    """Id of one generation, from its source, its model and its seed (None for greedy decoding)."""
    return digest("generation", source_id, model_fingerprint, seed)


def similarity_id(input_id: str, content_id: str, metric_fingerprint: str) -> str:
    """Id of one comparison of an input with the content of a reconstruction."""
    return digest("similarity", input_id, content_id, metric_fingerprint)


def verdict_id(content_id: str, model_fingerprint: str) -> str:
    """Id of a safety model's verdict on an image."""
    return digest("verdict", content_id, model_fingerprint)


def pair_id(chosen_id: str, rejected_id: str, scored_by: str) -> str:
    """Id of one preference pair. The candidates' ids already depend on the input; `scored_by` names what compared
    them."""
    return digest("pair", chosen_id, rejected_id, scored_by)
