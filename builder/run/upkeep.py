"""Upkeep of a run directory: joining small parts, removing unused rows, merging two runs.

Parts never change, so joining and pruning write the rows that stay as new parts, and only then remove the old ones. A
kill in between leaves some rows twice, but none missing: readers use the first by part name, and the next upkeep
removes the others. New parts get names that sort first, since they hold the rows that were first before. All of this
needs the run's lock (builder/run/lock.py).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.run.groups import merge_groups
from cyclepref.builder.run.ids import IdSet, pack
from cyclepref.builder.run.lock import hold
from cyclepref.builder.run.mending import set_damaged_aside
from cyclepref.builder.run.record import PROGRESS_FILE, wanted_of
from cyclepref.builder.run.store import JOINED, TABLES, Store
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.ids import digest
from cyclepref.schemas.run_files import LockFile, ProgressFile, RunJson

# A part is written when its rows reach this size in memory. Its file then has 64 to 256 MB, since images are compressed
# already and text shrinks to half or less.
PART_BYTES = 192 * 2**20
SMALL_BYTES = 64 * 2**20
# The small parts of a table are joined if there are more than this.
MANY = 200
# The column by which each table's unused rows are counted, if any.
LABELS = {
    "sources": None, "inputs": "modality", "models": "name",
    "generations": "model", "similarities": "metric", "verdicts": "model", "failures": "model",
}  # fmt: skip


class UpkeepError(CyclePrefError, RuntimeError):
    """Runs that cannot be pruned or merged, with the reason and the way out."""


@dataclass(frozen=True)
class Unused:
    """Rows of a table that the latest build did not ask for; `bytes` is their share of their parts' files."""

    table: str
    model: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Merged:
    """The result of a merge: parts copied, parts that were there already, and damaged parts, which are set aside so
    that the next build makes their rows again."""

    copied: int
    there: int
    damaged: int = 0


# ---- joining ---------------------------------------------------------------------------------------------------


def join_small(store: Store, many: int = MANY) -> int:
    """Join the small parts of every table that has more than `many` of them; returns how many parts were joined."""
    joined = 0
    for table in TABLES:
        sizes = {name: info.size for name, info in store.listed(f"store/{table}")}
        small = [part for part in store.parts(table) if sizes.get(part, SMALL_BYTES) < SMALL_BYTES]
        if len(small) > many:
            kept = _first_rows(table, store.ids_by_part(table))
            _rewrite(store, table, {part: kept[part] for part in small})
            joined += len(small)
    return joined


def _first_rows(table: str, packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each part a mask of the rows that are the first with their id in the table."""
    if table == "failures":  # a row may fail more than once, and every failure is kept
        return {part: np.ones(len(ids), dtype=bool) for part, ids in packed.items()}
    together = np.concatenate([np.empty((0, 2), dtype=np.uint64), *packed.values()])
    order = np.lexsort((together[:, 1], together[:, 0]))
    again = np.zeros(len(together), dtype=bool)
    again[order[1:]] = (together[order[1:]] == together[order[:-1]]).all(axis=1)
    ends = np.cumsum([len(ids) for ids in packed.values()])
    return dict(zip(packed, np.split(~again, ends[:-1]), strict=True)) if packed else {}


def _rewrite(store: Store, table: str, kept: dict[str, np.ndarray]) -> None:
    """Replace parts by new ones that hold only the kept rows."""
    held: list[pa.Table] = []
    names: list[str] = []
    for part, mask in kept.items():
        held.append(store.read_part(table, part).filter(pa.array(mask)))
        names.append(part)
        if sum(rows.nbytes for rows in held) >= PART_BYTES:
            _replace(store, table, names, held)
            held, names = [], []
    _replace(store, table, names, held)


def _replace(store: Store, table: str, old: list[str], rows: list[pa.Table]) -> None:
    """Write rows as one part, and only then remove the parts they came from."""
    if sum(some.num_rows for some in rows):
        together = pa.concat_tables(rows, promote_options="default")
        ids = pack(together[TABLES[table][1]])
        name = digest(table, ids[np.lexsort((ids[:, 1], ids[:, 0]))].tobytes(), *old)
        store.create_part(table, f"{JOINED}{name}", together)
    for part in old:
        store.remove(f"store/{table}/{part}")


# ---- unused rows -------------------------------------------------------------------------------------------------


def unused(store: Store) -> list[Unused]:
    """Rows that the latest build did not ask for, by table and model.

    Raises:
        UpkeepError: if the latest build has not finished, so that the rows it needs are not known yet.
    """
    found = []
    for table, kept in _used_rows(store):
        sizes = {name: info.size for name, info in store.listed(f"store/{table}")}
        sums: dict[str, list[float]] = {}
        for part, mask in kept.items():
            for model, rows in _labels(store, table, part, ~mask).items():
                total = sums.setdefault(model, [0, 0])
                total[0] += rows
                total[1] += sizes.get(part, 0) * rows / len(mask)
        found += [Unused(table, model, int(rows), round(size)) for model, (rows, size) in sorted(sums.items())]
    return found


def prune(store: Store) -> None:
    """Remove the rows that the latest build did not ask for; the caller holds the run's lock.

    Raises:
        UpkeepError: as `unused`.
    """
    for table, kept in _used_rows(store):
        _rewrite(store, table, {part: mask for part, mask in kept.items() if not mask.all()})


def _used_rows(store: Store) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each table with a mask for each of its parts: the rows that the latest build asked for (the first of each id)."""
    asked = _asked(store)
    for table in TABLES:
        packed = store.ids_by_part(table)
        first = _first_rows(table, packed)
        yield table, {part: first[part] & asked[table].holds_packed(ids) for part, ids in packed.items()}


def _asked(store: Store) -> dict[str, IdSet]:
    """The ids that the latest build asked of each table."""
    notes = store.read_json(PROGRESS_FILE, ProgressFile)
    run = store.read_json("run.json", RunJson)
    if notes is None or run is None or notes["state"] != "finished":
        raise UpkeepError(
            f"the rows that {store.root} needs are known only after a finished build: run `cyclepref build RECIPE "
            f"--out {store.root}` to its end first"
        )
    packed: dict[str, list[np.ndarray]] = {table: [] for table in TABLES}
    for note in notes["stages"]:
        ids = pack(wanted_of(store, note)["id"])
        packed[note["table"]].append(ids)
        packed["failures"].append(ids)
    prints = [model.get("fingerprint") for model in run.get("models", {}).values()]
    if not prints or None in prints:
        raise UpkeepError(f"{store.address('run.json')} does not name the run's models: {RunJson.REMEDY}")
    packed["models"].append(pack(pa.array(prints, pa.string())))
    return {table: IdSet.of(ids) for table, ids in packed.items()}


def _labels(store: Store, table: str, part: str, mask: np.ndarray) -> dict[str, int]:
    """The number of chosen rows of a part, by model."""
    label = LABELS[table]
    if label is None or not mask.any():
        return {table: int(mask.sum())} if mask.any() else {}
    column = store.read_part(table, part, [label])[label].filter(pa.array(mask))
    return {row["values"]: row["counts"] for row in pc.value_counts(column.combine_chunks()).to_pylist()}


# ---- merging -----------------------------------------------------------------------------------------------------


def merge(first: Store, second: Store, into: Store) -> Merged:
    """Copy the parts of both runs into one, which may be the first; nothing is computed and nothing removed.

    Every part is checked: damaged ones are set aside in `into`, and stay unchanged in their own run. If both runs have
    a row, the first by part name counts, as everywhere. A build makes the views, which depend on a recipe. All three
    directories are locked meanwhile.

    Raises:
        UpkeepError: if one is not a run, or both resolved a model differently; the message names it.
        LockError: if another process works in one of them.
    """
    for run in (first, second):
        if not any(run.parts(table) for table in TABLES):
            raise UpkeepError(f"{run.root} is not a run directory: it has no parts in store/")
    if second.root in (first.root, into.root):
        raise UpkeepError(
            f"{second.root} cannot be merged into itself: name two runs, and a third or the first for --into"
        )
    others = [run for run in (first, second) if run.root != into.root]
    with ExitStack() as held:
        for run in (into, *others):
            held.enter_context(hold(run, "merge"))
        return _copy(others, into)


def _copy(others: list[Store], into: Store) -> Merged:
    # First, so that a killed merge leaves no rows of a model that is not in the lock file.
    into.write_json("lock.json", _merged_lock([into, *others]))
    merge_groups(others, into)
    # The merged rows are unused until the next build asks for them, so pruning must wait for it.
    into.remove(PROGRESS_FILE)
    # First, so that a part that is damaged here is copied from the other run.
    damaged, copied, there = set_damaged_aside(into), [], 0
    for run in others:
        for table in TABLES:
            present = set(into.parts(table))
            parts = run.parts(table)
            there += sum(part in present for part in parts)
            for part in (part for part in parts if part not in present):
                into.copy_from(run, f"store/{table}/{part}")
                copied.append((table, part))
    damaged += set_damaged_aside(into, copied)
    return Merged(len(copied), there, damaged)


def _merged_lock(runs: list[Store]) -> dict[str, Any]:
    """The lock files of all runs in one.

    Raises:
        UpkeepError: if two runs disagree.
    """
    merged: dict[str, Any] = {}
    differ = []
    for run in runs:
        for name, resolved in (run.read_json("lock.json", LockFile) or {}).items():
            known = merged.setdefault(name, resolved)
            if _what(known) != _what(resolved):
                differ.append(f"  {name}: {_what(known)} and {_what(resolved)} (in {run.root})")
    if differ:
        raise UpkeepError(
            "the runs resolved one model differently, but a run can have only one:\n" + "\n".join(differ) + "\n"
            "Build one of them again with the other's revision (`revision` in the model's settings)"
        )
    return merged


def _what(resolved: Any) -> str:
    """The commit, or the hash of weights, in a lock file's entry; the stamp of its files is left out."""
    return resolved["weights"] if isinstance(resolved, dict) else str(resolved)
