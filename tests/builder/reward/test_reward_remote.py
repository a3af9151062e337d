"""A saved reward model is used through transformers alone, where CyclePref is not installed."""

import ast
import builtins
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel

from cyclepref.builder.reward import remote
from cyclepref.builder.reward.model import RewardModel

WITHOUT_US = """
import sys
sys.modules.update(builder=None, schemas=None, jobs=None)
import json, torch
from PIL import Image
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
picture = Image.open(sys.argv[2]).convert("RGB")
pixels = torch.full((1, 3, 20, 24), 0.5, requires_grad=True)
model.reward_of_pixels(pixel_values=model.preprocess(pixels), texts="a picture").sum().backward()
try:
    AutoModel.from_pretrained(sys.argv[3], trust_remote_code=True)
except ValueError as error:
    refused = str(error)
print(json.dumps([model.score(images=picture, texts=["a red picture", "plain"]), bool(pixels.grad.any()), refused]))
"""


@pytest.fixture(scope="module")
def saved(captioner, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    RewardModel.from_captioner(captioner, head_sizes=[8]).save_pretrained(folder)
    return folder


def test_automodel_gives_the_same_rewards_without_our_package(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    Image.effect_noise((40, 40), 90).convert("RGB").save(tmp_path / "a.png")
    broken = tmp_path / "broken"
    RewardModel.from_pretrained(saved).save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    del weights["head.0.bias"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT_US, str(saved), str(tmp_path / "a.png"), str(broken)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rewards, differentiable, refused = json.loads(done.stdout.splitlines()[-1])
    expected = RewardModel.from_pretrained(saved).score(images=tmp_path / "a.png", texts=["a red picture", "plain"])
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert differentiable
    assert "1 missing: head.0.bias" in refused


def test_with_our_package_no_code_of_the_folder_runs(saved, tmp_path):
    RewardModel.from_pretrained(saved).save_pretrained(tmp_path)
    (tmp_path / remote.FILE).write_text("raise SystemExit('this code has run')")
    assert type(AutoModel.from_pretrained(tmp_path)) is RewardModel
    assert type(RewardModel.from_pretrained(tmp_path)) is RewardModel


def test_the_file_says_each_name_once_and_needs_nothing_of_ours():
    tree = ast.parse(remote.code())
    made = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    made += [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    made += [node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)]
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    made += imported
    assert sorted(made) == sorted(set(made))
    modules = {node.module.split(".")[0] for node in imports if isinstance(node, ast.ImportFrom)}
    assert "cyclepref" not in modules
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    local = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    local |= {each.arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for each in ast.walk(node)
              if isinstance(each, ast.arg)}  # fmt: skip
    local |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ExceptHandler)}
    assert used - local - set(made) - set(dir(builtins)) == set()


def test_a_saved_model_can_be_read_by_whom_the_umask_lets(captioner, tmp_path):
    before = os.umask(0o027)
    try:
        RewardModel.from_captioner(captioner, head_sizes=[8]).save_pretrained(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop("model.safetensors") == 0o640
    assert set(modes.values()) == {0o640}
