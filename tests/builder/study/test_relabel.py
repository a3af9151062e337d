"""Other pairs of a run: the truth's, and those without a family of models; the dataset of them opens as any other."""

import sys
from pathlib import Path

import datasets
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_run import make_run

from cyclepref.builder.preferences.load import load_pairs
from cyclepref.builder.run.store import Store
from cyclepref.builder.study.method import Finished
from cyclepref.builder.study.relabel import of_family, true_pairs, write_pairs
from cyclepref.schemas.recipe import parse_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose truth is made up: the candidates of "weak" are the best, and all others are alike."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    store = Store(make_run(tmp_path_factory.mktemp("run"), "t2i2t", inputs=12))
    recipe = parse_recipe(store.read_json("run.json")["recipe"], where="made")
    candidates = store.read_view("candidates").to_pylist()
    truth = {row["generation_id"]: float(row["model"] == "weak") for row in candidates}
    pairs = store.read_view("pairs")
    yield Finished(recipe, store, pairs, pairs, truth, {})
    datasets.config.HF_DATASETS_CACHE = before


def test_the_truth_turns_pairs_round_and_leaves_out_its_ties(run):
    rows = true_pairs(run).to_pylist()
    assert rows
    assert all(row["chosen_model"] == "weak" != row["rejected_model"] for row in rows)
    assert all((row["margin"], row["chosen_score"], row["rejected_score"]) == (1, 1, 0) for row in rows)
    untied = [row for row in run.pairs.to_pylist() if run.truth[row["chosen_id"]] != run.truth[row["rejected_id"]]]
    assert [row["pair_id"] for row in rows] == [row["pair_id"] for row in untied]


def test_a_family_is_in_both_one_or_no_side_of_a_pair(run):
    parts = [of_family(run.pairs, "strong", sides) for sides in (0, 1, 2)]
    assert sum(part.num_rows for part in parts) == run.pairs.num_rows
    assert "strong" not in parts[0]["chosen_model"].to_pylist() + parts[0]["rejected_model"].to_pylist()
    assert set(parts[2]["chosen_model"].to_pylist()) <= {"strong"}


def test_a_dataset_of_other_pairs_keeps_inputs_splits_and_images(run, tmp_path):
    folder = write_pairs(run, true_pairs(run), tmp_path / "oracle")
    ours = {row["pair_id"]: row for row in load_pairs(folder)}
    theirs = load_pairs(run.store.root)
    assert 0 < len(ours) < len(theirs)
    for row in theirs:
        if row["pair_id"] in ours:
            other = ours[row["pair_id"]]
            assert other["prompt"] == row["prompt"]
            assert {other["chosen"].tobytes(), other["rejected"].tobytes()} == {
                row["chosen"].tobytes(), row["rejected"].tobytes(),
            }  # fmt: skip
