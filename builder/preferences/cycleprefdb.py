"""The layout in which CyclePrefDB is published: a JSON object for each input, with its generations and their scores.

After hjbahng/cyclereward (36e1077): `{"input", "generations", "scores"}`, where i2t2i has the path of an image as
input, t2i2t paths of images as generations; files `train.jsonl`, `valid.jsonl`, `test.jsonl` (or JSON lists, also as
`train_rankings.json`), the images beside them or in uncompressed tars. The layout is not documented further; we assume
that a path is relative to the folder or names a member of a tar, and if neither exists, that it means the only image
with that file name. CyclePref's own exports have absolute paths, which are also found after the folder was moved, and
add `id`, `generation_ids`, `models`, `metric`, `higher_is_better` and `pairs`, which other readers ignore.
"""

import math
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.common.files import MAX_BYTES, file_of_export, from_json, not_a_file, read_file_of_export
from cyclepref.builder.common.images import ENDINGS
from cyclepref.builder.pairing.pair import UNIT
from cyclepref.builder.preferences.rankings import PAIRS, LoadError, Rankings, identity_of
from cyclepref.schemas.cycle import CYCLES, Cycle
from cyclepref.schemas.ids import digest, pair_id, text_id
from cyclepref.schemas.recipe import Pairing

NAMES = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
INPUT_KEYS = ("input", "image", "prompt")
# The thresholds of the paper (arXiv 2506.02095) and its code: margin 0.005, DreamSim 0.7, SBERT 0.4.
RULES = {
    "i2t2i": Pairing(min_margin=0.005, poor_chosen=0.7),
    "t2i2t": Pairing(min_margin=0.005, poor_chosen=0.4),
}
METRICS = {"i2t2i": ("dreamsim", False), "t2i2t": ("sbert", True)}


class CyclePrefDB:
    """A folder in that layout."""

    def __init__(self, folder: Path):
        self.folder, self.place = folder, str(folder)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file of each split."""
        found: dict[str, Path] = {}
        for path in sorted(self.folder.glob("*.json*")):
            split = NAMES.get(path.stem.removesuffix("_rankings"))
            if split and path.suffix in (".json", ".jsonl"):
                found.setdefault(split, path)
        return found

    def splits(self) -> list[str]:
        """The splits that have inputs."""
        return [split for split in ("train", "validation", "test") if split in self.files]

    def read(self, split: str, run: dict[str, Any] | None = None) -> Rankings:
        """One of its splits.

        Raises:
            LoadError: if a line does not follow the layout.
        """
        path = self.files[split]
        rows = [_checked(f"{path.name}, input {number}", row) for number, row in enumerate(_rows(path), 1)]
        if not rows:
            raise LoadError(f"{path} has no input")
        cycle = _cycle(path, rows)
        metric, higher = METRICS[cycle.name]
        inputs, candidates, paths = _tables(rows, cycle)
        if cycle.input == "image":
            paths = [row["input"] for row in rows]
        first = rows[0]
        pairs = _pairs(path, rows, candidates) if "pairs" in first else None
        return Rankings(
            self.place, split, cycle, inputs, candidates, pairs, first.get("metric", metric),
            first.get("higher_is_better", higher), None if "pairs" in first else RULES[cycle.name],
            FileImages(self.folder, paths), cycle.input == "text" or all(row.get("id") for row in rows),
        )  # fmt: skip


class FileImages:
    """Images by their paths, in a folder or in the tars that lie in it."""

    def __init__(self, folder: Path, paths: list[str]):
        self.folder, self.paths = folder, paths

    def of_input(self, row: int) -> bytes:
        """As in `cyclepref.builder.preferences.rankings.Images`."""
        return self._read(self.paths[row])

    def of_candidate(self, place: int) -> bytes:
        """As in `cyclepref.builder.preferences.rankings.Images`."""
        return self._read(self.paths[place])

    def file_of(self, at: int) -> Path | None:
        """As in `Images`."""
        file = file_of_export(self.folder, self.paths[at])
        return file if isinstance(file, Path) and file.is_file() else None

    @property
    def identity(self) -> str:
        """As in `Images`. It covers the tars alone, since an image that is a file is not copied."""
        return digest(identity_of(sorted(self.folder.glob("*.tar"))), *self.paths)

    def _read(self, path: str) -> bytes:
        data = read_file_of_export(self.folder, path)
        if isinstance(data, bytes):
            return data
        member = self._members.get(PurePosixPath(path).as_posix()) or self._by_name.get(PurePosixPath(path).name)
        if member is None:
            packed = [file.name for file in self.folder.glob("*.tar.*")]
            hint = f"; it may be in {', '.join(packed)}: unpack that here" if packed else ""
            raise LoadError(f"{self.folder} has no image {path!r:.200} ({data}){hint}")
        tar, offset, size = member
        if size > MAX_BYTES:
            raise LoadError(f"{tar} has {path!r:.200} with {size:,} bytes, more than {MAX_BYTES:,}: make it smaller")
        with tar.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    @cached_property
    def _members(self) -> dict[str, tuple[Path, int, int]]:
        """The offset and size of each file in a tar; nothing is unpacked."""
        found: dict[str, tuple[Path, int, int]] = {}
        for tar in sorted(self.folder.glob("*.tar")):
            if error := not_a_file(tar):
                raise LoadError(f"{tar}: {error}")
            with tarfile.open(tar, "r:") as opened:
                for member in opened:
                    if member.isreg():
                        found[PurePosixPath(member.name).as_posix()] = (tar, member.offset_data, member.size)
        return found

    @cached_property
    def _by_name(self) -> dict[str, tuple[Path, int, int] | None]:
        """The same by file name alone; null if two files have the name."""
        found: dict[str, tuple[Path, int, int] | None] = {}
        for path, place in self._members.items():
            name = PurePosixPath(path).name
            found[name] = None if name in found else place
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "paths": self.paths}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if error := not_a_file(path):
        raise LoadError(f"{path}: {error}")
    with path.open(encoding="utf-8") as file:
        try:
            if path.suffix == ".json":
                yield from from_json(file.read())
            else:
                yield from (from_json(line) for line in file if line.strip())
        except ValueError as error:
            raise LoadError(f"{path} is not JSON{'L' if path.suffix == '.jsonl' else ''} ({error})") from error


def _checked(where: str, row: Any) -> dict[str, Any]:
    """A row with its input under "input"."""
    keys = [key for key in INPUT_KEYS if isinstance(row, dict) and isinstance(row.get(key), str)]
    if len(keys) != 1:
        raise LoadError(f"{where}: needs exactly one of the texts {', '.join(INPUT_KEYS)}")
    outputs, scores = row.get("generations"), row.get("scores")
    if not (isinstance(outputs, list) and isinstance(scores, list) and len(outputs) == len(scores)):
        raise LoadError(f"{where}: needs `generations` and `scores`, lists of one length")
    if not all(isinstance(text, str) for text in outputs):
        raise LoadError(f"{where}: generations must be texts (captions, or paths of images)")
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
        raise LoadError(f"{where}: scores must be finite numbers, got {scores!r:.200}")
    _check_additions(where, row)
    return {**row, "input": row[keys[0]]}


def _check_additions(where: str, row: dict[str, Any]) -> None:
    """Check the keys that CyclePref's own exports add, as far as a row has them."""
    texts = lambda found: isinstance(found, list) and all(isinstance(each, str) for each in found)  # noqa: E731
    count, models = len(row["generations"]), row.get("models", [])
    if not all(map(texts, models)) or ("models" in row and len(models) != count):
        raise LoadError(f"{where}: models must be a list of names for each generation")
    ids = row.get("generation_ids", [])
    if not texts(ids) or ("generation_ids" in row and len(ids) != count) or len(set(ids)) != len(ids):
        raise LoadError(f"{where}: generation_ids must be an id of its own for each generation")
    if "pairs" in row and not ("generation_ids" in row and isinstance(row["pairs"], list)):
        raise LoadError(f"{where}: pairs must be a list, and go with generation_ids")
    for name, kind in (("id", str), ("metric", str), ("higher_is_better", bool)):
        if name in row and not isinstance(row[name], kind):
            raise LoadError(f"{where}: {name} must be a {kind.__name__}, got {row[name]!r:.100}")


def _cycle(path: Path, rows: list[dict[str, Any]]) -> Cycle:
    """i2t2i if the inputs are images, t2i2t if the generations are; the endings of paths show which are images."""
    inputs = all(_names_image(row["input"]) for row in rows)
    outputs = all(_names_image(output) for row in rows for output in row["generations"])
    if inputs == outputs:
        raise LoadError(
            f"{path}: either the inputs or the generations must be paths of images "
            f"({', '.join(sorted(ENDINGS)[:6])}, ...), and {'both' if inputs else 'neither'} are"
        )
    return CYCLES["i2t2i" if inputs else "t2i2t"]


def _names_image(text: str) -> bool:
    return PurePosixPath(text).suffix.lower() in ENDINGS


def _tables(rows: list[dict[str, Any]], cycle: Cycle) -> tuple[pa.Table, pa.Table, list[str]]:
    """Inputs, candidates, and the generations' texts or paths. If the layout has no ids, they are made from contents
    and scores."""
    of_text = cycle.input == "text"
    ids = [row.get("id") or (text_id if of_text else _id)(row["input"]) for row in rows]
    texts = [row["input"] if of_text else None for row in rows]
    inputs = pa.table({"input_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})
    found: dict[str, tuple] = {}
    for at, (row, input_id) in enumerate(zip(rows, ids, strict=True)):
        contents = zip(row["generations"], row["scores"], strict=True)
        own = row.get("generation_ids") or [_id(input_id, output, repr(float(score))) for output, score in contents]
        made = row.get("models") or [[]] * len(own)
        for id_, output, score, models in zip(own, row["generations"], row["scores"], made, strict=True):
            maker = models[0] if models else ""
            found.setdefault(id_, (id_, at, maker, sorted(models), output, float(score)))
    kinds = (pa.string(), pa.int64(), pa.string(), pa.list_(pa.string()), pa.string(), pa.float64())
    columns = list(zip(*found.values(), strict=True)) or [()] * len(kinds)
    names = ("generation_id", "row", "model", "models", "same", "value")
    arrays = {name: pa.array(list(column), kind) for name, column, kind in zip(names, columns, kinds, strict=True)}
    outputs = list(columns[names.index("same")])
    arrays["text"] = arrays["same"] if cycle.candidate == "text" else pa.nulls(len(outputs), pa.string())
    return inputs, pa.table(arrays), outputs


def _pairs(path: Path, rows: list[dict[str, Any]], candidates: pa.Table) -> pa.Table:
    """The pairs that CyclePref's own exports name, as [chosen, rejected] places among the generations."""
    chosen, rejected = [], []
    for number, row in enumerate(rows, 1):
        ids = row["generation_ids"]
        for pair in row.get("pairs", ()):
            if not (
                isinstance(pair, list)
                and len(pair) == 2
                and all(isinstance(at, int) and 0 <= at < len(ids) for at in pair)
            ):
                raise LoadError(f"{path.name}, input {number}: {pair!r:.100} is not a pair of its generations")
            chosen.append(ids[pair[0]])
            rejected.append(ids[pair[1]])
    known = candidates["generation_id"].combine_chunks()
    places = [pc.index_in(pa.array(ids, pa.string()), value_set=known) for ids in (chosen, rejected)]
    values = np.rint(np.asarray(candidates["value"]) / UNIT)
    margin = np.abs(values[np.asarray(places[0])] - values[np.asarray(places[1])]) * UNIT
    named = [pair_id(*ids, "cycleprefdb") for ids in zip(chosen, rejected, strict=True)]
    return pa.table([pa.array(named, pa.string()), *places, margin], names=PAIRS.names).cast(PAIRS)


def _id(*parts: str) -> str:
    return digest("cycleprefdb", *parts)
