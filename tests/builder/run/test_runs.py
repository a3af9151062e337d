"""A run directory as people operate it: notes, status, pruning, merging, joining parts, and being killed meanwhile."""

import json

import pyarrow as pa
import pytest

from cyclepref.builder.run import upkeep
from cyclepref.builder.run.lock import LockError, hold
from cyclepref.builder.run.record import Notes
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import JOINED, ROW_GROUP_WITHOUT_IMAGES, Store, StoreError
from cyclepref.builder.run.upkeep import UpkeepError, join_small, merge, prune, unused
from cyclepref.builder.stages.accounting import Accountant, BuildError, Work
from cyclepref.builder.stages.steps import blocks_of, failure, receipt
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest


class Killed(BaseException):
    """Stands for a kill: nothing catches it, and nothing after it is done."""


def generations(*names: str, model: str = "m") -> pa.Table:
    rows = [
        {"generation_id": digest(n), "model": model, "content_id": digest("c", n), "text": n, "fingerprint": "f"}
        for n in names
    ]
    return pa.Table.from_pylist(rows, schema=records.GENERATION)


def build(store: Store, wanted: dict[str, list[str]], failing: tuple[str, ...] = ()) -> None:
    """What a build does to a store, with an accountant and a stage whose rows are made at once."""
    rows = [{"generation_id": digest(n), "text": n, "model": m} for m, names in wanted.items() for n in names]
    work = Work("candidates", "generations", "generation_id", pa.Table.from_pylist(rows))

    def do(todo: pa.Table):
        for block in blocks_of(todo, 1):
            [row] = block.to_pylist()
            wrong = row["text"] in failing
            if wrong:
                bad = failure(row | {"error_class": "E", "message": "[b]no"}, "generation_id", "candidates", "text")
                store.write_part("failures", pa.Table.from_pylist([bad], schema=records.FAILURE))
            else:
                store.write_part("generations", generations(row["text"], model=row["model"]))
            yield receipt(block, int(wrong))

    with hold(store, "build") as held, Notes(store, held.check).of("mine") as notes:
        Accountant(store, 1.0, notes=notes).run(work, do)
        models = {name: {"fingerprint": "f"} for name in wanted}
        store.write_json("run.json", {"models": models, "counts": {"inputs": {"read": 0, "failed": 0}}})


def texts(store: Store) -> list[str]:
    return sorted(store.rows("generations")["text"].to_pylist())


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "run")


# ---- status ------------------------------------------------------------------------------------------------------


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


def test_time_left_is_what_is_to_do_at_the_speed_so_far(store):
    build(store, {"a": ["1"]})
    notes = store.read_json("progress.json")
    notes["state"] = "running"
    notes["stages"][0].update(began=100.0, ended=None, todo=30, done=10)
    store.write_json("progress.json", {**notes, "updated": 105.0})
    with hold(store, "build"):
        [stage] = status(store)["stages"]
    assert (stage["rows_a_second"], stage["seconds_left"]) == (2.0, 10.0)


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


# ---- pruning -----------------------------------------------------------------------------------------------------


def test_what_the_latest_build_did_not_ask_for_is_unused_and_pruned(store):
    build(store, {"a": ["1", "2"], "b": ["3"]}, failing=("3",))
    build(store, {"a": ["2"], "c": ["4"]})
    found = {(each.table, each.model): each.rows for each in unused(store)}
    assert found == {("generations", "a"): 1, ("failures", "b"): 1}
    assert all(each.bytes > 0 for each in unused(store))
    prune(store)
    assert unused(store) == []
    assert texts(Store(store.root)) == ["2", "4"]


def test_pruning_waits_until_a_build_has_finished(store):
    build(store, {"a": ["1"]})
    store.write_json("progress.json", {**store.read_json("progress.json"), "state": "stopped"})
    with pytest.raises(UpkeepError, match="known only after a finished build"):
        unused(store)


def test_a_part_with_used_and_unused_rows_keeps_the_used_ones_and_their_content(store):
    store.write_part("generations", generations("1", "2", "3", model="a"))
    build(store, {"a": ["2"]})
    before = store.rows("generations").filter(pa.compute.equal(store.rows("generations")["text"], "2"))
    prune(store)
    after = Store(store.root).rows("generations")
    assert after.drop_columns(["part", "row"]).equals(before.drop_columns(["part", "row"]))


@pytest.mark.parametrize("operation", ["prune", "join"])
@pytest.mark.parametrize("calls", range(8))
def test_upkeep_that_is_killed_anywhere_loses_nothing_and_counts_nothing_twice(store, monkeypatch, operation, calls):
    names = [str(n) for n in range(6)]
    store.write_part("generations", generations(*names[:3], model="a"))
    for name in names[2:]:
        store.write_part("generations", generations(name, model="a"))
    build(store, {"a": names[1:] if operation == "prune" else names})
    monkeypatch.setattr(upkeep, "PART_BYTES", 1 if calls % 2 else upkeep.PART_BYTES)
    wanted = names[1:] if operation == "prune" else names
    left = calls

    def dying(method):
        def run(self, *args):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return method(self, *args)

        return run

    def work(some: Store) -> None:
        prune(some) if operation == "prune" else join_small(some, many=1)

    with monkeypatch.context() as patch:
        for name in ("create_part", "remove"):
            patch.setattr(Store, name, dying(getattr(Store, name)))
        try:
            work(store)
        except Killed:
            assert set(wanted) <= set(texts(Store(store.root))) <= set(names)
    work(Store(store.root))
    assert texts(Store(store.root)) == sorted(wanted)
    packed = Store(store.root).ids_by_part("generations")
    assert sum(map(len, packed.values())) == len(wanted)


# ---- joining -----------------------------------------------------------------------------------------------------


def test_many_small_parts_become_one_with_the_same_rows(store):
    for n in range(12):
        store.write_part("generations", generations(str(n)))
    before = store.rows("generations").sort_by("generation_id").drop_columns(["part", "row"])
    assert join_small(store, many=10) == 12
    assert len(store.parts("generations")) == 1
    after = Store(store.root).rows("generations").sort_by("generation_id").drop_columns(["part", "row"])
    assert after.equals(before)
    assert join_small(store, many=10) == 0


def test_joining_changes_no_row_that_was_there_twice(store):
    """Of two rows with one id the first by part name is the row, and stays it, whichever parts are joined."""
    for texts_ in (("1", "2"), ("1", "3"), ("1", "4"), ("1",)):
        rows = generations(*texts_)
        mark = pa.array([f"{text} of {'-'.join(texts_)}" for text in texts_])
        store.write_part("generations", rows.set_column(rows.schema.get_field_index("raw_text"), "raw_text", mark))
    before = {row["generation_id"]: row["raw_text"] for row in store.rows("generations").to_pylist()}
    parts = store.parts("generations")
    for size in (2, 3, 4):
        copy = Store(f"{store.root}-{size}")
        for part in parts:
            copy.copy_from(store, f"store/generations/{part}")
        kept = upkeep._first_rows("generations", copy.ids_by_part("generations"))
        upkeep._rewrite(copy, "generations", {part: kept[part] for part in parts[-size:]})
        after = {row["generation_id"]: row["raw_text"] for row in Store(copy.root).rows("generations").to_pylist()}
        assert after == before


def test_a_reader_whose_parts_are_joined_while_it_reads_starts_again(store, monkeypatch):
    for n in range(5):
        store.write_part("generations", generations(str(n)))
    reader, joined = Store(store.root), []
    read = Store.read_part

    def meanwhile(self, table, part, columns=None):
        if self is reader and not joined:
            joined.append(True)
            join_small(store, many=1)
        return read(self, table, part, columns)

    monkeypatch.setattr(Store, "read_part", meanwhile)
    assert texts(reader) == list("01234")
    assert all(part.startswith(JOINED) for part in store.parts("generations"))


def test_content_is_fetched_from_parts_of_any_row_group_size(store):
    names = [str(n) for n in range(ROW_GROUP_WITHOUT_IMAGES + 10)]
    store.write_part("generations", generations(*names))
    rows = {row["generation_id"]: row for row in store.rows("generations", ["generation_id"]).to_pylist()}
    places = [rows[digest(name)] for name in (names[-1], names[0], names[-1])]
    found = store.fetch("generations", [p["part"] for p in places], [p["row"] for p in places], ["text"])
    assert found["text"].to_pylist() == [names[-1], names[0], names[-1]]


# ---- merging -----------------------------------------------------------------------------------------------------


def test_two_runs_become_one_in_which_a_build_makes_only_what_neither_has(store, tmp_path):
    other, both = Store(tmp_path / "other"), Store(tmp_path / "both")
    build(store, {"a": ["1", "2"]})
    build(other, {"a": ["2", "3"]})
    done = merge(store, other, both)
    assert (done.copied, done.there) == (3, 1)
    assert texts(both) == ["1", "2", "3"]
    assert texts(store) == ["1", "2"]
    assert merge(store, other, both).copied == 0
    with pytest.raises(UpkeepError, match="known only after a finished build"):
        unused(both)


def test_a_run_is_merged_into_the_first_and_the_second_stays(store, tmp_path):
    other = Store(tmp_path / "other")
    build(store, {"a": ["1"]})
    build(other, {"a": ["2"]})
    merge(store, other, store)
    assert (texts(Store(store.root)), texts(other)) == (["1", "2"], ["2"])


def test_runs_that_resolved_a_model_differently_are_not_merged_and_it_is_named(store, tmp_path):
    other = Store(tmp_path / "other")
    for each, commit in ((store, "c1"), (other, "c2")):
        build(each, {"a": ["1"]})
        each.write_json("lock.json", {"o/m@main": commit, "/models/x": {"stamp": digest(commit), "weights": "0" * 32}})
    with pytest.raises(UpkeepError, match=r"(?s)o/m@main: c1 and c2 \(in .*other\)") as caught:
        merge(store, other, Store(tmp_path / "both"))
    assert "/models/x" not in str(caught.value)
    assert not (tmp_path / "both").exists()


def test_what_is_no_run_is_not_merged(store, tmp_path):
    build(store, {"a": ["1"]})
    with pytest.raises(UpkeepError, match="nothing is not a run directory"):
        merge(store, Store(tmp_path / "nothing"), store)
    with pytest.raises(UpkeepError, match="cannot be merged into itself"):
        merge(store, store, Store(tmp_path / "both"))


def test_a_run_that_is_being_built_is_neither_merged_nor_pruned(store, tmp_path):
    other = Store(tmp_path / "other")
    for each in (store, other):
        build(each, {"a": ["1"]})
    with hold(other, "build"), pytest.raises(LockError, match="other is in use by `cyclepref build`"):
        merge(store, other, Store(tmp_path / "both"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/run", "carries credentials"),
        ("s3://bucket", "names no folder"),
        ("s3://bucket/run?acess_key=1", "acess_key: not an option of a run directory's address; choose from endpoint"),
        ("ftp2://bucket/run", "cannot open ftp2://bucket/run"),
    ],
)
def test_an_address_that_cannot_be_a_run_directory_is_one_clear_error(address, message):
    with pytest.raises(StoreError, match=message) as caught:
        Store(address)
    assert "secret" not in json.dumps(str(caught.value))


def test_account_of_a_stage_still_refuses_rows_that_are_neither_done_nor_failed(store):
    rows = pa.table({"generation_id": [digest("1")], "model": ["a"]})
    with pytest.raises(BuildError, match="1 of 1 rows are neither done nor failed"):
        Accountant(store, 0.5).run(Work("candidates", "generations", "generation_id", rows), lambda todo: [])
