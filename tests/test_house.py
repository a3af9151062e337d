"""The plan of the house: which folder imports from which, no circle among files, what stays light, what is shipped."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Bottom to top: a folder imports from those before it alone. schemas/ is below all, jobs/ above.
ORDER = (
    "common", "shapeworld", "pairing", "sources", "run", "models", "metrics", "costs", "engine", "catalog", "stages",
    "dataset", "preferences", "build.py", "recipe_check.py", "planning", "exports", "reward", "study", "report",
)  # fmt: skip
# What only reads and writes tables starts no cluster and loads no model.
PURE = (
    "pairing",
    "run",
    "preferences",
    "exports",
    "dataset/publish.py",
    "report",
    "dataset/reader.py",
    "dataset/statistics.py",
)


def inside(path: Path) -> Path:
    """Where a file is in the package: jobs/face is the package itself."""
    path = path.relative_to(ROOT).with_suffix("")
    return path.relative_to("jobs/face") if path.is_relative_to("jobs/face") else path


FILES = {
    ".".join(("cyclepref", *inside(path).parts)).removesuffix(".__init__"): path
    for layer in ("schemas", "builder", "jobs")
    for path in sorted((ROOT / layer).rglob("*.py"))
}


def edges(name: str, tree: ast.AST, names: set[str]) -> set[str]:
    """The files that a file imports, at its top, in a function or for type checkers."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & names
            found |= inner or ({node.module} & names)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
    return found - {name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {name: edges(name, ast.parse(path.read_text()), set(FILES)) for name, path in FILES.items()}


def rank(name: str) -> int:
    parts = FILES[name].relative_to(ROOT).parts
    if parts[0] == "schemas" or parts == ("builder", "__init__.py"):
        return -1
    return len(ORDER) if parts[0] == "jobs" else ORDER.index(parts[1])


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files that import one another: what is left when whatever no circle needs is taken away."""
    left = {name: set(others) for name, others in graph.items()}
    while leaves := {name for name, others in left.items() if not others}:
        left = {name: others - leaves for name, others in left.items() if name not in leaves}
    imported = set().union(*left.values()) if left else set()
    return [sorted(set(left) & imported)] if left else []


def test_every_folder_of_builder_has_its_place():
    entries = {path.name for path in (ROOT / "builder").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert entries - {"__init__.py", "__pycache__"} == set(ORDER)


def test_a_folder_imports_from_those_below_it_alone(graph):
    assert [f"{a} -> {b}" for a, others in graph.items() for b in others if rank(b) > rank(a)] == []


def test_no_files_import_one_another_in_a_circle(graph):
    assert circles(graph) == []


def test_the_search_for_circles_finds_them():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]


def test_what_is_pure_loads_neither_ray_nor_torch():
    modules = [
        name for name, path in FILES.items() if any(path.is_relative_to(ROOT / "builder" / pure) for pure in PURE)
    ]
    # One process for all: what the first of them loads that is heavy is told with its name.
    code = (
        f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
        "    found = {'ray', 'torch', 'transformers'} & set(sys.modules)\n"
        "    if found:\n        sys.exit(f'{name} loads {found}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(modules) > 30


def test_the_package_is_made_of_all_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = {"jobs/face" if name == "cyclepref" else name.removeprefix("cyclepref.").replace(".", "/")
              for name in settings["packages"]}  # fmt: skip
    folders = {path.parent.relative_to(ROOT).as_posix() for path in FILES.values() if path.name == "__init__.py"}
    assert listed == folders
    without = {path.parent.relative_to(ROOT).as_posix() for path in FILES.values()} - folders
    assert without == set(), "a folder without __init__.py would not be shipped"
