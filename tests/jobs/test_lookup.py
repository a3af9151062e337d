"""`cyclepref models`, `recipes` and `completion`: what can be looked up, as a person and as a program would."""

import json
import logging
import subprocess
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.jobs import models
from cyclepref.jobs.cli import main
from cyclepref.jobs.recipe_names import shipped_recipes
from cyclepref.schemas.specs import MetricSpec


@pytest.mark.parametrize("width", [60, 80, 100, 130, 220])
def test_no_terminal_is_so_narrow_that_a_name_is_cut(width, monkeypatch, capsys):
    monkeypatch.setattr(models, "Console", lambda **options: Console(**{**options, "width": width}))
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert {line.split()[0] for line in lines[1:] if line.split()} >= set(CATALOG)
    assert "…" not in shown
    table = lines[: len(CATALOG) + 1]
    assert max(len(line.rstrip()) for line in table) <= width
    assert ("a wider terminal shows" in shown) == (width < 220)
    assert "memory" in table[0]


@pytest.mark.parametrize("kind", ["captioner", "text-to-image", "metric"])
def test_models_of_a_kind_are_listed_for_people_and_programs(kind, capsys):
    wanted = {n for n, spec in CATALOG.items() if kind == ("metric" if isinstance(spec, MetricSpec) else spec.kind)}
    assert main(["models", "--kind", kind]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == wanted
    assert main(["models", "--kind", kind, "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert set(found) == wanted
    assert all("about" in each for each in found.values())


def test_recipes_are_listed_with_how_each_is_run_and_one_is_printed_as_it_is(capsys):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    for kind, command in (("build", "cyclepref build NAME"), ("reward", "cyclepref train-reward --recipe NAME")):
        assert command in shown
        for name, path in shipped_recipes(kind).items():
            assert name in shown
            assert main(["recipes", name]) == 0
            assert capsys.readouterr().out == path.read_text()
    assert main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {*shipped_recipes("build"), *shipped_recipes("reward")}
    assert all(row["about"] and yaml.safe_load(Path(row["path"]).read_text()) for row in rows)


# How bash calls a completion: the words so far, and which of them is being typed.
TRY = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_cyclepref cyclepref "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_commands_options_recipes_models_and_files(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "shapes.yaml").write_text("")

    def completed(*words: str) -> set[str]:
        command = ["bash", "-c", TRY, "try", "./script", "cyclepref", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert completed("mod") == {"models"}
    assert completed("build", "--li") == {"--limit"}
    assert completed("build", "shape") == {"shapeworld_i2t2i", "shapeworld_t2i2t", "shapes.yaml"}
    assert completed("train-reward", "--recipe", "lee") == {"lee2023"}
    assert completed("models", "shapeworld-llava") == {
        *("shapeworld-llava", "shapeworld-llava-early", "shapeworld-llava-reader")
    }
    assert completed("models", "--kind", "m") == {"metric"}


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_their_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "best-of-n" in capsys.readouterr().out


def test_verbose_says_what_is_run_where_an_error_was_found_and_how_long_it_took(caplog, capsys):
    caplog.set_level(logging.INFO)
    assert main(["models", "sbert", "-v"]) == 0
    assert "models sbert -v" in caplog.text
    assert "models: 0." in caplog.text
    assert main(["models", "nope", "-v"]) == 1
    assert "where this was found:\nTraceback" in caplog.text
    assert capsys.readouterr().err.startswith("error: unknown model 'nope'")
