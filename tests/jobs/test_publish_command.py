"""`cyclepref stats` and `publish --dry-run` on the command line: tables, JSON, and one clear error."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "builder"))

from dataset_run import make_run

from cyclepref.builder.dataset.edition import release
from cyclepref.jobs.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("run")
    made = make_run(place, inputs=8)
    counts = release(made.facts, made.views, made.accountant(), None, None)
    made.store.write_json("run.json", {"recipe": made.recipe.model_dump(mode="json"), "counts": counts})
    return place


def test_statistics_of_a_run_and_of_its_dataset_are_the_same(run, capsys):
    assert main(["stats", str(run), "--json"]) == 0
    of_run = json.loads(capsys.readouterr().out)
    assert main(["stats", str(run / "dataset"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == of_run
    assert of_run["inputs"] == 8


def test_statistics_are_tables_with_their_warnings(run, capsys):
    assert main(["stats", str(run)]) == 0
    said = capsys.readouterr().out
    for words in ("pairs per input", "predicted by the models' names alone", "1 middle", "warning: The models' names"):
        assert words in said


def test_what_has_no_dataset_or_no_name_is_one_error(run, tmp_path, capsys):
    assert main(["stats", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no dataset")
    assert main(["publish", str(run), "--repo", "name", "--dry-run"]) == 1
    assert "error: 'name' is no repository" in capsys.readouterr().err


def test_a_dry_run_needs_neither_token_nor_network(run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["publish", str(run), "--repo", "org/name", "--dry-run", "--partial"]) == 0
    said = capsys.readouterr().out
    assert "README.md" in said
    assert "dry run: nothing was sent" in said
