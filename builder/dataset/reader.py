"""A dataset as it lies in a folder: which files its card names, and its inputs one by one with their pairs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow.parquet as pq
import yaml

from cyclepref.builder.dataset.format import OWN, ROWS, SPLITS
from cyclepref.builder.run.folder import Folder
from cyclepref.builder.run.seal import UNREADABLE
from cyclepref.schemas.errors import CyclePrefError

CARD = "README.md"
# Few, since a row of images may be large.
ROWS_PER_READ = 8
PAIRS_PER_READ = 20_000
PAIR = ["input_id", "chosen_id", "rejected_id", "chosen_models", "rejected_models", "metric", "margin"]


class DatasetError(CyclePrefError, ValueError):
    """A folder that is no dataset of CyclePref, or no whole one."""


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset folder and its data files: config -> split -> names within the folder."""

    folder: Folder
    files: dict[str, dict[str, list[str]]]

    @classmethod
    def of(cls, folder: Folder) -> DatasetFolder:
        """The dataset that a folder's card describes.

        Raises:
            DatasetError: if there is no card with configs, or files that it names are not there, or hold another
                number of rows than it says.
        """
        patterns, rows = _said(folder)
        files: dict[str, dict[str, list[str]]] = {}
        for config, split, pattern in patterns:
            names = [f"{config}/{name}" for name in folder.names(config)]
            found = sorted(fnmatch.filter(names, pattern))
            numbered = [pattern.replace("*", f"{at:05d}") for at in range(max(1, len(found)))]
            if missing := sorted(set(numbered) - set(found)):
                raise DatasetError(
                    f"{folder.root}: the card names {pattern}, and there is no file {missing[0]}: build it again"
                )
            files.setdefault(config, {})[split] = found
        if "rankings" not in files:
            raise DatasetError(f"{folder.root}: its card names no config rankings: give a dataset that CyclePref built")
        made = cls(folder, files)
        for config, split, _ in patterns:
            made._check_rows(config, split, rows)
        return made

    def rows_of(self, config: str, split: str) -> int:
        """The rows of a split of a config, from its files' footers."""
        return sum(self._rows(name) for name in self.files[config][split])

    def _check_rows(self, config: str, split: str, rows: dict[str, dict[str, int]]) -> None:
        has = self.rows_of(config, split)
        said = rows.get(split, {}).get(ROWS.get(config, config), has)
        if has != said:
            raise DatasetError(
                f"{self.folder.root}: its files of {config}, split {split}, have {has:,} rows, and the card says "
                f"{said:,}: build it again"
            )

    @property
    def input_count(self) -> int:
        """Inputs in all splits, from the files' footers."""
        return sum(self.rows_of("rankings", split) for split in self.files["rankings"])

    def inputs(self) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
        """(split, row of rankings, rows of pairs) of every input. The input's own image is left out.

        Raises:
            DatasetError: if pairs name an input that the rankings of their split do not have, or are in another order.
        """
        for split in (name for name in SPLITS if name in self.files["rankings"]):
            pairs = groupby(self._pairs(split), lambda row: row["input_id"])
            waiting = next(pairs, None)
            for row in self._rankings(split):
                mine: list[dict[str, Any]] = []
                if waiting is not None and waiting[0] == row["input_id"]:
                    mine = list(waiting[1])
                    waiting = next(pairs, None)
                yield split, row, mine
            if waiting is not None:
                raise DatasetError(
                    f"{self.folder.root}: pairs of {split} name the input {waiting[0]!r:.80}, which its rankings do "
                    "not have, or have in another order: build it again"
                )

    def _rankings(self, split: str) -> Iterator[dict[str, Any]]:
        for name in self.files["rankings"][split]:
            with self._open(name) as file:
                columns = [field for field in file.schema_arrow.names if field != "image"]
                for batch in file.iter_batches(ROWS_PER_READ, columns=columns):
                    yield from batch.to_pylist()

    def _pairs(self, split: str) -> Iterator[dict[str, Any]]:
        for name in self.files.get("pairs", {}).get(split, ()):
            with self._open(name) as file:
                for batch in file.iter_batches(PAIRS_PER_READ, columns=PAIR):
                    yield from batch.to_pylist()

    def _rows(self, name: str) -> int:
        with self._open(name) as file:
            return file.metadata.num_rows

    def _open(self, name: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.folder.open(name))
        except UNREADABLE as error:
            raise DatasetError(f"{self.folder.address(name)} cannot be read ({error}): build it again") from error


def head_of(card: str) -> dict[str, Any]:
    """The YAML head of a card; empty where there is none."""
    parts = card.split("---\n", 2)
    head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    return head if isinstance(head, dict) else {}


def _said(folder: Folder) -> tuple[list[tuple[str, str, str]], dict[str, dict[str, int]]]:
    """(config, split, pattern of files) as the card names them, and the rows of each split where it says so."""
    if not folder.exists(CARD):
        raise DatasetError(f"{folder.root} holds no dataset: there is no {CARD}; give a run directory or its `dataset`")
    text = folder.read_file(CARD, lambda file: file.read()).decode("utf-8", "replace")
    try:
        head = head_of(text)
        configs = head.get("configs") or []
        found = [(c["config_name"], each["split"], each["path"]) for c in configs for each in c["data_files"]]
        rows = head.get(OWN, {}).get("rows", {})
        return found, {split: dict(counts) for split, counts in rows.items()}
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{folder.address(CARD)} has a head that cannot be read ({type(error).__name__})") from error
