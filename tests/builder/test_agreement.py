import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.agreement import agreement, by_margin_quartile


def pairs(*rows: tuple[str, str, float]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    chosen, rejected, margin = columns
    return pa.table(
        {
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
