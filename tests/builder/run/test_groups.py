"""Near-duplicates share a split, and no input ever moves, whatever is added in whatever order."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclepref.builder.common.near_duplicates import text_signature
from cyclepref.builder.dataset.grouping import group
from cyclepref.builder.dataset.views import split_of
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.groups import Groups, merge_groups, read_groups, write_groups
from cyclepref.builder.run.store import Store
from cyclepref.schemas import records
from cyclepref.schemas.ids import text_id
from cyclepref.schemas.recipe import Splits

BASE = "a long prompt of a medieval castle on a hill at sunset, with dragons and a river, digital art number "
PROMPTS = [f"{BASE}{at}" for at in range(12)] + [f"{word} red fox" for word in ("one", "another", "an old", "no")]
SPLITS = Splits(train=0.4, validation=0.3, test=0.3)


def signatures(texts) -> dict[str, bytes]:
    return {text_id(text): text_signature(text) for text in texts}


def stored(place, texts) -> tuple[Store, pa.Table]:
    store = Store(place)
    rows = [{"input_id": text_id(text), "modality": "text", "text": text} for text in texts]
    store.write_part("inputs", pa.Table.from_pylist(rows, schema=records.INPUT))
    return store, pa.table({"input_id": [row["input_id"] for row in rows]})


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(PROMPTS), max_size=6), max_size=5))
def test_adding_inputs_never_moves_one(batches):
    groups = Groups(largest=4)
    for batch in batches:
        before = dict(groups.of)
        groups.add(signatures(batch))
        assert before.items() <= groups.of.items()
        assert Groups(groups.table().to_pylist(), largest=4).of == groups.of


def test_near_duplicates_share_a_group_and_so_a_split():
    groups = Groups()
    groups.add(signatures(PROMPTS))
    of = {text: groups.of[text_id(text)] for text in PROMPTS}
    assert len({of[text] for text in PROMPTS[:10]}) == 1
    assert all(of[text] == text_id(text) for text in PROMPTS[12:])
    assert len({split_of(of[text], SPLITS) for text in PROMPTS[:10]}) == 1


def test_the_order_in_which_inputs_are_given_does_not_matter():
    first, second = Groups(largest=5), Groups(largest=5)
    first.add(signatures(PROMPTS))
    second.add(signatures(PROMPTS[::-1]))
    assert first.of == second.of


def test_a_group_takes_no_more_than_it_may():
    groups = Groups(largest=3)
    groups.add(signatures(PROMPTS[:10]))
    sizes = [list(groups.of.values()).count(name) for name in set(groups.of.values())]
    assert max(sizes) == 3
    assert sum(sizes) == 10


def test_an_input_between_two_groups_joins_the_nearer_and_they_stay_two():
    near, far, between = (bytes([0] * 6 + [0, bits]) for bits in (0b1, 0b11111, 0b111))
    groups = Groups()
    groups.add({"1": near})
    groups.add({"0": far, "2": bytes(8)})
    assert groups.of["0"] == "1"  # four bits apart
    split = Groups(
        [{"input_id": "a", "group": "a", "signature": near}, {"input_id": "b", "group": "b", "signature": far}]
    )
    split.add({"c": between[:7] + bytes([0b1111])})
    assert split.of == {"a": "a", "b": "b", "c": "b"}


def test_groups_are_recorded_and_only_new_inputs_are_read(tmp_path):
    store, inputs = stored(tmp_path, PROMPTS)
    first = group(inputs.slice(0, 6), "text", 50, store, engine=None)
    record = {row["input_id"]: row["group"] for row in read_groups(store)}
    assert record == first
    again = group(inputs, "text", 50, store, engine=None)
    assert first.items() <= again.items()
    before = (tmp_path / "groups.parquet").stat().st_mtime_ns
    assert group(inputs, "text", 50, store, engine=None) == again
    assert (tmp_path / "groups.parquet").stat().st_mtime_ns == before


def test_a_broken_record_or_one_of_another_version_stops_rather_than_moves_inputs(tmp_path):
    store, inputs = stored(tmp_path, PROMPTS)
    store.write_file("groups.parquet", lambda sink: sink.write(b"no parquet"))
    with pytest.raises(StoreError, match=r"cannot read .*groups\.parquet.*restore it, or inputs might move"):
        group(inputs, "text", 50, store, engine=None)
    write_groups(store, Groups())
    table = Groups().table().replace_schema_metadata({"likeness": "0"})
    import pyarrow.parquet as pq

    pq.write_table(table, tmp_path / "groups.parquet")
    with pytest.raises(StoreError, match="recorded with likeness 0"):
        group(inputs, "text", 50, store, engine=None)


def test_a_merged_run_keeps_the_groups_of_both(tmp_path):
    (one, first), (two, second) = stored(tmp_path / "one", PROMPTS[:8]), stored(tmp_path / "two", PROMPTS[4:])
    recorded = [group(rows, "text", 50, store, engine=None) for store, rows in ((one, first), (two, second))]
    merge_groups([two], one)
    merged = {row["input_id"]: row["group"] for row in read_groups(one)}
    assert merged == {**recorded[1], **recorded[0]}
