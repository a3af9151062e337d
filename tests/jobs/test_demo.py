"""The whole demo, smaller: both cycles through real Ray with the shipped models, a reward model, the truth."""

import json

import datasets
import pytest

from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.study import best_of_n, evaluate, method, rewards
from cyclepref.jobs.demo import run_demo

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, inputs=24)


def test_the_summary_says_for_both_cycles_how_often_a_preference_is_true(demo):
    out, summary = demo
    assert json.loads((out / "summary.json").read_text()) == summary
    for cycle in ("i2t2i", "t2i2t"):
        found = summary[cycle]
        assert found["candidates"] >= 24 * 6
        assert found["pairs"] > 24
        assert found["seconds"] > 0
        shares, pairs = found["agreement"], found["agreement_pairs"]
        assert len(shares["cycle_by_margin_quartile"]) == 4
        assert sum(pairs["cycle_by_margin_quartile"]) == pairs["cycle"] <= found["pairs"]
        assert 0 < pairs["reward"] < pairs["cycle"]
        assert all(0 <= shares[name] <= 1 for name in ("reward", "length_baseline", "reward_before_training"))
        assert pairs["model_mean_baseline"] == pairs["cycle"] == round(found["pairs"] * (1 - found["tied_share"]))
        assert 0 < pairs["same_model"] + pairs["upsets"] < pairs["cycle"]
        assert pairs["same_model"] <= pairs["same_model_every_two"]
        assert found["model_mean_gain"]["gain"] == pytest.approx(shares["model_mean_baseline"] - shares["cycle"])
        for name, (low, high) in found["agreement_intervals"].items():
            assert low <= shares[name] <= high
        # Far above chance even for few inputs; the full demo's figures are in the README.
        assert shares["cycle"] > 0.8


def test_both_datasets_open_plainly_and_the_reward_model_loads(demo):
    out, _ = demo
    for cycle, column in (("i2t2i", "image"), ("t2i2t", "prompt")):
        rankings = datasets.load_dataset(str(out / cycle / "dataset"), cache_dir=str(out / "cache"))
        assert column in rankings["train"].column_names
        assert (out / f"{cycle}.png").stat().st_size > 10_000
    row = datasets.load_dataset(str(out / "i2t2i" / "dataset"), cache_dir=str(out / "cache"))["train"][0]
    model = RewardModel.from_pretrained(out / "reward")
    best, worst = model.rank_captions(image=row["image"], texts=[row["candidates"][0]["text"], "one"]).order
    assert {best, worst} == {0, 1}


def test_the_same_command_again_makes_nothing_new(demo):
    out, before = demo
    parts = sorted(path.name for path in out.rglob("store/*/*.parquet"))
    weights = (out / "reward" / "model.safetensors").stat().st_mtime_ns
    after = run_demo(out, inputs=24)
    assert parts == sorted(path.name for path in out.rglob("store/*/*.parquet"))
    assert weights == (out / "reward" / "model.safetensors").stat().st_mtime_ns
    assert after["i2t2i"]["agreement"] == before["i2t2i"]["agreement"]


@pytest.mark.slow  # what README is measured with, not what users run
def test_what_a_demo_says_about_the_method_makes_a_table(demo, monkeypatch):
    out, summary = demo
    monkeypatch.setattr(method, "SEED_COUNTS", (2,))
    before = (out / "t2i2t" / "pairs" / "part-0.parquet").read_bytes()
    found = method.measure(out)
    for cycle, parts in found.items():
        assert parts["agreement"]["pairs"]["share"] == summary[cycle]["agreement"]["cycle"]
        # The recipe's rules leave pairs out, and every two candidates are all that there could be.
        assert parts["agreement"]["pairs"]["pairs"] <= parts["agreement"]["every two"]["pairs"]
        for kind in ("pairs", "every two"):
            assert parts["ceiling"][kind]["ceiling"]["pairs"] == parts["ceiling"][kind]["cycle"]["pairs"] > 0
            assert 0.5 < parts["ceiling"][kind]["ceiling"]["share"] <= 1
            assert parts["seeds"]["2"][kind]["pairs"] > 0
            gain = parts["reward"][kind]["reward"]
            assert gain["low"] <= gain["gain"] <= gain["high"]
            assert gain["gain"] == pytest.approx(gain["share"] - parts["reward"][kind]["cycle"]["share"])
    lines = evaluate.method_table(found)
    assert {line.count("|") for line in lines} == {4}
    # It was measured in a copy: the run is as it was.
    assert (out / "t2i2t" / "pairs" / "part-0.parquet").read_bytes() == before


@pytest.mark.slow
def test_other_rewards_and_best_of_n_make_tables_and_a_picture(demo, monkeypatch):
    out, _ = demo
    monkeypatch.setattr(best_of_n, "SIZES", (1, 2, 4))
    finished = method.read_demo(out)
    found = rewards.measure(out, finished)
    for kinds in found.values():
        assert set(kinds) == {"pairs", "every two", "held-out models"}
        assert {"cycle score", rewards.COMBO, rewards.ALONE, rewards.ORACLE, "length"} == set(kinds["every two"])
        assert rewards.UNSEEN in kinds["held-out models"]
        assert kinds["every two"][rewards.COMBO]["share"] > kinds["every two"]["length"]["share"]
    assert {line.count("|") for line in evaluate.rewards_table(found)} == {4}
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("rewards/*/model/model.safetensors")}
    judges = best_of_n.picked_by(out, rewards.train(out, finished))
    assert weights == {path: path.stat().st_mtime_ns for path in out.rglob("rewards/*/model/model.safetensors")}
    assert len(weights) == 4
    curves = best_of_n.measure(out, finished, judges, inputs=6)
    for found in curves.values():
        assert [point["n"] for point in found["curves"][rewards.COMBO]] == [1, 2, 4]
        assert found["seconds"][rewards.COMBO] > 0
        assert found["inputs"] <= 6
    assert len({line.count("|") for line in best_of_n.table(curves)}) == 1
    best_of_n.draw(curves, out / "best_of_n.png")
    assert (out / "best_of_n.png").stat().st_size > 5_000


def test_the_method_is_not_measured_where_no_demo_is(tmp_path):
    with pytest.raises(method.NoDemo, match="cyclepref demo"):
        method.measure(tmp_path)


@pytest.mark.parametrize(
    ("caption", "key"),
    [
        ("one blue star below three red circles on a white background", "3-red-circle+1-blue-star|above|white"),
        ("a single red ring, in front of a mint background", "1-red-ring|None|mint"),
        ("three red circles above on a white background", "3-red-circle|None|white"),
        ("three circles on a white background", None),
        ("two red rings above two red rings on a grey background", None),
        ("five red rings on a grey background", None),
        ("", None),
    ],
)
def test_a_caption_has_a_scene_where_it_says_all_and_nothing_impossible(caption, key):
    scene = method.scene_of(caption)
    assert (scene and scene.key) == key
