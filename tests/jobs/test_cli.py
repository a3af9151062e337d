"""The command line: what it prints, and one clear error for what a user gets wrong."""

import io
import json

import pyarrow as pa
import pytest
import yaml

from cyclepref.builder import __version__
from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.run.lock import hold
from cyclepref.builder.run.record import Notes
from cyclepref.builder.run.store import Store
from cyclepref.jobs.cli import GO_ON, main
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest

RECIPE = {
    "name": "mine",
    "cycle": "i2t2i",
    "inputs": {"source": "shapeworld", "limit": 4},
    "forward": [{"model": "shapeworld-blip"}, {"model": "shapeworld-llava"}],
    "backward": {"model": "shapeworld-sd3"},
    "metric": {"metric": "lpips-shapeworld"},
    "pairs": {"min_margin": 0.1, "poor_chosen": None},
}


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe with changes and returns its path."""

    def write(**changes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**RECIPE, **changes}))
        return str(path)

    return write


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"cyclepref {__version__}"


def test_models_lists_the_whole_catalog_and_shows_one_entry(capsys):
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CATALOG)
    assert main(["models", "shapeworld-sd3"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == CATALOG["shapeworld-sd3"].steps


COMMANDS = (
    "demo", "build", "models", "status", "prune", "merge", "stats", "publish", "export",
    "score", "rank", "best-of-n", "convert-reward", "train-reward", "evaluate", "recipes", "completion",
)  # fmt: skip


@pytest.mark.parametrize("command", [[name] for name in COMMANDS])
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert "examples:" in capsys.readouterr().out


def test_an_unknown_model_is_told_with_the_nearest_name(capsys):
    assert main(["models", "shapeworld-sd33"]) == 1
    assert "did you mean 'shapeworld-sd3'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"source": "images", "path": "no/such/photos"}}, "inputs.path: no/such/photos: no such folder"),
        ({"forward": [{"model": "shapeworld-bilp"}, {"model": "shapeworld-llava"}]}, "did you mean 'shapeworld-blip'"),
        ({"metric": {"metric": "sbert"}}, "sbert compares texts, but this cycle needs a metric for images"),
        ({"sed": 1}, "sed: unknown setting (did you mean 'seed'?)"),
    ],
)
def test_a_recipe_that_cannot_run_is_one_clear_error_before_anything_starts(recipe, tmp_path, capsys, changes, message):
    assert main(["build", recipe(**changes), "--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert "Traceback" not in shown


def test_an_output_directory_that_is_a_file_is_refused_and_left_alone(recipe, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("precious")
    assert main(["build", recipe(), "--out", str(path)]) == 1
    assert "is a file: --out must name a folder" in capsys.readouterr().err
    assert path.read_text() == "precious"


# ---- run directories -----------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> str:
    """A finished run whose store has a row that its build did not ask for, from a model with a hostile name."""
    store = Store(tmp_path / "run")
    rows = [{"id": digest(n), "model": "[red]evil\x1b[2J"} for n in "ab"]
    store.write_part("failures", pa.Table.from_pylist(rows, schema=records.FAILURE))
    with Notes(store).of("mine") as notes:
        notes.begin("scores", "similarities", pa.chunked_array([[digest("a")]]), pa.chunked_array([["m"]]), 1)
        notes.end()
    counts = {"inputs": {"read": 0, "failed": 0}}
    store.write_json("run.json", {"models": {"m": {"fingerprint": "f"}}, "counts": counts})
    return store.root


def test_status_tells_people_and_programs_the_same_and_steers_no_terminal(run, capsys):
    assert main(["status", run]) == 0
    shown = capsys.readouterr().out
    assert "mine: finished" in shown
    assert "[red]evil" in shown
    assert "\x1b[2J" not in shown
    assert main(["status", run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["table"], each["rows"]) for each in found["unused"]] == [("failures", 1)]


def test_status_of_what_is_no_run_is_one_clear_error_and_makes_no_directory(tmp_path, capsys):
    assert main(["status", str(tmp_path / "no")]) == 1
    assert "has no run: `cyclepref build RECIPE --out" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("answer", "status", "left"), [("n", 1, 2), ("", 1, 2), ("y", 0, 1)])
def test_prune_asks_first(run, monkeypatch, capsys, answer, status, left):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["prune", run]) == status
    assert "1" in capsys.readouterr().out
    assert Store(run).rows("failures").num_rows == left


def test_prune_with_yes_asks_nothing_and_a_second_time_finds_nothing(run, capsys):
    assert main(["prune", run, "--yes"]) == 0
    assert "removed 1 rows" in capsys.readouterr().out
    assert main(["prune", run, "--yes"]) == 0
    assert "nothing is unused" in capsys.readouterr().out


class Interrupted(io.StringIO):
    """A terminal at which somebody presses Ctrl-C as soon as it shows something."""

    def write(self, text: str) -> int:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("command", "said"), [("prune", "What was finished is saved; this resumes it"),
                                               ("status", "This begins again")])  # fmt: skip
def test_ctrl_c_promises_to_go_on_only_where_it_does(run, monkeypatch, capsys, command, said):
    monkeypatch.setattr("sys.stdout", Interrupted())
    assert main([command, run]) == 130
    assert f"Stopped. {said}:\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", GO_ON)
def test_what_goes_on_is_a_command(command):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])


def test_prune_of_what_is_no_run_makes_no_directory(tmp_path, capsys):
    assert main(["prune", str(tmp_path / "no"), "--yes"]) == 1
    assert "known only after a finished build" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_merge_says_what_comes_next(run, tmp_path, capsys):
    other = Store(tmp_path / "other")
    row = {"id": digest("c"), "model": "m"}
    other.write_part("failures", pa.Table.from_pylist([row], schema=records.FAILURE))
    assert main(["merge", run, other.root, "--into", str(tmp_path / "both")]) == 0
    assert "next: `cyclepref build RECIPE --out" in capsys.readouterr().out
    assert Store(tmp_path / "both").rows("failures").num_rows == 3


def test_a_build_of_a_directory_that_is_being_built_is_refused(recipe, tmp_path, capsys):
    with hold(Store(tmp_path / "run"), "build"):
        assert main(["build", recipe(), "--out", str(tmp_path / "run")]) == 1
    assert "is in use by `cyclepref build` on" in capsys.readouterr().err


def test_an_address_with_credentials_is_refused_without_repeating_them(recipe, capsys):
    assert main(["build", recipe(), "--out", "s3://key:hunter2@bucket/run"]) == 1
    shown = capsys.readouterr().err
    assert "carries credentials" in shown
    assert "hunter2" not in shown


def test_the_demo_wants_a_folder(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--out", "s3://bucket/demo"])
    assert "is not a folder of this machine" in capsys.readouterr().err
