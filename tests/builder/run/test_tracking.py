"""Figures of stages for a tracker: what it is told and when, and that a build needs it no more than that."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from inline_builds import InlineEngine, hashed_models, small_recipe  # noqa: F401

from cyclepref.builder.build import build
from cyclepref.builder.run.tracking import Tracker, TrackingError
from cyclepref.builder.stages.accounting import BuildError
from cyclepref.builder.stages.needs import NeedsError
from cyclepref.schemas.publishing import Tracking
from cyclepref.schemas.recipe import RecipeError

# What trackio and wandb have in common, keeping what it is told; what it refuses is named in a file beside it.
LIKE_BOTH = """
import json, pathlib
here = pathlib.Path(__file__).parent
def tell(what, value):
    if (here / f"refuse-{what}").exists():
        raise RuntimeError("secret-key-123 is not allowed")
    with open(here / "told.jsonl", "a") as file:
        file.write(json.dumps([what, value]) + "\\n")
class Run:
    def log(self, metrics): tell("log", metrics)
    def finish(self, **how): tell("finish", how)
def init(**given):
    tell("init", given)
    return Run()
"""


@pytest.fixture(params=["trackio", "wandb"])
def tracker(request, tmp_path, monkeypatch):
    """A package of that name with the functions that both have."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / f"{request.param}.py").write_text(LIKE_BOTH)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    monkeypatch.syspath_prepend(folder)
    yield request.param
    sys.modules.pop(request.param, None)


def told(tmp_path: Path) -> list[tuple]:
    file = tmp_path / "packages" / "told.jsonl"
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def logged(tmp_path: Path) -> dict[str, float]:
    """The last value of every figure."""
    return {name: value for what, figures in told(tmp_path) if what == "log" for name, value in figures.items()}


@pytest.mark.usefixtures("hashed_models")
def test_a_tracker_gets_the_figures_of_every_stage_and_what_came_of_the_build(tracker, tmp_path):
    run = build(small_recipe(tracking={"to": tracker, "project": "mine"}), tmp_path / "run", engine=InlineEngine())
    (first, given), *_, (last, how) = told(tmp_path)
    assert (first, given["project"], given["name"]) == ("init", "mine", "run")
    assert given["config"]["forward"] == ["shapeworld-blip", "shapeworld-llava"]
    assert (last, how) == ("finish", {})
    figures = logged(tmp_path)
    wanted = sum(count["wanted"] for count in run["counts"]["candidates"].values())
    assert [figures[f"candidates/{name}"] for name in ("wanted", "done", "failed", "left")] == [wanted, wanted, 0, 0]
    for stage in ("inputs", "candidates", "reconstructions", "scores"):
        assert figures[f"{stage}/seconds"] >= 0
        assert figures[f"{stage}/left"] == 0
    assert figures["candidates/rows_a_second"] > 0
    assert figures["pairs/kept"] == run["counts"]["pairs"]["kept"]
    assert figures["seconds/dataset"] == run["seconds"]["dataset"]


@pytest.mark.usefixtures("hashed_models")
def test_a_build_with_nothing_to_do_begins_no_run_in_the_tracker_and_rows_do_not_depend_on_it(tracker, tmp_path):
    first = build(small_recipe(), tmp_path / "run", engine=InlineEngine())
    dataset = {file: file.read_bytes() for file in (tmp_path / "run" / "dataset").rglob("*") if file.is_file()}
    again = build(small_recipe(tracking=tracker), tmp_path / "run", engine=InlineEngine())
    assert told(tmp_path) == []
    assert {name: each["fingerprint"] for name, each in first["models"].items()} == {
        name: each["fingerprint"] for name, each in again["models"].items()
    }
    assert dataset == {file: file.read_bytes() for file in dataset}


@pytest.mark.usefixtures("hashed_models")
def test_a_tracker_that_refuses_figures_is_told_once_and_the_build_goes_on(tracker, tmp_path, caplog):
    (tmp_path / "packages" / "refuse-log").touch()
    run = build(small_recipe(tracking=tracker), tmp_path / "run", engine=InlineEngine())
    assert run["counts"]["pairs"]["kept"] > 0
    said = [record.getMessage() for record in caplog.records if record.name == "cyclepref.tracking"]
    assert said == [f"tracking: {tracker} takes no more figures (RuntimeError): the build goes on without it"]


@pytest.mark.usefixtures("hashed_models")
def test_a_tracker_that_does_not_begin_stops_the_build_before_a_row_and_no_key_is_told(tracker, tmp_path):
    (tmp_path / "packages" / "refuse-init").touch()
    with pytest.raises(
        TrackingError, match=rf"tracking: {tracker} does not begin a run \(RuntimeError\): .*leave"
    ) as said:
        build(small_recipe(tracking=tracker), tmp_path / "run", engine=InlineEngine())
    assert "secret-key-123" not in str(said.value)
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert not any(b"secret-key-123" in file.read_bytes() for file in files)
    assert not (tmp_path / "run" / "store" / "generations").exists()


@pytest.mark.usefixtures("hashed_models")
def test_a_build_that_fails_ends_the_trackers_run_as_failed(tmp_path, monkeypatch, tracker):
    def too_many(*_):
        raise BuildError("too many rows failed")

    monkeypatch.setattr("cyclepref.builder.build.compare.compare", too_many)
    with pytest.raises(BuildError, match="too many rows failed"):
        build(small_recipe(tracking=tracker), tmp_path / "run", engine=InlineEngine())
    assert told(tmp_path)[-1] == ("finish", {"exit_code": 1} if tracker == "wandb" else {})


def test_a_missing_tracker_is_told_before_anything_is_done_and_a_folder_of_its_name_is_none(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "cyclepref.builder.run.tracking.find_spec", lambda name: None if name == "trackio" else real(name)
    )
    with pytest.raises(NeedsError, match=r'trackio is not installed here: pip install "cyclepref\[trackio\]"'):
        build(small_recipe(tracking="trackio"), tmp_path / "run", engine=InlineEngine())
    assert not (tmp_path / "run" / "store").exists()
    if real("wandb") is None:
        (tmp_path / "wandb" / "offline-run").mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(NeedsError, match="wandb is not installed here"):
            build(small_recipe(tracking="wandb"), tmp_path / "run", engine=InlineEngine())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mlflow", r"tracking\.to: must be trackio or wandb, got 'mlflow'"),
        ({"to": "wandb", "api_key": "secret-key-123"}, r"tracking\.api_key: unknown setting; there are to, project"),
        ({"to": "wandb", "every_s": 1}, r"tracking\.every_s: must be 5 or more, got 1"),
    ],
)
def test_a_wrong_tracking_is_told_and_a_key_in_it_is_not_repeated(given, message):
    with pytest.raises(RecipeError, match=message) as said:
        small_recipe(tracking=given)
    assert "secret-key-123" not in str(said.value)


def test_during_a_stage_figures_go_no_more_often_than_asked(monkeypatch, tmp_path, tracker):
    now = [100.0]
    monkeypatch.setattr("cyclepref.builder.run.tracking.time.monotonic", lambda: now[0])
    sends = Tracker(Tracking(to=tracker, every_s=30), "run", {})
    note = {"stage": "candidates", "rows": 9, "todo": 9, "done": 0, "failed": 0, "rows_a_second": None,
            "began": 0.0, "ended": None}  # fmt: skip
    for moment in (100, 110, 131, 140):
        now[0] = moment
        sends.note(note | {"done": moment - 100})
    sends.note(note | {"done": 9, "ended": 50.0})
    sent = [figures["candidates/done"] for what, figures in told(tmp_path) if what == "log"]
    assert sent == [0, 31, 9]


@pytest.mark.usefixtures("hashed_models")
def test_the_real_trackio_keeps_the_figures_on_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is an extra of its own: pip install 'cyclepref[trackio]'")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "kept")
    from trackio.sqlite_storage import SQLiteStorage

    run = build(small_recipe(tracking={"to": "trackio", "project": "mine"}), tmp_path / "run", engine=InlineEngine())
    rows = SQLiteStorage.get_logs("mine", "run")
    kept = {name: value for row in rows for name, value in row.items()}
    assert kept["pairs/kept"] == run["counts"]["pairs"]["kept"]
    assert kept["scores/left"] == 0


@pytest.mark.usefixtures("hashed_models")
def test_the_real_wandb_keeps_the_figures_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is an extra of its own: pip install 'cyclepref[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    build(small_recipe(tracking={"to": "wandb", "project": "mine"}), tmp_path / "run", engine=InlineEngine())
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"candidates/rows_a_second" in file.read_bytes()
