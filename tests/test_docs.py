"""README and docs/ are true: links lead somewhere, commands exist, recipes are valid, and what can run here runs."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from PIL import Image

from cyclepref.builder.recipe_check import read_recipe
from cyclepref.jobs.cli import main, make_parser

sys.path.append(str(Path(__file__).parent / "builder"))

from made_run import make_run

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
# Commands of the docs that need no model, network or cluster: run as they stand, in a folder with finished runs.
RUNS_HERE = ("stats", "export", "status", "failures", "models", "recipes", "publish", "report")


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every block of a language."""
    return [(page.name, text) for page in PAGES for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every `cyclepref` command in a shell block."""
    found = []
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split("&&")[-1], comments=True)
            if words[:1] == ["cyclepref"]:
                found.append((page, words[1:]))
    return found


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Keep what `load_dataset` prepares out of the user's cache."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory, own_cache) -> Path:
    """A folder with the runs, the reward model and the picture that the docs speak of."""
    from cyclepref.builder.reward.model import RewardModel

    folder = tmp_path_factory.mktemp("docs")
    for name, cycle in (("mine", "i2t2i"), ("my-photos", "i2t2i"), ("my-prompts", "t2i2t")):
        make_run(folder / "runs" / name, cycle)
    torch.manual_seed(0)
    weights = ROOT / "builder" / "shapeworld" / "weights" / "blip"
    RewardModel.from_captioner(weights, head_sizes=[8]).save_pretrained(folder / "runs" / "reward")
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_or_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            heads = re.findall(r"^#+ (.+)$", target.read_text(), re.M) if heading else []
            assert not heading or heading in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}, link


def test_every_page_of_docs_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme] == []


def test_the_tree_in_the_readme_is_the_tree():
    tree = next(text for page, text in blocks("text") if page == "README.md" and text.startswith("schemas/"))
    told = {name for line in tree.splitlines() if line.startswith("  ") for name in re.findall(r"(\w+)/ ", line[:21])}
    there = {path.name for path in (ROOT / "builder").iterdir() if (path / "__init__.py").exists()}
    assert told == there


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_every_command_is_one_that_the_command_line_takes(page, words):
    assert make_parser().parse_args(words).command == words[0]


def test_commands_that_need_no_model_run_as_they_stand(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    done = 0
    for page, words in commands():
        if words[0] in RUNS_HERE and (words[0] != "publish" or "--dry-run" in words):
            shutil.rmtree("exports", ignore_errors=True)  # several pages export to one place
            assert main(words) == 0, (page, words, capsys.readouterr())
            done += 1
    assert done >= 10


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_every_recipe_in_the_docs_is_valid(page, text, tmp_path, monkeypatch):
    content = yaml.safe_load(text)
    if "cycle" not in content:  # a part of one
        pytest.skip("a part of a recipe")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / content["inputs"]["path"]
    place.mkdir() if content["cycle"] == "i2t2i" else place.write_text("a red circle\n")
    (tmp_path / "recipe.yaml").write_text(text)
    assert read_recipe(tmp_path / "recipe.yaml", {}).name == content["name"]


def test_every_python_example_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for page, text in blocks("python"):
        exec(compile(text, page, "exec"), {})


NOTEBOOK = ROOT / "docs" / "from-photos-to-a-reward.ipynb"


def test_the_notebook_uses_the_public_face_and_was_run_to_its_end():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/jpeg" in output.get("data", {}) for cell in cells for output in cell["outputs"]) >= 3
    imported = re.findall(r"(?:from|import) (cyclepref[.\w]*)", "".join(line for c in cells for line in c["source"]))
    assert set(imported) == {"cyclepref", "cyclepref.builder.shapeworld"}


@pytest.mark.slow
def test_the_notebook_runs_from_photos_to_a_reward(tmp_path):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "reward" / "model.safetensors").exists()
