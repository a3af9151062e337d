"""Streams through real Ray: rows that kill, errors as data, stopping; workers are tiny, models are elsewhere."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from cyclepref.builder.common.stopping import Interrupted
from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.task import Task
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store
from cyclepref.schemas.specs import Spec

pytestmark = pytest.mark.usefixtures("ray_local")


class Fragile:
    """A worker that does to its own process what a row says."""

    def __init__(self, spec: Spec, on_load: str = ""):
        self.do(on_load)

    def do(self, what: str) -> None:
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "raise":
            raise OSError("no such weights")
        if what == "slow":
            time.sleep(1)

    def __call__(self, rows: pa.Table, texts: list[str]) -> list[str]:
        for text in texts:
            self.do(text)
        return texts

    def halvings(self) -> int:
        return 0


def texts_of(block: pa.Table) -> tuple[pa.Table, list[str]]:
    return block, block["text"].to_pylist()


def counted(rows: pa.Table, results: list, halved: int) -> pa.Table:
    return pa.table({"done": [len(results)], "failed": [sum(isinstance(it, Exception) for it in results)]})


def no_space(rows: pa.Table, results: list, halved: int) -> pa.Table:
    raise OSError(28, "No space left on device")


def work(tmp_path: Path, *texts: str, name: str = "m", on_load: str = "", write=counted) -> tuple[Task, pa.Table]:
    """Rows of a model, in blocks of four."""
    columns = {"id": [f"{name}{at}" for at in range(len(texts))], "model": [name] * len(texts), "text": list(texts)}
    rows = pa.table({**columns, "attempt": [1] * len(texts)})
    spec, journal = Spec(name=name, batch_size=2, num_gpus=0), Journal(Store(tmp_path), "stage")
    return Task("stage", spec, "id", partial(Fragile, on_load=on_load), texts_of, write, journal, 4), rows


def full(block: pa.Table) -> pa.Table:
    raise OSError(28, "No space left on device")


def test_a_row_that_kills_its_worker_fails_and_all_others_are_done(tmp_path):
    with Engine() as engine:
        rows = work(tmp_path, *["fine"] * 5, "segfault", *["fine"] * 6)
        receipts = pa.concat_tables(engine.run([rows])).to_pydict()
    assert sum(receipts["done"]) == 12
    assert sum(receipts["failed"]) == 1


def test_a_model_that_cannot_load_is_one_line_and_ray_prints_nothing(tmp_path, capfd):
    with pytest.raises(EngineError, match=r"^a worker failed: OSError: no such weights$"):
        list(Engine().run([work(tmp_path, "fine", on_load="raise")]))
    assert capfd.readouterr() == ("", "")


def test_a_step_that_raises_is_one_line_and_ray_prints_nothing(tmp_path, capfd):
    with pytest.raises(EngineError, match="No space left on device"):
        list(Engine().run([work(tmp_path, "fine", write=no_space)]))
    with pytest.raises(EngineError, match="No space left on device"):
        list(Engine().run_tasks([pa.table({"a": [1]})], full))
    assert capfd.readouterr() == ("", "")


def test_a_journal_that_cannot_be_kept_is_one_line_with_its_own_reason(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/attempts").write_text("no folder can be made here, as on a disk that is full")
    with pytest.raises(EngineError, match=r"^a worker failed: cannot make \S+attempts[^\n]*$"):
        list(Engine().run([work(tmp_path, "fine")]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_is_in_flight_and_begins_nothing_new(tmp_path, number):
    before = signal.getsignal(number)
    done = []

    def stop_at_the_first_receipt() -> None:
        for receipt in Engine().run([work(tmp_path, *["slow"] * 60)]):
            if not done:
                time.sleep(3)  # all blocks have been read meanwhile, and wait before the model
                os.kill(os.getpid(), number)
            done.append(receipt["done"][0].as_py())

    with pytest.raises(Interrupted):
        stop_at_the_first_receipt()
    assert 1 <= sum(done) < 20, "what waits before the model has not begun"
    assert Store(tmp_path).names("store/attempts/stage") == []
    assert signal.getsignal(number) is before


def test_the_second_signal_stops_at_once(tmp_path):
    asked = []

    def stop_twice_at_the_first_receipt() -> None:
        for _ in Engine().run([work(tmp_path, "fine", name="quick"), work(tmp_path, *["slow"] * 240)]):
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        stop_twice_at_the_first_receipt()
    assert time.monotonic() - asked[0] < 30


def test_hosts_and_their_models_live_from_one_stage_to_the_next(tmp_path):
    with Engine() as engine:
        engine.expect([work(tmp_path, name=name)[0].spec for name in "ab"])
        list(engine.run([work(tmp_path, "fine", name="a")]))
        [first] = engine._seats
        list(engine.run([work(tmp_path, "fine", name="b")]))
        assert list(engine._seats) == [first]
        assert list(engine.load([work(tmp_path, name=name)[0] for name in "ab"])) == [0.0, 0.0]


class Later:
    """Rows of a later stage, all ready once the first row of this one is done."""

    def __init__(self, task: Task, rows: pa.Table):
        self.task, self.rows, self.seen, self.receipts = task, rows, [], []
        self.expected = {"Spec/later": rows.num_rows}

    def made(self, rows: pa.Table) -> None:
        self.seen += rows["id"].to_pylist()

    def ready(self) -> list[tuple[Task, pa.Table]]:
        given, self.rows = self.rows, self.rows.slice(0, 0)
        return [(self.task, given)] if given.num_rows else []

    def took(self, receipts: pa.Table) -> None:
        self.receipts.append(receipts)


def test_a_host_with_nothing_to_do_begins_rows_of_the_next_stage_and_their_receipts_are_kept_apart(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("cyclepref.builder.engine.flow.AHEAD_EVERY_S", 0.0)
    later = Later(*work(tmp_path, *["fine"] * 8, name="later"))
    with Engine() as engine:
        engine.expect([later.task.spec])
        rows = work(tmp_path, *["slow"] * 6, name="now")
        receipts = pa.concat_tables(engine.run([rows], later)).to_pydict()
        assert not engine._in_flight()
    assert sum(receipts["done"]) == 6
    assert sorted(later.seen) == sorted(rows[1]["id"].to_pylist())
    assert sum(pa.concat_tables(later.receipts)["done"].to_pylist()) == 8
