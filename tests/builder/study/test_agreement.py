import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.study.agreement import agreement, by_margin_quartile, gain, upper_half


def pairs(*rows: tuple[str, str, float]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    chosen, rejected, margin = columns
    return pa.table(
        {
            "input_id": pa.array([f"input {n // 2}" for n in range(len(rows))], pa.string()),
            "pair_id": pa.array([f"{n:03}" for n in range(len(rows))], pa.string()),
            "chosen_id": pa.array(chosen, pa.string()),
            "rejected_id": pa.array(rejected, pa.string()),
            "margin": pa.array(margin, pa.float64()),
        }
    )


TRUTH = {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0}


def test_agreement_is_the_share_of_pairs_ordered_as_the_truth_does_without_ties_of_the_truth():
    found = agreement(pairs(("a", "b", 1), ("d", "c", 1), ("b", "c", 1), ("a", "d", 1)), TRUTH)
    assert (found.share, found.pairs) == (pytest.approx(2 / 3), 3)


def test_another_judge_is_held_against_the_same_truth_and_its_ties_count_half():
    judge = {"a": 0.0, "b": 1.0, "c": 1.0, "d": 0.0}
    found = agreement(pairs(("a", "b", 1), ("c", "d", 1), ("a", "d", 1)), TRUTH, judge.__getitem__)
    assert found.share == pytest.approx((0 + 1 + 0.5) / 3)


def test_without_pairs_there_is_no_share():
    assert agreement(pairs(), TRUTH).share is None


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.floats(0, 1)), max_size=30))
def test_quartiles_share_out_every_informative_pair_once(rows):
    quarters = by_margin_quartile(pairs(*rows), TRUTH)
    whole = agreement(pairs(*rows), TRUTH)
    assert sum(quarter.pairs for quarter in quarters) == whole.pairs
    assert max(q.pairs for q in quarters) - min(q.pairs for q in quarters) <= 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.floats(0, 1)), max_size=30))
def test_the_upper_half_is_the_two_upper_quartiles(rows):
    third, fourth = by_margin_quartile(pairs(*rows), TRUTH)[2:]
    half = upper_half(pairs(*rows), TRUTH)
    assert half.pairs == third.pairs + fourth.pairs
    if half.pairs:
        assert 0 <= half.share <= 1


def test_a_judge_that_is_always_right_gains_what_the_chosen_side_misses():
    rows = [("a", "d", 1.0), ("d", "a", 1.0)] * 20 + [("b", "c", 1.0)] * 10
    found = gain(pairs(*rows), TRUTH, TRUTH.__getitem__)
    assert (found.gain, found.pairs, found.inputs) == (0.5, 40, 20)
    # Each input holds one right and one wrong pair, so every draw of inputs gains the same.
    assert found.low == found.high == 0.5


def test_the_interval_of_a_gain_covers_nothing_gained_where_the_judges_agree():
    found = gain(pairs(("a", "d", 1), ("b", "d", 1), ("c", "d", 1)), TRUTH, TRUTH.__getitem__)
    assert (found.gain, found.low, found.high) == (0, 0, 0)


def test_pairs_of_one_input_count_as_one_draw_and_not_as_independent_evidence():
    spread = [("d", "a", 1.0), ("a", "d", 1.0)] * 50  # within inputs: the gain is the same in every draw
    apart = [("d", "a", 1.0)] * 50 + [("a", "d", 1.0)] * 50  # between inputs
    narrow, wide = (gain(pairs(*rows), TRUTH, TRUTH.__getitem__) for rows in (spread, apart))
    assert narrow.gain == wide.gain == 0.5
    assert wide.high - wide.low > narrow.high - narrow.low == 0


def test_without_pairs_nothing_is_gained_or_lost():
    assert gain(pairs(), TRUTH, TRUTH.__getitem__).gain is None
