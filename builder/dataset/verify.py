"""Everything that a run directory holds, read and held against what it must be; nothing is changed.

From the store outwards: parts against their digests and ids against content (builder/run/verify_store.py), views
against the store, the dataset against the views. What is found is told with the way out of it.
"""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cyclepref.builder.common.progress import Stage, stage
from cyclepref.builder.costs.measured import FILE as COSTS_FILE
from cyclepref.builder.costs.spent import FILE as SPENT_FILE
from cyclepref.builder.dataset import format as dataset_format
from cyclepref.builder.dataset.format import SPLITS
from cyclepref.builder.dataset.reader import CARD, DatasetError, DatasetFolder
from cyclepref.builder.run.findings import DERIVED, NEW_DATASET, Report
from cyclepref.builder.run.folder import Folder
from cyclepref.builder.run.groups import GROUPS_FILE, read_groups
from cyclepref.builder.run.lock import FOLDER, holders
from cyclepref.builder.run.record import PROGRESS_FILE, wanted_of
from cyclepref.builder.run.seal import UNREADABLE, in_a_line
from cyclepref.builder.run.store import TABLES, Store, StoreError
from cyclepref.builder.run.verify_store import CANDIDATE, Held, gist, read_store, wrong_content
from cyclepref.builder.run.view_folder import VIEWS
from cyclepref.schemas.ids import similarity_id
from cyclepref.schemas.recipe import MIX
from cyclepref.schemas.run_files import CostsFile, InFlight, LockFile, ProgressFile, RunJson, SpentFile

ROWS_PER_BATCH = 64
ROWS_AT_ONCE = 100_000
JSON_FILES = {
    "lock.json": LockFile,
    "run.json": RunJson,
    PROGRESS_FILE: ProgressFile,
    COSTS_FILE: CostsFile,
    SPENT_FILE: SpentFile,
}
# Means are summed in the order of the samples, which is not known here.
ROUNDING = 1e-9
PAIR = ("input_id", "chosen_id", "rejected_id", "metric", "chosen_score", "rejected_score", "margin")
Row = dict[str, Any]


def verify(store: Store, progress: Stage = stage) -> Report:
    """Read a run directory, all of it.

    Raises:
        StoreError: if the directory has no run, or bytes cannot be read.
    """
    if not any(store.parts(table) for table in TABLES) and not store.exists(PROGRESS_FILE):
        raise StoreError(f"{store.root} has no run: `cyclepref build RECIPE --out {store.root}` makes one")
    report = Report(store.root)
    _read_files(store, report)
    views = _read_views(store, report)
    whole = views.keys() == VIEWS.keys()
    held = Held(set(views["candidates"]["generation_id"].to_pylist()) if whole else set())
    read_store(store, report, held, progress)
    if whole:
        _check_candidates(views["candidates"], held, report)
        _check_scores(views, held, report)
        _check_pairs(views, report)
        if store.exists(f"dataset/{CARD}"):
            _read_dataset(store, views, report, progress)
    return report


# ---- files beside the store --------------------------------------------------------------------------------------


def _read_files(store: Store, report: Report) -> None:
    """The JSON files, what stages want, the groups and who is at work."""
    kinds = dict(JSON_FILES)
    for folder in store.folders("store/attempts"):
        kinds |= {f"store/attempts/{folder}/{n}": InFlight for n in store.names(f"store/attempts/{folder}")}
    reads = {name: partial(store.read_json, name, kind) for name, kind in kinds.items()}
    reads |= {FOLDER: partial(holders, store), GROUPS_FILE: partial(read_groups, store)}
    found = {name: _try(read, name, report) for name, read in reads.items()}
    for note in (found[PROGRESS_FILE] or {"stages": []})["stages"]:
        found[note["wanted"]] = _try(partial(wanted_of, store, note), note["wanted"], report)
    report.read["files"] = sum(content is not None for content in found.values())
    if any(not each.holder.gone for each in found[FOLDER] or ()):
        report.notes.append("a build is at work: what it replaces meanwhile may be told as damage that is none")


def _try(read: Any, name: str, report: Report) -> Any:
    """What is read; None, and noted, if it is damaged."""
    try:
        return read()
    except StoreError as error:
        # Our messages put what is wrong before the way out.
        what, mark, way_out = str(error).rpartition("): ")
        report.add("file", name, *((f"{what})", way_out) if mark else (str(error), DERIVED)))
        return None


# ---- the views ---------------------------------------------------------------------------------------------------


def _read_views(store: Store, report: Report) -> dict[str, pa.Table]:
    views = {}
    for view in VIEWS:
        if store.exists(f"{view}/part-0.parquet"):
            found = _try(partial(store.read_view, view), f"{view}/part-0.parquet", report)
            if found is not None:
                views[view] = found
                report.read[view] += found.num_rows
    return views


def _rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _check_candidates(candidates: pa.Table, held: Held, report: Report) -> None:
    wrong = []
    for row in _rows(candidates):
        id_ = row["generation_id"]
        if row["status"] == "ok":
            known = held.gists.get(id_)
            if known is None:
                wrong.append(f"{id_} is not in the store")
            elif known != gist(row, CANDIDATE):
                wrong.append(f"{id_} is another one in the store")
        elif id_ not in held.failed:
            wrong.append(f"{id_} is neither made nor failed")
    report.add("view", "candidates/part-0.parquet", wrong, DERIVED)


def _check_scores(views: dict[str, pa.Table], held: Held, report: Report) -> None:
    """A score is the mean of the similarities of its candidate's reconstructions. Where the store has those of other
    recipes as well, it is not known which they were, and the mean must lie among them."""
    contents = dict(zip(*(views["candidates"][n].to_pylist() for n in ("generation_id", "content_id")), strict=True))
    wrong = []
    for row in _rows(views["scores"]):
        id_ = row["generation_id"]
        if contents.get(id_) is None:
            wrong.append(f"{id_} is no candidate that was made")
            continue
        if row["metric"] == MIX:
            continue
        made = held.made_from.get(contents[id_], ())
        ids = [similarity_id(row["input_id"], content, row["fingerprint"]) for content in made]
        values = [held.similarities[each] for each in ids if each in held.similarities]
        if not values:
            wrong.append(f"{id_} has no similarity by {row['metric']} in the store")
            continue
        low, high = (np.mean(values),) * 2 if len(values) == row["n"] else (min(values), max(values))
        if not low - ROUNDING <= row["value"] <= high + ROUNDING:
            wrong.append(f"{id_} has another score by {row['metric']} than its similarities give")
    report.add("view", "scores/part-0.parquet", wrong, DERIVED)


def _check_pairs(views: dict[str, pa.Table], report: Report) -> None:
    scores = {(row["generation_id"], row["metric"]): row["value"] for row in _rows(views["scores"])}
    wrong = []
    for row in _rows(views["pairs"]):
        for side in ("chosen", "rejected"):
            if scores.get((row[f"{side}_id"], row["metric"])) != row[f"{side}_score"]:
                wrong.append(f"{row['pair_id']}: the {side} one has another score")
        if abs(abs(row["chosen_score"] - row["rejected_score"]) - row["margin"]) > 2e-6:
            wrong.append(f"{row['pair_id']}: its margin is not the difference of its scores")
    report.add("view", "pairs/part-0.parquet", wrong, DERIVED)


# ---- the dataset -------------------------------------------------------------------------------------------------


def _read_dataset(store: Store, views: dict[str, pa.Table], report: Report, progress: Stage) -> None:
    try:
        published = DatasetFolder.of(Folder(store.address("dataset")))
    except (DatasetError, *UNREADABLE) as error:
        report.add("dataset", "dataset", in_a_line(error), NEW_DATASET)
        return
    names = [(config, name) for config in ("rankings", "pairs") for split in SPLITS
             for name in published.files.get(config, {}).get(split, ())]  # fmt: skip
    check = {"rankings": _rankings_check(views["candidates"]), "pairs": _pairs_check(views["pairs"])}
    with progress("dataset files read", len(names)) as tick:
        for config, name in names:
            wrong: list[str] = []
            try:
                for row in _dataset_rows(published, name):
                    report.read[f"dataset {dataset_format.ROWS[config]}"] += 1
                    wrong += check[config](row)
            except UNREADABLE as error:
                wrong = [f"it is damaged ({in_a_line(error)})"]
            report.add("dataset", f"dataset/{name}", wrong, NEW_DATASET)
            tick(1)


def _dataset_rows(published: DatasetFolder, name: str) -> Iterator[Row]:
    with published.folder.open(name) as source:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_PER_BATCH):
            yield from batch.to_pylist()


def _rankings_check(candidates: pa.Table) -> Any:
    """What of an input's row is not what its id says, or not in the view."""
    names = ("generation_id", "input_id", "content_id")
    known = {id_: place for id_, *place in zip(*(candidates[name].to_pylist() for name in names), strict=True)}

    def check(row: Row) -> list[str]:
        wrong = [_wrong(row["input_id"], row.get("prompt"), row.get("image"), row["input_id"])]
        for each in row["candidates"]:
            id_ = each["generation_id"]
            input_id, content = known.get(id_, (None, None))
            if input_id != row["input_id"]:
                wrong.append(f"{id_} is no candidate of its input")
            else:
                wrong.append(_wrong(id_, each.get("text"), each.get("image"), content))
        return [what for what in wrong if what]

    return check


def _wrong(id_: str, text: str | None, image: Row | None, content: str) -> str:
    what = wrong_content(text, (image or {}).get("bytes"), content)
    return f"{id_}: {what}" if what else ""


def _pairs_check(pairs: pa.Table) -> Any:
    """What of a row is not that of the view, in the columns that the dataset has."""

    @cache
    def known(names: tuple[str, ...]) -> dict[str, int]:
        return {row["pair_id"]: gist(row, names) for row in _rows(pairs)}

    def check(row: Row) -> list[str]:
        names = tuple(name for name in PAIR if name in row)
        expected = known(names).get(row["pair_id"])
        if expected is None:
            return [f"{row['pair_id']} is no pair of the run"]
        return [] if expected == gist(row, names) else [f"{row['pair_id']} is another pair in the run"]

    return check
