"""What is asked of a build for best of n, and its curves as a table and a picture."""

from pathlib import Path

from PIL import Image

from cyclepref.builder.study import best_of_n
from cyclepref.schemas.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "jobs" / "recipes"
POINTS = [{"n": n, "score": score, "low": score - 0.1, "high": score + 0.1} for n, score in ((1, 0.4), (2, 0.5))]
FOUND = {
    "model": "shapeworld-sd-early", "seconds": {"Combo": 0.0005, "cycle score": 0.05}, "inputs": 9, "of": 9,
    "mean": 0.4,
    "curves": {"Combo": POINTS, "cycle score": POINTS, "best possible": POINTS},
}  # fmt: skip


def test_sixteen_samples_of_one_model_are_made_of_scenes_after_the_demos():
    recipe = load_recipe(RECIPES / "shapeworld_t2i2t.yaml")
    made = best_of_n.recipe_of(recipe, "t2i2t", 800, 50)
    [choice] = made.forward
    assert (choice.model, choice.samples) == ("shapeworld-sd-early", 16)
    assert (made.inputs.offset, made.inputs.limit) == (800, 50)
    assert (made.backward, made.all_metrics, made.pairs) == (recipe.backward, recipe.all_metrics, recipe.pairs)


def test_curves_are_a_row_a_judge_with_its_cost():
    lines = best_of_n.table({"i2t2i": FOUND, "t2i2t": FOUND})
    assert lines[0] == "| true alignment of the best of n | n = 1 | n = 2 | ms a candidate |"
    assert lines[2] == "| i2t2i, picked by Combo | 40.0% | 50.0% | 0.5 |"
    assert lines[4] == "| i2t2i, picked by best possible | 40.0% | 50.0% |  |"
    assert len(lines) == 2 + 6


def test_the_picture_has_a_panel_a_cycle(tmp_path):
    best_of_n.draw({"i2t2i": FOUND}, tmp_path / "one.png")
    best_of_n.draw({"i2t2i": FOUND, "t2i2t": FOUND}, tmp_path / "docs" / "two.png")
    one, two = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "docs" / "two.png")
    assert two.width > 1.8 * one.width
    assert len(two.getcolors(10**6)) > 5
