"""Recipes that come with the package are found by name from any directory."""

import pytest

from cyclepref.jobs.recipe_names import COMMANDS, recipe_path, shipped_recipes
from cyclepref.schemas.recipe import RecipeError


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_shipped_recipe_is_found_by_its_name_from_any_directory(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = shipped_recipes(kind)
    assert names
    for name, path in names.items():
        assert recipe_path(name, kind) == recipe_path(f"{name}.yaml", kind) == path


def test_a_file_wins_over_a_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapeworld_t2i2t").mkdir()
    (tmp_path / "shapeworld_i2t2i").write_text("name: mine")
    assert recipe_path("shapeworld_i2t2i", "build").read_text() == "name: mine"
    assert recipe_path("shapeworld_t2i2t", "build") == shipped_recipes("build")["shapeworld_t2i2t"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("shapeworld_i2t2", "build", r"did you mean 'shapeworld_i2t2i'.*`cyclepref recipes` lists \(better_i2t, "),
        ("shapewrold", "reward", r"did you mean 'shapeworld'\?\).*\(cyclereward, lee2023, shapeworld\)"),
        ("zzz", "build", "^no recipe 'zzz': give the path"),
        ("no/such/recipe.yaml", "build", "^no recipe 'no/such/recipe.yaml': give the path of a YAML file"),
        ("lee2023", "build", "another kind of recipe: `cyclepref train-reward --recipe lee2023` runs it"),
        ("better_i2t", "reward", "another kind of recipe: `cyclepref build better_i2t` runs it"),
        ("elsewhere/recipes/better_i2t.yaml", "build", "called by its name, better_i2t"),
        (".", "build", r"\. is a folder: a recipe is a YAML file"),
    ],
)
def test_what_is_no_recipe_is_told_with_the_names_that_there_are(name, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=message):
        recipe_path(name, kind)
