import os
import pickle

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclepref.builder.run.ids import IdSet, pack
from cyclepref.builder.run.store import Store, StoreError, first_of_each, without
from cyclepref.schemas import records


def failures(*ids: str) -> pa.Table:
    return pa.Table.from_pylist([{"id": id_, "stage": "s"} for id_ in ids], schema=records.FAILURE)


def inputs(*ids: str) -> pa.Table:
    rows = [{"input_id": id_, "modality": "image", "image": f"bytes of {id_}".encode()} for id_ in ids]
    return pa.Table.from_pylist(rows, schema=records.INPUT)


def test_what_is_written_is_read_back_without_its_bytes(tmp_path):
    store = Store(tmp_path)
    store.write_part("inputs", inputs("a", "b"))
    rows = store.rows("inputs")
    assert rows["input_id"].to_pylist() == ["a", "b"]
    assert "image" not in rows.column_names


def test_bytes_are_fetched_by_place_in_the_order_asked_for(tmp_path):
    store = Store(tmp_path)
    names = [f"{n:03}" for n in range(150)]
    store.write_part("inputs", inputs(*names))
    store.write_part("inputs", inputs("other"))
    places = {row["input_id"]: row for row in store.rows("inputs", ["input_id"]).to_pylist()}
    wanted = ["149", "other", "003", "003", "070"]
    found = store.fetch(
        "inputs", [places[w]["part"] for w in wanted], [places[w]["row"] for w in wanted], columns=["image"]
    )
    assert found["image"].to_pylist() == [f"bytes of {w}".encode() for w in wanted]


def test_writing_the_same_rows_twice_leaves_one_part(tmp_path):
    store = Store(tmp_path)
    for _ in range(2):
        store.write_part("failures", failures("a", "b"))
    assert len(store.parts("failures")) == 1


def test_an_id_in_two_parts_is_read_once_from_the_first_by_name(tmp_path):
    store = Store(tmp_path)
    store.write_part("failures", failures("a", "b"))
    store.write_part("failures", failures("b", "c"))
    rows = store.rows("failures", ["id"])
    assert sorted(rows["id"].to_pylist()) == ["a", "b", "c"]
    [part] = {row["part"] for row in rows.to_pylist() if row["id"] == "b"}
    assert part == store.parts("failures")[0]


def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def die(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="No space left"):
        store.write_part("failures", failures("a"))
    assert store.parts("failures") == []
    assert list((tmp_path / "store" / "failures").iterdir()) == []


def test_leftovers_of_a_killed_writer_are_not_parts(tmp_path):
    store = Store(tmp_path)
    store.write_part("failures", failures("a"))
    (tmp_path / "store" / "failures" / ".tmp-123").write_bytes(b"half a part")
    assert len(store.parts("failures")) == 1


def test_an_output_directory_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(StoreError, match="is a file: --out must name a folder"):
        Store(path)


def test_a_view_that_is_not_there_yet_says_what_makes_it(tmp_path):
    with pytest.raises(StoreError, match="has no pairs yet: run `cyclepref build"):
        Store(tmp_path).read_view("pairs")


def test_a_store_can_be_sent_to_a_worker(tmp_path):
    store = Store(tmp_path)
    store.write_part("failures", failures("a"))
    assert pickle.loads(pickle.dumps(store)).rows("failures")["id"].to_pylist() == ["a"]


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdef")), st.lists(st.sampled_from("abcdef")))
def test_without_is_a_subtraction_of_ids(wanted, present):
    table = pa.table({"id": pa.array(wanted, pa.string())})
    left = without(table, "id", IdSet.of([pack(pa.array(present, pa.string()))]))
    assert left["id"].to_pylist() == [id_ for id_ in wanted if id_ not in present]


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdef")))
def test_first_of_each_keeps_the_first_row_of_every_key_in_order(keys):
    table = pa.table({"id": pa.array(keys, pa.string()), "at": range(len(keys))})
    assert first_of_each(table, "id")["at"].to_pylist() == sorted({key: keys.index(key) for key in keys}.values())


def test_a_view_without_rows_is_read_as_it_was_written(tmp_path):
    store = Store(tmp_path)
    store.write_view("pairs", records.PAIR.empty_table())
    assert store.read_view("pairs").equals(records.PAIR.empty_table())
