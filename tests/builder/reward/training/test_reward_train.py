import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.accuracy import pairwise_accuracy
from cyclepref.builder.reward.training.data import PreferenceError
from cyclepref.builder.reward.training.seen import NOT_SAID_BEFORE, read_seen
from cyclepref.builder.reward.training.settings import HeadSettings, TrainSettings
from cyclepref.builder.reward.training.train import train_reward

FEW = TrainSettings(epochs=1, inputs_per_step=4, head=HeadSettings(head_sizes=(8,)))


def test_it_learns_which_captions_and_pictures_are_right(build, captioner, tmp_path):
    datasets = [build(cycle, train=48, validation=8, test=24) for cycle in ("i2t2i", "t2i2t")]
    settings = TrainSettings(epochs=12, learning_rate=3e-3, fix_rate=0.0, head=HeadSettings(head_sizes=(16,)))
    ticks = []

    @contextmanager
    def progress(label, steps):
        assert label != "reward model: steps" or steps == 12 * 12
        yield ticks.append if label == "reward model: steps" else lambda done: None

    result = train_reward(datasets, captioner, tmp_path / "out", settings, progress)
    assert sum(ticks) == 12 * 12
    accuracy = result.metrics["pairwise_accuracy"]
    assert accuracy["i2t2i"]["test"]["accuracy"] > 0.9
    assert accuracy["t2i2t"]["test"]["accuracy"] > 0.9
    assert {split: found["pairs"] for split, found in accuracy["i2t2i"].items()} == {
        "train": 48 * 3,
        "validation": 8 * 3,
        "test": 24 * 3,
    }
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(json.dumps(result.metrics))
    assert "| i2t2i | test | 24 | 72 |" in (tmp_path / "out" / "README.md").read_text()
    model = RewardModel.from_pretrained(result.path)
    assert pairwise_accuracy(model, datasets[1], "test").accuracy == accuracy["t2i2t"]["test"]["accuracy"]


def _train(build, captioner, out, **changes):
    train_reward([build("i2t2i", train=8)], captioner, out, FEW.model_copy(update=changes))
    return load_file(out / "model.safetensors")


def test_equal_settings_give_equal_weights_and_another_seed_gives_others(build, captioner, tmp_path):
    first = _train(build, captioner, tmp_path / "first")
    again = _train(build, captioner, tmp_path / "again")
    other = _train(build, captioner, tmp_path / "other", seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])


def test_frozen_layers_stay_as_they_were(build, captioner, tmp_path):
    before = RewardModel.from_captioner(captioner).state_dict()
    after = _train(build, captioner, tmp_path / "out", fix_rate=0.5)
    changed = {name for name in after if name in before and not torch.equal(after[name], before[name])}
    assert not {name for name in changed if ".0." in name and not name.startswith("head")}
    assert {name.split(".")[0] for name in changed} == {"vision_model", "text_model", "head"}


def test_a_reward_model_can_be_trained_on_and_its_rewards_stay_centred(build, captioner, tmp_path):
    dataset = build("i2t2i", train=8)
    train_reward([dataset], captioner, tmp_path / "first", FEW)
    result = train_reward([dataset], tmp_path / "first", tmp_path / "second", FEW)
    model = RewardModel.from_pretrained(result.path)
    from cyclepref.builder.reward.training.accuracy import candidate_rewards

    rewards = candidate_rewards(model, dataset, "train")["reward"].to_numpy()
    assert rewards.mean() == pytest.approx(0, abs=1e-5)
    assert model.head[0].out_features == 8


def test_what_the_model_it_began_with_was_trained_on_is_remembered(build, captioner, tmp_path):
    sources = [build(cycle, train=8) for cycle in ("i2t2i", "t2i2t")]
    train_reward(sources[:1], captioner, tmp_path / "first", FEW)
    train_reward(sources[1:], tmp_path / "first", tmp_path / "second", FEW)
    seen = [read_seen(tmp_path / name) for name in ("first", "second")]
    assert len(seen[0].ids) == 8
    assert seen[0].ids < seen[1].ids
    assert seen[1].missing == ""
    (tmp_path / "first" / "train_inputs.txt").unlink()
    (tmp_path / "first" / "metrics.json").unlink()
    train_reward(sources[1:], tmp_path / "first", tmp_path / "third", FEW)
    train_reward(sources[1:], tmp_path / "third", tmp_path / "fourth", FEW)
    for name in ("third", "fourth"):
        assert read_seen(tmp_path / name).missing == NOT_SAID_BEFORE


def test_without_validation_pairs_the_last_epoch_is_kept(build, captioner, tmp_path):
    result = train_reward([build("i2t2i", train=4)], captioner, tmp_path / "out", FEW)
    assert result.metrics["kept"] == "last epoch: there are no validation pairs"
    nothing = {"inputs": 0, "pairs": 0, "accuracy": None}
    assert result.metrics["pairwise_accuracy"]["i2t2i"]["validation"] == nothing


def test_datasets_without_anything_to_learn_are_refused(build, captioner, tmp_path):
    with pytest.raises(PreferenceError, match="no datasets to train on"):
        train_reward([], captioner, tmp_path, FEW)
    no_pairs = build("i2t2i", edit=lambda rows: rows["pairs"]["train"].clear(), train=2)
    with pytest.raises(PreferenceError, match="has no pairs in its train split"):
        train_reward([no_pairs], captioner, tmp_path, FEW)
    with pytest.raises(PreferenceError, match="each cycle can have one dataset, got i2t2i, i2t2i"):
        train_reward([build("i2t2i", train=1), build("i2t2i", train=1)], captioner, tmp_path, FEW)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="less than or equal to 1"):
        TrainSettings(fix_rate=1.5)
    with pytest.raises(ValueError, match="learning_rates"):
        TrainSettings(learning_rates=1e-5)
