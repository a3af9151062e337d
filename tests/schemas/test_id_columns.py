"""Ids of whole columns are those of each row alone."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.schemas.id_columns import digests, generation_ids, hex_of, pair_digests, sample_seeds, similarity_ids
from cyclepref.schemas.ids import digest, generation_id, pair_id, sample_seed, similarity_id

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
seeds = st.none() | st.integers(0, 2**63 - 1)


@given(st.lists(st.tuples(ids | texts, ids, seeds), min_size=1, max_size=8), texts)
def test_ids_of_columns_are_those_of_each_row(rows, shared):
    first, second, numbers = (pa.array(column) for column in zip(*rows, strict=True))
    numbers = numbers.cast(pa.int64())
    assert generation_ids(first, shared, numbers).to_pylist() == [generation_id(a, shared, n) for a, _, n in rows]
    assert generation_ids(first, shared, None).to_pylist() == [generation_id(a, shared, None) for a, *_ in rows]
    assert similarity_ids(first, second, shared).to_pylist() == [similarity_id(a, b, shared) for a, b, _ in rows]
    assert hex_of(pair_digests(first, second, shared)).to_pylist() == [pair_id(a, b, shared) for a, b, _ in rows]
    assert hex_of(digests(shared, first, 7, second)).to_pylist() == [digest(shared, a, 7, b) for a, b, _ in rows]


@given(st.lists(st.tuples(ids | texts, st.integers(0, 10**12)), min_size=1, max_size=8), st.integers(0, 2**64))
def test_seeds_of_columns_are_those_of_each_row(rows, recipe_seed):
    inputs, indices = zip(*rows, strict=True)
    made = sample_seeds(recipe_seed, pa.array(inputs), np.array(indices), "backward")
    assert made.tolist() == [sample_seed(recipe_seed, *row, "backward") for row in rows]


def test_slices_of_a_column_are_hashed_as_what_they_show():
    column = pa.array([digest(at) for at in range(6)])
    assert generation_ids(column[2:4], "f", None).to_pylist() == [generation_id(digest(at), "f", None) for at in (2, 3)]


def test_no_rows_have_no_ids():
    assert len(generation_ids(pa.array([], pa.string()), "f", None)) == 0
