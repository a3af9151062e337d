"""`cyclepref plan`: what it prints for people, programs and the heads of recipes."""

import json

import pytest
import yaml

from cyclepref.builder.planning.hardware import hardware
from cyclepref.builder.planning.plan import plan
from cyclepref.jobs.cli import main
from cyclepref.jobs.plan import header
from cyclepref.jobs.recipe_names import shipped_recipes
from cyclepref.schemas.recipe import load_recipe

# What the heads of the recipes reckon with: DCI's 7,600 images on one node, of GPUs that hold every model.
INPUTS, GPUS, TYPES = 7600, 8, {"cycleprefdb_i2t": "H200"}
RECIPE = {
    "name": "mine",
    "cycle": "i2t2i",
    "inputs": {"source": "shapeworld", "limit": 4},
    "forward": [{"model": "shapeworld-blip"}, {"model": "shapeworld-blip-early"}],
    "backward": {"model": "shapeworld-sd3", "settings": {"steps": 1}},
    "metric": {"metric": "lpips-shapeworld"},
    "pairs": {"min_margin": 0.0},
}
NAMES = [name for name in shipped_recipes("build") if not name.startswith("shapeworld")]


def test_a_plan_is_a_table_that_tells_all(capsys):
    arguments = ["--gpus", "8", "--gpu-type", "H100", "--inputs", "7600", "--price-per-hour", "2.5", "--budget", "20h"]
    assert main(["plan", "better_i2t", *arguments]) == 0
    shown = capsys.readouterr().out
    for part in (
        "better-i2t: 7,600 inputs",
        "152,000",
        "GPU hours",
        "of 80 GB",
        "pools and waves",
        "on 8 H100:",
        "disk: about",
        "money: about",
        "a budget of 20 GPU hours is enough for about",
        "assumed:",
        "most uncertain: stabilityai/stable-diffusion-3.5-large",
    ):
        assert part in shown, shown


def test_a_plan_for_programs_is_json(capsys):
    assert main(["plan", "shapeworld_t2i2t", "--gpus", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unit"] == "hours"
    assert told["inputs"] == 400
    assert {row["stage"] for row in told["models"]} == {"candidates", "reconstructions", "scores"}


@pytest.mark.parametrize("name", NAMES)
def test_the_costs_at_the_head_of_a_recipe_are_those_that_plan_prints(name, capsys):
    path = shipped_recipes("build")[name]
    type_ = TYPES.get(name, "H100")
    made = plan(load_recipe(path), hardware(GPUS, type_), inputs=INPUTS)
    assert made.faults == []
    lines = header(made, name)
    assert "\n".join(lines) in path.read_text(), f"mend the head of {path.name}:\n" + "\n".join(lines)
    options = ["--gpus", str(GPUS), "--gpu-type", type_, "--inputs", str(INPUTS), "--header"]
    assert main(["plan", name, *options]) == 0
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "none.yaml"], "no recipe 'none.yaml'"),
        (["plan", "better_i2t"], "densely_captioned_images"),
        (["plan", "shapeworld_i2t2i", "--gpu-type", "H10"], "unknown GPU type 'H10' (did you mean 'H100'"),
        (["plan", "shapeworld_i2t2i", "--set", "seed=x"], "seed: must be a whole number"),
        (["plan", "shapeworld_i2t2i", "--set", "backward.model=shapeworld-sd33"], "did you mean 'shapeworld-sd3'"),
        (["plan", "shapeworld_i2t2i", "--out", "s3://a:b@bucket/x"], "carries credentials"),
    ],
)
def test_what_cannot_be_planned_is_one_error(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--budget", "soon", "must be a time such as 200h, 90m or 3d, got 'soon'"),
        ("--budget", "0h", "must be a time such as 200h"),
        ("--price-per-hour", "-1", "must be 0 or more"),
        ("--gpus", "x", "must be a whole number, 0 or more, got 'x'"),
        ("--inputs", "0", "must be a positive number"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_the_rule(option, value, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "shapeworld_i2t2i", f"{option}={value}"])
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("ray_local")
def test_the_command_tells_how_far_a_budget_reached(tmp_path, capsys):
    recipe, out = tmp_path / "recipe.yaml", str(tmp_path / "out")
    recipe.write_text(yaml.safe_dump(RECIPE))
    assert main(["build", str(recipe), "--out", out, "--limit", "3", "--budget", "1h"]) == 0
    shown = capsys.readouterr().err
    assert "3 of 3 inputs done; " in shown
    assert "of 1 hours taken" in shown
    assert "the budget ends here" not in shown
    assert main(["build", str(recipe), "--out", out, "--budget", "1s"]) == 1
    assert "and the budget for all of them is 0.000278: give a larger one" in capsys.readouterr().err
