"""Pairs from the Hub: the real client, in a process of its own since it reads its settings at import."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import NAME, serving
from made_run import RULE

from cyclepref.builder.preferences.load import load_pairs

ROOT = Path(__file__).parents[3]
SHOW = "; row = pairs[0]; print(len(pairs), row['pair_id'], row['prompt'], row['chosen'].tobytes().hex())"


@pytest.fixture
def ask(runs, tmp_path):
    """Runs code against a Hub that serves the dataset of the t2i2t run; returns the finished process."""

    def run(code: str, dataset: Path = runs["t2i2t"] / "dataset") -> subprocess.CompletedProcess:
        with serving(dataset) as address:
            hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
            own = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DOWNLOAD_TIMEOUT": "5", "PYTHONPATH": str(ROOT)}
            kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
            command = [sys.executable, "-c", f"from cyclepref.builder.preferences.load import load_pairs; {code}"]
            return subprocess.run(command, env={**kept, **hub, **own}, capture_output=True, text=True, cwd=tmp_path)

    return run


def test_pairs_of_a_repository_are_those_of_the_folder_that_was_published(ask, runs):
    done = ask(f"pairs = load_pairs('{NAME}', split='test', min_margin=0.1)" + SHOW)
    assert done.returncode == 0, done.stderr[-2000:]
    pairs = load_pairs(runs["t2i2t"], "test", min_margin=0.1)
    count, id_, *prompt, pixels = done.stdout.split()
    assert (int(count), id_) == (len(pairs), pairs[0]["pair_id"])
    assert (" ".join(prompt), bytes.fromhex(pixels)) == (pairs[0]["prompt"], pairs[0]["chosen"].tobytes())


def test_pairs_of_a_repository_are_made_again_by_the_rule_in_its_card(runs, tmp_path, ask):
    dataset = shutil.copytree(runs["t2i2t"] / "dataset", tmp_path / "dataset")
    card = (dataset / "README.md").read_text().replace("cyclepref:\n", f"cyclepref:\n  pairs: {json.dumps(RULE)}\n")
    (dataset / "README.md").write_text(card)
    done = ask(f"print(len(load_pairs('{NAME}', min_margin=0.01)))", dataset)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(load_pairs(runs["t2i2t"], min_margin=0.01)) > len(load_pairs(runs["t2i2t"]))


def test_a_repository_that_is_not_there_is_one_clear_error(ask):
    done = ask("load_pairs('org/other')")
    assert "LoadError: cannot read the dataset org/other (there is no folder org/other on this machine" in done.stderr
    assert "that can be reached" in done.stderr
