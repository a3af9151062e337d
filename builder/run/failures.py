"""Failed rows that are still wanted, each with its input, as `cyclepref failures` lists them."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.run.record import PROGRESS_FILE, wanted_of
from cyclepref.builder.run.store import Store, flat
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.run_files import ProgressFile

# A failed comparison leads to its input in three steps: reconstruction -> candidate -> input.
MOST_STEPS = 3


class FailuresError(CyclePrefError, ValueError):
    """A stage or model that has no failures in this run."""


def failures(store: Store, stage: str | None = None, model: str | None = None) -> list[dict[str, Any]]:
    """The latest failure of each row that the latest build wants and that has not succeeded since, in order of stage
    and model: `stage`, `model`, `item` (the row's file, line or scene; null if the store does not have it), `input_id`,
    `error`, `message`, `attempt`, `id`.

    Raises:
        FailuresError: if the stage or model has no failures but others have some.
    """
    rows = _wanted(store)
    for name, value in (("stage", stage), ("model", model)):
        known = sorted(set(rows[name].to_pylist()))
        if value is not None and value not in known and known:
            raise FailuresError(f"no failures of the {name} {value!r}; there are some of {', '.join(known)}")
        if value is not None:
            rows = rows.filter(pc.equal(rows[name], value))
    inputs = _inputs_of(store, rows["source"].to_pylist())
    names = _names_of(store, inputs.values())
    return [
        {
            "stage": row["stage"],
            "model": row["model"],
            # An input that could not be read has no id: its source is the item's name.
            "item": names.get(inputs.get(row["source"], "")) or (row["source"] if row["stage"] == "inputs" else None),
            "input_id": inputs.get(row["source"]),
            "error": row["error_class"],
            "message": row["message"],
            "attempt": row["attempt"],
            "id": row["id"],
        }
        for row in rows.to_pylist()
    ]


def _wanted(store: Store) -> pa.Table:
    """The failures of rows that the latest build's stages want and the store does not have."""
    rows = store.rows("failures")
    notes = store.read_json(PROGRESS_FILE, ProgressFile)
    kept = []
    for note in notes["stages"] if notes else ():
        asked = wanted_of(store, note)["id"].combine_chunks()
        mine = pc.and_not(pc.is_in(rows["id"], value_set=asked), store.ids(note["table"]).holds(rows["id"]))
        kept.append(rows.filter(mine))
    found = pa.concat_tables(kept) if kept else rows.slice(0, 0)
    return found.sort_by([(name, "ascending") for name in ("stage", "model", "source", "id")])


def _inputs_of(store: Store, sources: Iterable[str]) -> dict[str, str]:
    """The input of each source content, as far as the store knows it."""
    known = set(store.rows("inputs", ["input_id"])["input_id"].to_pylist())
    inputs = {source: source for source in sources}
    for _ in range(MOST_STEPS):
        open_ = {at for at in inputs.values() if at not in known}
        if not open_:
            break
        made = store.rows("generations", ["content_id", "source_id"])
        made = made.filter(pc.is_in(made["content_id"], value_set=pa.array(sorted(open_), pa.string())))
        back = dict(zip(made["content_id"].to_pylist(), made["source_id"].to_pylist(), strict=True))
        inputs = {source: back.get(at, at) for source, at in inputs.items()}
    return {source: at for source, at in inputs.items() if at in known}


def _names_of(store: Store, input_ids: Iterable[str]) -> dict[str, str]:
    """The name of the first item with each input's content."""
    ids = pa.array(sorted(set(input_ids)), pa.string())
    rows = store.rows("sources", ["source", "input_id"])
    rows = rows.filter(pc.is_in(flat(rows["input_id"]), value_set=ids)).sort_by([("source", "descending")])
    return dict(zip(rows["input_id"].to_pylist(), rows["source"].to_pylist(), strict=True))
