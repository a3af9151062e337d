"""What every stage of a build does alike: subtract what is there, run the rest in blocks, account for every row."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.common import progress
from cyclepref.builder.common.time_left import TimeLeft
from cyclepref.builder.run.ids import IdSet
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.record import LOADING, Notes, runs_models
from cyclepref.builder.run.store import Store, flat, without
from cyclepref.builder.stages.failure_limit import Excess, FailureLimit
from cyclepref.schemas.errors import CyclePrefError, visible

log = logging.getLogger("cyclepref.build")

# When a model fails too often, so many of its reasons are told, and so many inputs of each.
WORST, EXAMPLES = 5, 3


class BuildError(CyclePrefError, RuntimeError):
    """A build that cannot go on: what happened, and the way out. What was finished stays in the store."""


@dataclass(frozen=True)
class Count:
    """One model's rows in one stage: wanted = ok + failed; `reused` of the ok rows were there before."""

    wanted: int
    ok: int
    failed: int
    reused: int

    def to_dict(self) -> dict[str, int]:
        """For run.json."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """Rows that a stage wants: `rows` has the column `key`, and the column `model` that they are counted by. Reused
    are those that are there when the stage begins; or those of `before`, where some were made ahead of it."""

    stage: str
    table: str
    key: str
    rows: pa.Table
    before: IdSet | None = None


class Accountant:
    """Runs one stage's work and can say what became of every row that was wanted."""

    def __init__(self, store: Store, max_failure_rate: float, retry_failed: bool = False, notes: Notes | None = None):
        self.store = store
        self.notes = notes or Notes(store)
        self.max_failure_rate = max_failure_rate
        self.retry_failed = retry_failed
        # stage -> model -> how often a worker halved the model's batches for want of memory
        self.halved: dict[str, dict[str, int]] = {}

    def run(self, work: Work, do: Callable[[pa.Table], Iterable[pa.Table]]) -> dict[str, Count]:
        """Do what is missing: `do(todo)` yields receipts. Returns counts by model.

        Raises:
            BuildError: if a model fails too often (see `cyclepref.builder.stages.failure_limit.FailureLimit`), or a row
            is unaccounted for.
        """
        before = self.store.ids(work.table)
        there = before.holds(work.rows[work.key])
        missing = work.rows.filter(pc.invert(there))
        tried = self.store.rows("failures", ["id", "attempt"])
        left = missing if self.retry_failed else without(missing, work.key, self.store.ids("failures"))
        todo = _at_attempt(left, work.key, tried)
        log.info(
            "%s: %d rows wanted, %d in the store, %d that failed before are left alone, %d to do",
            *(work.stage, work.rows.num_rows, work.rows.num_rows - missing.num_rows),
            *(missing.num_rows - left.num_rows, todo.num_rows),
        )
        limit = FailureLimit(self.max_failure_rate, work.rows, missing, todo)
        journal = Journal(self.store, work.stage)
        if self.retry_failed:
            journal.clear()
        self.notes.begin(work.stage, work.table, work.rows[work.key], work.rows["model"], todo.num_rows)
        if todo.num_rows:
            left = TimeLeft({each["values"]: each["counts"] for each in pc.value_counts(todo["model"]).to_pylist()})
            waiting = LOADING if runs_models(work.table) else ""
            with progress.stage(work.stage, todo.num_rows, left, waiting) as tick:
                for receipt in do(todo):
                    _note_time(left, receipt)
                    done, wrong = (pc.sum(receipt[name]).as_py() or 0 for name in ("done", "failed"))
                    tick(done)
                    self.notes.tick(done, wrong, left)
                    limit.count(receipt)
                    self.note_halved(work.stage, receipt)
                    if limit.excess():
                        break
        if excess := limit.excess():
            raise BuildError(self._too_many(work, excess))
        counts = self._account(work, before, there)
        journal.clear()
        self.notes.end()
        _say(work.stage, counts, todo.num_rows)
        return counts

    def note_halved(self, stage: str, receipt: pa.Table) -> None:
        """Count batches that were halved for want of memory; the first of each model is told."""
        for row in receipt.to_pylist():
            if not row["halved"]:
                continue
            of_stage = self.halved.setdefault(stage, {})
            if row["model"] not in of_stage:
                hint = "a smaller batch_size in its settings spares the tries"
                log.warning("%s: %s ran out of memory and goes on with half the batch; %s", stage, row["model"], hint)
            of_stage[row["model"]] = of_stage.get(row["model"], 0) + row["halved"]

    def _account(self, work: Work, before: IdSet, there: pa.BooleanArray) -> dict[str, Count]:
        ids, now = work.rows[work.key], self.store.ids(work.table)
        ok = there if now is before else now.holds(ids)
        reused = there if work.before is None else work.before.holds(ids)
        failed = pc.and_not(self.store.ids("failures").holds(ids), ok)
        missing = pc.sum(pc.invert(pc.or_(ok, failed))).as_py() or 0
        if missing:
            raise BuildError(
                f"{work.stage}: {missing} of {work.rows.num_rows} rows are neither done nor failed; "
                "run the same command again, and report it if they stay missing"
            )
        flags = pa.table({"model": work.rows["model"], "ok": ok, "failed": failed, "reused": reused})
        sums = flags.group_by("model").aggregate([("ok", "count"), ("ok", "sum"), ("failed", "sum"), ("reused", "sum")])
        return {
            row["model"]: Count(row["ok_count"], row["ok_sum"], row["failed_sum"], row["reused_sum"])
            for row in sums.sort_by("model").to_pylist()
        }

    def _too_many(self, work: Work, excess: Excess) -> str:
        mine = work.rows.filter(pc.equal(work.rows["model"], excess.model))
        rows = self.store.rows("failures")
        rows = rows.filter(pc.is_in(rows["id"], value_set=flat(mine[work.key])))
        found: dict[str, list[str]] = {}
        for row in rows.to_pylist():
            found.setdefault(f"{row['error_class']}: {row['message']}", []).append(row["source"])
        # An input is known by its name; what a model is given, only by a hash.
        named = work.table == "sources"
        worst = [
            f"  {len(sources)} x {visible(reason, keep='')}{_examples(sources) if named else ''}"
            for reason, sources in sorted(found.items(), key=lambda each: -len(each[1]))[:WORST]
        ]
        told = "\n".join(worst)
        return f"{work.stage}: {visible(excess.model, keep='')}: {excess.found}:\n{told}\n{excess.way_out}"


def _note_time(left: TimeLeft, receipt: pa.Table) -> None:
    """Tell an estimate of a receipt's rows. A receipt may have the column `seconds`: how long a host worked on them."""
    now = time.monotonic()
    for row in receipt.to_pylist():
        if row["done"]:
            left.tick(now, row["model"], row["done"], row.get("seconds"))


def _examples(sources: list[str]) -> str:
    """The first of some inputs by name, in brackets."""
    shown = [visible(source, keep="") for source in sorted(sources)[:EXAMPLES]]
    more = f" and {len(sources) - EXAMPLES} more" if len(sources) > EXAMPLES else ""
    return f" ({', '.join(shown)}{more})" if shown else ""


def _at_attempt(todo: pa.Table, key: str, tried: pa.Table) -> pa.Table:
    """The rows with `attempt`: 1, or one more than that of the failure that is tried again."""
    at = pc.index_in(todo[key], value_set=flat(tried["id"]))
    before = pc.fill_null(pc.take(flat(tried["attempt"]), flat(at)), 0)
    return todo.append_column("attempt", pc.add(before, 1))


def _say(stage: str, counts: dict[str, Count], done: int) -> None:
    """Tell one stage's accounting to who asked for more (-v); the table at the end has it for everyone. A stage that
    found everything done says nothing."""
    for model, count in counts.items() if done else ():
        name = visible(model, keep="")
        log.info("%s: %s: %d wanted = %d ok + %d failed", stage, name, count.wanted, count.ok, count.failed)


# ---- steps that run on the cluster -----------------------------------------------------------------------------
