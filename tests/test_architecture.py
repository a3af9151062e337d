"""What holds for every file: which way imports go, what may be loaded, how long a file is, that recipes resolve."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cyclepref.builder.catalog.resolve import metric_spec, model_spec
from cyclepref.builder.reward.training.settings import load_train_recipe
from cyclepref.schemas.recipe import MetricChoice, load_recipe

ROOT = Path(__file__).parents[1]
LAYERS = ("schemas", "builder", "jobs")
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))
REWARD_RECIPES = sorted((ROOT / "jobs" / "recipes" / "rewards").glob("*.yaml"))
MAX_LINES = 350
COMMANDS = (
    "build", "demo", "models", "status", "failures", "verify", "prune", "merge", "stats", "publish", "export",
    "score", "rank", "best-of-n", "convert-reward", "train-reward", "evaluate", "recipes", "completion",
    "report", "watch", "audit",
)  # fmt: skip
HEAVY = {"torch", "ray", "transformers", "diffusers", "datasets", "lpips", "sentence_transformers", "dreamsim"}
# Reading a pickle runs whatever code is in it.
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """The name that a file is imported by: jobs/face is the package `cyclepref` itself."""
    inside = path.relative_to(ROOT).with_suffix("")
    inside = inside.relative_to("jobs/face") if inside.is_relative_to("jobs/face") else inside
    return ".".join(("cyclepref", *inside.parts)).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, at the top or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which way an import goes"
            yield node.module or ""


def packages(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imports(tree)}


def upward(layer: str, tree: ast.AST) -> set[str]:
    """Layers above `layer` that the tree imports."""
    named = {name.removeprefix("cyclepref.").split(".")[0] for name in imports(tree)}
    return named & set(LAYERS[LAYERS.index(layer) + 1 :])


def unsafe_loads(tree: ast.AST) -> list[int]:
    """Lines that may run code found in a file: torch.load without weights_only=True, numpy with pickles."""
    lines = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {key.arg: key.value.value for key in call.keywords if isinstance(key.value, ast.Constant)}
        called = ast.unparse(call.func)
        if (called == "torch.load" and given.get("weights_only") is not True) or given.get("allow_pickle"):
            lines.append(call.lineno)
    return lines


def trusts_remote_code(tree: ast.AST) -> list[int]:
    """Lines that set trust_remote_code to True: whether to run a repository's code is for the user to say."""
    pairs: list[tuple[str, ast.expr | None]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            pairs.append((node.arg or "", node.value))
        elif isinstance(node, ast.Dict):
            pairs += [(ast.unparse(key).strip("'\""), v) for key, v in zip(node.keys, node.values, strict=True) if key]
        elif isinstance(node, ast.AnnAssign):
            pairs.append((ast.unparse(node.target), node.value))
        elif isinstance(node, ast.Assign):
            pairs += [(ast.unparse(target), node.value) for target in node.targets]
    return [
        value.lineno
        for name, value in pairs
        if name.endswith("trust_remote_code") and isinstance(value, ast.Constant) and value.value is True
    ]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.AST]:
    """Every source file's syntax tree by its name."""
    return {name_of(path): ast.parse(path.read_text()) for path in SOURCES}


def test_every_layer_has_modules():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_imports(path):
    assert importlib.import_module(module_of(path)).__doc__


def test_imports_go_from_jobs_to_builder_to_schemas_and_never_back(trees):
    assert [name for name, tree in trees.items() if upward(name.split("/")[0], tree)] == []
    assert [name for name, tree in trees.items() if "tests" in packages(tree)] == []


def test_only_the_engine_and_distributed_training_import_ray(trees):
    found = [name for name, tree in trees.items() if "ray" in packages(tree)]
    engine = [
        f"builder/engine/{name}.py" for name in ("answers", "cluster", "engine", "flow", "hosts", "nodes", "tasks")
    ]
    assert found == [*engine, "builder/reward/training/workers.py"]


def test_schemas_bring_in_neither_torch_nor_ray():
    modules = [module_of(path) for path in SOURCES if path.is_relative_to(ROOT / "schemas")]
    assert loaded_by(f"import {', '.join(modules)}") == set()


CALLS = ("--help", "--version", *(f"{name} --help" for name in COMMANDS))


@pytest.fixture(scope="module")
def loaded_by_calls() -> dict[str, set[str]]:
    """The heavy libraries that each call of the command line has loaded, all in one fresh interpreter.

    What a call loads stays loaded, so the calls after it have it too: the first one is to blame.
    """
    # sys.exit ends the command after --help; what was loaded until then is told all the same.
    code = (
        "import sys, cyclepref.jobs.cli\n"
        f"for call in {CALLS!r}:\n"
        "    try:\n        cyclepref.jobs.cli.main(call.split())\n"
        "    except SystemExit as exit:\n        assert not exit.code\n"
        f"    print('AFTER', call.replace(' ', '_'), *({HEAVY!r} & set(sys.modules)))"
    )
    after = [line.split()[1:] for line in fresh(code).splitlines() if line.startswith("AFTER ")]
    return {call.replace("_", " "): set(found) for call, *found in after}


@pytest.mark.parametrize("arguments", CALLS)
def test_the_command_line_explains_itself_before_it_loads_anything(arguments, loaded_by_calls):
    assert loaded_by_calls[arguments] == set()


def loaded_by(code: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after running `code`."""
    report = f"\nimport sys\nprint('LOADED', *({HEAVY!r} & set(sys.modules)))"
    return set(fresh(code + report).splitlines()[-1].split()[1:])


def fresh(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_nothing_reads_a_pickle(trees):
    assert [name for name, tree in trees.items() if packages(tree) & PICKLERS] == []
    assert {name: lines for name, tree in trees.items() if (lines := unsafe_loads(tree))} == {}


def test_no_file_decides_to_run_remote_code(trees):
    assert {name: lines for name, tree in trees.items() if (lines := trusts_remote_code(tree))} == {}


def test_no_file_is_too_long_to_read_in_one_go():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in [*SOURCES, *TESTS]}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_there_are_recipes_for_both_cycles():
    assert {load_recipe(path).cycle for path in RECIPES} == {"i2t2i", "t2i2t"}


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_every_recipe_loads_and_its_models_resolve_by_name(path):
    recipe = load_recipe(path)
    cycle = recipe.shape
    for choice in recipe.forward:
        assert model_spec(choice, cycle.forward_kind).kind == cycle.forward_kind
    assert model_spec(recipe.backward, cycle.backward_kind).kind == cycle.backward_kind
    assert {metric_spec(trusted(choice), cycle.input).modality for choice in recipe.all_metrics} == {cycle.input}


def trusted(choice: MetricChoice) -> MetricChoice:
    """The choice as a user who trusts its remote code would write it: the recipe itself never does."""
    return choice.model_copy(update={"settings": {**choice.settings, "trust_remote_code": True}})


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_every_recipe_opens_with_the_command_that_runs_it(path):
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"cyclepref build {path.stem} --out " in comment
    assert "trust_remote_code" not in yaml.safe_dump(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", REWARD_RECIPES, ids=name_of)
def test_every_reward_recipe_loads_and_opens_with_its_command(path):
    assert load_train_recipe(path).start
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"--recipe {path.stem} --out " in comment
    assert "Hardware: " in comment


def test_there_are_recipes_of_rewards():
    assert {path.stem for path in REWARD_RECIPES} >= {"shapeworld", "cyclereward", "lee2023"}


# The scans above must find what they look for.


def test_the_scan_of_imports_sees_those_within_functions():
    late = ast.parse("def late():\n    from cyclepref.builder.engine.engine import Engine")
    assert upward("schemas", late) == {"builder"}
    assert upward("jobs", ast.parse("import cyclepref.builder.build, cyclepref.schemas.ids")) == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=flag)", True),
        ("np.load(path, allow_pickle=True)", True),
        ("torch.load(path, map_location=device, weights_only=True)", False),
        ("json.load(file)", False),
    ],
)
def test_the_scan_of_loads_finds_those_that_may_run_code(code, found):
    assert bool(unsafe_loads(ast.parse(code))) == found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("load(repo, trust_remote_code=True)", True),
        ("options = {'trust_remote_code': True}", True),
        ("class Spec:\n    trust_remote_code: bool = True", True),
        ("spec.trust_remote_code = True", True),
        ("load(repo, trust_remote_code=spec.trust_remote_code)", False),
        ("class Spec:\n    trust_remote_code: bool = False", False),
    ],
)
def test_the_scan_of_remote_code_finds_every_way_to_say_it(code, found):
    assert bool(trusts_remote_code(ast.parse(code))) == found
