"""Pairs as a dataset of the datasets library: a row each, memory-mapped, with each image in one file of its own.

An image stands in many pairs, so a row names the image's file, which the Image feature opens when the row is read:
memory does not grow with the number of pairs, nor does the disk hold an image twice. Where the dataset is saved or
pushed, the library itself puts the bytes into its rows. Files and rows lie in the library's cache (`HF_DATASETS_CACHE`,
folder cyclepref) under names made of their content; what is deleted there is written again by the next `load_pairs`.
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
# How files of the kinds begin that are kept as they are (`cyclepref.builder.common.images.KEEP`).
ENDINGS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp"}
SIDES = ("chosen", "rejected")
# What a row says of either side, and the column of the candidates that it is in.
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
            f"cannot write pairs to {cache()} ({error}): free some space there, or name another place in the "
            "environment variable HF_DATASETS_CACHE"
        ) from error
    return Dataset.from_file(str(kept), split=NamedSplit(rankings.split))


def features(cycle: Cycle) -> Features:
    """The columns of pairs, and what they hold."""
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
    """Some pairs with all that a row says."""
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
    """The file of each image that a pair shows, by its row among the inputs or its place among the candidates."""
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
    """The files that were written for the images of a place, so that these are not read again to find them."""

    def __init__(self, images: Images):
        self._images, self._path = images, cache() / "images" / f"of-{images.identity}.json"
        self.files: dict[int, str] = {}
        if images.identity and self._path.is_file():
            try:
                self.files = {int(at): str(file) for at, file in json.loads(self._path.read_text("utf-8")).items()}
            except (ValueError, AttributeError):  # broken: made again like all else in the cache
                self.files = {}

    def remember(self, found: list[str | None]) -> None:
        """Keep what is known now; an image that is a file of its own is looked at anew each time."""
        if self._images.identity:
            written = {at: file for at, file in enumerate(found) if file and self._images.file_of(at) is None}
            _write(self._path, json.dumps(written).encode())


def _file(images: Images, read: Callable[[int], bytes], at: int) -> str:
    """The file of an image: its own, or one that is written now, where it has none that every reader shows alike."""
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
    """A file that is there whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _keep(rows: Path, folder: Path) -> Path:
    """Move a file of rows to where its content says. One that is there stays: its age tells the datasets library that
    what it made of it, by `map` say, can be used again."""
    with rows.open("rb") as file:
        name = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    kept = folder / name / rows.name
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        rows.replace(kept)
    return kept
