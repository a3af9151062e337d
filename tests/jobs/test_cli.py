"""The command line: what it prints, and one clear error for what a user gets wrong."""

import json

import pytest
import yaml

from builder import __version__
from builder.models.catalog import CATALOG
from jobs.cli import main

RECIPE = {
    "name": "mine",
    "cycle": "i2t2i",
    "inputs": {"source": "images", "path": "no/such/photos"},
    "forward": [{"model": "shapeworld-blip"}, {"model": "shapeworld-llava"}],
    "backward": {"model": "shapeworld-sd3"},
    "metric": {"metric": "lpips-shapeworld"},
    "pairs": {"min_margin": 0.1, "poor_chosen": None},
}


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe with changes and returns its path."""

    def write(**changes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**RECIPE, **changes}))
        return str(path)

    return write


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"cyclepref {__version__}"


def test_models_lists_the_whole_catalog_and_shows_one_entry(capsys):
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CATALOG)
    assert main(["models", "shapeworld-sd3"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == CATALOG["shapeworld-sd3"].steps


@pytest.mark.parametrize("command", [["demo"], ["build"], ["models"], ["status"], ["prune"], ["merge"]])
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert "examples:" in capsys.readouterr().out


def test_an_unknown_model_is_told_with_the_nearest_name(capsys):
    assert main(["models", "shapeworld-sd33"]) == 1
    assert "did you mean 'shapeworld-sd3'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "inputs.path no/such/photos: no such folder"),
        ({"forward": [{"model": "shapeworld-bilp"}, {"model": "shapeworld-llava"}]}, "did you mean 'shapeworld-blip'"),
        ({"metric": {"metric": "sbert"}}, "sbert compares texts, and this cycle needs a metric for images"),
        ({"sed": 1}, "sed: unknown key (did you mean 'seed'?)"),
    ],
)
def test_a_recipe_that_cannot_run_is_one_clear_error_before_anything_starts(recipe, tmp_path, capsys, changes, message):
    assert main(["build", recipe(**changes), "--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert "Traceback" not in shown


def test_an_output_directory_that_is_a_file_is_refused_and_left_alone(recipe, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("precious")
    assert main(["build", recipe(), "--out", str(path)]) == 1
    assert "is a file: --out must name a folder" in capsys.readouterr().err
    assert path.read_text() == "precious"
