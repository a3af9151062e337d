"""What is exported for TRL, proven by TRL: its trainers take steps on it."""

import re

import datasets
import pytest
import tiny_trl
import torch
from PIL import Image
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

from cyclepref.builder.exports.export import PROMPT, export
from cyclepref.builder.preferences.load import load_pairs, open_pairs

STEPS = 3


@pytest.fixture
def exported(runs, tmp_path):
    """Exports a format of the i2t2i run, and returns what plain `load_dataset` makes of it."""

    def make(name: str, **options) -> datasets.DatasetDict:
        export(runs["i2t2i"], name, tmp_path / name, **options)
        return datasets.load_dataset(str(tmp_path / name))

    return make


def train(trainer_type: type, config: type, model, processor, data: datasets.DatasetDict, tmp_path, **settings):
    """Takes STEPS steps and returns the losses; weights must have moved."""
    arguments = config(
        output_dir=str(tmp_path / "trained"), max_steps=STEPS, per_device_train_batch_size=2, logging_steps=1,
        learning_rate=1e-2, report_to=[], use_cpu=True, save_strategy="no", bf16=False,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    before = {name: value.clone() for name, value in model.named_parameters()}
    # From a folder, as TRL loads its models, and the reference that it compares with.
    model.save_pretrained(tmp_path / "model")
    model = type(model).from_pretrained(tmp_path / "model")
    trainer = trainer_type(model=model, args=arguments, train_dataset=data["train"], processing_class=processor)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == STEPS
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())
    return trainer


def test_dpo_trainer_takes_steps_with_a_vision_language_model(exported, tmp_path):
    data = exported("trl-dpo-vision")
    trainer = train(DPOTrainer, DPOConfig, *tiny_trl.vision_model(), data, tmp_path, max_length=None)
    assert "rewards/margins" in trainer.state.log_history[0]


def test_dpo_rows_show_the_image_before_the_question_and_two_answers(exported, runs):
    data, pairs = exported("trl-dpo-vision"), load_pairs(runs["i2t2i"])
    assert set(data) == {"train", "validation", "test"}
    assert len(data["train"]) == len(pairs)
    for row, pair in zip(data["train"], pairs, strict=True):
        [image] = row["images"]
        assert isinstance(image, Image.Image)
        assert image.tobytes() == pair["image"].tobytes()
        [question] = row["prompt"]
        assert question["role"] == "user"
        assert [part["type"] for part in question["content"]] == ["image", "text"]
        assert question["content"][1]["text"] == PROMPT
        for side in ("chosen", "rejected"):
            [answer] = row[side]
            assert (answer["role"], answer["content"][0]["text"]) == ("assistant", pair[side])


@pytest.mark.parametrize("name", ["trl-dpo-vision", "trl-kto-vision"])
def test_an_image_is_one_file_however_many_pairs_it_is_in(runs, tmp_path, name):
    export(runs["i2t2i"], name, tmp_path / name, "train")
    files = [path.stem for path in (tmp_path / name).glob("train-*/images/*.png")]
    assert sorted(files) == sorted(set(load_pairs(runs["i2t2i"])["input_id"]))


def test_reward_trainer_takes_steps_and_reads_the_margins(exported, tmp_path):
    data = exported("trl-reward")
    trainer = train(RewardTrainer, RewardConfig, *tiny_trl.text_model("reward"), data, tmp_path)
    assert "margin" in trainer.train_dataset.column_names
    assert trainer.train_dataset["margin"][:5] == data["train"]["margin"][:5]


def test_reward_rows_are_the_pairs_with_their_margins(exported, runs):
    data, pairs = exported("trl-reward"), load_pairs(runs["i2t2i"])
    found = [(row["chosen"][0]["content"], row["rejected"][0]["content"], row["margin"]) for row in data["train"]]
    assert found == list(zip(pairs["chosen"], pairs["rejected"], pairs["margin"], strict=True))


def test_margins_of_the_reward_trainer_can_be_left_out_or_be_in_standard_deviations(runs, tmp_path):
    for margin in ("none", "raw", "standardised"):
        export(runs["i2t2i"], "trl-reward", tmp_path / margin, margin=margin)
    none, raw, standard = (datasets.load_dataset(str(tmp_path / kind)) for kind in ("none", "raw", "standardised"))
    assert none["train"].column_names == ["prompt", "chosen", "rejected", "pair_id"]
    scores = open_pairs(runs["i2t2i"]).read("train").candidates.to_pandas()
    about = scores["value"] - scores.groupby("row")["value"].transform("mean")
    spread = ((about**2).sum() / (len(scores) - scores["row"].nunique())) ** 0.5
    for split in raw:
        expected = [margin / spread for margin in raw[split]["margin"]]
        assert standard[split]["margin"][:] == pytest.approx(expected)
    assert "There is no column `margin`" in (tmp_path / "none" / "README.md").read_text()
    assert f"({spread:.6g} in the units of lpips-alex)" in (tmp_path / "standardised" / "README.md").read_text()
    export(runs["i2t2i"], "trl-reward", tmp_path / "one", "test", margin="standardised")  # by the same unit
    assert datasets.load_dataset(str(tmp_path / "one"))["test"]["margin"][:] == standard["test"]["margin"][:]


@pytest.mark.parametrize("name", ["trl-dpo-vision", "trl-kto", "trl-kto-vision"])
def test_rows_have_the_margin_of_their_pair(exported, runs, name):
    data, margins = exported(name, split="train")["train"], load_pairs(runs["i2t2i"]).with_format(None)["margin"][:]
    rows = 1 if name == "trl-dpo-vision" else 2
    assert data["margin"][:] == [margin for margin in margins for _ in range(rows)]


def test_kto_trainer_takes_steps_with_a_text_model(exported, tmp_path):
    data = exported("trl-kto")
    train(KTOTrainer, KTOConfig, *tiny_trl.text_model(), data, tmp_path)


def test_kto_trainer_takes_steps_with_a_vision_language_model(exported, tmp_path):
    data = exported("trl-kto-vision")
    train(KTOTrainer, KTOConfig, *tiny_trl.vision_model(), data, tmp_path, max_length=None)


def test_a_pair_is_two_rows_of_kto_one_of_either_label(exported, runs):
    data, pairs = exported("trl-kto", prompt="What is it?"), load_pairs(runs["i2t2i"])
    assert data["train"].features["label"] == datasets.Value("bool")
    found = [(row["completion"][0]["content"], row["label"]) for row in data["train"]]
    assert found == [each for row in pairs for each in ((row["chosen"], True), (row["rejected"], False))]
    assert {row["prompt"][0]["content"] for row in data["train"]} == {"What is it?"}


@pytest.mark.parametrize("name", ["trl-kto", "trl-kto-vision"])
def test_the_readme_of_kto_says_which_weights_balance_it(exported, tmp_path, name):
    labels = exported(name)["train"]["label"]
    readme = (tmp_path / name / "README.md").read_text()
    assert f"train {sum(labels)} and {len(labels) - sum(labels)}" in readme
    weights = [float(found) for found in re.findall(r"desirable_weight=([.\d]+)", readme)]
    # KTO's rule, as TRL's trainer checks it: weighed, desirable rows count 1 to 4/3 times what undesirable ones do.
    assert 1 <= weights[0] * sum(labels) / (weights[1] * (len(labels) - sum(labels))) <= 4 / 3
