"""`init` finds out what inputs there are, and writes a recipe that passes `check` and explains itself."""

import io
import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from cyclepref.builder.catalog.catalog import CATALOG, WEIGHTS
from cyclepref.builder.planning import new_recipe as made
from cyclepref.builder.planning.check import check_recipe
from cyclepref.builder.planning.hardware import Hardware, hardware
from cyclepref.builder.planning.inputs_found import look_at
from cyclepref.builder.recipe_check import read_recipe
from cyclepref.jobs.cli import main
from cyclepref.jobs.init import run_init
from cyclepref.schemas.recipe import RecipeError

CPU = Hardware(None, 0, 2)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def put(kind: str) -> Path:
    """Inputs of a kind in the working folder."""
    path = Path(f"my {kind}, [new]")
    if kind == "photos":
        (path / "deep").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path / "deep" / "a.PNG")
        (path / "notes.txt").write_text("no input")
    elif kind == "prompts":
        path = path.with_suffix(".txt")
        path.write_text("a cat\na dog\n")
    elif kind == "table":
        path = path.with_suffix(".tsv")
        path.write_text("Category\tPrompt\nAnimals\ta cat\n")
    elif kind in ("captions", "pictures"):
        values = ["a cat"] if kind == "captions" else [{"bytes": b"x", "path": "a"}]
        path = path.with_suffix(".parquet")
        pq.write_table(pa.table({"id": [1], "caption" if kind == "captions" else "image": values}), path)
    else:
        datasets.Dataset.from_dict({"prompt": ["a cat"], "n": [1]}).save_to_disk(str(path))
    return path


@pytest.mark.parametrize(
    ("kind", "source", "modality", "column"),
    [
        ("photos", "images", "image", None),
        ("prompts", "prompts", "text", None),
        ("table", "tsv", "text", "Prompt"),
        ("captions", "parquet", "text", "caption"),
        ("pictures", "parquet", "image", "image"),
        ("saved", "dataset", "text", "prompt"),
    ],
)
def test_inputs_of_every_kind_are_known_and_their_recipe_passes_check(kind, source, modality, column):
    path = put(kind)
    found = look_at(path)
    assert (found.section["source"], found.modality, found.section.get("column")) == (source, modality, column)
    made.new_recipe(path, Path("new.yaml"), CPU, limit=3)
    checked = check_recipe("new.yaml", None, CPU)
    assert checked.faults == []
    recipe = read_recipe("new.yaml")
    assert recipe.inputs.path == str(path)
    assert recipe.inputs.limit == 3
    assert recipe.cycle == {"image": "i2t2i", "text": "t2i2t"}[modality]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none", "there is nothing"),
        ("empty", "a folder without pictures and without parquet files: inputs are a folder of pictures"),
        ("shards", r"holds \.tar files, as WebDataset's shards are: unpack them"),
        ("a.pdf", r"a file that ends in \.pdf: inputs are"),
        ("a.png", "is one picture: give the folder"),
        ("n.parquet", "has no column of texts or pictures: its columns are n"),
        ("two.parquet", r"which column are the inputs\? Give --column: it has a \(texts\), b \(texts\)"),
        ("x.tsv", r"which column are the prompts\? Give --column: it has one, two"),
    ],
)
def test_what_is_no_input_is_told_with_what_would_be_one(given, message):
    Path("empty").mkdir()
    Path("shards").mkdir()
    Path("shards/00.tar").write_bytes(b"")
    Path("a.pdf").write_bytes(b"")
    Path("a.png").write_bytes(b"")
    pq.write_table(pa.table({"n": [1]}), "n.parquet")
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), "two.parquet")
    Path("x.tsv").write_text("one\ttwo\n1\t2\n")
    with pytest.raises(RecipeError, match=message):
        made.new_recipe(Path(given), Path("new.yaml"), CPU)
    assert not Path("new.yaml").exists()


def test_a_column_that_is_named_is_taken_or_refused():
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), "two.parquet")
    assert look_at(Path("two.parquet"), "b").section["column"] == "b"
    with pytest.raises(RecipeError, match=r"--column c: two.parquet has no such column .*: it has a \(texts\)"):
        look_at(Path("two.parquet"), "c")


def test_a_file_that_is_there_is_never_replaced():
    Path("new.yaml").write_text("mine")
    with pytest.raises(RecipeError, match=r"new\.yaml is there already: give another name by --recipe"):
        made.new_recipe(put("photos"), Path("new.yaml"), CPU)
    assert Path("new.yaml").read_text() == "mine"


def cached(cache: Path, name: str, weights: str) -> None:
    """Put a tiny model of the right kind into a Hub cache, under the name of one of the catalog."""
    place = cache / f"models--{CATALOG[name].repo.replace('/', '--')}"
    commit = "c0ffee" + "0" * 34
    shutil.copytree(WEIGHTS / weights, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)


def test_models_are_those_that_fit_the_gpu_and_are_here_and_the_others_are_left_out_with_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, weights in (("sd3.5-medium", "sd3"), ("sd-1.5", "sd"), ("llava-1.5-7b", "llava"), ("blip-base", "blip")):
        cached(tmp_path / "hub", name, weights)
    cached(tmp_path / "hub", "qwen3-vl-8b", "llava")
    monkeypatch.setattr(made, "METRICS", {"image": ("lpips-shapeworld",), "text": ("sbert",)})
    large, small = (made.choose("image", hardware(1, gpu)) for gpu in ("A100-40G", "T4"))
    assert large.forward == ["qwen3-vl-8b", "llava-1.5-7b", "blip-base"]
    assert large.backward == "sd3.5-medium"
    assert not large.embedded
    assert "at revision" in large.left_out["internvl3-8b"] or "cannot find" in large.left_out["internvl3-8b"]
    assert small.embedded, "one captioner that needs no bfloat16 is too few"
    assert "has no bfloat16" in small.left_out["llava-1.5-7b"]


def test_questions_are_asked_and_their_answers_used():
    path, asked = put("photos"), []

    def ask(question: str) -> str:
        asked.append(question)
        return {0: str(path), 1: "", 2: "5"}[len(asked) - 1]

    assert run_init(None, None, gpus=0, ask=ask) == 0
    assert len(asked) == 3
    [file] = Path().glob("*.yaml")
    recipe = read_recipe(file)
    assert recipe.name == file.stem == "my-photos-new"
    assert recipe.inputs.limit == 5


def test_the_command_needs_no_answers_and_says_what_is_next(capsys):
    path = put("prompts")
    assert main(["init", "--inputs", str(path), "--name", "mine", "--gpus", "0"]) == 0
    shown = capsys.readouterr().out
    assert "mine.yaml: written, and without faults on this machine" in shown
    assert "next: cyclepref plan mine.yaml, then cyclepref build mine.yaml --out DIR" in shown
    text = Path("mine.yaml").read_text()
    assert "NO GOOD PAIRS COME OF THIS AS IT IS" in text
    assert main(["check", "mine.yaml", "--gpus", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["init", "--inputs", str(path), "--name", "mine", "--gpus", "0"]) == 1
    assert "is there already" in capsys.readouterr().err


def test_nobody_to_ask_is_an_error_with_the_option(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["init"]) == 1
    assert "which inputs? Give --inputs PATH" in capsys.readouterr().err
