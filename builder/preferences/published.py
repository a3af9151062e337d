"""One of our published datasets as rankings, read from a folder or the Hub; images stay in its files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from cyclepref.builder.common.places import not_here
from cyclepref.builder.dataset.format import OWN
from cyclepref.builder.dataset.reader import CARD, head_of
from cyclepref.builder.preferences.rankings import PAIRS, LoadError, Rankings, cache, identity_of
from cyclepref.schemas.cycle import CYCLES, Cycle
from cyclepref.schemas.recipe import MIX, Pairing, Recipe

# The column that holds the input tells the cycle.
CYCLE_OF_COLUMN = {"image": "i2t2i", "prompt": "t2i2t"}


@dataclass(frozen=True)
class HubDataset:
    """A dataset in CyclePref's own layout: a folder, or a repository on the Hub at a revision."""

    place: str
    revision: str | None = None

    def splits(self) -> list[str]:
        """The splits that have inputs."""
        return list(self._configs["rankings"])

    def read(self, split: str, run: dict[str, Any] | None = None) -> Rankings:
        """One of its splits; `run` is the content of run.json, if there is one.

        Raises:
            LoadError: if the dataset is inconsistent.
        """
        rows, where = self._configs["rankings"][split], f"split {split!r} of {self.place}"
        column = [name for name in CYCLE_OF_COLUMN if name in rows.column_names]
        if len(column) != 1:
            raise LoadError(
                f"{self.place}: rankings need exactly one of the columns image (i2t2i) and prompt (t2i2t), "
                f"got {', '.join(rows.column_names)}"
            )
        cycle, table = CYCLES[CYCLE_OF_COLUMN[column[0]]], rows.data.table
        published = {name: found.data.table for name, found in self._configs["pairs"].items()}
        candidates = _candidates(where, table, cycle, published)
        texts = table["prompt"] if cycle.input == "text" else pa.nulls(table.num_rows, pa.string())
        inputs = pa.table({"input_id": table["input_id"], "text": texts}).combine_chunks()
        found = published.get(split)
        pairs = PAIRS.empty_table() if found is None else _pairs(where, found, candidates)
        rule = Pairing.model_validate(run["recipe"]["pairs"]) if run else self._rule()
        metric, higher = _judge(published, run)
        return Rankings(
            self.place, split, cycle, inputs, candidates, pairs, metric, higher, rule, ArrowImages(rows, column[0])
        )

    @cached_property
    def _configs(self) -> dict[str, dict[str, datasets.Dataset]]:
        """The splits with rows of both configs; empty for a config that the dataset does not have."""
        try:
            known = datasets.get_dataset_config_names(self.place, revision=self.revision)
            if "rankings" not in known:
                raise LoadError(
                    f"{self.place} has no config `rankings`, only {', '.join(known)}: CyclePref did not write it. "
                    "One in CyclePrefDB's layout is read from a folder: download it, and give that"
                )
            return {name: self._splits(name) if name in known else {} for name in ("rankings", "pairs")}
        except LoadError:
            raise
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            here = "" if Path(self.place).is_dir() else f"{not_here(self.place)}, and the Hub did not give it: "
            raise LoadError(
                f"cannot read the dataset {self.place} ({here}{type(error).__name__}: {str(error).splitlines()[0]}): "
                "give a run directory, a dataset folder, or a repository on the Hub that can be reached"
            ) from error

    def _rule(self) -> Pairing | None:
        """The rule that made the pairs, from the card's metadata; None if it is not there."""
        try:
            own = head_of(self._card()).get(OWN) or {}
            return Pairing.model_validate(own["pairs"]) if "pairs" in own else None
        except (yaml.YAMLError, ValueError, TypeError) as error:
            said = " ".join(str(error).split())
            raise LoadError(
                f"the card of {self.place} has a rule for pairs that cannot be read: {said:.200}"
            ) from error

    def _card(self) -> str:
        path = Path(self.place, CARD)
        if not Path(self.place).is_dir():
            try:
                path = Path(hf_hub_download(self.place, CARD, repo_type="dataset", revision=self.revision))
            except EntryNotFoundError:  # there is no card, or the cache has only the data and the Hub cannot be reached
                return ""
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _splits(self, config: str) -> dict[str, datasets.Dataset]:
        cache = cache_folder(Path(self.place)) if Path(self.place).is_dir() else None
        builder = datasets.load_dataset_builder(self.place, config, revision=self.revision, cache_dir=cache)
        builder.download_and_prepare()
        filled = [name for name, split in builder.info.splits.items() if split.num_examples]
        return {name: builder.as_dataset(split=name) for name in filled}


def cache_folder(*paths: Path) -> str:
    """The folder in which `datasets` keeps its copy of these files, or of those in these folders.

    By default it takes two folders with the same name and equal cards for one dataset, and returns the first one's rows
    for the second (seen on datasets 5.2).
    """
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    return str(cache() / identity_of(sorted(files)))


class ArrowImages:
    """Images in the memory-mapped rows of rankings. Pickling keeps only the names of their files."""

    def __init__(self, rows: datasets.Dataset, column: str):
        self._rows, self._column = rows, column
        self._bytes: pa.ChunkedArray | None = None

    def of_input(self, row: int) -> bytes:
        """As in `Images`."""
        return self._image(row)

    def of_candidate(self, place: int) -> bytes:
        """As in `Images`."""
        return self._image(place)

    def file_of(self, at: int) -> None:
        """As in `Images`."""

    @property
    def identity(self) -> str | None:
        """As in `Images`."""
        files = [Path(file["filename"]) for file in self._rows.cache_files]
        return identity_of(files) if files else None

    def _image(self, at: int) -> bytes:
        if self._bytes is None:
            column = self._rows.data.table["image" if self._column == "image" else "candidates"]
            structs = column.chunks if self._column == "image" else [c.flatten().field("image") for c in column.chunks]
            self._bytes = pa.chunked_array([struct.field("bytes") for struct in structs], pa.binary())
        return self._bytes[at].as_py()

    def __getstate__(self) -> dict[str, Any]:
        return {"_rows": self._rows, "_column": self._column, "_bytes": None}


def _candidates(where: str, rankings: pa.Table, cycle: Cycle, published: dict[str, pa.Table]) -> pa.Table:
    """The candidates of all rows, without their images."""
    lists, flat, rows, before = rankings["candidates"].chunks, [], [], 0
    for chunk in lists:
        flat.append(chunk.flatten())
        rows.append(pc.add(pc.list_parent_indices(chunk), before))
        before += len(chunk)

    def column(name: str, kind: pa.DataType) -> pa.ChunkedArray:
        return pa.chunked_array([part.field(name) for part in flat], kind)

    ids, models = column("generation_id", pa.string()), column("models", pa.list_(pa.string()))
    values = column("score", pa.float64())
    if not pc.all(pc.fill_null(pc.is_finite(values), False), min_count=0).as_py():
        raise LoadError(f"{where}: a candidate has no score, or one that is not a finite number")
    if len(pc.unique(ids)) != len(ids):
        raise LoadError(f"{where}: two candidates have the same generation_id, which must be unique")
    fingerprints = pa.nulls(len(ids), pa.string())
    if flat and flat[0].type.get_field_index("fingerprint") >= 0:
        fingerprints = column("fingerprint", pa.string())
    return pa.table(
        {
            "generation_id": ids,
            "row": pa.chunked_array(rows, pa.int64()),
            "model": _models(ids.to_pylist(), models.to_pylist(), fingerprints.to_pylist(), published),
            "models": models,
            "text": column("text", pa.string()) if cycle.candidate == "text" else pa.nulls(len(ids), pa.string()),
            "value": values,
            "same": ids,  # rankings list equal outputs only once
        }
    ).combine_chunks()


def _models(
    ids: list[str], models: list[list[str]], prints: list[str | None], published: dict[str, pa.Table]
) -> pa.Array:
    """The model of each candidate. If several models made an output, rankings list all of them; the id, or for a
    candidate in no pair the fingerprint, tells the one that `pairs` name."""
    by_id: dict[str, str] = {}
    for table in published.values():
        for side in ("chosen", "rejected"):
            if f"{side}_model" in table.column_names:
                by_id.update(zip(table[f"{side}_id"].to_pylist(), table[f"{side}_model"].to_pylist(), strict=True))
    by_print = {print_: by_id[id_] for id_, print_ in zip(ids, prints, strict=True) if print_ and id_ in by_id}
    by_print |= {print_: made[0] for made, print_ in zip(models, prints, strict=True) if print_ and len(made) == 1}
    found = [
        by_id.get(id_) or by_print.get(print_ or "") or min(made, default="")
        for id_, made, print_ in zip(ids, models, prints, strict=True)
    ]
    return pa.array(found, pa.string())


def _pairs(where: str, published: pa.Table, candidates: pa.Table) -> pa.Table:
    ids = candidates["generation_id"].combine_chunks()
    places = {side: pc.index_in(published[f"{side}_id"], value_set=ids) for side in ("chosen", "rejected")}
    for side, place in places.items():
        if place.null_count:
            [unknown, *_] = published[f"{side}_id"].filter(pc.is_null(place)).to_pylist()
            raise LoadError(f"{where}: pairs name the candidate {unknown} as {side}, which rankings do not have")
    return pa.table({"pair_id": published["pair_id"], **places, "margin": published["margin"]}, schema=None).cast(PAIRS)


def _judge(published: dict[str, pa.Table], run: dict[str, Any] | None) -> tuple[str, bool | None]:
    """The name of the deciding score, and whether higher is better, as the pairs of any split show."""
    for table in published.values():
        if table.num_rows:
            better, worse = (np.asarray(table[f"{side}_score"]) for side in ("chosen", "rejected"))
            names = table["metric"].to_pylist() if "metric" in table.column_names else ["score"]
            return names[0], bool(better[0] > worse[0])
    if run is None:
        return "score", None
    recipe = run["recipe"]
    name = (
        MIX if recipe["pairs"]["mix"] else recipe["pairs"]["by"] or Recipe.model_validate(recipe).all_metrics[0].label
    )
    return name, True if name == MIX else run["models"][name]["higher_is_better"]
