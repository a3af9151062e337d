"""What every stage of a build does alike: subtract what is there, run the rest in blocks, account for every row."""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from builder import __version__
from builder.common import progress
from builder.common.images import decode
from builder.run.ids import IdSet
from builder.run.in_flight import Journal
from builder.run.record import Notes
from builder.run.store import Store, first_of_each, flat, without
from builder.stages.failure_limit import Excess, FailureLimit
from schemas import records
from schemas.errors import CyclePrefError, Unavailable, visible

log = logging.getLogger("cyclepref.build")

# When a model fails too often, so many of its reasons are told, and so many inputs of each.
WORST, EXAMPLES = 5, 3

# What a stage's last step tells the driver: how many rows of a model it finished, how many of them as failures, and how
# often the model's batches were halved for want of memory.
RECEIPT = pa.schema([("model", pa.string()), ("done", pa.int64()), ("failed", pa.int64()), ("halved", pa.int64())])


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
    """Rows that a stage wants: `rows` has the column `key`, and the column `model` that they are counted by."""

    stage: str
    table: str
    key: str
    rows: pa.Table


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
            BuildError: if a model fails too often (see `builder.stages.failure_limit.FailureLimit`), or a row is
            unaccounted for.
        """
        before = self.store.ids(work.table)
        missing = without(work.rows, work.key, before)
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
            with progress.stage(work.stage, todo.num_rows) as tick:
                for receipt in do(todo):
                    done, wrong = (pc.sum(receipt[name]).as_py() or 0 for name in ("done", "failed"))
                    tick(done)
                    self.notes.tick(done, wrong)
                    limit.count(receipt)
                    self._note_halved(work.stage, receipt)
                    if limit.excess():
                        break
        if excess := limit.excess():
            raise BuildError(self._too_many(work, excess))
        counts = self._account(work, before)
        journal.clear()
        self.notes.end()
        _say(work.stage, counts, todo.num_rows)
        return counts

    def _note_halved(self, stage: str, receipt: pa.Table) -> None:
        """Count batches that were halved for want of memory; the first of each model is told."""
        for row in receipt.to_pylist():
            if not row["halved"]:
                continue
            of_stage = self.halved.setdefault(stage, {})
            if row["model"] not in of_stage:
                hint = "a smaller batch_size in its settings spares the tries"
                log.warning("%s: %s ran out of memory and goes on with half the batch; %s", stage, row["model"], hint)
            of_stage[row["model"]] = of_stage.get(row["model"], 0) + row["halved"]

    def _account(self, work: Work, before: IdSet) -> dict[str, Count]:
        ids = work.rows[work.key]
        ok, reused = self.store.ids(work.table).holds(ids), before.holds(ids)
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


def attach(block: pa.Table, store: Store, tables: dict[str, str]) -> pa.Table:
    """Fill a block of ids with content. For each role in `tables` (role -> table of the store) the columns
    `{role}_part` and `{role}_row` say where it is; `{role}_text` and `{role}_image` take their place."""
    for role, table in tables.items():
        places = block[f"{role}_part"].to_pylist(), block[f"{role}_row"].to_pylist()
        content = store.fetch(table, *places, columns=["text", "image"])
        block = block.drop_columns([f"{role}_part", f"{role}_row"])
        for name in ("text", "image"):
            block = block.append_column(f"{role}_{name}", content[name])
    return block


def locate(rows: pa.Table, role: str, column: str, content: pa.Table, key: str) -> pa.Table:
    """Add where each row's content is: its `column` is a `key` of `content`, which has `part` and `row`."""
    places = first_of_each(content.select([key, "part", "row"]), key).rename_columns(
        [column, f"{role}_part", f"{role}_row"]
    )
    return rows.join(places, keys=column, join_type="inner")


def blocks_of(rows: pa.Table, size: int) -> list[pa.Table]:
    """Consecutive blocks of at most `size` rows."""
    return [rows.slice(start, size).combine_chunks() for start in range(0, rows.num_rows, size)]


def attempt(run: Callable[..., list[Any]], *columns: list[Any]) -> list[Any | Exception]:
    """Run a batch; one that raises is halved until the rows that raise stand alone, with their exceptions.
    What is no row's fault ends the run.

    Raises:
        Unavailable: from the model.
    """
    try:
        return list(run(*columns))
    except Unavailable:
        raise
    except Exception as error:
        count = len(columns[0])
        if count == 1:
            return [error]
        halves = [column[: count // 2] for column in columns], [column[count // 2 :] for column in columns]
        return [result for half in halves for result in attempt(run, *half)]


def reason(error: Exception) -> str:
    """An exception's message as text that a table can hold: a file name may have bytes in it that are not UTF-8."""
    return str(error).encode("utf-8", "backslashreplace").decode()


def failure(row: dict[str, Any], key: str, stage: str, source: str) -> dict[str, Any]:
    """A Failure row, from a row with `model`, `error_class`, `message` and `attempt`; `key` names its id's column and
    `source` that of what it was made from."""
    values = (row[key], stage, row["model"], row[source], row["error_class"], row["message"][:2000], row["attempt"])
    return dict(zip(records.FAILURE.names, (*values, __version__), strict=True))


def receipt(block: pa.Table, failed: int) -> pa.Table:
    """What a block, whose rows are all of one model, came to."""
    halved = pc.sum(block["halved"]).as_py() if "halved" in block.column_names else 0
    counts = {"done": [block.num_rows], "failed": [failed], "halved": [halved]}
    return pa.table({"model": [block["model"][0].as_py()], **counts}, schema=RECEIPT)


def contents(block: pa.Table, role: str) -> list[Any]:
    """The content of a role, row by row: the text, or the decoded image; one that is there twice is decoded once."""
    texts, images = block[f"{role}_text"].to_pylist(), block[f"{role}_image"].to_pylist()
    decoded = {image: decode(image) for image in set(images) - {None}}
    return [text if image is None else decoded[image] for text, image in zip(texts, images, strict=True)]


def content_by_id(store: Store, table: str, key: str, ids: Iterable[str]) -> dict[str, Any]:
    """The text or the decoded image of rows of `inputs` or `generations`, by their `key`; unknown ids are left out."""
    rows = pa.table({key: pa.array(sorted(set(ids)), pa.string())})
    rows = locate(rows, "it", key, store.rows(table, [key]), key)
    found = store.fetch(table, rows["it_part"].to_pylist(), rows["it_row"].to_pylist(), columns=["text", "image"])
    rows = rows.select([key]).append_column("it_text", found["text"]).append_column("it_image", found["image"])
    return dict(zip(rows[key].to_pylist(), contents(rows, "it"), strict=True))


def ahead(function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
    """`map`, with the next result computed in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(function, item) for item in items[:1]]
        for at in range(len(items)):
            waiting += [thread.submit(function, item) for item in items[at + 1 : at + 2]]
            yield waiting.pop(0).result()
