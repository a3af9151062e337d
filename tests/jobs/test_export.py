"""`cyclepref export`: what it prints, and one clear error for what a user gets wrong."""

import sys
from pathlib import Path

import datasets
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "builder"))
from made_run import make_run

from cyclepref.builder.exports.export import FORMATS
from cyclepref.builder.preferences.load import load_pairs
from cyclepref.jobs.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished i2t2i run, and a cache of the datasets library for it alone."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    yield make_run(tmp_path_factory.mktemp("run"), "i2t2i", inputs=30)
    datasets.config.HF_DATASETS_CACHE = before


def test_an_export_prints_the_pairs_of_each_split_and_what_was_removed(run, tmp_path, capsys):
    arguments = ["export", str(run), "--format", "trl-reward", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--min-margin", "0.1", "--top-vs-bottom", "--prompt", "What?"]) == 0
    splits = ("train", "validation", "test")
    kept = {split: len(load_pairs(run, split, min_margin=0.1, top_vs_bottom=True)) for split in splits}
    shown = capsys.readouterr().out
    assert f"trl-reward, {sum(kept.values()):,} pairs" in shown
    assert "top_vs_bottom" in shown
    written = datasets.load_dataset(str(tmp_path / "out"))
    assert len(written["train"]) == kept["train"]
    assert written["train"][0]["prompt"][0]["content"] == "What?"


def test_poor_candidates_can_be_brought_back(run, tmp_path):
    arguments = ["export", str(run), "--format", "trl-reward", "--split", "train"]
    for poor in ("none", "0.2"):
        assert main([*arguments, "--out", str(tmp_path / poor), "--poor-chosen", poor]) == 0
        expected = load_pairs(run, poor_chosen=None if poor == "none" else 0.2)
        assert len(datasets.load_dataset(str(tmp_path / poor), split="train")) == len(expected)


def test_a_reward_trainer_s_margins_can_be_left_out(run, tmp_path):
    out = str(tmp_path / "out")
    assert (
        main(["export", str(run), "--format", "trl-reward", "--split", "test", "--out", out, "--margin", "none"]) == 0
    )
    assert "margin" not in datasets.load_dataset(out, split="test").column_names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--format": "dpo"}, "error: unknown format 'dpo': choose from trl-dpo-vision"),
        ({"--format": "hpdv3"}, "are captions of an image: choose from trl-dpo-vision"),
        ({"--split": "dev"}, "has no split 'dev': choose from train"),
        ({"--min-margin": "7"}, "has no pair left"),
        ({"--margin": "raw"}, "margin 'raw' is for trl-reward, whose trainer applies it: leave it out for trl-kto"),
        ({"--min-margin": "-1"}, "min_margin is -1.0: a margin is a number of 0 or more"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_error(run, tmp_path, capsys, changes, message):
    given = {"--format": "trl-kto", "--out": str(tmp_path / "out"), **changes}
    assert main(["export", str(run), *(f"{name}={value}" for name, value in given.items())]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in FORMATS)


@pytest.mark.parametrize("option", ["--min-margin", "--poor-chosen"])
def test_what_is_no_number_is_wrong_usage(run, tmp_path, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run), "--format", "trl-kto", "--out", str(tmp_path / "out"), option, "high"])
    assert "must be a number, got 'high'" in capsys.readouterr().err
