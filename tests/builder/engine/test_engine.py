"""Streams through real Ray: rows that kill, errors as data, stopping; workers are tiny, models are elsewhere."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest

from cyclepref.builder.common.stopping import Interrupted
from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.engine.engine import Engine, Lane
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store
from cyclepref.schemas.specs import Spec

pytestmark = pytest.mark.usefixtures("ray_local")


class Fragile:
    """A worker that does to its own process what a row says."""

    def __init__(self, on_load: str = ""):
        self.do(on_load)

    def do(self, what: str) -> None:
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "raise":
            raise OSError("no such weights")
        if what == "slow":
            time.sleep(1)

    def __call__(self, block: pa.Table) -> pa.Table:
        for text in block["text"].to_pylist():
            self.do(text)
        return block.append_column("error", pa.array([None] * block.num_rows, pa.string()))

    @staticmethod
    def give_up(block: pa.Table, error: Exception) -> pa.Table:
        return block.append_column("error", pa.array([type(error).__name__] * block.num_rows, pa.string()))


def lane(tmp_path: Path, blocks: list[list[str]], **kwargs) -> Lane:
    tables = []
    for at, texts in enumerate(blocks):
        ids = [f"{at}-{row}" for row in range(len(texts))]
        columns = {"id": ids, "model": ["m"] * len(texts), "text": texts, "attempt": [1] * len(texts)}
        tables.append(pa.table(columns))
    specs = {"m": Spec(name="m", batch_size=2)}
    return Lane(tables, Fragile, specs, "id", Journal(Store(tmp_path), "stage"), kwargs)


def same(block: pa.Table) -> pa.Table:
    return block


def counted(block: pa.Table) -> pa.Table:
    failed = block.num_rows - block["error"].null_count
    return pa.table({"done": [block.num_rows], "failed": [failed]})


def full(block: pa.Table) -> pa.Table:
    raise OSError(28, "No space left on device")


def test_a_row_that_kills_its_worker_fails_and_all_others_are_done(tmp_path):
    work = lane(tmp_path, [["fine"] * 4, ["fine", "segfault", "fine", "fine"], ["fine"] * 4])
    receipts = pa.concat_tables(Engine().run_pools([work], same, counted)).to_pydict()
    assert sum(receipts["done"]) == 12
    assert sum(receipts["failed"]) == 1


def test_a_model_that_cannot_load_is_one_line_and_ray_prints_nothing(tmp_path, capfd):
    with pytest.raises(EngineError, match=r"^a worker failed: OSError: no such weights$"):
        list(Engine().run_pools([lane(tmp_path, [["fine"]], on_load="raise")], same, counted))
    assert capfd.readouterr() == ("", "")


def test_a_step_that_raises_is_one_line_and_ray_prints_nothing(tmp_path, capfd):
    with pytest.raises(EngineError, match="No space left on device"):
        list(Engine().run_pools([lane(tmp_path, [["fine"]])], same, full))
    with pytest.raises(EngineError, match="No space left on device"):
        list(Engine().run_tasks([pa.table({"a": [1]})], full))
    assert capfd.readouterr() == ("", "")


def test_a_journal_that_cannot_be_kept_is_one_line_with_its_own_reason(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/attempts").write_text("no folder can be made here, as on a disk that is full")
    with pytest.raises(EngineError, match=r"^a worker failed: cannot make \S+attempts[^\n]*$"):
        list(Engine().run_pools([lane(tmp_path, [["fine"]])], same, counted))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_is_in_flight_and_begins_nothing_new(tmp_path, number):
    before = signal.getsignal(number)
    done = []

    def stop_at_the_first_receipt() -> None:
        for receipt in Engine().run_pools([lane(tmp_path, [["slow"]] * 60)], same, counted):
            if not done:
                time.sleep(3)  # all blocks have been read meanwhile, and wait before the model
                os.kill(os.getpid(), number)
            done.append(receipt["done"][0].as_py())

    with pytest.raises(Interrupted):
        stop_at_the_first_receipt()
    assert 1 <= sum(done) < 10, "what waits before the model has not begun"
    assert Store(tmp_path).names("store/attempts/stage") == []
    assert signal.getsignal(number) is before


def test_the_second_signal_stops_at_once(tmp_path):
    asked = []

    def stop_twice_at_the_first_receipt() -> None:
        quick, long = lane(tmp_path, [["fine"]]), lane(tmp_path, [["slow"] * 60] * 4)
        for _ in Engine().run_pools([quick, long], same, counted):
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        stop_twice_at_the_first_receipt()
    assert time.monotonic() - asked[0] < 30
