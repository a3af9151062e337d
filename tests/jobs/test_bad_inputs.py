"""Every command refuses what it cannot use in one message: what was given, the rule and the way out."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "builder"))
from made_run import make_run

from cyclepref.jobs.cli import main

RECIPE = """\
name: mine
cycle: i2t2i
inputs: {source: shapeworld, limit: 4}
forward: [shapeworld-blip, shapeworld-llava]
backward: shapeworld-sd3
metric: lpips-shapeworld
pairs: {min_margin: 0.1}
"""
LONG = "x" * 300
EXPORT, PUBLISH = ["--format", "trl-reward", "--out", "new"], ["--repo", "org/name", "--dry-run"]
# Command lines in a folder that holds `run` (a finished run of captions), `file`, `empty`, `photos` (with a file) and
# `r.yaml`; and what the message must have.
REFUSED = [
    (["build", "none.yaml", "--out", "new"], "no recipe 'none.yaml': give the path of a YAML file, or a name that"),
    (["build", "shapeworld_i2t2", "--out", "new"], "did you mean 'shapeworld_i2t2i'"),
    (["build", "lee2023", "--out", "new"], "`cyclepref train-reward --recipe lee2023` runs it"),
    (["build", "photos", "--out", "new"], "photos is a folder: a recipe is a YAML file, or a name"),
    (["build", "photos/a.png", "--out", "new"], "is not UTF-8 text"),
    (["build", "file", "--out", "new"], "file must hold a mapping of settings, got a text"),
    (["build", "r.yaml", "--out", "file"], "is a file"),
    (["build", "r.yaml", "--out", "file/deeper"], "must name a folder that can be written"),
    (["build", "r.yaml", "--out", "foo://x"], "foo://x names no folder: give scheme://bucket/prefix"),
    (["build", "r.yaml", "--out", "s3://key:hunter2@bucket/run"], "carries credentials"),
    (["build", "r.yaml", "--out", LONG], "File name too long"),
    (["build", "r.yaml", "--out", "new", "--set", "seed"], "--set takes name=value, as in --set seed=3"),
    (["build", "r.yaml", "--out", "new", "--set", "a..b=1"], "--set takes name=value"),
    (["build", "r.yaml", "--out", "new", "--set", "seed=["], "--set seed: '[' is not a YAML value"),
    (["build", "r.yaml", "--out", "new", "--set", "pair.by=x"], "pair: unknown setting (did you mean 'pairs'?)"),
    (["build", "r.yaml", "--out", "new", "--set", "cycle=t2i2t"], "this place needs a text-to-image"),
    (["build", "r.yaml", "--out", "new", "--set", "inputs.path=x"], "--set inputs.path: inputs.path: unknown setting"),
    (["models", "shapeworld-sd33"], "did you mean 'shapeworld-sd3'"),
    (["models", "zzz"], "unknown model 'zzz': `cyclepref models` lists all"),
    (["recipes", "shapewrld"], "no recipe 'shapewrld' (did you mean 'shapeworld'"),
    (["demo", "--out", "file"], "is a file: --out must name a folder"),
    (["status", "none"], "has no run: `cyclepref build RECIPE --out"),
    (["status", "empty", "--json"], "has no run: `cyclepref build RECIPE --out"),
    (["status", "photos"], "has no run"),
    (["status", "file"], "is a file"),
    (["status", "foo://x"], "names no folder: give scheme://bucket/prefix"),
    (["prune", "none", "--yes"], "known only after a finished build"),
    (["prune", "photos", "--yes"], "is not empty and holds no run"),
    (["prune", "file"], "is a file"),
    (["merge", "none", "run"], "is not a run directory: it has no parts in store/"),
    (["merge", "run", "photos"], "is not a run directory: it has no parts in store/"),
    (["merge", "run", "run"], "cannot be merged into itself"),
    (["merge", "run", "file"], "is a file"),
    (["stats", "none"], "holds no dataset"),
    (["stats", "photos"], "holds no dataset"),
    (["stats", "file"], "is a file"),
    (
        ["export", "none", *EXPORT],
        "there is no folder none on this machine: give a run directory, a dataset folder or",
    ),
    (["export", "empty", *EXPORT], "is not a run directory and holds no dataset"),
    (["export", "s3://bucket/run", *EXPORT], "is an address: pairs are read from this machine or the Hub"),
    (["export", "run", "--format", "dpo", "--out", "new"], "unknown format 'dpo': choose from trl-dpo-vision"),
    (["export", "run", "--format", "diffusion-dpo", "--out", "new"], "are captions of an image: choose from"),
    (["export", "run", "--format", "trl-reward", "--out", "photos"], "is not an empty folder"),
    (["export", "run", *EXPORT, "--split", "dev"], "has no split 'dev': choose from train, validation, test"),
    (["export", "run", *EXPORT, "--min-margin", "nan"], "min_margin is nan"),
    (["export", "run", *EXPORT, "--min-margin", "0.5", "--max-margin", "0.1"], "max_margin 0.1 is below min_margin"),
    (["publish", "none", *PUBLISH], "holds no dataset"),
    (["publish", "run", "--repo", "name", "--dry-run"], "'name' is no repository"),
    (["publish", "run", "--repo", "a/b/c", "--dry-run"], "'a/b/c' is no repository"),
    (["publish", "run", "--repo", "../x", "--dry-run"], "'../x' is no repository"),
]
# What the words of a command line themselves rule out; the usage is shown above the error.
WRONG_USAGE = [
    ([], "required: COMMAND"),
    (["frobnicate"], "invalid choice: 'frobnicate'"),
    (["build"], "required: recipe, --out"),
    (["build", "r.yaml", "--out", ""], "argument --out: must be a path, got nothing"),
    (["build", "r.yaml", "--out", "bad\udcff"], r"argument --out: must be a path in UTF-8, got 'bad\udcff'"),
    (["build", "r.yaml", "--out", "new", "--limit", "0"], "--limit: must be a positive number, got '0'"),
    (["build", "r.yaml", "--out", "new", "--limit", "1.5"], "--limit: must be a positive number, got '1.5'"),
    (["demo", "--inputs", "-1"], "--inputs: must be a positive number, got '-1'"),
    (["demo", "--out", "s3://bucket/x"], "is not a folder of this machine"),
    (["models", "--kind", "painter"], "--kind: invalid choice: 'painter'"),
    (["recipes", "a", "b"], "unrecognized arguments: b"),
    (["completion", "fish"], "invalid choice: 'fish'"),
    (["status", "a\0b"], "must be a path, which has no NUL in it"),
    (["status"], "required: DIR"),
    (["merge", "run"], "required: B"),
    (["prune", "bad\udcff"], "must be a path in UTF-8"),
    (["stats", "bad\udcff"], "must be a path in UTF-8"),
    (["export", "bad\udcff", *EXPORT], "must be a path in UTF-8"),
    (["export", "run", *EXPORT, "--max-pairs-per-input", "0"], "must be a positive number, got '0'"),
    (["export", "run", *EXPORT, "--poor-chosen", "low"], "must be a number, got 'low'"),
    (["publish", "run"], "required: --repo"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("made") / "run", "i2t2i", inputs=12)


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """The folder that the command lines are in; nothing in it may change."""
    shutil.copytree(made, tmp_path / "run")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(each)[:70] for each, _ in REFUSED])
def test_what_cannot_be_used_is_one_message_and_changes_nothing(place, capsys, arguments, message):
    before = contents(place)
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    [error] = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert message in shown
    assert "Traceback" not in shown
    assert "fault of CyclePref" not in error
    assert "hunter2" not in shown
    assert contents(place) == before


@pytest.mark.parametrize(("arguments", "message"), WRONG_USAGE, ids=[ascii(" ".join(a))[:70] for a, _ in WRONG_USAGE])
def test_wrong_usage_is_told_with_the_usage(place, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    shown = capsys.readouterr().err
    assert shown.startswith("usage: cyclepref")
    assert message in shown.splitlines()[-1]


def test_the_tables_have_rows_for_every_command():
    commands = {arguments[0] for arguments, _ in [*REFUSED, *WRONG_USAGE] if arguments}
    assert commands >= {
        "build", "status", "prune", "merge", "stats", "export", "publish", "models", "demo", "recipes", "completion",
    }  # fmt: skip
