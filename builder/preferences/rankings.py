"""One split of a preference dataset as rankings: inputs, their scored candidates, and the pairs published with them.

Texts and scores are in memory; images stay in their files (memory-mapped Arrow, image files, a tar) until one is read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import datasets
import pyarrow as pa

from cyclepref.schemas.cycle import Cycle
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import Pairing


class LoadError(CyclePrefError, ValueError):
    """A dataset that cannot be read; the message has the value, the rule and the way out."""


class Images(Protocol):
    """Access to the encoded bytes of a split's images."""

    def of_input(self, row: int) -> bytes:
        """The image of the input in this row (i2t2i)."""

    def of_candidate(self, place: int) -> bytes:
        """The image of the candidate at this place among all of the split (t2i2t)."""

    def file_of(self, at: int) -> Path | None:
        """The image file of this row or place; None if the image is not a file of its own."""

    @property
    def identity(self) -> str | None:
        """A text that changes when any of the images does; None if that cannot be told without reading them."""


@dataclass(frozen=True)
class Rankings:
    """A split. `inputs` has input_id and text (null if the input is an image). `candidates` has generation_id, row (of
    its input), model, models, text (null for an image), value (its cycle score) and `same` (what makes two outputs of
    an input equal, beside their text), input by input.

    `pairs` (pair_id, chosen, rejected: places among the candidates; margin) are the published ones; null if none were
    published. `higher_is_better` and `rule` (that made the pairs) are null if unknown. Without `ids_given` the inputs'
    ids are made from their places in the files, and mean nothing outside of this dataset.
    """

    where: str
    split: str
    cycle: Cycle
    inputs: pa.Table
    candidates: pa.Table
    pairs: pa.Table | None
    metric: str
    higher_is_better: bool | None
    rule: Pairing | None
    images: Images
    ids_given: bool = True

    def __str__(self) -> str:
        return f"split {self.split!r} of {self.where}"


PAIRS = pa.schema(
    [("pair_id", pa.string()), ("chosen", pa.int64()), ("rejected", pa.int64()), ("margin", pa.float64())]
)


def cache() -> Path:
    """CyclePref's folder in the cache of the datasets library. Everything in it is made again if it is deleted."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "cyclepref"


def identity_of(files: list[Path]) -> str:
    """An id of files, made from their paths, sizes and times."""
    stats = [(file, file.stat()) for file in files]
    return digest(*(part for file, stat in stats for part in (str(file.resolve()), stat.st_size, stat.st_mtime_ns)))
