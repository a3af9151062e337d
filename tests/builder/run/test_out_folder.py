"""`--out` is a folder with somebody's files: refused before anything is written, by every command that has one."""

import os
from pathlib import Path

import pytest
import yaml
from inline_builds import InlineEngine, hashed_models, small_recipe  # noqa: F401
from made_run import make_run

from cyclepref.builder.build import build
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.training.resume import claim
from cyclepref.builder.run.store import Store, StoreError
from cyclepref.jobs.cli import main
from cyclepref.jobs.demo import run_demo
from cyclepref.schemas.recipe import RecipeError


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg", "notes.txt"):
        (folder / name).write_text(name)
    return folder


def refused(photos: Path, does, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=rf"is not empty and holds no {what} \(there is a\.jpg, b\.jpg, c\.jpg, \.\.\.\)"):
        does()
    assert sorted(os.listdir(photos)) == ["a.jpg", "b.jpg", "c.jpg", "notes.txt"]


def test_a_build_into_a_folder_with_files_is_refused_and_writes_nothing(photos):
    refused(photos, lambda: build(small_recipe(), photos, engine=InlineEngine()), StoreError, "run")


def test_the_demo_and_a_training_into_a_folder_with_files_are_refused(photos):
    refused(photos, lambda: run_demo(photos), StoreError, "demo")
    refused(photos, lambda: claim(photos, {"a": "b"}, replace=True), RewardError, "training")


def test_merging_into_and_pruning_a_folder_with_files_are_refused(photos, tmp_path, capsys):
    for name in ("a", "b"):
        make_run(tmp_path / name, "i2t2i", inputs=2)
    for command in (["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(photos)], ["prune", str(photos)]):
        assert main(command) == 1
        assert "is not empty and holds no run" in capsys.readouterr().err
    assert sorted(os.listdir(photos)) == ["a.jpg", "b.jpg", "c.jpg", "notes.txt"]


def test_an_export_and_a_conversion_into_a_folder_with_files_are_refused(photos, tmp_path, capsys):
    run = make_run(tmp_path / "a", "i2t2i", inputs=2)
    assert main(["export", str(run), "--format", "trl-dpo-vision", "--out", str(photos)]) == 1
    assert main(["convert-reward", str(photos / "a.jpg"), "--kind", "imagereward", "--out", str(photos)]) == 1
    assert sorted(os.listdir(photos)) == ["a.jpg", "b.jpg", "c.jpg", "notes.txt"]


@pytest.mark.parametrize("out", ["photos", "photos/runs/mine"])
def test_a_run_among_its_own_inputs_is_refused(photos, tmp_path, out):
    recipe = small_recipe(inputs={"source": "images", "path": str(photos)})
    with pytest.raises(RecipeError, match=r"lies in inputs\.path .*photos, so that its pictures would be inputs"):
        build(recipe, tmp_path / out, engine=InlineEngine())
    assert sorted(os.listdir(photos)) == ["a.jpg", "b.jpg", "c.jpg", "notes.txt"]


def test_the_command_line_says_it_in_one_line(photos, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe().model_dump(mode="json", exclude_unset=True)))
    assert main(["build", str(recipe), "--out", str(photos)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {photos} is not empty and holds no run")


@pytest.mark.usefixtures("hashed_models")
def test_an_empty_folder_one_with_a_log_and_one_with_a_run_are_taken(tmp_path):
    (tmp_path / "build.log").write_text("begun")
    (tmp_path / ".gitkeep").write_text("")
    for _ in range(2):
        build(small_recipe(limit=2), tmp_path, engine=InlineEngine())
    assert Store(tmp_path).read_view("pairs").num_rows
