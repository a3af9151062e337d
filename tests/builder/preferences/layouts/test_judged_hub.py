"""Judged pairs from the Hub: the real client, in a process of its own since it reads its settings at import."""

import io
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from hub_server import NAME, serving

ROOT = Path(__file__).parents[4]
SHOW = f"""
from cyclepref.builder.preferences.layouts.detect import open_judged
layout = open_judged({NAME!r})
for item in layout:
    print(layout.name, layout.split, len(layout), item.candidates, item.pairs, item.shared.open()[0].getpixel((0, 0)))
"""
TRAIN = f"""
from cyclepref.builder.reward.training.data import load_preferences
splits = load_preferences({NAME!r})
for item in splits["train"]:
    print(list(splits), item.texts, item.pairs, len(item.images[0].read()))
"""


def asked(folder: Path, home: Path, code: str) -> subprocess.CompletedProcess:
    """Run code against a Hub that serves a folder."""
    with serving(folder) as address:
        hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        own = {"HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": "5", "PYTHONPATH": str(ROOT)}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env={**kept, **hub, **own}, capture_output=True, text=True, cwd=home)


@pytest.mark.slow
def test_a_repository_of_answers_is_known_by_its_columns_and_read_without_a_copy(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (7, 8, 9)).save(buffer, "PNG")
    row = {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "question": "?",
        "chosen": "A fox.",
        "rejected": "A cat.",
    }
    features = datasets.Features({"image": datasets.Image(), **dict.fromkeys(list(row)[1:], datasets.Value("string"))})
    (tmp_path / "repo" / "data").mkdir(parents=True)
    rows = datasets.Dataset.from_list([row, row], features=features)
    rows.to_parquet(tmp_path / "repo" / "data" / "train-00000-of-00001.parquet")
    done = asked(tmp_path / "repo", tmp_path, SHOW)
    assert done.returncode == 0, done.stderr[-3000:]
    first, _ = done.stdout.splitlines()
    assert first.startswith("rlhf-v train ")
    assert first.endswith("['A fox.', 'A cat.'] [(0, 1)] (7, 8, 9)")
    done = asked(tmp_path / "repo", tmp_path, TRAIN)
    assert done.stdout.splitlines() == [f"['train'] {['A fox.', 'A cat.']} [(0, 1)] {len(buffer.getvalue())}"]


@pytest.mark.slow
def test_a_repository_that_is_not_there_is_one_clear_error(tmp_path):
    (tmp_path / "repo").mkdir()
    done = asked(tmp_path / "repo", tmp_path, SHOW.replace(NAME, "org/other"))
    assert "JudgedError: cannot read org/other (there is no folder org/other on this machine, and" in done.stderr
    assert "that can be reached" in done.stderr
