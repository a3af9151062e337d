"""What no part of the program has words for is one line, with the trace in a file that holds no token."""

import re
import stat
import tempfile
from pathlib import Path

import pytest

from cyclepref.jobs import models, runs
from cyclepref.jobs.cli import main
from cyclepref.jobs.last_resort import masked


@pytest.fixture
def logs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("who knows"), "error: KeyError: 'who knows' (this is a fault of CyclePref; the whole trace is in "),
        (OSError(28, "No space left on device"), "No space left on device (the system refused; the whole trace is in "),
        (ValueError("one\ntwo\x1b[2J"), "error: ValueError: one (this is a fault of CyclePref; "),
        (RuntimeError(""), "error: RuntimeError: no message (this is a fault of CyclePref; "),
    ],
)
def test_an_unforeseen_error_is_one_line_with_the_place_of_its_trace(logs, monkeypatch, capsys, error, said):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(models, "print_models", fails)
    assert main(["models"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    [log] = logs.iterdir()
    assert str(log) in line
    trace = log.read_text()
    assert "Traceback (most recent call last)" in trace
    assert "in fails" in trace
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_no_token_is_in_the_line_or_in_the_file(logs, monkeypatch, capsys):
    monkeypatch.setenv("MY_API_KEY", "a-very-secret-value")
    secrets = ("hf_abcdefghijklmnop", "sk-proj-abcdefghijkl", "hunter2", "a-very-secret-value", "s3cr3t", "sIgNaTuRe")

    def fails(*_, **__):
        raise RuntimeError(
            "GET https://user:hunter2@host/x?token=s3cr3t&X-Amz-Signature=sIgNaTuRe with hf_abcdefghijklmnop, "
            "sk-proj-abcdefghijkl and a-very-secret-value"
        )

    monkeypatch.setattr(runs, "print_status", fails)
    assert main(["status", "hf_abcdefghijklmnop"]) == 1
    line = capsys.readouterr().err
    [log] = logs.iterdir()
    for text in (line, log.read_text()):
        assert [secret for secret in secrets if secret in text] == []
    assert "GET https://***@host/x?token=***" in line


def test_without_a_place_for_the_file_the_line_says_how_to_see_the_trace(monkeypatch, capsys):
    def fails(*_, **__):
        raise KeyError("who knows")

    monkeypatch.setattr(models, "print_models", fails)
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main(["models"]) == 1
    assert "its trace could not be written (No space left on device): -v shows it" in capsys.readouterr().err


def test_what_is_no_secret_is_left_as_it_is():
    text = "File /home/me/runs/mine/store/inputs/0a698befcdce.parquet, token_count=3, tokenizer, monkey=1"
    assert re.sub(r"\*+", "", masked(text)) == text
