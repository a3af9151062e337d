"""Items become inputs: identified one by one, stored, and failures where they are none."""

import os
import tracemalloc

import numpy as np
import pyarrow as pa
from PIL import Image

from cyclepref.builder.common import files
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages import ingest
from cyclepref.schemas.sources import ImageFolder, PromptFile

PROMPTS = {
    b"a cat": None, b"  a cat\t": None, "ne\u0301": None, "n\u00e9": None,
    b"a\0b": "BadPrompt", b"\xff": "UnicodeDecodeError", b"\xed\xa0\x80": "UnicodeDecodeError",
    b"x" * 20_001: "BadPrompt", b"x" * 20_000: None, "\u0301\u0323" * 3_000_000: "BadPrompt",
    "\u202ea cat": None, b"\x1b[31ma cat": None, "\u2028one prompt": None,
}  # fmt: skip


def test_every_prompt_is_read_or_fails_and_is_accounted_for(tmp_path):
    lines = [prompt if isinstance(prompt, bytes) else prompt.encode() for prompt in PROMPTS]
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    source = open_source(PromptFile(source="prompts", path=str(tmp_path / "p.txt")), "text")
    items = ingest.item_rows(source, source.items(), "text")
    found = ingest.identify(items, source, "text")
    assert found["error_class"].to_pylist() == list(PROMPTS.values())
    ids = [id_ for id_ in found["input_id"].to_pylist() if id_]
    assert len(ids) == len(set(ids)) + 2, "stripped, and in NFC, two prompts are what they look like: one"


def test_a_failing_file_whose_name_is_not_utf8_is_a_row_that_can_be_stored(tmp_path):
    os.symlink(tmp_path / "nothing", os.fsencode(tmp_path) + b"/caf\xe9.png")
    source = open_source(ImageFolder(source="images", path=str(tmp_path)), "image")
    found = ingest.identify(ingest.item_rows(source, source.items(), "image"), source, "image")
    first_try = found.append_column("attempt", pa.array([1] * found.num_rows))
    ingest.write_sources(first_try, Store(tmp_path / "run"))
    [row] = Store(tmp_path / "run").rows("failures").to_pylist()
    assert (row["source"], row["error_class"]) == ("caf\\xe9.png", "FileNotFoundError")
    assert "caf" in row["message"]


def test_large_images_are_stored_in_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "PART_BYTES", 1)
    for colour in ("red", "blue", "white"):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{colour}.png")
    source, store = open_source(ImageFolder(source="images", path=str(tmp_path)), "image"), Store(tmp_path / "run")
    found = ingest.identify(ingest.item_rows(source, source.items(), "image"), source, "image")
    ingest.write_inputs(found, source, "image", store)
    assert len(store.parts("inputs")) == store.rows("inputs").num_rows == 3


def test_identifying_photos_holds_one_at_a_time_whether_they_are_turned_or_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 2**20)  # a buffer of this size is asked for, though never filled
    turned = Image.Exif()
    turned[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for at in range(24):
        noise[0, 0] = at
        path = tmp_path / f"{at:02}.png"
        Image.fromarray(noise).save(path, exif=turned)
        if at % 2:
            path.write_bytes(path.read_bytes()[:-100_000])
    source = open_source(ImageFolder(source="images", path=str(tmp_path)), "image")
    items = ingest.item_rows(source, source.items(), "image")
    tracemalloc.start()
    try:
        found = ingest.identify(items, source, "image")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found["input_id"].null_count == 12
    assert peak < 8 * noise.nbytes
