"""Thousands of broken pictures, made by mutation: each is read or refused, and accounted for."""

import io
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cyclepref.builder.common.images import UnreadableImage, decode, to_store
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages import ingest
from cyclepref.builder.stages.accounting import Accountant
from cyclepref.schemas.sources import ImageFolder


def corpus() -> list[bytes]:
    """Small valid pictures of every format and of many ways to encode."""
    noise = Image.effect_noise((24, 16), 90)
    rgb, palette = noise.convert("RGB"), noise.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [rgb.rotate(180)]}
    made = [
        (rgb, "JPEG", {"exif": exif}), (rgb, "JPEG", {"progressive": True}), (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", frames), (palette, "PNG", {"transparency": 3}), (noise.convert("LA"), "PNG", {}),
        (noise.convert("I;16"), "PNG", {}), (noise.convert("1"), "PNG", {}), (rgb, "WEBP", frames),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True}), (palette, "GIF", {**frames, "transparency": 1}),
        (rgb, "BMP", {}), (palette, "BMP", {}), (rgb, "AVIF", {}), (rgb, "AVIF", frames), (rgb, "PPM", {}),
        (noise.convert("I;16"), "PPM", {}), (noise.convert("F"), "TIFF", {}), (rgb.convert("LAB"), "TIFF", {}),
        *((rgb, "TIFF", {"compression": name}) for name in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")),
        (noise.convert("1"), "TIFF", {"compression": "group4"}), (rgb, "TIFF", frames),
    ]  # fmt: skip
    files = []
    for image, format_, options in made:
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        files.append(buffer.getvalue())
    return files


CORPUS = corpus()
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 60_000]


def mutated(rng: random.Random) -> bytes:
    """A valid picture with a few bits flipped, lengths changed, pieces cut, doubled or put in from another one."""
    data = bytearray(rng.choice(CORPUS))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        # Headers decide more than pixels do.
        at = rng.randrange(min(len(data), rng.choice((64, 256, len(data)))) or 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 256)] * rng.choice((1, 2, 40))
        elif kind == 4:
            other = rng.choice(CORPUS)
            start = rng.randrange(len(other))
            data[at : at + rng.randrange(32)] = other[start : start + rng.randrange(1, 256)]
        else:
            layout = rng.choice(("<H", ">H", "<I", ">I"))
            limit = 2 ** (8 * struct.calcsize(layout)) - 1
            data[at : at + struct.calcsize(layout)] = struct.pack(layout, min(rng.choice(EXTREMES), limit))
    return bytes(data)


def read_or_refused(data: bytes) -> bool:
    """Whether it is read; anything but a picture or one UnreadableImage raises."""
    try:
        stored = to_store(data)
    except UnreadableImage:
        return False
    again = decode(stored.data)
    assert (again.mode, again.size, again.info) == ("RGB", (stored.width, stored.height), {})
    assert to_store(stored.data).content_id == stored.content_id
    return True


def test_every_picture_of_the_corpus_is_read():
    assert all(read_or_refused(data) for data in CORPUS)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_a_mutated_picture_is_read_or_refused(seed):
    read_or_refused(mutated(random.Random(seed)))


@pytest.mark.slow
def test_thousands_of_mutated_pictures_crash_nothing_and_stay_within_bounds(tmp_path):
    """In a process of its own: one that a decoder kills, hangs or fills is seen, with the seed that did it."""
    code = (
        "import random, resource, signal, sys, time, warnings; warnings.simplefilter('ignore')\n"
        "sys.path[:0] = sys.argv[1:3]\n"
        "from test_mutation import mutated, read_or_refused\n"
        "slowest = read = 0\n"
        "for seed in range(10_000):\n"
        "    print(seed, file=sys.stderr, flush=True); signal.alarm(120); begin = time.process_time()\n"
        "    read += read_or_refused(mutated(random.Random(seed)))\n"
        "    slowest = max(slowest, time.process_time() - begin)\n"
        "print(read, slowest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    root, here = Path(__file__).parents[3], Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code, str(here), str(root)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-3000:]
    read, slowest, kilobytes = map(float, run.stdout.split())
    assert 500 < read < 9500
    assert slowest < 30
    assert kilobytes < 4 * 2**20


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_mutated_pictures_is_accounted_for(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(60):
        name = f"{seed}.{random.Random(seed).choice(('png', 'jpg', 'gif', 'tif'))}"
        (folder / name).write_bytes(mutated(random.Random(seed // 2)))
    source, store = open_source(ImageFolder(source="images", path=str(folder)), "image"), Store(tmp_path / "run")
    listed = source.items()
    engine = InOrder()
    _, count = ingest.ingest(source, listed, "image", Accountant(store, 1.0), engine)
    assert count.read == len(listed) == 60 == count.unique + count.duplicate + count.failed
    assert min(count.unique, count.duplicate, count.failed) > 0
    assert store.rows("inputs").num_rows == count.unique
    assert store.rows("failures").num_rows == count.failed


class InOrder:
    """Runs an engine's tasks in this process, one after another: what they do is what is tested."""

    def run_tasks(self, blocks, *steps):
        for block in blocks:
            for step in steps:
                block = step(block)
            yield block
