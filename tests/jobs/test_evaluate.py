"""`cyclepref evaluate`: what it prints and writes, and one clear error for what a user gets wrong."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "builder"))
sys.path.insert(0, str(Path(__file__).parents[1] / "builder" / "reward"))
from made_run import make_run
from plain_colours import make_rows, write_dataset

from cyclepref.builder.reward.model import RewardModel
from cyclepref.jobs.cli import main

WEIGHTS = Path(__file__).parents[2] / "builder" / "shapeworld" / "weights"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run and an untrained reward model that names the run as what it was trained on."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    place = tmp_path_factory.mktemp("place")
    run = make_run(place / "run", "i2t2i", inputs=25)
    RewardModel.from_captioner(WEIGHTS / "blip").save_pretrained(place / "model")
    (place / "model" / "metrics.json").write_text(
        json.dumps({"datasets": [str(run)], "pairwise_accuracy": {"i2t2i": 1}})
    )
    yield place
    datasets.config.HF_DATASETS_CACHE = before


def test_a_run_is_evaluated_as_table_json_and_picture(place, tmp_path, capsys):
    files = ["--json", str(tmp_path / "new" / "e.json"), "--picture", str(tmp_path / "e.png")]
    assert main(["evaluate", str(place / "model"), str(place / "run"), "--against", "length,random", *files]) == 0
    shown = capsys.readouterr().out
    assert "pairwise accuracy" in shown
    assert "weak" in shown
    assert "best of n" in shown
    result = json.loads((tmp_path / "new" / "e.json").read_text())
    assert list(result["datasets"][0]["judges"]) == ["reward", "length", "random"]
    assert Image.open(tmp_path / "e.png").width > 1000


def test_a_leak_is_refused_unless_it_is_allowed(place, capsys):
    command = ["evaluate", str(place / "model"), str(place / "run"), "--split", "train", "--against", "random"]
    assert main(command) == 1
    assert "are among those that the model was trained on" in capsys.readouterr().err
    assert main([*command, "--allow-leak"]) == 0
    assert "LEAK: " in capsys.readouterr().out


def test_one_input_has_no_interval(place, tmp_path, capsys):
    data = str(write_dataset(tmp_path / "data", "i2t2i", make_rows("i2t2i", train=1, test=1)))
    files = ["--json", str(tmp_path / "e.json"), "--picture", str(tmp_path / "e.png")]
    assert main(["evaluate", str(place / "model"), data, "--against", "length", *files]) == 0
    shown = capsys.readouterr().out
    assert "- (one input)" in shown
    assert "% to " not in shown
    judges = json.loads((tmp_path / "e.json").read_text())["datasets"][0]["judges"]
    assert (judges["reward"]["low"], judges["reward"]["high"]) == (None, None)
    assert Image.open(tmp_path / "e.png").width > 1000


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        ("model", "nothing", "nothing"),
        (str(WEIGHTS / "blip"), "run", "is not a reward model but 'blip'"),
        ("nowhere", "run", "nowhere"),
    ],
)
def test_what_is_not_there_is_one_error(place, capsys, model, dataset, message):
    assert main(["evaluate", str(place / model), str(place / dataset)]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
