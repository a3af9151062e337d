"""Checkpoints and saved reward models that are broken: one clear error each, which names what is wrong."""

import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import original
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from transformers import BertTokenizer

from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.released.checkpoint import read_tokenizer, read_weights
from cyclepref.builder.reward.released.convert import convert

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(53))]
IMAGE, TEXT = "blip.visual_encoder.", "blip.text_encoder."
PATCHES, PLACES = f"{IMAGE}patch_embed.proj.weight", f"{IMAGE}pos_embed"
WORD_TABLE, TEXT_PLACES = (f"{TEXT}embeddings.{name}_embeddings.weight" for name in ("word", "position"))
LAST = "mlp.layers.8.bias"
one = torch.ones


def replaced(**weights: torch.Tensor) -> Callable:
    return lambda given: {**given, **weights}


def without(prefix: str) -> Callable:
    return lambda given: {name: value for name, value in given.items() if not name.startswith(prefix)}


# What is wrong -> the checkpoint, made of a whole one, and what the error says.
CHECKPOINTS: dict[str, tuple[Callable, str]] = {
    "nothing": (lambda given: {}, "the checkpoint is empty"),
    "a list": (lambda given: list(given.values()), "not a state dict"),
    "a tensor": (lambda given: one(3), "not a state dict"),
    "numbers": (lambda given: {"a": 1}, "not a state dict"),
    "an epoch beside": (lambda given: {**given, "epoch": 3}, "not a state dict"),
    "wrapped twice": (lambda given: {"model": {"model": given}}, "not a state dict"),
    "a name that is a number": (lambda given: {**given, 3: one(1)}, "1 weight is named by no text: 3"),
    "a name there twice": (replaced(**{f"module.{LAST}": one(1)}), f"1 weight is there twice: {LAST}"),
    "no image tower": (without(IMAGE), f"has no {PATCHES}, so it is of another architecture"),
    "no text layers": (without(f"{TEXT}encoder.layer."), "has no .*layer.0.intermediate.dense.weight"),
    "no first text layer": (without(f"{TEXT}encoder.layer.0."), "has no .*layer.0.intermediate.dense.weight"),
    "no head": (without("mlp."), "has no mlp.layers.0.weight"),
    "a missing weight": (without(f"{IMAGE}blocks.1.norm2.bias"), "1 weight is missing: .*layers.1.layer_norm2.bias"),
    "a missing layer between": (without(f"{IMAGE}blocks.1."), "12 weights are missing: .*layers.1.layer_norm1.bias"),
    "an unexpected weight": (replaced(**{"blip.surprise": one(1)}), "1 weight is unexpected: blip.surprise"),
    "a layer without a number": (replaced(**{f"{IMAGE}blocks.x.norm1.bias": one(1)}), "unexpected: .*layers.x"),
    "a layer without a name": (replaced(**{f"{TEXT}encoder.layer.": one(1)}), "unexpected: text_model.encoder.layer."),
    "a layer far away": (replaced(**{f"{IMAGE}blocks.999999999.norm1.bias": one(1)}), "12 weights are missing"),
    "a negative layer": (replaced(**{f"{IMAGE}blocks.-5.norm1.bias": one(1)}), "unexpected: .*layers.-5"),
    "a layer more in the head": (replaced(**{"mlp.layers.10.weight": one(1)}), "unexpected: mlp.layers.10.weight"),
    "a strange digit": (replaced(**{"mlp.layers.²": one(1)}), "unexpected: mlp.layers.²"),
    "flat patches": (replaced(**{PATCHES: one(192, 3)}), r"is of shape \(192, 3\): it must have 4 dimensions"),
    "patches of no size": (replaced(**{PATCHES: one(192, 3, 0, 0)}), "none of them 0"),
    "oblong patches": (replaced(**{PATCHES: one(192, 3, 16, 8)}), r"of another shape: .* of \(192, 3, 16, 8\) for"),
    "a strange width": (replaced(**{PATCHES: one(100, 3, 16, 16)}), "width 100 is not BLIP's"),
    "one row of places": (replaced(**{PLACES: one(5)}), r"pos_embed is of shape \(5,\)"),
    "no places": (replaced(**{PLACES: one(1, 0, 192)}), "pos_embed is of shape"),
    "places of no square": (replaced(**{PLACES: one(1, 8, 192)}), "position_embedding of"),
    "no words": (replaced(**{WORD_TABLE: one(0, 128)}), r"word_embeddings.weight is of shape \(0, 128\)"),
    "two text places": (replaced(**{TEXT_PLACES: one(2, 128)}), "positions for a word between two ends, got 2"),
    "a number for a layer": (replaced(**{f"{IMAGE}blocks.0.mlp.fc1.weight": torch.tensor(1.0)}), r"is of shape \(\)"),
    "an empty head": (replaced(**{"mlp.layers.0.weight": one(0, 128)}), "mlp.layers.0.weight is of shape"),
    "another shape": (replaced(**{"mlp.layers.2.bias": one(3)}), r"another shape: head.3.bias of \(3,\) for \(24,\)"),
    "NaN": (replaced(**{LAST: torch.tensor([torch.nan])}), "not finite: head.12.bias"),
    "infinity": (replaced(**{LAST: torch.tensor([torch.inf])}), "not finite: head.12.bias"),
    "integers": (replaced(**{LAST: torch.tensor([1])}), "no plain floating-point tensors: head.12.bias"),
    "complex numbers": (replaced(**{LAST: torch.tensor([1 + 2j])}), "no plain floating-point tensors"),
    "a sparse tensor": (replaced(**{LAST: one(1).to_sparse()}), "no plain floating-point tensors"),
    "a tensor without content": (replaced(**{LAST: torch.empty(1, device="meta")}), "no plain floating-point tensors"),
}  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> original.Weights:
    return original.random_weights(original.CYCLEREWARD_HEAD)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_is_one_error_that_names_why(name, weights):
    edit, message = CHECKPOINTS[name]
    with pytest.raises(RewardError, match=message):
        convert(
            edit(dict(weights)), "cyclereward-combo", BertTokenizer(vocab={word: n for n, word in enumerate(WORDS)})
        )


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("a.txt", "no weights")
    return buffer.getvalue()


def _torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": one(1000)}, buffer)
    return buffer.getvalue()


class Hostile:
    def __reduce__(self):
        return print, ("this code has run",)


FILES = {
    "empty.pt": b"",
    "text.pt": b"weights",
    "page.bin": b"<html>not found</html>",
    "archive.pt": _zip(),
    "truncated.pth": _torch()[:900],
    "pickle.pt": pickle.dumps({"a": [1]}),
    "code.pt": pickle.dumps({"model": Hostile()}),
    "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n",
    "truncated.safetensors": save({"a": one(100)})[:-40],
    "huge-header.safetensors": b"\xff" * 8 + b"{}",
    "list.safetensors": (2).to_bytes(8, "little") + b"[]",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_tensors_is_one_error_and_runs_no_code(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(FILES[name])
    with pytest.raises(RewardError, match=f"{name} cannot be read as tensors"):
        read_weights(tmp_path / name)
    assert "this code has run" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "message"), [("no.pt", "no checkpoint at"), ("a.txt", "ends in '.txt'")])
def test_a_file_of_another_kind_is_refused(name, message, tmp_path):
    (tmp_path / "a.txt").write_text("weights")
    with pytest.raises(RewardError, match=message):
        read_weights(tmp_path / name)


def test_a_tokenizer_that_cannot_be_read_is_one_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(RewardError, match="cannot load the tokenizer"):
        read_tokenizer(tmp_path)


def _config(**settings) -> Callable:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))

    return edit


def _weights(edit: Callable) -> Callable:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        found = load_file(file)
        edit(found)
        save_file(found, file, metadata={"format": "pt"})

    return change


def _bytes(name: str, edit: Callable) -> Callable:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes()))


FOLDERS: dict[str, tuple[Callable, str]] = {
    "a missing weight": (_weights(lambda w: w.pop("head.0.bias")), "do not fit its config: 1 missing: head.0.bias$"),
    "a missing layer": (
        _weights(lambda w: [w.pop(name) for name in list(w) if ".layers.1." in name]),
        "12 missing: vision_model.encoder.layers.1",
    ),
    "a renamed weight": (
        _weights(lambda w: w.update({"head.0.bia": w.pop("head.0.bias")})),
        "1 missing: head.0.bias; 1 unexpected: head.0.bia$",
    ),
    "a weight more": (_weights(lambda w: w.update(surprise=one(1))), "1 unexpected: surprise$"),
    "a reshaped weight": (
        _weights(lambda w: w.update({"head.0.bias": one(9)})),
        r"1 of another shape: head.0.bias \(9,\) instead of \(8,\)",
    ),
    "a head of another shape": (_config(head_sizes=[9]), r"3 of another shape: head.0.bias \(8,\) instead of \(9,\)"),
    "an unknown backbone": (_config(backbone="vit"), "'backbone' expected one of .*'blip', 'clip', 'siglip'.*got vit"),
    "another backbone": (_config(backbone="clip"), "do not fit its config"),
    "an unknown activation": (_config(head_activation="gleu"), "unknown head_activation 'gleu'"),
    "a mean that is a word": (_config(reward_mean="x"), "reward_mean"),
    "a tower that is a number": (_config(text_config=3), "text_config"),
    "a width that is a word": (_config(vision_config={"hidden_size": "a"}), "hidden_size"),
    "another type of model": (_config(model_type="zzz"), "contains custom code"),
    "a config that is no JSON": (_bytes("config.json", lambda data: data[:50]), "not a valid JSON file"),
    "a config in UTF-16": (_bytes("config.json", lambda data: data.decode().encode("utf-16")), "not a valid JSON file"),
    "truncated weights": (_bytes("model.safetensors", lambda data: data[:5000]), "cannot load the weights"),
    "weights cut at the end": (_bytes("model.safetensors", lambda data: data[:-100]), "cannot load the weights"),
    "empty weights": (_bytes("model.safetensors", lambda data: b""), "cannot load the weights .*they are broken"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "no vocabulary": (lambda folder: (folder / "tokenizer.json").unlink(), "no processor that can be read"),
    "a broken vocabulary": (_bytes("tokenizer.json", lambda data: data[:100]), "no processor that can be read"),
    "a broken processor": (_bytes("processor_config.json", lambda data: b"{"), "no processor that can be read"),
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(captioner, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    RewardModel.from_captioner(captioner, head_sizes=[8]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_saved_model_that_is_not_whole_is_one_error_that_names_why(name, saved, tmp_path):
    edit, message = FOLDERS[name]
    shutil.copytree(saved, tmp_path / "model")
    edit(tmp_path / "model")
    with pytest.raises(RewardError, match=message) as caught:
        RewardModel.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert "device" not in str(caught.value)


STARTS = {
    "a missing weight": lambda w: w.pop("text_decoder.bert.encoder.layer.1.output.dense.bias"),
    "a renamed weight": lambda w: w.update({"vision_model.post.bias": w.pop("vision_model.post_layernorm.bias")}),
    "a reshaped weight": lambda w: w.update({"vision_model.post_layernorm.bias": one(3)}),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_training_starts_from_is_whole_too(name, captioner, tmp_path):
    shutil.copytree(captioner, tmp_path / "start")
    _weights(STARTS[name])(tmp_path / "start")
    named = "layer.1.output.dense.bias" if name == "a missing weight" else "post_layernorm.bias"
    with pytest.raises(RewardError, match=rf"do not fit its config: .*{re.escape(named)}"):
        RewardModel.from_backbone(tmp_path / "start")
