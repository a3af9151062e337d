"""The recipes that come with the package, found by name wherever the package is installed."""

from pathlib import Path
from typing import Literal

from cyclepref.schemas.nearest import did_you_mean
from cyclepref.schemas.recipe import RecipeError

RecipeKind = Literal["build", "reward"]

_ALL = Path(__file__).parent / "recipes"
FOLDERS: dict[RecipeKind, Path] = {"build": _ALL, "reward": _ALL / "rewards"}
# How a recipe of each kind is run.
COMMANDS: dict[RecipeKind, str] = {"build": "cyclepref build {}", "reward": "cyclepref train-reward --recipe {}"}


def shipped_recipes(kind: RecipeKind) -> dict[str, Path]:
    """The files of the recipes of one kind, by their names."""
    return {path.stem: path for path in sorted(FOLDERS[kind].glob("*.yaml"))}


def recipe_path(name_or_path: str, kind: RecipeKind) -> Path:
    """The file that a user means: a path that exists, or else the name of a recipe that comes with the package, with
    or without ".yaml".

    Raises:
        RecipeError: if it is neither (the message suggests names and lists all), a folder, or the name of a recipe of
            the other kind.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes(kind)
    name = name_or_path.removesuffix(".yaml").removesuffix(".yml")
    if name in shipped:
        return shipped[name]
    raise RecipeError(_no_such(name_or_path, path, kind))


def _no_such(given: str, path: Path, kind: RecipeKind) -> str:
    """The error for a name to which no file belongs."""
    if path.is_dir():
        return f"{given} is a folder: a recipe is a YAML file, or a name that `cyclepref recipes` lists"
    # The path jobs/recipes/x.yaml exists only in a checkout, but its stem x is a recipe name everywhere.
    name, names = path.stem, shipped_recipes(kind)
    other: RecipeKind = "reward" if kind == "build" else "build"
    if name in names:
        return f"no file {given}: the recipe that comes with CyclePref is called by its name, {name}"
    if name in shipped_recipes(other):
        return f"{name} is another kind of recipe: `{COMMANDS[other].format(name)}` runs it"
    hint = did_you_mean(name, names)
    return (
        f"no recipe {given!r}{hint}: give the path of a YAML file, or a name that `cyclepref recipes` lists "
        f"({', '.join(names)})"
    )
