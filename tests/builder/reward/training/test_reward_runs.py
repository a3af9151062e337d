"""Training runs from end to end: the same model in every way to get there, and refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_duals import make_dual

from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.resume import last_checkpoint
from cyclepref.builder.reward.training.settings import AuxiliarySettings, HeadSettings, TrainSettings, load_train_recipe
from cyclepref.builder.reward.training.train import train_reward
from cyclepref.builder.reward.training.trainer import Watch

HEAD = HeadSettings(head_sizes=(8,))
FEW = TrainSettings(epochs=2, inputs_per_step=4, learning_rate=1e-3, fix_rate=0.5, prefix_cache="float32", head=HEAD)
OTHER = FEW.model_copy(update={"seed": 1})


@pytest.fixture(scope="module")
def datasets(build):
    return [build("i2t2i", train=8, validation=3), build("t2i2t", train=6, validation=3)]


@pytest.fixture(scope="module")
def few(datasets, captioner, tmp_path_factory):
    """A finished training of FEW; only to be read."""
    out = tmp_path_factory.mktemp("few") / "out"
    train_reward(datasets, captioner, out, FEW)
    return out


@pytest.fixture
def finished(few, tmp_path):
    """A copy of `few`."""
    return Path(shutil.copytree(few, tmp_path / "finished"))


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def assert_equal(one, other, but=(), **close):
    one, other = weights(one), weights(other)
    for name in set(one) - set(but):
        torch.testing.assert_close(one[name], other[name], msg=name, **(close or {"atol": 0, "rtol": 0}))


def test_many_small_passes_make_the_model_of_one_large_pass(few, datasets, captioner, tmp_path):
    train_reward(datasets, captioner, tmp_path / "many", FEW.model_copy(update={"inputs_per_pass": 1, "loaders": 1}))
    # No difference of rewards depends on the last bias: what moves it is rounding, which Adam makes as large as a step.
    assert_equal(few, tmp_path / "many", but=["head.3.bias"], atol=2e-5, rtol=0)


def test_the_model_is_the_same_with_and_without_the_cache(few, datasets, captioner, tmp_path):
    train_reward(datasets, captioner, tmp_path / "without", FEW.model_copy(update={"prefix_cache": None}))
    assert_equal(few, tmp_path / "without", but=["head.3.bias"], atol=2e-5, rtol=0)
    assert list((few / "work" / "prefixes").rglob("*.safetensors"))
    assert not (tmp_path / "without" / "work" / "prefixes").exists()


class Stop(Exception):
    """What a kill is to a test."""


@pytest.fixture
def stopped_after(monkeypatch):
    """Train until so many steps are done."""

    def stopped_after(steps, *arguments):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == steps:
                raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(Watch, "on_step_end", on_step_end)
            with pytest.raises(Stop):
                train_reward(*arguments)

    return stopped_after


@pytest.mark.parametrize("save_steps", [None, 1])
def test_stopped_and_run_again_is_never_stopped(datasets, captioner, tmp_path, stopped_after, save_steps):
    settings = FEW.model_copy(update={"save_steps": save_steps, "epochs": 3})
    train_reward(datasets, captioner, tmp_path / "whole", settings)
    stopped_after(7, datasets, captioner, tmp_path / "stopped", settings)
    found = last_checkpoint(tmp_path / "stopped" / "work" / "checkpoints")
    assert found.name == ("checkpoint-4" if save_steps is None else "checkpoint-6")
    (found.parent / "checkpoint-99").mkdir()  # one that was not finished
    train_reward(datasets, captioner, tmp_path / "stopped", settings)
    assert_equal(tmp_path / "whole", tmp_path / "stopped")
    whole, stopped = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "stopped"))
    assert whole["pairwise_accuracy"] == stopped["pairwise_accuracy"]
    assert whole["epochs"] == stopped["epochs"]


def test_a_finished_run_is_not_run_again(finished, datasets, captioner, capsys):
    before = (finished / "model.safetensors").stat().st_mtime_ns
    metrics = json.loads((finished / "metrics.json").read_text())
    again = train_reward(datasets, captioner, finished, FEW)
    assert (finished / "model.safetensors").stat().st_mtime_ns == before
    assert again.metrics == metrics
    assert "is finished" in capsys.readouterr().err
    assert not (finished / "work" / "checkpoints").exists()


def test_checkpoints_of_other_settings_are_refused(datasets, captioner, tmp_path, stopped_after):
    stopped_after(5, datasets, captioner, tmp_path, FEW)
    other = FEW.model_copy(update={"head": HeadSettings(head_sizes=(6,))})
    with pytest.raises(RewardError, match="has checkpoints of a training with other settings: give another folder"):
        train_reward(datasets, captioner, tmp_path, other)
    with pytest.raises(RewardError, match="of a training with other pairs"):
        train_reward(datasets[:1], captioner, tmp_path, FEW)
    RewardModel.from_captioner(captioner).save_pretrained(tmp_path / "start")
    with pytest.raises(RewardError, match="of a training with other start"):
        train_reward(datasets, tmp_path / "start", tmp_path, FEW)


def test_a_finished_model_of_other_settings_is_kept_unless_it_is_to_be_replaced(finished, datasets, captioner):
    before = {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    with pytest.raises(RewardError, match="has a finished model of a training with other settings: give another"):
        train_reward(datasets, captioner, finished, OTHER)
    assert {path: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before
    result = train_reward(datasets, captioner, finished, OTHER, replace=True)
    assert json.loads((finished / "metrics.json").read_text())["identity"] == result.metrics["identity"]
    assert result.metrics["settings"]["seed"] == 1


def test_checkpoints_of_other_settings_make_room_where_they_may_be_replaced(
    datasets, captioner, tmp_path, stopped_after
):
    stopped_after(5, datasets, captioner, tmp_path / "out", FEW)
    train_reward(datasets, captioner, tmp_path / "out", OTHER, replace=True)
    train_reward(datasets, captioner, tmp_path / "anew", OTHER)
    assert_equal(tmp_path / "out", tmp_path / "anew")


def test_a_model_that_was_not_trained_here_is_not_trained_over(datasets, captioner, tmp_path):
    RewardModel.from_captioner(captioner).save_pretrained(tmp_path)
    with pytest.raises(RewardError, match="has a model that was not trained here: give another folder"):
        train_reward(datasets, tmp_path, tmp_path, FEW)


def test_a_checkpoint_of_another_shape_is_refused(datasets, captioner, tmp_path, stopped_after):
    for name, head in (("one", HEAD), ("other", HeadSettings(head_sizes=(6,)))):
        stopped_after(5, datasets, captioner, tmp_path / name, FEW.model_copy(update={"head": head}))
    found = last_checkpoint(tmp_path / "one" / "work" / "checkpoints")
    strange = last_checkpoint(tmp_path / "other" / "work" / "checkpoints")
    (found / "model.safetensors").write_bytes((strange / "model.safetensors").read_bytes())
    with pytest.raises(RewardError, match=r"another shape: head\.0\.weight is \(6, 32\) there and \(8, 32\) here"):
        train_reward(datasets, captioner, tmp_path / "one", FEW)


def test_training_ends_when_validation_gets_no_better(datasets, captioner, tmp_path):
    settings = FEW.model_copy(update={"epochs": 50, "patience": 1, "learning_rate": 1e-9})
    result = train_reward(datasets, captioner, tmp_path, settings)
    assert len(result.metrics["epochs"]) == 2


@pytest.mark.parametrize("backbone", ["clip", "siglip"])
def test_lee_et_al_s_reward_learns_on_frozen_dual_encoders(build, captioner, tmp_path, backbone):
    make_dual(backbone, captioner, head_output="sigmoid").save_pretrained(tmp_path / "start")
    settings = TrainSettings(
        loss="mse", auxiliary=AuxiliarySettings(prompts=3), epochs=15, learning_rate=1e-2, inputs_per_step=8
    )
    result = train_reward([build("t2i2t", train=32)], tmp_path / "start", tmp_path / "out", settings)
    losses = [epoch["loss"] for epoch in result.metrics["epochs"]]
    assert losses[-1] < 0.8 * losses[0]
    assert result.metrics["pairwise_accuracy"]["t2i2t"]["train"]["accuracy"] > 0.75


def test_a_margin_as_a_loss_is_not_the_plain_loss(few, datasets, captioner, tmp_path):
    train_reward(datasets, captioner, tmp_path / "margin", FEW.model_copy(update={"loss": "margin"}))
    assert not torch.equal(weights(few)["head.0.weight"], weights(tmp_path / "margin")["head.0.weight"])


def test_a_text_of_a_hundred_thousand_characters_is_cut_and_reported(build, captioner, tmp_path, caplog):
    def lengthen(rows):
        rows["rankings"]["train"][0]["candidates"][0]["text"] = "red " * 25_000

    train_reward([build("i2t2i", edit=lengthen, train=4)], captioner, tmp_path, FEW.model_copy(update={"epochs": 1}))
    assert "texts were cut to 16 tokens" in caplog.text


def test_a_loss_that_is_no_number_ends_the_run(build, captioner, tmp_path):
    settings = FEW.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30, "epochs": 3})
    with pytest.raises(RewardError, match=r"the loss at step \d+ is nan: lower learning_rate"):
        train_reward([build("i2t2i", train=8)], captioner, tmp_path, settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_without_a_gpu_is_refused(build, captioner, tmp_path):
    with pytest.raises(RewardError, match="precision fp16 needs a GPU: set it to fp32 or bf16"):
        train_reward([build("i2t2i", train=2)], captioner, tmp_path, FEW.model_copy(update={"precision": "fp16"}))


def test_bf16_trains_with_weights_in_single_precision(build, captioner, tmp_path):
    settings = FEW.model_copy(update={"precision": "bf16", "epochs": 1})
    train_reward([build("i2t2i", train=8)], captioner, tmp_path, settings)
    assert {weight.dtype for weight in weights(tmp_path).values()} == {torch.float32}


def recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_read_and_its_settings_replaced(tmp_path):
    path = recipe(tmp_path, "start: a/model\nepochs: 3\nhead: {pooling: first, text_mask: bidirectional}\n")
    found = load_train_recipe(path, {"epochs": 4, "head.head_sizes": [5], "auxiliary.prompts": 2})
    assert (found.start, found.epochs, found.head.pooling, found.head.head_sizes) == ("a/model", 4, "first", (5,))
    assert found.auxiliary.prompts == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start: m\nloss: hinge", r"line 2, column 1: loss: must be bradley-terry, margin or mse, got 'hinge'"),
        (
            "start: m\nlearning: 1",
            r"learning: unknown setting \(did you mean 'learning_rate'\?\); there are seed, epochs, ",
        ),
        ("start: m\nhead: {size: 1}", r"line 2, column 8: head.size: unknown setting \(did you mean 'head_sizes'"),
        ("epochs: 1", r"start: is missing: what training starts from"),
        ("start: m\nepochs: 0", r"epochs: must be 1 or more, got 0"),
        ("start: m\ninputs_per_step: 1\npairs_per_step: 2", "either inputs_per_step or pairs_per_step"),
        ("- start", "must hold a mapping of settings, got a list"),
        ("start: [", "is not YAML"),
    ],
)
def test_a_recipe_with_something_wrong_says_what(tmp_path, text, message):
    with pytest.raises(RewardError, match=message):
        load_train_recipe(recipe(tmp_path, text))


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(RewardError, match="no recipe at"):
        load_train_recipe(tmp_path / "nowhere.yaml")
