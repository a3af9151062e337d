"""Pairs as a dataset of the datasets library: one memory-mapped row for each pair, and one file for each image.

An image is in many pairs, so a row names the image's file, which the Image feature opens when the row is read. So
memory does not grow with the number of pairs, and the disk holds no image twice. If the dataset is saved or pushed, the
library itself puts the bytes into its rows. Files and rows lie in the library's cache (`HF_DATASETS_CACHE`, folder
cyclepref) under names made of their content; the next `load_pairs` writes deleted ones again.
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image, List, NamedSplit, Value

from cyclepref.builder.common.images import UnreadableImage, shows_itself, to_store
from cyclepref.builder.common.progress import stage
from cyclepref.builder.preferences.rankings import Images, LoadError, Rankings, cache
from cyclepref.schemas.cycle import Cycle, Modality
from cyclepref.schemas.ids import digest

ROWS_PER_BATCH = 10_000
# The first bytes of files in the formats that are stored unchanged (`cyclepref.builder.common.images.KEEP`).
ENDINGS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp"}
SIDES = ("chosen", "rejected")
# The columns of a pair for either side, and the candidates' columns that they come from.
OF_SIDE = {"id": "generation_id", "model": "model", "models": "models", "score": "value"}


def as_dataset(rankings: Rankings, pairs: pa.Table) -> Dataset:
    """The pairs (a table of `cyclepref.builder.preferences.rankings.PAIRS`), in their order;
    `cyclepref.builder.preferences.load.load_pairs` names the columns.

    Raises:
        LoadError: if an image of a pair cannot be read, or the cache cannot be written to.
    """
    schema = features(rankings.cycle).arrow_schema
    try:
        files = _files(rankings, pairs)
        (folder := cache() / "pairs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            rows = Path(made, "rows.arrow")
            with pa.OSFile(str(rows), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for batch in pairs.to_batches(max_chunksize=ROWS_PER_BATCH):
                    writer.write_table(_rows(rankings, files, pa.Table.from_batches([batch])).cast(schema))
            kept = _keep(rows, folder)
    except OSError as error:
        raise LoadError(
            f"cannot write pairs to {cache()} ({error}): free some space there, or set the environment "
            "variable HF_DATASETS_CACHE to another folder"
        ) from error
    return Dataset.from_file(str(kept), split=NamedSplit(rankings.split))


def features(cycle: Cycle) -> Features:
    """The columns of pairs and their types."""
    text, number, texts = Value("string"), Value("float64"), List(Value("string"))
    kinds: dict[Modality, Any] = {"image": Image(), "text": text}
    columns = {
        _input(cycle): kinds[cycle.input], **dict.fromkeys(SIDES, kinds[cycle.candidate]), "margin": number,
        "pair_id": text, "input_id": text,
    }  # fmt: skip
    of_side = dict(zip(OF_SIDE, (text, text, texts, number), strict=True))
    return Features(columns | {f"{side}_{name}": kind for name, kind in of_side.items() for side in SIDES})


def _input(cycle: Cycle) -> str:
    return "image" if cycle.input == "image" else "prompt"


def _rows(rankings: Rankings, files: pa.Array, pairs: pa.Table) -> pa.Table:
    """The complete rows of some pairs."""
    candidates, inputs, cycle = rankings.candidates, rankings.inputs, rankings.cycle
    rows = candidates["row"].take(pairs["chosen"])
    columns = {_input(cycle): _pictures(files, rows) if cycle.input == "image" else inputs["text"].take(rows)}
    for side in SIDES:
        of_text = cycle.candidate == "text"
        columns[side] = candidates["text"].take(pairs[side]) if of_text else _pictures(files, pairs[side])
    columns |= {"margin": pairs["margin"], "pair_id": pairs["pair_id"], "input_id": inputs["input_id"].take(rows)}
    for name, column in OF_SIDE.items():
        columns |= {f"{side}_{name}": candidates[column].take(pairs[side]) for side in SIDES}
    return pa.table(columns)


def _pictures(files: pa.Array, at: pa.ChunkedArray) -> pa.Array:
    """Images by their files, as the Image feature stores them."""
    paths = files.take(at.combine_chunks())
    return pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], ["bytes", "path"])


def _files(rankings: Rankings, pairs: pa.Table) -> pa.Array:
    """The file of each image in a pair, indexed by its row among the inputs or its place among the candidates."""
    images, candidates = rankings.images, rankings.candidates
    if rankings.cycle.input == "image":
        read, ids = images.of_input, rankings.inputs["input_id"]
        wanted = np.unique(np.asarray(candidates["row"].take(pairs["chosen"])))
    else:
        read, ids = images.of_candidate, candidates["generation_id"]
        wanted = np.unique(np.concatenate([np.asarray(pairs[side]) for side in SIDES]))
    written = _Written(images)
    found = [written.files.get(at) for at in range(len(ids))]
    missing = [at for at in wanted.tolist() if found[at] is None or not os.path.isfile(found[at])]
    if missing:
        with stage(f"images of {rankings.split}", len(missing)) as tick:
            for at in missing:
                try:
                    found[at] = _file(images, read, at)
                except (UnreadableImage, LoadError) as error:
                    raise LoadError(f"{rankings}: a pair shows the image {ids[at]}, and {error}") from error
                tick(1)
        written.remember(found)
    return pa.array(found, pa.string())


class _Written:
    """Remembers which files hold the images of a dataset, so that the images need not be read again to find them."""

    def __init__(self, images: Images):
        self._images, self._path = images, cache() / "images" / f"of-{images.identity}.json"
        self.files: dict[int, str] = {}
        if images.identity and self._path.is_file():
            try:
                self.files = {int(at): str(file) for at, file in json.loads(self._path.read_text("utf-8")).items()}
            except (ValueError, AttributeError):  # a damaged file is written again, like everything in the cache
                self.files = {}

    def remember(self, found: list[str | None]) -> None:
        """Save the files known so far; an image that is a file of its own is checked again each time."""
        if self._images.identity:
            written = {at: file for at, file in enumerate(found) if file and self._images.file_of(at) is None}
            _write(self._path, json.dumps(written).encode())


def _file(images: Images, read: Callable[[int], bytes], at: int) -> str:
    """The file of an image: its own if every reader shows it the same way, else one that is written now."""
    own = images.file_of(at)
    if own is not None and shows_itself(own):
        return str(own)
    data = read(at)
    data = data if shows_itself(data) else to_store(data).data
    ending = next(ending for start, ending in ENDINGS.items() if data.startswith(start))
    name = digest(data)
    kept = cache() / "images" / name[:2] / f"{name}.{ending}"
    if not kept.is_file() or kept.stat().st_size != len(data):
        _write(kept, data)
    return str(kept)


def _write(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, even if other processes write the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _keep(rows: Path, folder: Path) -> Path:
    """Move a file of rows to the path that its content determines. An existing file stays: its unchanged time tells the
    datasets library that results made from it, for example by `map`, are still valid."""
    with rows.open("rb") as file:
        name = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    kept = folder / name / rows.name
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        rows.replace(kept)
    return kept
