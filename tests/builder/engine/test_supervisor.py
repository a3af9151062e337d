"""Models that take their process with them: rows that kill, processes that hang, models that cannot load; and blocks
that are read, worked on and written side by side."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from fragile import SPEC, Fragile, Hosted, Tight, block

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.engine.signs_of_life import Signs
from cyclepref.builder.engine.supervisor import MAX_FRUITLESS, Supervised
from cyclepref.builder.engine.task import Dropped
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store
from cyclepref.schemas.specs import Spec


@pytest.fixture
def supervised(tmp_path):
    """Makes a supervised process on one run directory."""
    made = []

    def make(spec: Spec = SPEC, worker: type = Fragile, **kwargs) -> Hosted:
        made.append(Hosted(tmp_path / "run", tmp_path / "log", spec, worker, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.host.kill()


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
    os.kill(worker.host._child.process.pid, signal.SIGSTOP)
    out: list[pa.Table] = []
    more_than_a_pipe_holds = block(*["fine" * 250_000] * 4)
    waiting = threading.Thread(target=lambda: out.append(worker(more_than_a_pipe_holds)), daemon=True)
    waiting.start()
    waiting.join(60)
    assert [row["attempt"] for row in out[0].select(["attempt"]).to_pylist()] == [2] * 4


def test_batches_that_were_halved_for_want_of_memory_have_the_time_of_a_batch_each(supervised, tmp_path):
    spec = SPEC.model_copy(update={"batch_size": 8, "timeout_s": 2.0})
    out = supervised(spec, Tight)(block(*["fine"] * 8))
    assert out["attempt"].to_pylist() == [1] * 8
    assert given(tmp_path) == ["8", "4", "2", *["1"] * 8]


def test_the_next_process_begins_with_the_batch_size_that_fitted(supervised, tmp_path):
    out = supervised(SPEC, Tight)(block("fine", "once", "fine", "fine"))
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
    assert out.message == "OSError: no such weights"
    assert out.kind == "OSError"
    assert "Traceback" in out.trace


@pytest.mark.parametrize(("what", "reason"), [("segfault", "SIGSEGV"), ("hang", "nothing read or written for 1 s")])
def test_a_model_that_kills_its_process_or_hangs_while_it_loads_is_tried_three_times(supervised, what, reason):
    spec = SPEC.model_copy(update={"load_timeout_s": 1.0}) if what == "hang" else SPEC
    out = supervised(spec, on_load=what)(block("fine"))
    assert "m could not be loaded: 3 times in a row" in out.message
    assert reason in out.message


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
    assert f"{MAX_FRUITLESS} deaths in a row" in out.message


def test_rows_that_were_in_flight_when_every_call_died_are_as_if_they_had_not_been_tried(
    supervised, tmp_path, monkeypatch
):
    monkeypatch.setattr("cyclepref.builder.engine.supervisor.MAX_FRUITLESS", 5)
    assert "5 deaths in a row" in supervised()(block(*["exit"] * 8)).message
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
    import os, signal, threading, time
    from pathlib import Path
    from fragile import SPEC, Fragile, Hosted, block
    hanging = Hosted(Path({str(tmp_path)!r}), Path({str(log)!r}), SPEC, Fragile)
    threading.Thread(target=hanging, args=(block("hang"),), daemon=True).start()
    while not Path({str(log)!r}).exists():
        time.sleep(0.05)
    print(hanging.host._child.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
""")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    child = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} outlived its parent")


def at_once(worker: Hosted, blocks: list[pa.Table]) -> list:
    """What becomes of blocks that are in flight together."""
    with ThreadPoolExecutor(len(blocks)) as threads:
        return list(threads.map(worker, blocks))


def named(name: str, *texts: str) -> pa.Table:
    rows = block(*texts)
    return rows.set_column(0, "id", pa.array([f"{name}{at}" for at in range(rows.num_rows)]))


def test_a_row_that_kills_takes_no_block_with_it_that_is_in_flight_beside_it(supervised, tmp_path):
    worker = supervised()
    blocks = [named("a", *["fine"] * 3), named("b", "fine", "segfault", "fine"), named("c", *["fine"] * 3)]
    rows = [row for out in at_once(worker, blocks) for row in out.to_pylist()]
    assert sorted(row["id"] for row in rows) == sorted(id_ for each in blocks for id_ in each["id"].to_pylist())
    assert [row["id"] for row in rows if row["error"]] == ["b1"]


def test_blocks_in_flight_together_load_their_model_once(supervised, tmp_path):
    worker = supervised(on_load="once a process")
    at_once(worker, [named(name, "fine") for name in "abc"])
    assert (tmp_path / "log").with_suffix(".loads").read_text() == "loaded\n"


def test_what_cannot_be_read_is_trouble_with_its_own_reason(supervised):
    assert supervised()(block("fine", "unreadable")).message == "OSError: Input/output error"


def test_after_a_request_to_stop_what_has_begun_is_finished_and_the_rest_handed_back(supervised, tmp_path):
    worker = supervised()
    worker(named("a", "fine"))
    with ThreadPoolExecutor(3) as threads:
        begun = threads.submit(worker, named("b", "slow"))
        time.sleep(0.5)
        waiting = [threads.submit(worker, named(name, "fine")) for name in "cd"]
        time.sleep(0.5)
        worker.host.drop()
    assert begun.result()["id"].to_pylist() == ["b0"]
    assert [each.result() for each in waiting] == [Dropped(), Dropped()]
    assert Store(tmp_path / "run").names("store/attempts/candidates") == []


def test_libraries_that_take_longer_to_import_than_a_batch_may_take_are_waited_for(tmp_path, monkeypatch):
    (tmp_path / "imported_slowly.py").write_text("import time; time.sleep(6)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    spec = SPEC.model_copy(update={"timeout_s": 2.0})
    worker = Hosted(tmp_path / "run", tmp_path / "log", spec, Fragile)
    worker.host.kill()
    worker.host = Supervised(imports=("imported_slowly",))
    child = worker.host._child.process.pid
    assert worker(block("fine"))["attempt"].to_pylist() == [1]
    assert worker.host._child.process.pid == child
    worker.host.kill()


def test_notes_of_earlier_work_are_read_once_however_many_blocks_ask_at_a_time(tmp_path):
    class Slow(Store):
        read = 0

        def read_json(self, *which):
            self.read += 1
            time.sleep(0.02)
            return super().read_json(*which)

    store = Slow(tmp_path)
    for at in range(8):
        Journal(store, "candidates").begin([f"r{at}"], [f"r{at}"])
    journal = Journal(store, "candidates")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda at: journal.deaths([f"r{at}"]), range(4)))
    assert found == [{f"r{at}": 1} for at in range(4)]
    assert store.read == 8
