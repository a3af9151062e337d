"""How a run is doing, told from its directory alone: rows, failures, speed, time left, and who works in it."""

import pyarrow as pa
import pytest
from instant_builds import build, generations

from cyclepref.builder.run.lock import LockError, hold
from cyclepref.builder.run.record import Notes
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store, StoreError
from cyclepref.builder.stages.accounting import Accountant, Work
from cyclepref.builder.stages.steps import receipt
from cyclepref.schemas.ids import digest


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "run")


def test_a_finished_run_tells_its_rows_failures_and_nothing_unused(store):
    build(store, {"a": ["1", "2", "3"], "b": ["4"]}, failing=("2",))
    found = status(Store(store.root))
    assert (found["state"], found["holder"], found["recipe"], found["unused"]) == ("finished", None, "mine", [])
    [stage] = found["stages"]
    assert stage["models"] == {
        "a": {"wanted": 3, "ok": 2, "failed": 1, "left": 0},
        "b": {"wanted": 1, "ok": 1, "failed": 0, "left": 0},
    }
    assert stage["ended"]
    assert stage["rows_a_second"] > 0
    [reason] = found["failures"]
    assert (reason["stage"], reason["model"], reason["error_class"], reason["count"]) == ("candidates", "a", "E", 1)


def test_a_run_at_work_tells_what_is_left_how_fast_it_goes_and_who_is_at_it(store):
    rows = pa.table({"generation_id": [digest(n) for n in "12345678"], "model": ["a"] * 8})
    seen = {}

    def do(todo):
        store.write_part("generations", generations("1", "2", model="a"))
        yield receipt(todo[:2], 0)
        seen.update(status(Store(store.root)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hold(store, "build") as held, Notes(store, held.check).of("mine") as notes:  # noqa: PT012
        notes._written = -1e9  # as if the last note were long ago
        Accountant(store, 0.5, notes=notes).run(Work("candidates", "generations", "generation_id", rows), do)
    assert seen["state"] == "running"
    assert seen["holder"]["command"] == "build"
    assert seen["stages"][0]["models"]["a"] == {"wanted": 8, "ok": 2, "failed": 0, "left": 6}
    assert seen["unused"] is None
    after = status(store)
    assert (after["state"], after["holder"]) == ("stopped", None)


def as_at_work(store: Store, **note) -> dict:
    """The stage of a build that is at work, with these changes of its note, as `status` tells it."""
    notes = store.read_json("progress.json")
    notes["stages"][0].update(ended=None, **note)
    store.write_json("progress.json", {**notes, "state": "running"})
    with hold(store, "build"):
        [stage] = status(store)["stages"]
    return stage


def test_a_stage_whose_models_load_is_told_as_that_and_has_no_speed(store):
    build(store, {"a": ["1"]})
    stage = as_at_work(store, done=0, rows_a_second=None, seconds_left=None)
    assert (stage["loading"], stage["rows_a_second"], stage["seconds_left"]) == (True, None, None)


def test_a_stage_that_runs_no_model_or_has_nothing_to_do_loads_none(store):
    build(store, {"a": ["1"]})
    assert not as_at_work(store, done=0, table="sources")["loading"]
    assert not as_at_work(store, done=0, todo=0)["loading"]
    assert not as_at_work(store, done=1)["loading"]


def test_speed_and_time_left_are_the_builds_own_estimate(store):
    build(store, {"a": ["1"]})
    stage = as_at_work(store, done=10, todo=30, rows_a_second=2.0, seconds_left=10.04)
    assert (stage["loading"], stage["rows_a_second"], stage["seconds_left"]) == (False, 2.0, 10.0)


def test_a_build_notes_its_estimate_with_the_seconds_that_hosts_worked(store):
    rows = pa.table({"generation_id": [digest(n) for n in "12345678"], "model": ["a"] * 8})
    noted = []

    def do(todo):
        for at in (0, 2, 4, 6):
            part = receipt(todo[at : at + 2], 0)
            store.write_part("generations", generations(*"12345678"[at : at + 2], model="a"))
            yield part.append_column("seconds", pa.array([4.0]))
            noted.append(notes._content["stages"][0]["seconds_left"])

    notes = Notes(store)
    Accountant(store, 1.0, notes=notes).run(Work("candidates", "generations", "generation_id", rows), do)
    # All four receipts come at once, so four hosts must have worked for these four seconds.
    assert noted == pytest.approx([12.0, 4.0, 4 / 3, 0.0], rel=0.1)


def test_notes_of_an_earlier_version_have_no_estimate(store):
    build(store, {"a": ["1"]})
    notes = store.read_json("progress.json")
    for name in ("rows_a_second", "seconds_left"):
        del notes["stages"][0][name]
    store.write_json("progress.json", notes)
    stage = as_at_work(store, done=1)
    assert (stage["rows_a_second"], stage["seconds_left"]) == (None, None)


def test_a_run_that_was_killed_is_stopped_not_running(store):
    build(store, {"a": ["1"]})
    store.write_json("progress.json", {**store.read_json("progress.json"), "state": "running"})
    assert status(store)["state"] == "stopped"


def test_a_directory_without_a_run_is_one_clear_error(store):
    with pytest.raises(StoreError, match="has no run: `cyclepref build RECIPE --out"):
        status(store)


def test_a_stage_that_comes_twice_in_a_build_keeps_both_its_notes(store):
    notes = Notes(store)
    for table in ("generations", "similarities"):
        notes.begin("scores", table, pa.chunked_array([["x"]]), pa.chunked_array([["m"]]), 1)
    assert [note["wanted"] for note in store.read_json("progress.json")["stages"]] == [
        "wanted/scores.parquet",
        "wanted/scores-2.parquet",
    ]


def test_a_lost_lock_ends_a_build_at_its_next_row(store):
    def lost():
        raise LockError("given away")

    with pytest.raises(LockError, match="given away"):
        Notes(store, lost).begin("s", "generations", pa.chunked_array([["x"]]), pa.chunked_array([["m"]]), 1)


def test_a_build_that_lost_its_lock_leaves_the_notes_to_the_one_that_has_it(store):
    def lose_it():
        with Notes(store).of("loser") as notes:
            notes.begin("s", "generations", pa.chunked_array([["x"]]), pa.chunked_array([["m"]]), 1)
            build(store, {"a": ["1"]})
            raise LockError("given away")

    with pytest.raises(LockError, match="given away"):
        lose_it()
    assert store.read_json("progress.json")["state"] == "finished"
