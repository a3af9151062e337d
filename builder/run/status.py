"""The status of a run, from its directory alone: while a build works in it, afterwards, or after a crash."""

import time
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.run.failures import failures
from cyclepref.builder.run.lock import holders
from cyclepref.builder.run.notices import notices
from cyclepref.builder.run.record import PROGRESS_FILE, runs_models, wanted_of
from cyclepref.builder.run.store import Store, StoreError
from cyclepref.builder.run.upkeep import UpkeepError, unused
from cyclepref.schemas.run_files import ProgressFile, RunJson

# The most reasons of failures that are shown, the most frequent first.
REASONS = 20
# The inputs that are named with each reason; `cyclepref failures` lists all.
NAMED = 3


def status(store: Store) -> dict[str, Any]:
    """The content that `cyclepref status --json` prints.

    - `state`: "running", "finished" or "stopped" (by an error, by its user, or killed), of the latest build
    - `error`: the error that ended the latest build, or null
    - `notices`: those of the latest finished build (builder/run/notices.py)
    - `holder`: the process in the directory (command, host, pid, since, seconds since its last sign of life), or null
    - `stages`: of the latest build so far, in order: `models` (wanted, ok, failed, left: rows in the store now),
      `loading` (whether it is at work and has no rows yet since its models load), `rows_a_second` (while it is at work,
      without its start-up; afterwards in all) and `seconds_left` (null where nobody can tell, or nothing is being made;
      see builder/common/time_left.py), `began` and `ended` (UTC, or null)
    - `failures`: what failed and is still wanted, by stage, model and reason, with counts and the names of some of the
      inputs; at most REASONS
    - `unused`: rows and bytes in the store that the latest build did not ask for, by table and model; null while
      that is not known, which is until a build has finished

    Raises:
        StoreError: if the directory has no run.
    """
    notes = store.read_json(PROGRESS_FILE, ProgressFile)
    holder = _holder(store)
    if notes is None and holder is None and not any(store.parts(table) for table in ("sources", "generations")):
        raise StoreError(f"{store.root} has no run: `cyclepref build RECIPE --out {store.root}` makes one")
    notes = notes or {"state": "stopped", "recipe": None, "stages": [], "updated": None}
    running = notes["state"] == "running"
    state = "stopped" if running and holder is None else notes["state"]
    stages = []
    for note in notes["stages"]:
        wanted = wanted_of(store, note)
        stages.append(_stage(store, note, wanted, live=state == "running"))
    return {
        "run": store.root,
        "recipe": notes["recipe"],
        "state": state,
        "updated": _utc(notes["updated"]),
        "error": None if state == "running" else notes.get("error"),
        "notices": _notices(store) if state == "finished" else [],
        "holder": holder,
        "stages": stages,
        "failures": _reasons(store),
        "unused": _unused(store),
    }


def _notices(store: Store) -> list[str]:
    run = store.read_json("run.json", RunJson) or {}
    return notices(run["counts"]) if "counts" in run else []


def _holder(store: Store) -> dict[str, Any] | None:
    """The process that holds the run. The time since its last sign of life is wrong if this machine's clock differs
    from the filesystem's."""
    now = time.time()
    living = [each for each in holders(store) if not each.dead(now)]
    if not living:
        return None
    first = min(living, key=lambda each: each.holder.since)
    who = first.holder
    since = max(0.0, round(now - first.beat, 1))
    return {"command": who.command, "host": who.host, "pid": who.pid, "since": who.since, "silent_seconds": since}


def _stage(store: Store, note: dict[str, Any], wanted: pa.Table, live: bool) -> dict[str, Any]:
    ok = store.ids(note["table"]).holds(wanted["id"])
    failed = pc.and_not(store.ids("failures").holds(wanted["id"]), ok)
    flags = pa.table({"model": wanted["model"].cast(pa.string()), "ok": ok, "failed": failed})
    sums = flags.group_by("model").aggregate([("ok", "count"), ("ok", "sum"), ("failed", "sum")]).sort_by("model")
    models = {
        row["model"]: {
            "wanted": row["ok_count"],
            "ok": row["ok_sum"],
            "failed": row["failed_sum"],
            "left": row["ok_count"] - row["ok_sum"] - row["failed_sum"],
        }
        for row in sums.to_pylist()
    }
    working = live and note["ended"] is None
    left = note.get("seconds_left") if working else None
    return {
        "stage": note["stage"],
        "models": models,
        "loading": working and runs_models(note["table"]) and note["todo"] > 0 and not note["done"],
        "rows_a_second": _speed(note),
        "seconds_left": None if left is None else round(left, 1),
        "began": _utc(note["began"]),
        "ended": _utc(note["ended"]),
    }


def _speed(note: dict[str, Any]) -> float | None:
    """Rows a second of this build in this stage: as the build measured it, or in all once the stage has ended."""
    if note["ended"] is None:
        rate = note.get("rows_a_second")
    else:
        seconds = note["ended"] - note["began"]
        rate = note["done"] / seconds if note["done"] and seconds > 0 else None
    return None if rate is None else round(rate, 3)


def _reasons(store: Store) -> list[dict[str, Any]]:
    """The reasons of failed rows that have not succeeded since, the most frequent first."""
    by: dict[tuple[str, str, str, str], list[str | None]] = {}
    for row in failures(store):
        by.setdefault((row["stage"], row["model"], row["error"], row["message"]), []).append(row["item"])
    reasons = [
        {
            "stage": stage, "model": model, "error_class": error, "message": message, "count": len(items),
            "items": sorted({item for item in items if item})[:NAMED],
        }
        for (stage, model, error, message), items in by.items()
    ]  # fmt: skip
    return sorted(reasons, key=lambda reason: -reason["count"])[:REASONS]


def _unused(store: Store) -> list[dict[str, Any]] | None:
    try:
        return [vars(rows) for rows in unused(store)]
    except UpkeepError:
        return None


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
