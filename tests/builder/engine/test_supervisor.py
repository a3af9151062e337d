"""Models that take their process with them: rows that kill, workers that hang, models that cannot load."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.signs_of_life import Signs
from cyclepref.builder.engine.supervisor import MAX_FRUITLESS, Supervised, is_trouble
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store
from cyclepref.schemas.specs import Spec

SPEC = Spec(name="m", batch_size=4, num_gpus=0, timeout_s=60)


class Fragile:
    """A worker that does to its own process what a row says; `log` has a line for each row that it was given."""

    def __init__(self, log: str, on_load: str = ""):
        self.log = Path(log)
        self.do(on_load)

    def do(self, what: str) -> None:
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "exit":
            os._exit(3)
        if what == "hang":
            time.sleep(3600)
        if what == "download slowly":
            for _ in range(16):
                time.sleep(0.5)
                self.log.with_suffix(".weights").write_bytes(bytes(2**21))
        if what == "raise":
            raise OSError("no such weights")
        if what == "look for notes":
            time.sleep(1)  # as long as a model takes to load; nobody who is killed now leaves a note of rows
            if noted := os.listdir(self.log.with_name("run") / "store/attempts/candidates"):
                raise OSError(f"in flight before the model was loaded: {noted}")
        if what == "once" and not self.log.with_suffix(".once").exists():
            self.log.with_suffix(".once").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, block: pa.Table) -> pa.Table:
        with self.log.open("a") as log:
            log.write(" ".join(block["id"].to_pylist()) + "\n")
        for text in block["text"].to_pylist():
            self.do(text)
        return block.append_column("error", pa.array([None] * block.num_rows, pa.string()))

    @staticmethod
    def give_up(block: pa.Table, error: Exception) -> pa.Table:
        said = f"{type(error).__name__}: {error}"
        return block.append_column("error", pa.array([said] * block.num_rows, pa.string()))


class Tight(Fragile):
    """A worker whose model has room for one row at a time and takes half a second; `log` has the size of each batch."""

    def __init__(self, log: str, size: int):
        super().__init__(log)
        self.spec = SPEC.model_copy(update={"batch_size": size})
        self.run = Fitting(self, self.batch)

    def batch(self, texts: list[str]) -> list[None]:
        with self.log.open("a") as log:
            log.write(f"{len(texts)}\n")
        if len(texts) > 1:
            raise MemoryError
        time.sleep(0.5)
        self.do(texts[0])
        return [None]

    def __call__(self, block: pa.Table) -> pa.Table:
        return block.append_column("error", pa.array(self.run(block["text"].to_pylist()), pa.string()))


def block(*texts: str) -> pa.Table:
    columns = {"id": [f"r{at}" for at in range(len(texts))], "model": ["m"] * len(texts), "text": list(texts)}
    return pa.table({**columns, "attempt": [1] * len(texts)})


@pytest.fixture
def supervised(tmp_path):
    """Makes a supervised worker on one run directory."""
    made = []

    def make(spec: Spec = SPEC, worker: type = Fragile, **kwargs) -> Supervised:
        journal = Journal(Store(tmp_path / "run"), "candidates")
        made.append(Supervised(worker, {"log": str(tmp_path / "log"), **kwargs}, {"m": spec}, "id", journal))
        return made[-1]

    yield make
    for each in made:
        each._process.kill()


def given(tmp_path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def by_id(table: pa.Table) -> dict[str, dict]:
    return {row["id"]: row for row in table.to_pylist()}


@pytest.mark.parametrize(
    ("what", "reason"),
    [("segfault", "ended by SIGSEGV"), ("exit", "ended with exit status 3"), ("hang", "no answer in 3 s")],
)
def test_a_row_that_kills_its_worker_is_found_and_takes_no_other_with_it(supervised, tmp_path, what, reason):
    rows = ["fine"] * 8
    rows[5] = what
    out = by_id(supervised(SPEC.model_copy(update={"timeout_s": 3.0 if what == "hang" else 60}))(block(*rows)))
    assert len(out) == 8
    assert [id_ for id_, row in out.items() if row["error"]] == ["r5"]
    assert out["r5"]["error"].startswith(
        "WorkerDied: it was in flight at 3 deaths of its worker, at the last one alone"
    )
    assert reason in out["r5"]["error"]
    assert out["r5"]["attempt"] == 3
    # Whole, then by batches, then alone; the batch that was well is not computed again.
    assert given(tmp_path) == [
        "r0 r1 r2 r3 r4 r5 r6 r7", "r0 r1 r2 r3", "r4 r5 r6 r7", "r4", "r5", "r6", "r7",
    ]  # fmt: skip


def test_a_worker_that_is_killed_from_outside_costs_no_row(supervised, tmp_path):
    out = by_id(supervised()(block("fine", "once", "fine")))
    assert [row["error"] for row in out.values()] == [None] * 3
    assert {row["attempt"] for row in out.values()} == {2}


def test_a_hung_worker_is_ended_after_the_time_of_one_batch_however_many_it_was_given(supervised):
    began = time.monotonic()
    out = by_id(supervised(SPEC.model_copy(update={"timeout_s": 2.0}))(block("hang", *["fine"] * 79)))
    assert [id_ for id_, row in out.items() if row["error"]] == ["r0"]
    assert time.monotonic() - began < 35  # 3 times 2 s, and not 20 batches times 2 s


def test_a_worker_that_hangs_between_two_blocks_and_reads_nothing_is_ended_too(supervised):
    worker = supervised(SPEC.model_copy(update={"timeout_s": 2.0}))
    worker(block("fine"))
    os.kill(worker._process.pid, signal.SIGSTOP)
    out: list[pa.Table] = []
    more_than_a_pipe_holds = block(*["fine" * 250_000] * 4)
    waiting = threading.Thread(target=lambda: out.append(worker(more_than_a_pipe_holds)), daemon=True)
    waiting.start()
    waiting.join(60)
    assert [row["attempt"] for row in out[0].select(["attempt"]).to_pylist()] == [2] * 4


def test_batches_that_were_halved_for_want_of_memory_have_the_time_of_a_batch_each(supervised, tmp_path):
    spec = SPEC.model_copy(update={"batch_size": 8, "timeout_s": 2.0})
    out = supervised(spec, Tight, size=8)(block(*["fine"] * 8))
    assert out["attempt"].to_pylist() == [1] * 8
    assert given(tmp_path) == ["8", "4", "2", *["1"] * 8]


def test_the_next_process_begins_with_the_batch_size_that_fitted(supervised, tmp_path):
    out = supervised(SPEC, Tight, size=4)(block("fine", "once", "fine", "fine"))
    assert out["error"].to_pylist() == [None] * 4
    assert given(tmp_path) == ["4", "2", "1", "1", *["1"] * 4]


def test_deaths_are_remembered_by_the_next_worker_and_by_the_next_run(supervised, tmp_path):
    rows = block("fine", "segfault", "fine", "fine", "fine")
    ids = rows["id"].to_pylist()
    journal = Journal(Store(tmp_path / "run"), "candidates")
    for _ in range(2):  # two whole nodes that were lost with these rows: nobody could write down how
        journal.begin(ids, ids)
    out = by_id(supervised()(rows))
    assert given(tmp_path) == ["r0", "r1", "r2", "r3", "r4"]
    assert "SIGSEGV" in out["r1"]["error"]


def test_rows_are_not_in_flight_while_their_model_loads(supervised, tmp_path):
    (tmp_path / "run/store/attempts/candidates").mkdir(parents=True)
    assert supervised(on_load="look for notes")(block("fine"))["error"].to_pylist() == [None]


def test_builds_that_were_killed_make_a_row_run_alone_and_never_fail_it(supervised, tmp_path):
    rows = block("fine", "fine", "fine")
    journal = Journal(Store(tmp_path / "run"), "candidates")
    for _ in range(4):
        journal.begin(rows["id"].to_pylist(), ["r0", "r1"])
    assert supervised()(rows)["error"].to_pylist() == [None] * 3
    assert given(tmp_path) == ["r2", "r0", "r1"]


def test_a_note_of_work_in_flight_is_removed_when_the_work_is_done(supervised, tmp_path):
    store = Store(tmp_path / "run")
    supervised()(block("fine", "fine"))
    assert store.names("store/attempts/candidates") == []
    supervised()(block("exit"))
    assert len(store.names("store/attempts/candidates")) == 3
    Journal(store, "candidates").forgive()
    assert len(store.names("store/attempts/candidates")) == 3
    Journal(store, "candidates").begin(["a"], ["a"])
    Journal(store, "candidates").forgive()
    assert len(store.names("store/attempts/candidates")) == 3
    Journal(store, "candidates").clear()
    assert store.names("store/attempts/candidates") == []


def test_a_model_that_cannot_load_is_told_at_once_and_in_one_line(supervised):
    out = supervised(on_load="raise")(block("fine"))
    assert is_trouble(out)
    assert out["trouble"].to_pylist() == ["OSError: no such weights"]
    assert "Traceback" in out["trace"][0].as_py()


@pytest.mark.parametrize(("what", "reason"), [("segfault", "SIGSEGV"), ("hang", "nothing read or written for 1 s")])
def test_a_model_that_kills_its_process_or_hangs_while_it_loads_is_tried_three_times(supervised, what, reason):
    spec = SPEC.model_copy(update={"load_timeout_s": 1.0}) if what == "hang" else SPEC
    out = supervised(spec, on_load=what)(block("fine"))
    assert "m could not be loaded: 3 times in a row" in out["trouble"][0].as_py()
    assert reason in out["trouble"][0].as_py()


def test_a_model_that_is_downloaded_for_longer_than_it_may_be_silent_is_loaded(supervised):
    began = time.monotonic()
    out = supervised(SPEC.model_copy(update={"load_timeout_s": 5.0}), on_load="download slowly")(block("fine"))
    assert out["error"].to_pylist() == [None]
    assert time.monotonic() - began > 8


def test_a_process_that_waits_for_anothers_download_of_its_model_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    specs = [CATALOG["blip-base"].model_copy(update={"repo": repo}) for repo in ("org/name", str(tmp_path / "local"))]
    with subprocess.Popen(["sleep", "600"]) as waiting:
        signs = Signs(waiting.pid, [*specs, SPEC])
        signs.moved_on()
        assert not signs.moved_on()
        (blobs / "sha.incomplete").write_bytes(bytes(2**21))
        assert signs.moved_on()
        assert not signs.moved_on()
        waiting.kill()
    assert not Signs(waiting.pid, []).moved_on(), "of a process that has ended there is nothing to see"


@pytest.mark.slow
def test_a_worker_that_dies_whatever_it_is_given_ends_the_run(supervised):
    out = supervised()(block(*["exit"] * 64))
    assert f"{MAX_FRUITLESS} deaths in a row" in out["trouble"][0].as_py()


def test_rows_that_were_in_flight_when_every_call_died_are_as_if_they_had_not_been_tried(
    supervised, tmp_path, monkeypatch
):
    monkeypatch.setattr("cyclepref.builder.engine.supervisor.MAX_FRUITLESS", 5)
    assert "5 deaths in a row" in supervised()(block(*["exit"] * 8))["trouble"][0].as_py()
    (tmp_path / "log").unlink()
    out = by_id(supervised()(block(*["fine"] * 8)))
    assert [row["error"] for row in out.values()] == [None] * 8
    assert given(tmp_path) == ["r0 r1 r2 r3 r4 r5 r6 r7"]


def test_the_child_ends_with_its_parent_even_in_a_call_that_never_returns(tmp_path):
    path, log = tmp_path / "parent.py", tmp_path / "log"
    path.write_text(f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
if __name__ == "__main__":
    import threading
    from test_supervisor import *
    journal = Journal(Store({str(tmp_path)!r}), "candidates")
    hanging = Supervised(Fragile, {{"log": {str(log)!r}}}, {{"m": SPEC}}, "id", journal)
    threading.Thread(target=hanging, args=(block("hang"),), daemon=True).start()
    while not Path({str(log)!r}).exists():
        time.sleep(0.05)
    print(hanging._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
""")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    child = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} outlived its parent")
