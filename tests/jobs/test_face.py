"""`import cyclepref`: light, typed, with examples that run, and a function for every command, which shares its work."""

import ast
import doctest
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path

import datasets as hf_datasets
import pytest
import torch
from PIL import Image

import cyclepref
from cyclepref.builder.reward.model import RewardModel
from cyclepref.jobs import cli
from cyclepref.schemas.errors import CyclePrefError

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "builder"), str(ROOT / "tests" / "builder" / "reward")]

from made_run import make_run  # noqa: E402
from plain_colours import make_rows, write_dataset  # noqa: E402

FUNCTIONS = [name for name in cyclepref.__all__ if inspect.isfunction(getattr(cyclepref, name))]
# Where a command's work is done, and the function that it and the face both call; "face": the command calls the face.
SHARED = {
    "build": ("run_build.py", "run_build", "cyclepref.builder.build.build"),
    "plan": ("plan.py", "run_plan", "cyclepref.builder.planning.plan.plan"),
    "check": ("check.py", "run_check", "cyclepref.builder.planning.check.check_recipe"),
    "init": ("init.py", "run_init", "cyclepref.builder.planning.new_recipe.new_recipe"),
    "demo": ("cli.py", "_demo", "cyclepref.jobs.demo.run_demo"),
    "models": ("models.py", "print_models", "cyclepref.builder.catalog.catalog.CATALOG"),
    "recipes": ("recipes_list.py", "print_recipes", "cyclepref.jobs.recipe_names.shipped_recipes"),
    "verify": ("verify.py", "run_verify", "cyclepref.builder.dataset.verify.verify"),
    "status": ("runs.py", "print_status", "cyclepref.builder.run.status.status"),
    "failures": ("runs.py", "print_failures", "face"),
    "prune": ("runs.py", "run_prune", "cyclepref.builder.run.upkeep.prune"),
    "merge": ("runs.py", "run_merge", "cyclepref.builder.run.upkeep.merge"),
    "report": ("report.py", "run_report", "face"),
    "watch": ("report.py", "run_watch", "face"),
    "audit": ("report.py", "run_audit", "face"),
    "stats": ("publish.py", "print_statistics", "face"),
    "publish": ("publish.py", "run_publish", "cyclepref.builder.dataset.publish.publish"),
    "export": ("export.py", "run_export", "cyclepref.builder.exports.export.export"),
    "score": ("reward.py", "run_score", "model.score"),
    "rank": ("reward.py", "run_rank", "model.rank"),
    "best-of-n": ("reward.py", "run_best_of_n", "cyclepref.builder.reward.best_of_n.best_of_groups"),
    "convert-reward": ("reward.py", "run_convert", "face"),
    "train-reward": ("train_reward.py", "run_train_reward", "face"),
    "evaluate": ("evaluate.py", "run_evaluate", "cyclepref.builder.reward.evaluation.evaluate.evaluate"),
}


def commands() -> list[str]:
    (choices,) = [action.choices for action in cli.make_parser()._actions if action.dest == "command"]
    return list(choices)


def test_every_command_has_a_function_of_its_name():
    # What a shell reads in order to complete words is no function of Python.
    assert [name for name in commands() if name.replace("-", "_") not in cyclepref.__all__] == ["completion"]
    assert sorted([*SHARED, "completion"]) == sorted(commands())


@pytest.mark.parametrize("command", SHARED)
def test_a_command_and_its_function_do_the_same_work(command):
    file, function, shared = SHARED[command]
    name = command.replace("-", "_")
    theirs = called(ROOT / "jobs" / file, function)
    if shared == "face":
        assert f"cyclepref.{name}" in theirs
        return
    own = called(Path(inspect.getsourcefile(getattr(cyclepref, name))), name)
    method = shared.removeprefix("model.")
    assert all(shared in names or (method != shared and f".{method}" in names) for names in (own, theirs))


def called(path: Path, function: str) -> set[str]:
    """Dotted names that a function uses, imported in it or at the top of its file; ".name" for attributes."""
    tree = ast.parse(path.read_text())
    (node,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    imports = [n for n in [*tree.body, *ast.walk(node)] if isinstance(n, ast.ImportFrom)]
    dotted = {alias.asname or alias.name: f"{n.module}.{alias.name}" for n in imports for alias in n.names}
    used = {dotted[n.id] for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in dotted}
    return used | {f".{n.attr}" for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def test_the_face_is_light():
    code = (
        "import time, sys\nbegan = time.process_time()\nimport cyclepref\ntook = time.process_time() - began\n"
        "assert 'build' in dir(cyclepref)\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\nprint(took, *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, *heavy = done.stdout.split()
    assert not heavy
    assert float(took) < 0.1


def test_what_is_imported_for_types_is_what_is_loaded():
    tree = ast.parse((ROOT / "jobs" / "face" / "__init__.py").read_text())
    typed = {a.name: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    typed.pop("TYPE_CHECKING"), typed.pop("Any")
    assert typed == cyclepref._MODULE_OF
    assert set(typed) == set(cyclepref.__all__) == set(dir(cyclepref)) & set(typed)


def test_a_name_that_is_not_there_is_told_as_python_tells_it():
    with pytest.raises(AttributeError, match="module 'cyclepref' has no attribute 'bild'"):
        _ = cyclepref.bild


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_typed_and_explained_with_an_example(name):
    function = getattr(cyclepref, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty] == []
    assert ">>> " in function.__doc__


def test_errors_are_ours():
    errors = [getattr(cyclepref, name) for name in cyclepref.__all__ if isinstance(getattr(cyclepref, name), type)]
    errors = [error for error in errors if issubclass(error, Exception)]
    assert len(errors) > 20
    assert all(issubclass(error, CyclePrefError) for error in errors)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> typing.Iterator[Path]:
    """A folder as the examples' user has it."""
    before = hf_datasets.config.HF_DATASETS_CACHE
    hf_datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    place = tmp_path_factory.mktemp("face")
    run = make_run(place / "runs" / "mine", "i2t2i")
    make_run(place / "runs" / "other", "i2t2i", inputs=4, samples=1)
    captioner = ROOT / "builder" / "shapeworld" / "weights" / "blip"
    (place / "captioner").symlink_to(captioner)
    torch.manual_seed(0)
    RewardModel.from_captioner(captioner, head_sizes=[8]).save_pretrained(place / "reward")
    about = {"datasets": [str(run)], "pairwise_accuracy": {"i2t2i": 1}}
    (place / "reward" / "metrics.json").write_text(json.dumps(about))
    write_dataset(place / "plain", "i2t2i", make_rows("i2t2i", train=4, validation=2))
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (64, 64), colour).save(place / name)
    yield place
    hf_datasets.config.HF_DATASETS_CACHE = before


@pytest.mark.parametrize("name", [*(n for n in FUNCTIONS if n not in ("build", "prune")), "RewardModel"])
def test_the_examples_run(name, place, monkeypatch):
    monkeypatch.chdir(place)
    run_examples(name)


def run_examples(name: str, **globs) -> None:
    value = getattr(cyclepref, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(value, name, globs={"cyclepref": cyclepref, **globs})
    assert test.examples
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    found = doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=said.append)
    assert not found.failed, "".join(said)


@pytest.mark.slow
def test_the_examples_of_building_run(ray_local, place, monkeypatch):
    monkeypatch.chdir(place)
    recipe = {
        "name": "small", "cycle": "i2t2i", "inputs": {"source": "shapeworld", "limit": 2},
        "forward": [{"model": "shapeworld-blip", "samples": 2, "settings": {"temperature": 2.0}}],
        "backward": {"model": "shapeworld-sd", "settings": {"steps": 2}}, "metric": {"metric": "lpips-shapeworld"},
        "pairs": {"min_margin": 0, "poor_chosen": None},
    }  # fmt: skip
    run_examples("build", recipe=recipe)
    run_examples("prune")


@pytest.mark.parametrize("way", ["path", "name", "dict", "object"])
def test_recipes_are_given_as_a_path_a_name_a_dict_or_the_object(way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = cyclepref.recipes()["shapeworld_i2t2i"]
    recipe = cyclepref.load_recipe(path)
    ways = {"path": str(path), "name": path.stem, "dict": recipe.model_dump(exclude_unset=True), "object": recipe}
    assert cyclepref.load_recipe(ways[way]) == recipe


def test_a_recipe_of_another_kind_is_refused():
    with pytest.raises(cyclepref.RecipeError, match="a recipe is a path, a name, a dict or a Recipe; got int"):
        cyclepref.load_recipe(3)
