"""Which model, or which candidate: pairs within a model, upsets, and the judge that knows the models' means alone."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.pairing.pair import Direction
from cyclepref.builder.study.agreement import agreement, estimate, tied
from cyclepref.builder.study.by_model import estimates, gain_of_means, model_means, of_model, upsets, within

# Truth of the candidates of one input, and who made each: "b" was made by both models.
TRUTH = {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0, "e": 0.2}
MAKERS = {"a": ["strong"], "b": ["strong", "weak"], "c": ["weak"], "d": ["weak"], "e": ["strong"]}
MEANS = {"strong": 0.8, "weak": 0.4}


def pairs(*rows: str) -> pa.Table:
    """Pairs of an input each, two letters a pair: the chosen candidate, then the rejected one."""
    return pa.table(
        {
            "input_id": pa.array([f"input {n}" for n in range(len(rows))], pa.string()),
            "chosen_id": pa.array([row[0] for row in rows], pa.string()),
            "rejected_id": pa.array([row[1] for row in rows], pa.string()),
            "chosen_models": pa.array([MAKERS[row[0]] for row in rows], pa.list_(pa.string())),
            "rejected_models": pa.array([MAKERS[row[1]] for row in rows], pa.list_(pa.string())),
        }
    )


def ids(table: pa.Table) -> list[str]:
    return [a + b for a, b in zip(table["chosen_id"].to_pylist(), table["rejected_id"].to_pylist(), strict=True)]


ALL = pairs("ab", "ac", "ad", "ae", "bc", "bd", "dc", "ce", "ed")


@pytest.mark.parametrize(("higher", "sign"), [(True, 1), (False, -1)])
def test_the_mean_of_a_model_is_that_of_its_scored_candidates_the_higher_the_better(higher, sign):
    candidates = pa.table({"generation_id": ["a", "b", "c", "d"], "model": ["m", "m", "n", "n"]})
    scores = pa.table({"generation_id": ["d", "a", "b"], "value": [5.0, 1.0, 2.0]})
    assert model_means(candidates, scores, Direction("x", "", higher)) == {"m": sign * 1.5, "n": sign * 5.0}


def test_a_candidate_that_two_models_made_stands_between_their_means():
    assert of_model(ALL, MEANS) == pytest.approx({"a": 0.8, "b": 0.6, "c": 0.4, "d": 0.4, "e": 0.8})


def test_a_pair_is_within_a_model_if_some_model_made_both():
    assert ids(within(ALL)) == ["ab", "ae", "bc", "bd", "dc"]


def test_upsets_are_the_pairs_whose_better_candidate_is_of_the_model_with_the_lower_mean():
    assert ids(upsets(ALL, TRUTH, of_model(ALL, MEANS))) == ["ce"]


def test_the_estimates_by_hand():
    found = estimates(ALL, pairs("ab", "cd", "ca"), TRUTH, MEANS)
    # Within a model, of unequal truth: ab, ae, bd right and dc wrong.
    assert (found["same_model"].share, found["same_model"].pairs) == (0.75, 4)
    assert (found["same_model_every_two"].share, found["same_model_every_two"].pairs) == (1.0, 2)
    assert (found["upsets"].share, found["upsets"].pairs) == (1.0, 1)
    # By the means: ab ac ad bd ed right, ae and dc are ties, ce is an upset; bc has equal truth.
    assert (found["model_mean_baseline"].share, found["model_mean_baseline"].pairs) == (pytest.approx(6 / 8), 8)
    assert gain_of_means(ALL, TRUTH, MEANS).gain == pytest.approx(6 / 8 - 7 / 8)


def test_the_share_of_ties_is_of_all_pairs_and_with_the_others_it_makes_all():
    found = tied(ALL, TRUTH)
    assert (found.share, found.pairs) == (pytest.approx(1 / 9), 9)
    assert agreement(ALL, TRUTH).pairs == 8
    assert tied(pairs(), TRUTH).share is None


def test_an_estimate_has_the_interval_of_a_bootstrap_by_input():
    found = estimate(pairs(*["ad", "da"] * 50), TRUTH)
    assert (found.share, found.pairs) == (0.5, 100)
    # A hundred inputs with one pair each: a half, and 1.96 standard errors of 0.05.
    assert (found.low, found.high) == (pytest.approx(0.4, abs=0.01), pytest.approx(0.6, abs=0.01))
    assert estimate(pairs(), TRUTH).low is None


@given(st.lists(st.sampled_from(["ab", "ac", "ad", "ae", "bc", "bd", "dc", "ce", "ed", "ec"]), min_size=1, max_size=9))
def test_the_judge_by_means_is_wrong_of_exactly_the_upsets_and_level_within_a_model_that_made_both_alone(rows):
    table = pairs(*rows)
    mean = of_model(table, MEANS)
    judged = agreement(table, TRUTH, mean.__getitem__)
    informative = [row for row in rows if TRUTH[row[0]] != TRUTH[row[1]]]
    level = sum(mean[a] == mean[b] for a, b in informative)
    if informative:
        wrong = upsets(table, TRUTH, mean).num_rows
        assert judged.share * judged.pairs == pytest.approx(len(informative) - wrong - level / 2)
