"""Best of n against every draw, calibration against its formula, intervals that depend on no order."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.reward.evaluation.best_of import ORACLE, curves, expected_best
from cyclepref.builder.reward.evaluation.bootstrap import intervals
from cyclepref.builder.reward.evaluation.calibration import calibration
from cyclepref.builder.reward.evaluation.measures import by_models, by_quartile, right
from cyclepref.builder.reward.evaluation.plot import round_values


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=7).flatmap(
        lambda rows: st.tuples(st.just(rows), st.integers(1, len(rows)))
    )
)
def test_best_of_n_is_the_mean_over_all_draws(case):
    rows, n = case
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    picked = []
    for draw in map(list, combinations(range(len(rows)), n)):
        best = scores[draw] == scores[draw].max()
        picked.append(truth[draw][best].mean())  # equal scores: equal chances
    assert expected_best(truth, scores, n) == pytest.approx(np.mean(picked))


def test_best_of_n_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="between 1 and the 2 candidates, got 3"):
        expected_best(np.ones(2), np.ones(2), 3)


def test_curves_rise_to_the_oracle_and_all_points_are_of_the_same_inputs():
    rng = np.random.default_rng(0)
    groups = []
    for owner in range(30):
        truth = rng.random(16 if owner < 20 else 5)
        groups.append((owner, truth, {"good": truth + 0.1 * rng.random(len(truth)), "random": rng.random(len(truth))}))
    found = curves(groups)
    assert (found["inputs"], found["of"]) == (20, 30)
    lines = {name: [point["score"] for point in points] for name, points in found["curves"].items()}
    assert [point["n"] for point in found["curves"]["good"]] == [1, 2, 4, 8, 16]
    assert all(line[0] == pytest.approx(found["mean"]) for line in lines.values())
    assert lines[ORACLE] == sorted(lines[ORACLE])
    assert lines["random"][-1] < lines["good"][-1] <= lines[ORACLE][-1]


def test_curves_need_two_candidates():
    assert curves([]) is None
    assert curves([(0, np.ones(1), {"reward": np.ones(1)})]) is None


def test_calibration_is_the_gap_between_confidence_and_accuracy():
    odds = np.log(0.8 / 0.2)
    found = calibration(np.array([odds] * 6 + [-odds] * 4))
    [only] = found["bins"]
    assert (only["accuracy"], only["pairs"]) == (0.6, 10)
    assert only["confidence"] == pytest.approx(0.8)
    assert found["error"] == pytest.approx(0.2)
    assert found["overconfidence"] == pytest.approx(0.2)


def test_a_reward_whose_differences_are_log_odds_is_calibrated():
    rng = np.random.default_rng(0)
    odds = np.abs(rng.normal(0, 2, 20_000))
    sign = np.where(rng.random(len(odds)) < 1 / (1 + np.exp(-odds)), 1, -1)
    assert calibration(sign * odds)["error"] < 0.02


def test_huge_differences_are_certain_and_no_overflow():
    assert calibration(np.array([1e4, 1e300]))["error"] == 0


def test_intervals_cover_the_mean_and_forget_the_order_of_pairs():
    rng = np.random.default_rng(1)
    owner, values = rng.integers(0, 40, 300), rng.random(300)
    order = rng.permutation(300)
    low, high = intervals({"a": values}, owner)["a"]
    assert low < values.mean() < high
    assert intervals({"b": -values[order], "a": values[order]}, owner[order])["a"] == pytest.approx((low, high))


def test_intervals_draw_inputs_and_not_pairs():
    values = np.repeat(np.random.default_rng(2).random(20), 50)  # the pairs of an input say the same
    low, high = intervals({"a": values}, np.repeat(np.arange(20), 50))["a"]
    alone_low, alone_high = intervals({"a": values}, np.arange(1000))["a"]
    assert high - low > 3 * (alone_high - alone_low)


def test_equal_scores_count_half():
    assert right(np.array([0.1, 0.0, -0.1])).tolist() == [1, 0.5, 0]


def test_one_input_has_no_interval():
    assert intervals({"a": np.array([1.0, 0.0, 1.0])}, np.zeros(3, int)) == {"a": (None, None)}


def test_quarters_keep_equal_values_together_and_leave_out_what_is_unknown():
    values = np.array([1.0] * 5 + [2.0, 3.0, 4.0, np.nan])
    rows = by_quartile(values, np.ones(9))
    assert sum(row["pairs"] for row in rows) == 8
    assert (rows[0]["from"], rows[0]["to"], rows[0]["pairs"]) == (1, 1, 5)
    assert by_quartile(np.full(3, np.nan), np.ones(3)) == by_quartile(np.ones(3), np.ones(3)) == []


def test_two_models_are_one_pair_whichever_won():
    rows = by_models([("b", "a"), ("a", "b"), ("", "a")], np.array([1, 0, 1]))
    assert rows == [{"models": ["a", "b"], "accuracy": 0.5, "pairs": 2}]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.4, 1), (-2.4, -0.6), (0.868, 0.986), (-1e-9, 1e9)])
def test_ticks_are_few_round_and_inside(low, high):
    values = round_values(low, high)
    assert 2 <= len(values) <= 7
    assert low - 1e-9 * abs(high) <= values[0]
    assert values[-1] <= high * (1 + 1e-9) or high < 0
