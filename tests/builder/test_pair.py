"""Invariants 2 and 3: order changes no pair, and chosen is never worse than rejected, whatever the direction."""

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.pair import Direction, pair
from schemas import records
from schemas.recipe import Pairing

HIGHER, LOWER = Direction("up", "f", True), Direction("down", "f", False)


def candidate(id_: str, input_: str, text: str, value: float, model: str = "m") -> dict:
    return {"generation_id": id_, "input_id": input_, "text": text, "value": value, "model": model}


def tables(rows: list[dict]) -> tuple[pa.Table, pa.Table]:
    candidates = [{**row, "content_id": row["text"], "status": "ok"} for row in rows]
    scores = [{**row, "n": 1, "spread": 0.0} for row in rows]
    pick = lambda wanted, schema: [{name: row.get(name) for name in schema.names} for row in wanted]  # noqa: E731
    return (
        pa.Table.from_pylist(pick(candidates, records.CANDIDATE), schema=records.CANDIDATE),
        pa.Table.from_pylist(pick(scores, records.SCORE), schema=records.SCORE),
    )


def rule(min_margin: float = 0.0, poor_chosen: float | None = None) -> Pairing:
    return Pairing(min_margin=min_margin, poor_chosen=poor_chosen)


@st.composite
def runs(draw):
    rows = []
    for input_ in draw(st.lists(st.sampled_from("uvwxyz"), unique=True, max_size=4)):
        for at in range(draw(st.integers(1, 6))):
            text = draw(st.sampled_from(["a cat", "A cat ", "a dog", "two dogs", "a bird"]))
            value = draw(st.floats(-1, 1, allow_nan=False))
            rows.append(candidate(f"{input_}{at}", input_, text, value, draw(st.sampled_from(["m", "n", "o"]))))
    return rows


directions = st.sampled_from([HIGHER, LOWER])


@settings(max_examples=60, deadline=None)
@given(runs(), directions, st.randoms(use_true_random=False), st.floats(0, 0.5), st.none() | st.floats(-1, 1))
def test_permuting_candidates_changes_no_pair(rows, direction, rng: random.Random, margin, poor):
    shuffled = rng.sample(rows, len(rows))
    expected = pair(*tables(rows), "text", direction, rule(margin, poor))
    found = pair(*tables(shuffled), "text", direction, rule(margin, poor))
    assert found[0].equals(expected[0])
    assert found[1] == expected[1]


@settings(max_examples=60, deadline=None)
@given(runs(), directions, st.floats(0, 0.5), st.none() | st.floats(-1, 1))
def test_chosen_is_never_worse_and_every_two_candidates_are_accounted_for(rows, direction, margin, poor):
    table, count = pair(*tables(rows), "text", direction, rule(margin, poor))
    for row in table.to_pylist():
        gap = row["chosen_score"] - row["rejected_score"]
        assert (gap if direction.higher_is_better else -gap) > 0
        assert row["margin"] == pytest.approx(abs(gap), abs=1.1e-6)
        assert row["margin"] >= margin - 1e-6
        if poor is not None:
            worse = row["chosen_score"] < poor if direction.higher_is_better else row["chosen_score"] > poor
            assert not worse or abs(row["chosen_score"] - poor) < 1e-6
    sizes = [sum(row["input_id"] == input_ for row in rows) for input_ in {row["input_id"] for row in rows}]
    assert count.possible == sum(n * (n - 1) // 2 for n in sizes)
    assert count.possible == count.equal_outputs + count.too_close + count.poor_chosen + count.kept
    assert count.kept == table.num_rows


def test_turning_the_direction_swaps_chosen_and_rejected():
    rows = [candidate("1", "x", "a", 0.1), candidate("2", "x", "b", 0.9)]
    [up] = pair(*tables(rows), "text", HIGHER, rule())[0].to_pylist()
    [down] = pair(*tables(rows), "text", LOWER, rule())[0].to_pylist()
    assert (up["chosen_id"], up["rejected_id"]) == ("2", "1")
    assert (down["chosen_id"], down["rejected_id"]) == ("1", "2")


def test_equal_outputs_are_one_candidate_with_all_their_models():
    rows = [
        candidate("1", "x", "A Cat", 0.9, "big"),
        candidate("2", "x", " a cat", 0.9, "small"),
        candidate("3", "x", "a dog", 0.1, "small"),
    ]
    table, count = pair(*tables(rows), "text", HIGHER, rule())
    [row] = table.to_pylist()
    assert (row["chosen_id"], row["rejected_id"]) == ("1", "3")
    assert row["chosen_models"] == ["big", "small"]
    assert count.equal_outputs == 2


def test_candidates_of_different_inputs_are_never_paired():
    rows = [candidate("1", "x", "a", 0.1), candidate("2", "y", "b", 0.9)]
    assert pair(*tables(rows), "text", HIGHER, rule())[0].num_rows == 0


def test_noise_below_a_millionth_makes_no_pair():
    rows = [candidate("1", "x", "a", 0.5), candidate("2", "x", "b", 0.5 + 1e-9)]
    table, count = pair(*tables(rows), "text", HIGHER, rule())
    assert table.num_rows == 0
    assert count.too_close == 1


def test_a_pair_whose_better_candidate_is_poor_is_left_out():
    rows = [candidate("1", "x", "a", 0.1), candidate("2", "x", "b", 0.3), candidate("3", "x", "c", 0.5)]
    table, count = pair(*tables(rows), "text", HIGHER, rule(0.0, 0.4))
    assert {(row["chosen_id"], row["rejected_id"]) for row in table.to_pylist()} == {("3", "1"), ("3", "2")}
    assert count.poor_chosen == 1


def test_no_candidates_make_no_pairs():
    table, count = pair(*tables([]), "text", HIGHER, rule())
    assert table.num_rows == 0
    assert table.schema.equals(records.PAIR)
    assert count.possible == 0
