from itertools import chain

import numpy as np
import pytest
import torch

from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.batches import Collate, Passes, inputs_for_pairs
from cyclepref.builder.reward.training.data import PreferenceError, load_preferences
from cyclepref.builder.reward.training.step import TrainingView


@pytest.fixture(scope="module")
def model(captioner):
    torch.manual_seed(1)
    return RewardModel.from_captioner(captioner)


@pytest.fixture
def splits(build):
    return [load_preferences(build("i2t2i", train=10))["train"], load_preferences(build("t2i2t", train=20))["train"]]


def names(inputs) -> list[str]:
    return [each.generation_ids[0] for each in inputs]


def steps(passes: Passes) -> list[list[str]]:
    """The inputs of each step that count."""
    found = [[each for each in passes[index] if each.pairs] for index in range(len(passes))]
    width = passes.passes_per_step
    return [names(chain.from_iterable(found[start : start + width])) for start in range(0, len(found), width)]


def test_every_epoch_sees_each_input_once_and_each_step_its_share_of_both_cycles(splits):
    passes = Passes(splits, seed=0, inputs_per_step=6, inputs_per_pass=6)
    first = steps(passes)
    passes.set_epoch(1)
    second = steps(passes)
    everything = sorted(chain.from_iterable(first))
    assert everything == sorted(chain.from_iterable(second))
    assert len(set(everything)) == 30
    assert first != second
    assert [sum(name.startswith("i2t2i") for name in step) for step in first] == [2] * 5
    passes.set_epoch(0)
    assert steps(passes) == first


def test_the_order_of_an_epoch_is_made_once(splits, monkeypatch):
    made, order = [], Passes._order
    monkeypatch.setattr(Passes, "_order", lambda self, *epoch: made.append(self.epoch) or order(self, *epoch))
    passes = Passes(splits, seed=0, inputs_per_step=6, inputs_per_pass=2)
    for epoch in (0, 1, 0):
        passes.set_epoch(epoch)
        steps(passes)
    assert made == [0, 1, 0]


@pytest.mark.parametrize(("workers", "per_pass"), [(1, 2), (2, 6), (2, 1), (4, 2), (8, 1)])
def test_a_step_holds_the_same_inputs_whatever_the_number_of_workers_and_passes(splits, workers, per_pass):
    one = Passes(splits, seed=0, inputs_per_step=7, inputs_per_pass=7)
    many = Passes(splits, seed=0, inputs_per_step=7, inputs_per_pass=per_pass, workers=workers)
    assert list(map(sorted, steps(one))) == list(map(sorted, steps(many)))
    assert len(many) % workers == 0
    assert max(len(many[index]) for index in range(len(many))) <= per_pass


def test_steps_differ_by_one_input_at_most(splits):
    sizes = [len(step) for step in steps(Passes(splits, seed=0, inputs_per_step=8, inputs_per_pass=8))]
    assert sizes == [8, 8, 7, 7]


def test_a_pass_without_an_input_has_one_whose_pairs_are_left_out(splits, model):
    passes = Passes(splits[:1], seed=0, inputs_per_step=3, inputs_per_pass=1, workers=4)
    empty = [passes[index] for index in range(len(passes)) if not any(each.pairs for each in passes[index])]
    assert empty
    batch = Collate(model.processor, 16, cache_mb=0)(empty[0])
    assert batch["chosen"].shape == batch["margin"].shape == (0,)
    assert len(TrainingView(model)(**batch)) == 4


def test_pairs_a_step_become_inputs_a_step(splits):
    assert inputs_for_pairs(splits, 12) == 4  # three pairs an input
    assert inputs_for_pairs(splits, 1) == 1


def test_a_split_without_pairs_makes_no_steps(build):
    split = load_preferences(build("i2t2i", edit=lambda rows: rows["pairs"]["train"].clear(), train=2))["train"]
    with pytest.raises(PreferenceError, match="no pairs to make steps of"):
        inputs_for_pairs([split], 12)


def test_a_batch_is_numbered_as_its_description_says(splits, model):
    collate = Collate(model.processor, 16, cache_mb=0)
    batch = collate([splits[0][0], splits[0][1], splits[1][0]])
    assert batch["image_index"].tolist()[:8] == [0] * 4 + [1] * 4
    assert len(set(batch["text_index"].tolist()[8:])) == 1
    assert len(batch["input_ids"]) == len(set(splits[0][0].texts + splits[0][1].texts + splits[1][0].texts))
    assert batch["of_images"].tolist() == [False] * 6 + [True] * 3
    assert np.allclose(batch["margin"], 1.0)


def test_best_candidates_come_again_with_perturbed_texts(splits, model):
    def perturb(text):
        return [f"{text} {word}" for word in ("red", "blue")] if "green" not in text else []

    collate = Collate(model.processor, 16, cache_mb=0, perturb=perturb)
    inputs = [split[index] for split in splits for index in range(3)]
    batch = collate.one_pass([inputs])
    plain = collate(inputs)
    best = set(plain["chosen"].tolist()) - set(plain["rejected"].tolist())
    rows = sum(len(each.generation_ids) for each in inputs)
    assert set(batch["examples"][:, 0].tolist()) <= best
    assert len(batch["image_index"]) == rows + 2 * len(batch["examples"])
    for original, *others in batch["examples"].tolist():
        assert all(other >= rows for other in others)
        assert {batch["image_index"][other].item() for other in others} == {batch["image_index"][original].item()}
    assert "examples" not in plain
