"""Which pictures and which texts are nearly the same: signatures of a few bytes, without a model.

Pictures: the 64-bit perceptual hash by DCT (Zauner 2010, Implementation and benchmarking of perceptual image hash
functions), alike up to 4 different bits of 64: resizing, recompression and slight changes of colour, not crops or
mirror images. Texts: MinHash (Broder 1997, On the resemblance and containment of documents) of their character
4-grams, alike from an estimated Jaccard similarity of 0.8 on: other punctuation, case and spacing, a word of a long
prompt; a short prompt with another word in it is another prompt.

Both are looked up by bands: two signatures that share none are not compared. For pictures no pair within 4 bits is
missed (5 bands, and 4 bits differ in 4 of them at most); for texts of similarity 0.8 one in some thousands is.
"""

import re
import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np
from PIL import Image

from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import digest

# Raise it when signatures change, since other inputs then count as near-duplicates.
VERSION = 1
HASH_BITS, MAX_DIFFERENT_BITS, IMAGE_BANDS = 64, 4, 5
SIDE, LOW = 32, 8
GRAM, HASHES, TEXT_BANDS, MIN_JACCARD = 4, 64, 16, 0.8
# A prime above 2**31, for hashes of the form (a * x + b) mod p of 31-bit numbers, which fit into 64 bits.
PRIME = 2**31 + 11


def image_signature(image: Image.Image) -> bytes:
    """Perceptual hash, 8 bytes: which of the 64 lowest frequencies of a 32x32 grey picture exceed their median.

    A picture of nearly one colour has no such frequencies; its hash is made from its rounded mean grey.
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    if np.ptp(grey) < 2:
        return bytes.fromhex(digest("flat", round(float(grey.mean())))[:16])
    # Rounded, since a frequency that the picture lacks would otherwise be rounding noise instead of 0.
    low = np.rint(_dct() @ grey @ _dct().T).ravel()
    return np.packbits(low > np.median(low)).tobytes()


def text_signature(text: str) -> bytes:
    """MinHash, 256 bytes: for each of 64 hash functions the smallest value among the text's character 4-grams."""
    words = " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
    padded = f" {words or text} "
    grams = {padded[at : at + GRAM] for at in range(max(1, len(padded) - GRAM + 1))}
    values = np.array([int(digest("gram", gram)[:8], 16) >> 1 for gram in sorted(grams)], dtype=np.uint64)
    a, b = _functions()
    return ((a[:, None] * values[None] + b[:, None]) % np.uint64(PRIME)).min(axis=1).astype("<u4").tobytes()


def bands(signature: bytes) -> list[tuple[int, bytes]]:
    """The keys under which a signature is looked up: two signatures without a common key count as different."""
    if len(signature) == HASH_BITS // 8:
        bits = int.from_bytes(signature, "big")
        edges = [round(at * HASH_BITS / IMAGE_BANDS) for at in range(IMAGE_BANDS + 1)]
        return [
            (at, ((bits >> low) & ((1 << (high - low)) - 1)).to_bytes(2, "big"))
            for at, (low, high) in enumerate(pairwise(edges))
        ]
    width = len(signature) // TEXT_BANDS
    return [(at, signature[at * width : (at + 1) * width]) for at in range(TEXT_BANDS)]


def distance(first: bytes, second: bytes) -> float:
    """How far two signatures of one kind are apart: different bits, or 1 - estimated Jaccard similarity."""
    if len(first) == HASH_BITS // 8:
        return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()
    return 1 - float((np.frombuffer(first, "<u4") == np.frombuffer(second, "<u4")).mean())


def alike(first: bytes, second: bytes) -> bool:
    """Whether two signatures of one kind are those of near-duplicates."""
    most = MAX_DIFFERENT_BITS if len(first) == HASH_BITS // 8 else 1 - MIN_JACCARD
    return distance(first, second) <= most + 1e-9


def signature(content: Image.Image | str, modality: Modality) -> bytes:
    """The signature of an image or a text."""
    return image_signature(content) if modality == "image" else text_signature(content)


@cache
def _dct() -> np.ndarray:
    """DCT-II of 32 samples, the first 8 frequencies, shape (8, 32)."""
    frequency, place = np.arange(LOW)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))


@cache
def _functions() -> tuple[np.ndarray, np.ndarray]:
    """Factors and offsets of the hash functions, derived from digests so that they never change."""
    draws = [[int(digest("minhash", VERSION, name, at)[:8], 16) % PRIME for at in range(HASHES)] for name in ("a", "b")]
    return np.array([max(1, a) for a in draws[0]], dtype=np.uint64), np.array(draws[1], dtype=np.uint64)
