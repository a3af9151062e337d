"""Every row is accounted for: failures with their attempt, tried again when asked, and an early stop."""

import pyarrow as pa
import pytest

from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant, BuildError, Work
from cyclepref.builder.stages.steps import failure, receipt
from cyclepref.schemas import records

NAMES = [f"item {at}" for at in range(100)]


def work(names: list[str], models: list[str] | None = None) -> Work:
    models = models or ["image"] * len(names)
    columns = {"source_key": names, "source": names, "stamp": ["1"] * len(names), "model": models}
    return Work("inputs", "sources", "source_key", pa.table(columns))


class Reader:
    """A stage's work: reads items in blocks and fails those in `bad`; remembers what it was given."""

    def __init__(self, store: Store, bad: set[str] = frozenset(), lost: set[str] = frozenset(), rows: int = 10):
        self.store, self.bad, self.lost, self.rows = store, bad, lost, rows
        self.given: list[str] = []

    def __call__(self, todo: pa.Table):
        for start in range(0, todo.num_rows, self.rows):
            block = todo.slice(start, self.rows)
            self.given += block["source"].to_pylist()
            yield self.read(block)

    def read(self, block: pa.Table) -> pa.Table:
        error = {"error_class": "OSError", "message": "unreadable"}
        rows = [row for row in block.to_pylist() if row["source"] not in self.lost]
        bad = [failure({**row, **error}, "source_key", "inputs", "source") for row in rows if row["source"] in self.bad]
        good = [{**row, "input_id": row["source"]} for row in rows if row["source"] not in self.bad]
        self.store.write_part("failures", pa.Table.from_pylist(bad, schema=records.FAILURE))
        self.store.write_part("sources", pa.Table.from_pylist(good, schema=records.SOURCE))
        return receipt(block, len(bad))


def test_failures_are_left_alone_until_they_are_asked_for_again_and_then_count_their_attempts(tmp_path):
    store = Store(tmp_path)
    for retry, given, attempts in ((False, NAMES, [1, 1]), (False, [], [1, 1]), (True, NAMES[4:6], [2, 2])):
        reader = Reader(store, bad=set(NAMES[4:6]))
        count = Accountant(store, 0.05, retry).run(work(NAMES), reader)["image"]
        assert reader.given == given
        assert (count.wanted, count.ok, count.failed) == (100, 98, 2)
        assert [row["attempt"] for row in store.rows("failures").to_pylist()] == attempts
    count = Accountant(store, 0.05, retry_failed=True).run(work(NAMES), Reader(store))["image"]
    assert (count.wanted, count.ok, count.failed) == (100, 100, 0)


def test_a_failure_row_tells_stage_id_model_source_reason_and_attempt(tmp_path):
    store = Store(tmp_path)
    Accountant(store, 0.05).run(work(NAMES), Reader(store, bad={"item 7"}))
    [row] = store.rows("failures").to_pylist()
    told = {"id": "item 7", "stage": "inputs", "model": "image", "source": "item 7", "attempt": 1}
    assert told.items() <= row.items()
    assert (row["error_class"], row["message"]) == ("OSError", "unreadable")


def test_a_run_that_is_going_wrong_stops_early_with_the_most_frequent_reasons(tmp_path):
    reader = Reader(Store(tmp_path), bad=set(NAMES))
    with pytest.raises(
        BuildError,
        match=r"(?s)inputs: image: 10 of 100 rows failed.*10 x OSError: unreadable .item 0, .* 7 more.\n.*--retry",
    ):
        Accountant(reader.store, 0.05).run(work(NAMES), reader)
    assert len(reader.given) == 10


def test_one_model_of_many_that_fails_on_every_row_stops_the_run_and_is_named(tmp_path):
    names = [f"{model} {at}" for model in range(20) for at in range(10)]
    wanted = work(names, [f"m{name.split()[0]}" for name in names])
    bad = {name for name in names if name.startswith("7 ")} | {"3 1"}
    with pytest.raises(BuildError, match=r"(?s)^inputs: m7: 10 of 10 rows failed, .*0\.2 allows:\n  10 x OSError"):
        Accountant(Store(tmp_path), 0.2).run(wanted, Reader(Store(tmp_path), bad))


def test_a_model_that_fails_from_the_start_is_stopped_long_before_the_rate_of_all_its_rows(tmp_path):
    names = [f"item {at}" for at in range(100_000)]
    reader = Reader(Store(tmp_path), bad=set(names[::2]) | {names[1]})
    with pytest.raises(BuildError, match=r"(?s)image: 101 of the first 200 rows of this run failed.*--retry-failed;"):
        Accountant(reader.store, 0.05).run(work(names), reader)
    assert len(reader.given) == 200
    again = Reader(reader.store, rows=100)  # the same command goes on without them
    assert Accountant(reader.store, 0.05).run(work(names[:3000]), again)["image"].failed == 101
    assert len(again.given) == 2800


def test_failures_within_the_rate_can_all_be_tried_again_and_fail_again(tmp_path):
    names = [f"item {at}" for at in range(8000)]
    bad = set(names[::25])
    for retry in (False, True):
        reader = Reader(Store(tmp_path), bad, rows=100)
        count = Accountant(Store(tmp_path), 0.05, retry).run(work(names), reader)["image"]
        assert (count.ok, count.failed) == (7680, 320)


def test_a_row_that_is_neither_done_nor_failed_fails_the_run(tmp_path):
    reader = Reader(Store(tmp_path), lost={"item 3"})
    with pytest.raises(BuildError, match="1 of 100 rows are neither done nor failed"):
        Accountant(reader.store, 0.05).run(work(NAMES), reader)


def test_each_stage_tells_wanted_ok_and_failed_by_model_to_who_asks_for_more(tmp_path, caplog):
    store = Store(tmp_path)
    with caplog.at_level("INFO", "cyclepref.build"):
        Accountant(store, 0.05).run(work(NAMES), Reader(store, bad={"item 7"}))
        assert "inputs: image: 100 wanted = 99 ok + 1 failed" in caplog.text
        caplog.clear()
        Accountant(store, 0.05).run(work(NAMES), Reader(store))
        assert " wanted = " not in caplog.text
