"""A run directory as people operate it: pruning, merging, joining parts, and being killed meanwhile."""

import json

import pyarrow as pa
import pytest
from instant_builds import build, generations

from cyclepref.builder.run import upkeep
from cyclepref.builder.run.lock import LockError, hold
from cyclepref.builder.run.store import JOINED, ROW_GROUP_WITHOUT_IMAGES, Store, StoreError
from cyclepref.builder.run.upkeep import UpkeepError, join_small, merge, prune, unused
from cyclepref.builder.stages.accounting import Accountant, BuildError, Work
from cyclepref.schemas.ids import digest


class Killed(BaseException):
    """Stands for a kill: nothing catches it, and nothing after it is done."""


def texts(store: Store) -> list[str]:
    return sorted(store.rows("generations")["text"].to_pylist())


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "run")


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
