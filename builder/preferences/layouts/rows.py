"""The rows of other people's datasets: JSON lists, JSON lines or parquet, in a folder, a file or on the Hub.

They are read one after the other, so that a file of a million rows with images need not fit into memory.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cyclepref.builder.common.files import from_json, not_a_file
from cyclepref.builder.common.places import may_be_on_hub, not_here
from cyclepref.builder.preferences.layouts.items import JudgedError

ENDINGS = (".json", ".jsonl", ".parquet")
# Names of splits, as they appear in names of files.
SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
CHUNK = 2**20
# The longest element of a JSON list, in characters: an unfinished element is parsed again with every chunk.
MAX_ELEMENT = 64 * 2**20
BETWEEN = re.compile(r"[ \t\r\n,]*")


@dataclass(frozen=True)
class Rows:
    """The rows of one split: of `files` in `folder`, or of a repository on the Hub at `revision`."""

    place: str
    split: str | None
    folder: Path
    files: tuple[Path, ...]
    repo: Any = None
    revision: str | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.repo is not None:
            yield from self.repo
        for file in self.files:
            yield from read_file(file)

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that paths of images may be relative to, in the order in which they are tried."""
        beside = sorted({file.parent for file in self.files} - {self.folder})
        return (self.folder, *beside, *(self.folder / name for name in ("test", "train", "images")))

    @cached_property
    def count(self) -> int:
        """The number of rows; 0 if only reading all of them would tell it."""
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


_NO_ROWS = "its JSON is not a list of objects, as all layouts need"


def open_rows(place: str, split: str | None, revision: str | None = None) -> Rows:
    """The rows of a file, of a folder's files of one split, or of a repository's.

    `split` None means "test" if it exists, or the only split.

    Raises:
        JudgedError: if there are no rows, or no such split.
    """
    path = Path(place).expanduser()
    if path.exists() and revision is not None:
        raise JudgedError(f"{path} is on this machine and has no revision {revision!r}: leave it out")
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise JudgedError(f"{path} is not a file of rows: give one of {', '.join(ENDINGS)}")
        return Rows(place, split, path.parent, (path,))
    if not path.is_dir():
        return _hub(place, split, revision)
    files = _files_of(path)
    if set(files) == {None} and split is None:
        return Rows(place, None, path, tuple(files[None]))
    chosen = choose(place, split, [name for name in files if name])
    return Rows(place, chosen, path, tuple(files[chosen]))


def split_names(place: str, revision: str | None = None) -> list[str]:
    """The splits that files are named after, or those of a repository; empty if no name contains one.

    Raises:
        JudgedError: if there are no rows.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        found = list(_files_of(path))
    else:
        found = [_split_of(Path(path.name))] if path.is_file() else _splits_of_repo(place, revision)
    order = dict.fromkeys((*SPLITS.values(), *found))
    return [name for name in order if name and name in found]


def _files_of(folder: Path) -> dict[str | None, list[Path]]:
    """The files of each split."""
    files: dict[str | None, list[Path]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file()):
        files.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    if not files:
        raise JudgedError(f"{folder} holds no {', '.join(ENDINGS)}: give a folder with rows, or a file of them")
    return files


def choose(place: str, split: str | None, known: list[str]) -> str:
    """The split to use: None means "test" if it exists, or the only one.

    Raises:
        JudgedError: if there is no such split, or several to choose from.
    """
    wanted = split or ("test" if "test" in known else known[0] if len(known) == 1 else None)
    if wanted not in known:
        names = ", ".join(sorted(known)) or "none that its files are named after"
        raise JudgedError(f"{place} has no split {wanted or 'test'!r}. Choose with --split from: {names}")
    return wanted


def _split_of(file: Path) -> str | None:
    """The split named by the first or last word of the file's stem, or of a folder's name around it: `test.json`,
    `test-00000-of-00001.parquet`, `test/metadata.parquet`."""
    for name in (file.stem, *(folder.name for folder in file.parents)):
        words = name.lower().replace("_", "-").split("-")
        if found := SPLITS.get(words[0]) or SPLITS.get(words[-1]):
            return found
    return None


def read_file(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of one file.

    Raises:
        JudgedError: if it cannot be read in the format that its ending names.
    """
    try:
        if error := not_a_file(file):
            raise error
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=16):
                    yield from batch.to_pylist()
        elif file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                yield from (from_json(line) for line in lines if line.strip())
        else:
            yield from _json_list(file)
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid and json's errors are ValueErrors
        if isinstance(error, JudgedError):
            raise
        raise JudgedError(f"{file} cannot be read as {file.suffix[1:]}: {' '.join(str(error).split())}") from error


def _json_list(file: Path) -> Iterator[Any]:
    """The elements of a JSON list; memory holds one of them and a chunk of text at a time."""
    decoder, begun, at_end = json.JSONDecoder(), False, False
    rest, at = "", 0
    with file.open(encoding="utf-8") as text:
        while True:
            at = BETWEEN.match(rest, at).end()
            if begun and rest.startswith("]", at):
                return
            if not begun and at < len(rest):
                if rest[at] != "[":
                    raise JudgedError(f"{file}: {_NO_ROWS}")
                begun, at = True, at + 1
                continue
            try:
                element, at = decoder.raw_decode(rest, at)
            except RecursionError:
                raise JudgedError(f"{file} cannot be read as json: an element is nested too deep") from None
            except ValueError:
                if len(rest) - at > MAX_ELEMENT:
                    raise JudgedError(f"{file}: an element does not end within {MAX_ELEMENT:,} characters") from None
                more = text.read(CHUNK)
                if not more and at_end:
                    raise
                rest, at, at_end = rest[at:] + more, 0, not more
                continue
            yield element


def _count(file: Path) -> int:
    if file.suffix == ".parquet":
        try:
            return pq.read_metadata(file).num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise JudgedError(f"{file} cannot be read as parquet: {error}") from error
    return sum(1 for _ in read_file(file))


def _hub(place: str, split: str | None, revision: str | None) -> Rows:
    import datasets

    chosen = choose(place, split, _splits_of_repo(place, revision))
    with _reachable(place):
        repo = datasets.load_dataset(place, split=chosen, streaming=True, revision=revision)
        for name, feature in (repo.features or {}).items():
            if isinstance(feature, datasets.Image):
                repo = repo.cast_column(name, datasets.Image(decode=False))
    return Rows(place, chosen, Path("."), (), repo, revision)


def _splits_of_repo(place: str, revision: str | None) -> list[str]:
    import datasets

    if not may_be_on_hub(place):
        raise JudgedError(
            f"{not_here(place)}, nor a file: give a run directory, a dataset folder, a file of rows, or a dataset "
            "repository on the Hub (org/name)"
        )
    with _reachable(place):
        found = datasets.load_dataset_builder(place, revision=revision).info.splits
        return list(found or datasets.get_dataset_split_names(place, revision=revision))


@contextmanager
def _reachable(place: str) -> Iterator[None]:
    import datasets

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise JudgedError(
            f"cannot read {place} ({not_here(place)}, and the Hub did not give it: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}): give a folder, a file of rows, or a dataset repository on the Hub that "
            "can be reached"
        ) from error
