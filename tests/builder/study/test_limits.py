"""The pairs on which parts of a cycle are judged, and what a judge's agreement is on them."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_run import make_run

from cyclepref.builder.run.store import Store
from cyclepref.builder.study import limits
from cyclepref.builder.study.method import Finished
from cyclepref.schemas.recipe import parse_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Finished:
    """A run whose truth is made up: a number for each candidate, by its place among all."""
    store = Store(make_run(tmp_path_factory.mktemp("run"), "t2i2t", inputs=12))
    recipe = parse_recipe(store.read_json("run.json")["recipe"], where="made")
    pairs = store.read_view("pairs")
    truth = {id_: i / 100 for i, id_ in enumerate(store.read_view("candidates")["generation_id"].to_pylist())}
    return Finished(recipe, store, pairs, pairs, truth, {})


def test_the_sets_within_a_model_have_pairs_of_one_model_alone(run):
    sets = limits.pair_sets(run)
    assert tuple(sets) == limits.SETS
    rows = run.store.read_view("candidates").to_pylist()
    model = {row["generation_id"]: row["model"] for row in rows}
    for row in sets["same model"].to_pylist():
        assert set(row["chosen_models"]) & set(row["rejected_models"])
    made = Counter((row["input_id"], row["model"]) for row in rows if row["status"] == "ok")
    two = sets["every two of a model"].to_pylist()
    assert all(model[row["chosen_id"]] == model[row["rejected_id"]] for row in two)
    assert 0 < len(two) <= sum(count * (count - 1) // 2 for count in made.values())
    assert sets["same model"].num_rows <= len(two)


def test_the_truth_as_a_judge_is_always_right_and_its_interval_has_no_width(run):
    for pairs in limits.pair_sets(run).values():
        found = limits.judged(pairs, run.truth, run.truth)
        assert (found["share"], found["low"], found["high"]) == (1, 1, 1)


def test_pairs_with_a_candidate_that_a_judge_did_not_score_are_left_out(run):
    two = limits.pair_sets(run)["every two of a model"]
    kept = two["chosen_id"][0].as_py(), two["rejected_id"][0].as_py()
    found = limits.judged(two, run.truth, {id_: -run.truth[id_] for id_ in kept})
    assert (found["share"], found["pairs"]) == (0, 1)
    assert limits.judged(two, run.truth, {})["share"] is None


def test_a_row_of_the_table_says_share_interval_and_pairs():
    cell = {"share": 0.6, "low": 0.5, "high": 0.7, "pairs": 1200}
    lines = limits.table("t2i2t", {"metric: count attributes": dict.fromkeys(limits.SETS, cell)})
    assert lines[-1] == "| metric: count attributes | " + " | ".join(["60.0% (50.0 to 70.0) of 1,200"] * 3) + " |"
