"""The pictures of an input as one strip: small squares side by side, in one WebP image. A page shows one square by
moving the strip behind a window, so that an input costs one file whatever its number of candidates."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from PIL import Image, ImageOps

from cyclepref.builder.common.images import UnreadableImage, decode
from cyclepref.builder.report.gallery import Gallery, Place, Shown
from cyclepref.builder.run.store import Store

# Pixels of a square, twice the size at which a phone shows it; WebP goes to 16,383.
SIDE = 128
MOST_SQUARES = 16_383 // SIDE
QUALITY = 72
# Inputs whose pictures are read together: their row groups lie beside each other.
AT_ONCE = 64
EMPTY = "#8b949e"


def strips(store: Store, gallery: Gallery) -> Iterator[bytes]:
    """The strip of each input of a gallery, in its order: WebP bytes, empty where there is no picture.

    An image input is the first square; then come the candidates in order, each a square: the candidate itself where it
    is an image, else its first reconstruction. What is not there yet, or cannot be read, is a grey square.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        inputs = iter(gallery.inputs)
        while some := list(islice(inputs, AT_ONCE)):
            wanted = [_places(gallery, each) for each in some]
            found = _fetched(store, {place for places in wanted for place in places if place})
            yield from pool.map(_strip, ([place and found[place] for place in places] for places in wanted))


def _places(gallery: Gallery, each: Shown) -> list[tuple[str, Place] | None]:
    """(table, place) of each square."""
    first = [("inputs", each.place)] if gallery.cycle.input == "image" else []
    if gallery.cycle.candidate == "image":
        rest = [c.place and ("generations", c.place) for c in each.candidates]
    else:
        rest = [c.back and ("generations", c.back[0]) for c in each.candidates]
    return [*first, *rest][:MOST_SQUARES]


def _fetched(store: Store, wanted: set[tuple[str, Place]]) -> dict[tuple[str, Place], bytes | None]:
    found = {}
    for table in ("inputs", "generations"):
        places = sorted(place for of, place in wanted if of == table)
        if places:
            rows = store.fetch(table, [part for part, _ in places], [row for _, row in places], ["image"])
            found |= {(table, place): data for place, data in zip(places, rows["image"].to_pylist(), strict=True)}
    return found


def _strip(pictures: list[bytes | None]) -> bytes:
    if not any(pictures):
        return b""
    sheet = Image.new("RGB", (SIDE * len(pictures), SIDE), EMPTY)
    for at, data in enumerate(pictures):
        if data:
            sheet.paste(square(data), (at * SIDE, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()


def square(data: bytes) -> Image.Image:
    """A picture as a square of SIDE pixels: all of it, with a border where it is not square."""
    try:
        image = decode(data)
    except UnreadableImage:  # what is stored was read once; a disk may have lost it since
        return Image.new("RGB", (SIDE, SIDE), EMPTY)
    enlarged = max(image.size) < SIDE
    way = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (SIDE, SIDE), way, color="#30363d")
