"""Statistics are those of the files, and the leak detectors find leaks that were put there."""

import json
from collections import Counter
from pathlib import Path

import pytest
from dataset_run import MODELS, make_run

from cyclepref.builder.dataset.charts import histograms
from cyclepref.builder.dataset.edition import release
from cyclepref.builder.dataset.reader import DatasetError, DatasetFolder
from cyclepref.builder.dataset.statistics import Tally, identity_share, near_duplicates, statistics, triangles, warnings
from cyclepref.builder.run.folder import Folder


@pytest.fixture(scope="module", params=["i2t2i", "t2i2t"])
def found(request, tmp_path_factory) -> tuple[dict, Path]:
    place = tmp_path_factory.mktemp(request.param)
    made = make_run(place, request.param)
    release(made.facts, made.views, made.accountant(), None, None)
    return statistics(DatasetFolder.of(Folder(place / "dataset"))), place


def test_counts_are_those_of_the_run(found):
    stats, _ = found
    assert (stats["inputs"], stats["candidates"], stats["pairs"]) == (20, 60, 60)
    assert sum(split["pairs"] for split in stats["splits"].values()) == 60
    assert stats["pairs_per_input"] == {"min": 3, "mean": 3.0, "median": 3.0, "max": 3, "without": 0}
    assert stats["margins"]["0"] == pytest.approx(0.2)
    assert stats["margins"]["1"] == pytest.approx(0.4)
    assert sum(stats["scores"]["sbert"]["counts"]) == 60


def test_the_stronger_model_wins_every_pair_and_that_is_a_warning(found):
    stats, _ = found
    assert stats["models"] == sorted(MODELS)
    wins = {(a, b): stats["wins"][i][j] for i, a in enumerate(stats["models"]) for j, b in enumerate(stats["models"])}
    assert wins["strong", "weak"] == wins["strong", "middle"] == wins["middle", "weak"] == 20
    assert sum(wins.values()) == 60
    assert stats["identity"]["predicts"] == 1
    assert (stats["model_mean"]["within"], stats["model_mean"]["predicts"]) == (0, 1)
    assert 0.9 < stats["model_mean"]["explains"] <= 1
    assert any("models' names alone predict 100.0%" in warning for warning in stats["warnings"])


def test_lengths_are_of_characters_or_bytes_and_a_bias_of_either_sign_is_found(found):
    stats, place = found
    if "i2t2i" in str(place):  # the weaker a model, the more it says
        assert stats["length"]["longer_chosen"] < 0.4
    assert stats["length"]["predicts"] == max(stats["length"]["longer_chosen"], 1 - stats["length"]["longer_chosen"])


def test_statistics_are_plain_json(found):
    assert json.loads(json.dumps(found[0])) == found[0]


def test_a_folder_without_a_dataset_or_with_a_file_missing_says_so(found, tmp_path):
    with pytest.raises(DatasetError, match=r"holds no dataset: there is no README\.md"):
        DatasetFolder.of(Folder(tmp_path))
    (tmp_path / "README.md").write_bytes((found[1] / "dataset" / "README.md").read_bytes())
    with pytest.raises(
        DatasetError, match=r"the card names rankings/train-.* and there is no file rankings/train-.*-00000"
    ):
        DatasetFolder.of(Folder(tmp_path))
    (tmp_path / "README.md").write_text("---\nconfigs: 3\n---\n")
    with pytest.raises(DatasetError, match="has a head that cannot be read"):
        DatasetFolder.of(Folder(tmp_path))


def candidates(*texts: str) -> list[dict]:
    return [
        {"generation_id": text, "text": text, "models": ["m"], "scores": [{"metric": "s", "value": float(len(text))}]}
        for text in texts
    ]


def pair(chosen: str, rejected: str, models=("a", "b")) -> dict:
    sides = {"chosen_id": chosen, "rejected_id": rejected}
    return {**sides, "chosen_models": [models[0]], "rejected_models": [models[1]], "metric": "s", "margin": 0.1}


def test_a_dataset_that_length_predicts_has_a_warning():
    tally = Tally()
    for at in range(10):
        long, short = f"{at} a long caption", f"{at} short"
        row = {"input_id": str(at), "candidates": candidates(long, short)}
        tally.add("train", row, [pair(long, short, ("m", "m"))])
    result = tally.result()
    assert result["length"] == {"longer_chosen": 1.0, "predicts": 1.0}
    assert any("Length alone predicts 100.0%" in warning for warning in result["warnings"])
    assert result["duplicates"]["shared_by_several_inputs"] == 0


def scored(*made: tuple[str, float]) -> dict:
    """An input with a candidate by each of `made`: names of models divided by "+", and its score."""
    rows = [
        {
            "generation_id": str(at),
            "text": f"{at}",
            "models": models.split("+"),
            "scores": [{"metric": "s", "value": v}],
        }
        for at, (models, v) in enumerate(made)
    ]
    return {"input_id": "", "candidates": rows}


def labelled(row: dict, chosen: int, rejected: int) -> dict:
    sides = {"chosen": row["candidates"][chosen], "rejected": row["candidates"][rejected]}
    ids = {f"{side}_id": of["generation_id"] for side, of in sides.items()}
    return ids | {f"{side}_models": of["models"] for side, of in sides.items()} | {"metric": "s", "margin": 1.0}


def test_what_the_models_means_predict_and_explain_is_as_by_hand():
    tally = Tally()
    first, second = scored(("a", 1), ("a", 3), ("b", 5)), scored(("a", 4), ("b", 2), ("b", 6), ("a+b", 4))
    # Lower is better: the mean of a is 3 (of 1, 3, 4, 4), that of b is 17/4 (of 5, 2, 6, 4).
    tally.add("train", first, [labelled(first, 0, 2), labelled(first, 0, 1), labelled(first, 1, 2)])
    tally.add("train", second, [labelled(second, 1, 0), labelled(second, 1, 3), labelled(second, 3, 2)])
    found = tally.result()["model_mean"]
    # 0>1 of a, and the two with the candidate of both.
    assert found["within"] == pytest.approx(3 / 6)
    # Right: 0>2, 1>2 of the first, 3>2 of the second (a and b before b). Half: 0>1. Wrong: 1>0, 1>3 of the second.
    assert found["predicts"] == pytest.approx(3.5 / 6)
    # Around the inputs' means, 3 and 4 (with the candidate of both twice): a has -2, 0, 0, 0, b has 2, -2, 2, 0.
    assert found["explains"] == pytest.approx((4 * 0.5**2 + 4 * 0.5**2) / (4 + 4 + 4 + 4))


@pytest.mark.parametrize("sign", [1, -1])
def test_where_the_models_alone_decide_their_means_predict_and_explain_everything(sign):
    tally = Tally()
    for at in range(5):
        row = scored(("a", at + 2 * sign), ("b", at))
        tally.add("train", row, [labelled(row, 0, 1)])
    assert tally.result()["model_mean"] == {"within": 0, "predicts": 1, "explains": pytest.approx(1)}


def test_the_identity_baseline_is_tried_on_inputs_that_it_has_not_seen():
    assert identity_share(Counter(), Counter()) is None
    won = Counter({(("a",), ("b",)): 9, (("b",), ("a",)): 1})
    assert identity_share(won, won) == 0.9
    assert identity_share(won, Counter()) == 0.5
    same = Counter({(("a",), ("a",)): 5})
    assert identity_share(same, same) == 0.5


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], (0, 0, 0)),
        ([("a", "b"), ("b", "c")], (0, 0, 1)),
        ([("a", "b"), ("b", "c"), ("a", "c")], (1, 0, 0)),
        ([("a", "b"), ("b", "c"), ("c", "a")], (1, 1, 0)),
        ([("a", "b"), ("c", "d")], (0, 0, 0)),
    ],
)
def test_triangles_circles_and_open_chains_are_told_apart(pairs, expected):
    assert tuple(triangles(pairs).values()) == expected


def test_near_duplicates_of_an_input_are_counted():
    made = candidates("a dog runs on the beach", "A dog runs on the beach.", "two cats asleep on a sofa")
    assert near_duplicates(made) == {"inputs": 1, "compared": 3, "near": 1}


def test_an_empty_dataset_has_statistics_too():
    result = Tally().result()
    assert result["pairs"] == 0
    assert result["margins"] == {}
    assert result["length"]["predicts"] is result["identity"]["predicts"] is None
    assert result["model_mean"] == {"within": None, "predicts": None, "explains": None}
    assert warnings(None, None) == []


@pytest.mark.parametrize("scores", [[1.0, 1 - 2**-53], [0.5], [-3e5, -3e5 - 2**-34], [1e300, 1e300]])
def test_scores_that_differ_by_a_rounding_have_a_histogram(scores):
    tally = Tally()
    for at, value in enumerate(scores):
        candidate = {
            "generation_id": str(at),
            "text": "x",
            "models": ["m"],
            "scores": [{"metric": "s", "value": value}],
        }
        tally.add("train", {"input_id": str(at), "candidates": [candidate]}, [])
    found = tally.result()["scores"]["s"]
    assert sum(found["counts"]) == len(scores)
    assert found["edges"][0] < min(scores) <= max(scores) < found["edges"][-1]
    assert histograms({"s": found})
