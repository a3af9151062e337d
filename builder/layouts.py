"""Preference datasets in layouts of the field, read as rankings: ImageReward's and HPDv3's JSON, Pick-a-Pic's parquet.

    ImageReward (arXiv 2304.05977)   [{"id", "prompt", "generations": [path], "ranking": [int, 1 the best]}]
    HPDv3 (arXiv 2508.03789)         [{"prompt", "path1" (the preferred), "path2", "confidence", "model1", "model2"}]
    Pick-a-Pic (arXiv 2305.01569)    caption, jpg_0, jpg_1 (encoded bytes), label_0, label_1 (1 for the preferred)

All compare images of one prompt. Paths are relative to the folder of the JSON and cannot leave it. Equal ranks, and
labels of one half, are no pairs. No score is known: a margin is the difference of ranks, the confidence, or 1.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from builder.files import read_file_within
from builder.rankings import PAIRS, LoadError, Rankings, cache_folder
from schemas.cycle import CYCLES
from schemas.ids import digest, pair_id, text_id

SPLITS = {"train": "train", "valid": "validation", "validation": "validation", "dev": "validation", "test": "test"}
IMAGEREWARD, HPDV3 = {"prompt", "generations", "ranking"}, {"prompt", "path1", "path2"}
PICKAPIC = {"caption", "jpg_0", "jpg_1", "label_0", "label_1"}


@dataclass
class _Found:
    """Prompts, their images (where each is, who made it), and which was preferred to which by how much."""

    prompts: dict[str, str] = field(default_factory=dict)
    images: dict[str, tuple[str, Any, str]] = field(default_factory=dict)
    pairs: dict[frozenset[str], tuple[str, str, float]] = field(default_factory=dict)

    def image(self, prompt: str, place: Any, name: str, model: str) -> str:
        """Id of an image of a prompt, noted; `name` tells it from the prompt's others."""
        input_id = text_id(prompt)
        self.prompts.setdefault(input_id, prompt)
        id_ = digest("layout", input_id, name)
        self.images.setdefault(id_, (input_id, place, model))
        return id_

    def pair(self, chosen: str, rejected: str, margin: float) -> None:
        """Note a preference; of two that contradict each other, or say the same, the first counts."""
        if chosen != rejected:
            self.pairs.setdefault(frozenset((chosen, rejected)), (chosen, rejected, margin))


class Layout:
    """A folder of JSON or parquet files, one a split, or one such file (its split by its name, else "train")."""

    def __init__(self, path: Path, files: dict[str, list[Path]]):
        self.path, self.place, self._files = path, str(path), files

    def splits(self) -> list[str]:
        """The splits that have a file."""
        return [split for split in ("train", "validation", "test") if split in self._files]

    def read(self, split: str, run: dict[str, Any] | None = None) -> Rankings:
        """One of its splits.

        Raises:
            LoadError: if a row is not what its layout says.
        """
        files = self._files[split]
        found = _Found()
        if files[0].suffix == ".parquet":
            rows = _table(files)
            _read_pickapic(rows, found)
            images: Any = _Columns([place for _, place, _ in _by_input(found)], rows)
        else:
            [file] = files
            for number, row in enumerate(_json(file), 1):
                _read_row(f"{file.name}, item {number}", row, found)
            images = _Files(file.parent, [place for _, place, _ in _by_input(found)])
        return _rankings(self.place, split, found, images)


def find_layout(path: str | Path) -> Layout | None:
    """The layout at a path, or None if nothing of these is there."""
    path = Path(path).expanduser()
    files = [path] if path.is_file() else sorted([*path.glob("*.json"), *path.glob("*.parquet")])
    found: dict[str, list[Path]] = {}
    for file in files:
        known = _keys(file)
        if any(keys <= known for keys in (IMAGEREWARD, HPDV3, PICKAPIC)):
            split = SPLITS.get(file.stem.split("-")[0].split("_")[0], "train" if path.is_file() else "")
            found.setdefault(split, []).append(file)
    found.pop("", None)
    return Layout(path, found) if found else None


def _keys(file: Path) -> set[str]:
    """The keys of a file's first row."""
    try:
        if file.suffix == ".parquet":
            return set(pq.read_schema(file).names)
        rows = _json(file) if file.suffix == ".json" else []
    except (LoadError, pa.ArrowInvalid):
        return set()
    return set(rows[0]) if rows and isinstance(rows[0], dict) else set()


def _json(file: Path) -> list[Any]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{file} is not JSON ({error})") from error
    return rows if isinstance(rows, list) else []


def _read_row(where: str, row: Any, found: _Found) -> None:
    """One item of ImageReward or HPDv3."""
    keys = set(row) if isinstance(row, dict) else set()
    if not (keys >= IMAGEREWARD or keys >= HPDV3) or not isinstance(row["prompt"], str):
        raise LoadError(
            f"{where}: needs prompt, generations and ranking (ImageReward), or prompt, path1, path2 (HPDv3)"
        )
    if keys >= HPDV3:
        sides = [found.image(row["prompt"], row[f"path{n}"], str(row[f"path{n}"]), _model(row, n)) for n in (1, 2)]
        found.pair(*sides, float(row.get("confidence") or 1.0))
        return
    paths, ranks = row["generations"], row["ranking"]
    if not (isinstance(paths, list) and isinstance(ranks, list) and len(paths) == len(ranks)):
        raise LoadError(f"{where}: generations and ranking must be lists of one length")
    if not all(isinstance(rank, int) for rank in ranks):
        raise LoadError(f"{where}: a ranking is of whole numbers, 1 the best; got {ranks!r:.100}")
    ids = [found.image(row["prompt"], path, str(path), "") for path in paths]
    for one, better in zip(ids, ranks, strict=True):
        for other, worse in zip(ids, ranks, strict=True):
            if better < worse:
                found.pair(one, other, float(worse - better))


def _model(row: dict[str, Any], number: int) -> str:
    return str(row.get(f"model{number}") or "")


def _table(files: list[Path]) -> datasets.Dataset:
    names = [str(file) for file in files]
    return datasets.load_dataset("parquet", data_files=names, split="train", cache_dir=cache_folder(files[0].parent))


def _read_pickapic(rows: datasets.Dataset, found: _Found) -> None:
    table = rows.data.table
    names = {name for name in table.column_names if name not in ("jpg_0", "jpg_1")}
    for number, row in enumerate(table.select(sorted(names)).to_pylist()):
        labels = [row["label_0"], row["label_1"]]
        if row.get("has_label") is False or labels[0] == labels[1]:
            continue
        if not isinstance(row["caption"], str) or any(label is None or not 0 <= label <= 1 for label in labels):
            raise LoadError(f"row {number + 1}: needs a caption, and labels from 0 to 1; got {labels}")
        ids = [
            found.image(
                row["caption"], (number, f"jpg_{side}"), row.get(f"image_{side}_uid") or f"{number}/{side}",
                row.get(f"model_{side}") or "",
            )
            for side in (0, 1)
        ]  # fmt: skip
        best = int(labels[1] > labels[0])
        found.pair(ids[best], ids[1 - best], 1.0)


def _by_input(found: _Found) -> list[tuple[str, Any, str]]:
    """(input, place, model) of the images, prompt by prompt."""
    order = {input_id: at for at, input_id in enumerate(found.prompts)}
    return sorted(found.images.values(), key=lambda image: order[image[0]])


def _rankings(place: str, split: str, found: _Found, images: Any) -> Rankings:
    rows = {input_id: at for at, input_id in enumerate(found.prompts)}
    ids = sorted(found.images, key=lambda id_: rows[found.images[id_][0]])
    at = {id_: index for index, id_ in enumerate(ids)}
    models = [found.images[id_][2] for id_ in ids]
    candidates = pa.table(
        {
            "generation_id": pa.array(ids, pa.string()),
            "row": pa.array([rows[found.images[id_][0]] for id_ in ids], pa.int64()),
            "model": pa.array(models, pa.string()),
            "models": pa.array([[model] if model else [] for model in models], pa.list_(pa.string())),
            "text": pa.nulls(len(ids), pa.string()),
            "value": pa.array([0.0] * len(ids), pa.float64()),
            "same": pa.array(ids, pa.string()),
        }
    )
    pairs = [
        {"pair_id": pair_id(one, other, "labels"), "chosen": at[one], "rejected": at[other], "margin": margin}
        for one, other, margin in found.pairs.values()
    ]
    inputs = {"input_id": list(found.prompts), "text": list(found.prompts.values())}
    table = pa.Table.from_pylist(pairs, schema=PAIRS)
    return Rankings(
        place, split, CYCLES["t2i2t"], pa.table(inputs), candidates, table, "labels", None, None, images
    )  # fmt: skip


@dataclass(frozen=True)
class _Files:
    """Images in files of a folder."""

    folder: Path
    paths: list[Any]

    def of_input(self, row: int) -> bytes:
        """There is none: inputs are prompts."""
        raise LoadError(f"inputs of {self.folder} are prompts")

    def of_candidate(self, place: int) -> bytes:
        """As in `builder.rankings.Images`."""
        data = read_file_within(self.folder, str(self.paths[place]))
        if isinstance(data, bytes):
            return data
        raise LoadError(f"{self.folder} has no image {self.paths[place]!r:.200} ({data})")


@dataclass(frozen=True)
class _Columns:
    """Images in columns of memory-mapped rows."""

    places: list[tuple[int, str]]
    rows: datasets.Dataset

    def of_input(self, row: int) -> bytes:
        """There is none: inputs are prompts."""
        raise LoadError("inputs of Pick-a-Pic are prompts")

    def of_candidate(self, place: int) -> bytes:
        """As in `builder.rankings.Images`."""
        number, column = self.places[place]
        return self.rows.data.table[column][number].as_py()
