"""The rows of a dataset that others published: JSON lists, JSON lines or parquet, in a folder, a file or on the Hub.

They are read one after the other: a file of a million rows with images never lies in memory.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from builder.judged.items import JudgedError

ENDINGS = (".json", ".jsonl", ".parquet")
# What splits are called in names of files.
SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
CHUNK = 2**20


@dataclass(frozen=True)
class Rows:
    """The rows of one split: of `files` in `folder`, or of a repository on the Hub."""

    place: str
    split: str | None
    folder: Path
    files: tuple[Path, ...]
    repo: Any = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.repo is not None:
            yield from self.repo
        for file in self.files:
            yield from _rows(file)

    @cached_property
    def count(self) -> int:
        """The number of rows; 0 where only reading them to the end would tell."""
        if self.repo is not None:
            return self.repo.info.splits[self.split].num_examples if self.repo.info.splits else 0
        return sum(_count(file) for file in self.files)

    @cached_property
    def first(self) -> dict[str, Any]:
        """The first row.

        Raises:
            JudgedError: if there is none.
        """
        row = next(iter(self), None)
        if not isinstance(row, dict):
            raise JudgedError(f"{self.place} is empty: it has no row" if row is None else f"{self.place}: {_NO_ROWS}")
        return row


_NO_ROWS = "its JSON is no list of objects, which all layouts are"


def open_rows(place: str, split: str | None, revision: str | None = None) -> Rows:
    """The rows of a file, of a folder's files of one split, or of a repository's.

    `split` None takes "test" where there is one, or the only one there is.

    Raises:
        JudgedError: if there are none, or no such split.
    """
    path = Path(place).expanduser()
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise JudgedError(f"{path} is no file of rows: give one of {', '.join(ENDINGS)}")
        return Rows(place, split, path.parent, (path,))
    if not path.is_dir():
        return _hub(place, split, revision)
    files: dict[str | None, list[Path]] = {}
    for file in sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file()):
        files.setdefault(_split_of(file), []).append(file)
    if not files:
        raise JudgedError(f"{path} holds no {', '.join(ENDINGS)}: give a folder with rows, or a file of them")
    if set(files) == {None} and split is None:
        return Rows(place, None, path, tuple(files[None]))
    chosen = choose(place, split, [name for name in files if name])
    return Rows(place, chosen, path, tuple(files[chosen]))


def choose(place: str, split: str | None, known: list[str]) -> str:
    """The split that is meant: None is "test" where there is one, or the only one.

    Raises:
        JudgedError: if there is no such split, or several to choose from.
    """
    wanted = split or ("test" if "test" in known else known[0] if len(known) == 1 else None)
    if wanted not in known:
        names = ", ".join(sorted(known)) or "none that its files are named after"
        raise JudgedError(f"{place} has no split {wanted or 'test'!r}. Choose with --split from: {names}")
    return wanted


def _split_of(file: Path) -> str | None:
    """The split that a word at either end of the stem names: `test.json`, `test-00000-of-00001.parquet`."""
    words = file.stem.lower().replace("_", "-").split("-")
    return SPLITS.get(words[0]) or SPLITS.get(words[-1])


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=16):
                    yield from batch.to_pylist()
        elif file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
        else:
            yield from _json_list(file)
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError, and so is what json raises
        if isinstance(error, JudgedError):
            raise
        raise JudgedError(f"{file} cannot be read as {file.suffix[1:]}: {' '.join(str(error).split())}") from error


def _json_list(file: Path) -> Iterator[Any]:
    """The elements of a JSON list, without holding more than one and a chunk of text."""
    decoder, begun, at_end = json.JSONDecoder(), False, False
    rest = ""
    with file.open(encoding="utf-8") as text:
        while True:
            rest = rest.lstrip(" \t\r\n" + ("," if begun else ""))
            if rest.startswith("]") and begun:
                return
            if not begun and rest:
                if not rest.startswith("["):
                    raise JudgedError(f"{file}: {_NO_ROWS}")
                begun, rest = True, rest[1:]
                continue
            try:
                element, end = decoder.raw_decode(rest)
            except ValueError:
                more = text.read(CHUNK)
                if not more and at_end:
                    raise
                rest, at_end = rest + more, not more
                continue
            yield element
            rest = rest[end:]


def _count(file: Path) -> int:
    if file.suffix == ".parquet":
        try:
            return pq.read_metadata(file).num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise JudgedError(f"{file} cannot be read as parquet: {error}") from error
    return sum(1 for _ in _rows(file))


def _hub(place: str, split: str | None, revision: str | None) -> Rows:
    import datasets

    try:
        builder = datasets.load_dataset_builder(place, revision=revision)
        chosen = choose(place, split, list(builder.info.splits or datasets.get_dataset_split_names(place)))
        repo = datasets.load_dataset(place, split=chosen, streaming=True, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, JudgedError):
            raise
        raise JudgedError(
            f"cannot read {place} ({type(error).__name__}: {str(error).splitlines()[0]}): give a folder, a file of "
            "rows, or a dataset repository on the Hub that can be reached"
        ) from error
    for name, feature in (repo.features or {}).items():
        if isinstance(feature, datasets.Image):
            repo = repo.cast_column(name, datasets.Image(decode=False))
    return Rows(place, chosen, Path("."), (), repo)
