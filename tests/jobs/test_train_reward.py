"""`cyclepref train-reward`, from the command line to a model that scores."""

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.trainer import Watch
from cyclepref.jobs import demo
from cyclepref.jobs.changes import parse_changes
from cyclepref.jobs.cli import main
from cyclepref.schemas.recipe import RecipeError

sys.path.insert(0, str(Path(__file__).parents[1] / "builder" / "reward"))
from plain_colours import COLOURS, caption, make_rows, picture, write_dataset

START = "shapeworld/blip"
BLIP = Path(__file__).parents[2] / "builder" / "shapeworld" / "weights" / "blip"


@pytest.fixture
def sources(tmp_path) -> list[str]:
    """A dataset of each cycle."""
    return [
        str(write_dataset(tmp_path / cycle, cycle, make_rows(cycle, train=4, validation=2, test=2)))
        for cycle in ("i2t2i", "t2i2t")
    ]


def test_a_recipe_by_name_and_two_datasets_make_a_reward_model_from_any_directory(
    sources, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    recipe = "shapeworld"
    out = tmp_path / "reward"
    assert main(["train-reward", *sources, "--recipe", recipe, "--set", "epochs=1", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "reward model: steps: 1/1 rows" in said
    assert f"reward model: {out}" in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"]["epochs"] == 1
    assert metrics["pairwise_accuracy"]["t2i2t"]["test"]["pairs"] == 6
    assert (metrics["start"], metrics["revision"]) == (START, None)
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
    assert "Started from shapeworld/blip." in card
    rewards = RewardModel.from_pretrained(out)
    assert rewards.config.likelihood_weight == 1.0
    assert main(["train-reward", *sources, "--recipe", recipe, "--set", "epochs=1", "--out", str(out)]) == 0
    assert f"{out} is finished" in capsys.readouterr().err


def test_a_demo_trains_again_into_its_own_folder_when_its_data_have_changed(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "REWARD", demo.REWARD.model_copy(update={"epochs": 1}))
    found = []
    for edition, train in (("one", 4), ("two", 6)):
        for cycle in ("i2t2i", "t2i2t"):
            write_dataset(tmp_path / "demo" / cycle / "dataset", cycle, make_rows(cycle, train=train))
            run = {"counts": {"dataset": {"edition": edition}}}
            (tmp_path / "demo" / cycle / "run.json").write_text(json.dumps(run))
        found.append(demo._reward(tmp_path / "demo", ["i2t2i", "t2i2t"]))
    assert [each["pairwise_accuracy"]["i2t2i"]["train"]["inputs"] for each in found] == [4, 6]


def test_a_sigterm_saves_the_step_and_the_last_line_says_how_to_go_on(sources, tmp_path, capsys, monkeypatch):
    step_end = Watch.on_step_end

    def terminated(self, args, state, *others, **named):
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_end(self, args, state, *others, **named)

    monkeypatch.setattr(Watch, "on_step_end", terminated)
    settings = [each for name in ("epochs=2", "inputs_per_step=1") for each in ("--set", name)]
    command = ["train-reward", *sources, "--start", START, *settings, "--out", str(tmp_path / "reward")]
    assert main(command) == 130
    said = capsys.readouterr().err
    assert re.search(r"step [12] of 16 is saved", said)
    assert said.splitlines()[-1].endswith(shlex.join(command))
    assert main(command) == 0
    assert "going on from" in capsys.readouterr().err


def imagereward(folder: Path) -> Path:
    """Pictures of a prompt, ranked by people."""
    rows = []
    for number, colour in enumerate(COLOURS):
        for other in COLOURS:
            picture(other, number).save(folder / f"{number}-{other}.png")
        rows.append(
            {
                "prompt": caption(colour),
                "generations": [f"{number}-{other}.png" for other in COLOURS],
                "ranking": [1 if other == colour else 2 for other in COLOURS],
            }
        )
    (folder / "train.json").write_text(json.dumps(rows))
    return folder


def rlhfv(folder: Path) -> Path:
    """A question about a picture, and two answers."""
    rows = []
    for number, colour in enumerate(COLOURS):
        picture(colour, number).save(folder / "one.png")
        wrong = [other for other in COLOURS if other != colour]
        said = [{"question": "?", "chosen": caption(colour), "rejected": caption(other)} for other in wrong]
        image = {"bytes": (folder / "one.png").read_bytes(), "path": None}
        rows += [{"image": image, "text": json.dumps(each)} for each in said]
    pq.write_table(pa.Table.from_pylist(rows), folder / "RLHF-V.parquet")
    return folder


@pytest.mark.parametrize(("layout", "cycle"), [(imagereward, "t2i2t"), (rlhfv, "i2t2i")])
def test_labels_of_people_are_trained_on_and_then_refused_in_an_evaluation(tmp_path, capsys, layout, cycle):
    (tmp_path / "data").mkdir()
    source, out = layout(tmp_path / "data"), str(tmp_path / "reward")
    command = ["train-reward", str(source), "--start", START, "--set", "epochs=1", "--out", out]
    assert main(command) == 0
    metrics = json.loads((tmp_path / "reward" / "metrics.json").read_text())
    assert metrics["pairwise_accuracy"][cycle]["train"]["pairs"] == 12
    assert metrics["pairwise_accuracy"][cycle]["train"]["inputs"] == 4
    split = [] if layout is rlhfv else ["--split", "train"]
    assert main(["evaluate", out, str(source), *split, "--against", "length"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"4 of the 4 inputs of {source} are among those that the model was trained on" in said
    assert main(["evaluate", out, str(source), *split, "--against", "length", "--allow-leak"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "start: is missing: what training starts from, a Hub id or a folder"),
        (
            ["--start", START, "--set", "loss=hinge"],
            "--set loss: loss: must be bradley-terry, margin or mse, got 'hinge'",
        ),
        (["--start", START, "--set", "epochs"], "--set takes name=value"),
        (["--start", START, "--set", "head.size=1"], "head.size: unknown setting (did you mean 'head_sizes'"),
        (["--start", "shapeworld/llava"], "a reward model starts from one of blip, clip, siglip, but"),
        (["--recipe", "nowhere.yaml"], "no recipe 'nowhere.yaml'"),
        (["--recipe", "shapewrld"], "did you mean 'shapeworld'"),
        (["--recipe", "shapeworld_i2t2i"], "is another kind of recipe"),
        (["--start", "shapeworld/blob"], "no embedded weights 'shapeworld/blob'. Choose from: shapeworld/blip"),
        (["--start", "nowhere/at-all"], "cannot find nowhere/at-all at revision 'main'"),
        (["--start", "."], "has no model that transformers can read"),
        (["--start", START, "--set", "epochs=0"], "epochs"),
        (["--start", START, "--set", "head=3"], "head"),
        (["--start", START, "--set", "head.head_activation=gleu"], "unknown head_activation 'gleu'"),
        (["--start", START, "--set", "head.pooling=first"], "use pooling 'last' or 'mean'"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(sources, tmp_path, capsys, arguments, message):
    assert main(["train-reward", sources[0], "--out", str(tmp_path / "out"), *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_start_in_a_recipe_is_a_path_from_the_recipe(sources, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").mkdir()
    RewardModel.from_captioner(BLIP).save_pretrained(tmp_path / "mine" / "begin")
    (tmp_path / "mine" / "recipe.yaml").write_text("start: begin\nepochs: 1\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = str(tmp_path / "mine" / "recipe.yaml")
    assert main(["train-reward", sources[0], "--recipe", recipe, "--out", "out"]) == 0
    assert json.loads(Path("out/metrics.json").read_text())["start"] == str(tmp_path / "mine" / "begin")


DAMAGED = {
    "not UTF-8": (b"\xff\xfe\x00abc", "train_inputs.txt is not UTF-8 (invalid start byte at byte 0)"),
    "empty": (b"", "train_inputs.txt is empty"),
    "blank": (b"\n \n", "train_inputs.txt is empty"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_start_whose_list_of_inputs_is_damaged_is_refused(sources, tmp_path, capsys, name):
    content, message = DAMAGED[name]
    RewardModel.from_captioner(BLIP).save_pretrained(tmp_path / "begin")
    (tmp_path / "begin" / "train_inputs.txt").write_bytes(content)
    command = ["train-reward", sources[0], "--start", str(tmp_path / "begin"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "delete it to go on without a check for leaks" in said


def test_a_source_that_is_nothing_is_refused(tmp_path, capsys):
    assert main(["train-reward", str(tmp_path / "x"), "--start", START, "--out", str(tmp_path / "out")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_settings_are_read_as_yaml_reads_them_and_numbers_as_people_write_them():
    assert parse_changes(["learning_rate=2e-5", "head.head_sizes=[8, 4]", "patience=null", "start=a/b"]) == {
        "learning_rate": 2e-5,
        "head.head_sizes": [8, 4],
        "patience": None,
        "start": "a/b",
    }
    with pytest.raises(RecipeError, match="is not a YAML value"):
        parse_changes(["a=["])
