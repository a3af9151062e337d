"""`cyclepref train-reward`, from the command line to a model that scores."""

import json
import sys
from pathlib import Path

import pytest

from builder.reward.errors import RewardError
from builder.reward.model import RewardModel
from jobs.cli import main
from jobs.train_reward import parse_changes

sys.path.insert(0, str(Path(__file__).parents[1] / "builder" / "reward"))
from plain_colours import make_rows, write_dataset

START = "builder/shapeworld/weights/blip"


@pytest.fixture
def sources(tmp_path) -> list[str]:
    """A dataset of each cycle."""
    return [
        str(write_dataset(tmp_path / cycle, cycle, make_rows(cycle, train=4, validation=2, test=2)))
        for cycle in ("i2t2i", "t2i2t")
    ]


def test_a_recipe_and_two_datasets_make_a_reward_model(sources, tmp_path, capsys):
    recipe = "jobs/recipes/rewards/shapeworld.yaml"
    out = tmp_path / "reward"
    assert main(["train-reward", *sources, "--recipe", recipe, "--set", "epochs=1", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "reward model: steps: 1/1 rows" in said
    assert f"reward model: {out}" in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"]["epochs"] == 1
    assert metrics["pairwise_accuracy"]["t2i2t"]["test"]["pairs"] == 6
    rewards = RewardModel.from_pretrained(out)
    assert rewards.config.likelihood_weight == 1.0
    assert main(["train-reward", *sources, "--recipe", recipe, "--set", "epochs=1", "--out", str(out)]) == 0
    assert f"{out} is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "start: say what training starts from, a Hub id or a folder"),
        (["--start", START, "--set", "loss=hinge"], "Input should be 'bradley-terry', 'margin' or 'mse'"),
        (["--start", START, "--set", "epochs"], "--set takes name=value"),
        (["--start", START, "--set", "head.size=1"], "head.size: unknown key; known keys: pooling"),
        (["--start", "builder/shapeworld/weights/llava"], "a reward model starts from one of blip, clip, siglip, but"),
        (["--recipe", "nowhere.yaml"], "no recipe at nowhere.yaml"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(sources, tmp_path, capsys, arguments, message):
    assert main(["train-reward", sources[0], "--out", str(tmp_path / "out"), *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_nothing_is_refused(tmp_path, capsys):
    assert main(["train-reward", str(tmp_path / "x"), "--start", START, "--out", str(tmp_path / "out")]) == 1
    assert "no folder at" in capsys.readouterr().err


def test_settings_are_read_as_yaml_reads_them_and_numbers_as_people_write_them():
    assert parse_changes(["learning_rate=2e-5", "head.head_sizes=[8, 4]", "patience=null", "start=a/b"]) == {
        "learning_rate": 2e-5,
        "head.head_sizes": [8, 4],
        "patience": None,
        "start": "a/b",
    }
    with pytest.raises(RewardError, match="is no YAML value"):
        parse_changes(["a=["])
