"""Files of a run directory that something has damaged: one error each, with the file, the fault and the way out."""

import json
import shutil
from pathlib import Path

import pytest
from inline_builds import InlineEngine, hashed_models, put_hashed_models, small_recipe  # noqa: F401

from cyclepref.builder.build import build
from cyclepref.builder.catalog.resolve import model_spec, resolve
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store
from cyclepref.builder.run.upkeep import prune
from cyclepref.jobs.cli import main
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.recipe import ModelChoice


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        put_hashed_models(patch)
        again(out)
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def edited(path: Path, **changes: object) -> str:
    return json.dumps({**json.loads(path.read_text()), **changes})


def again(run: Path) -> None:
    build(small_recipe(limit=2, dataset={"group_near_duplicates": True}), run, engine=InlineEngine())


def look(run: Path) -> None:
    status(Store(run))


def clear(run: Path) -> None:
    prune(Store(run))


@pytest.mark.usefixtures("hashed_models")
@pytest.mark.parametrize(
    ("name", "content", "does", "message"),
    [
        ("lock.json", "[]", again, r"it must hold an object, got list\): restore it, or remove what is wrong"),
        ("lock.json", '{"a": {"stamp": 1}}', again, r"'a' must be a commit or a stamp and a hash of weights, got \{"),
        ("lock.json", '{"org/model@main": ""}', again, "'org/model@main' must be a commit"),
        ("lock.json", "{", again, r"is not JSON \(.*\): restore it, or remove what is wrong"),
        ("lock.json", "[" * 100_000, again, "is not JSON"),
        ("run.json", "[]", again, r"it must hold an object, got list\): remove it and run the same build again"),
        ("run.json", '{"counts": {"dataset": 1}}', again, "counts.dataset: .*remove it and run the same build again"),
        ("run.json", '{"models": {"a": 1}}', clear, "models.a: .*, got 1"),
        ("run.json", "{}", clear, "does not name the run's models: remove it and run the same"),
        ("progress.json", "[]", look, "got list.*remove it: the next build writes it anew"),
        ("progress.json", {"state": "x"}, look, "state: .*'running', 'finished'.* got 'x'"),
        ("progress.json", {"stages": [{}]}, clear, r"stages.0.stage: Field required"),
        ("progress.json", {"updated": None}, look, "updated: .*got None"),
        (".locks/x.json", "[]", again, r"\.locks/x\.json is damaged .*got list\): remove it if no build runs"),
        (
            "wanted/candidates.parquet",
            "x",
            look,
            r"candidates\.parquet is missing or damaged",
        ),
        ("wanted/scores.parquet", None, clear, "run `cyclepref build RECIPE --out .*writes it"),
        ("groups.parquet", "x", again, r"cannot read .*groups\.parquet"),
        ("pairs/part-0.parquet", "x", lambda run: Store(run).read_view("pairs"), "is damaged .*derives it anew"),
    ],
)
def test_a_file_that_is_read_back_and_is_wrong_is_one_error_with_the_way_out(run, name, content, does, message):
    path = run / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content if isinstance(content, str) else edited(path, **content))
    with pytest.raises(CyclePrefError, match=f"(?s){message}") as caught:
        does(run)
    assert str(path) in str(caught.value)


@pytest.mark.usefixtures("hashed_models")
@pytest.mark.parametrize("name", ["run.json", "lock.json", "progress.json", "wanted"])
def test_the_way_out_is_one(run, name):
    before = (run / "pairs" / "part-0.parquet").read_bytes()
    shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    again(run)
    assert (run / "pairs" / "part-0.parquet").read_bytes() == before
    assert status(Store(run))["state"] == "finished"


def test_a_note_of_rows_in_flight_that_is_damaged_is_named(run, capsys):
    note = run / "store" / "attempts" / "candidates" / "x.json"
    note.parent.mkdir(parents=True)
    note.write_text('{"ids": 1}')
    with pytest.raises(StoreError, match=r"x\.json is damaged \(ids: .*remove it: all that is lost"):
        Journal(Store(run), "candidates").deaths(["a"])


def test_a_hash_in_the_lock_that_is_not_of_the_weights_is_computed_again():
    spec, lock = model_spec(ModelChoice(model="shapeworld-blip"), "captioner"), {}
    right = resolve(spec, lock).fingerprint
    [entry] = lock.values()
    entry["weights"] = "0" * 32
    assert resolve(spec, lock).fingerprint == right


def test_a_damaged_file_is_told_by_the_command_line_without_a_trace(run, capsys):
    (run / "progress.json").write_text("[]")
    assert main(["status", str(run)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {run}/progress.json is damaged")
