"""A metric or safety model whose files lack a weight, name it otherwise or have it in another shape is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.resolve import metric_spec, resolve
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.metrics import lpips as lpips_module
from cyclepref.builder.models.loading import ModelError
from cyclepref.builder.stages.safety import Classifier
from cyclepref.schemas.recipe import MetricChoice
from cyclepref.schemas.specs import SafetySpec

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SEEN = {"image_size": 32, "patch_size": 8}
SMALL = {"size": {"height": 32, "width": 32}}


def sbert(folder: Path) -> Callable[[], object]:
    """An encoder of two layers; sentence-transformers pools its tokens' mean."""
    words = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"])}
    BertModel(BertConfig(**TINY, vocab_size=len(words))).save_pretrained(folder)
    BertTokenizer(vocab=words).save_pretrained(folder)
    return metric_in(folder, "text")


def dinov2(folder: Path) -> Callable[[], object]:
    Dinov2Model(Dinov2Config(**TINY, **SEEN)).save_pretrained(folder)
    ViTImageProcessor(**SMALL).save_pretrained(folder)
    return metric_in(folder, "image")


def clip(folder: Path) -> Callable[[], object]:
    words = {"vocab_size": 20, "max_position_embeddings": 8}
    config = CLIPConfig(text_config={**TINY, **words}, vision_config={**TINY, **SEEN}, projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return metric_in(folder, "image")


def lpips(folder: Path) -> Callable[[], object]:
    shutil.copy(Path(CATALOG["lpips-shapeworld"].repo, "model.safetensors"), folder)
    return lambda: load_metric(CATALOG["lpips-shapeworld"].model_copy(update={"name": "mine", "repo": str(folder)}))


def safety(folder: Path) -> Callable[[], object]:
    ViTForImageClassification(ViTConfig(**TINY, **SEEN, id2label={0: "safe", 1: "nsfw"})).save_pretrained(folder)
    ViTImageProcessor(**SMALL).save_pretrained(folder)
    return lambda: Classifier(SafetySpec(name="mine", repo=str(folder), label="nsfw"))


def metric_in(folder: Path, modality: str) -> Callable[[], object]:
    choice = MetricChoice(metric=str(folder), name="mine")
    return lambda: load_metric(resolve(metric_spec(choice, modality), {}).spec)


@pytest.mark.parametrize("kind", [sbert, dinov2, clip, lpips, safety])
def test_a_metric_or_safety_model_with_a_damaged_tensor_is_refused(kind, tmp_path):
    load, file = kind(tmp_path), tmp_path / "model.safetensors"
    load()
    whole = load_file(file)
    names = sorted(name for name in whole if "pooler" not in name)
    for name, how in zip(
        (names[0], names[len(names) // 2], names[-1]), ("removed", "renamed", "reshaped"), strict=True
    ):
        left = {key: value for key, value in whole.items() if key != name}
        left |= {"removed": {}, "renamed": {f"{name}_old": whole[name]}, "reshaped": {name: torch.zeros(3, 1, 2)}}[how]
        save_file(left, file, metadata={"format": "pt"})
        said = "has weights of another shape for" if how == "reshaped" else "has no weights for"
        with pytest.raises(ModelError, match=f"mine: .* {said} .*random numbers"):
            load()
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"mine: cannot load .*(damaged or cut short|is incomplete)"):
        load()


def test_a_pooling_layer_that_no_text_vector_is_made_by_may_be_missing_whole_and_not_in_part(tmp_path):
    load, file = sbert(tmp_path), tmp_path / "model.safetensors"
    whole = load_file(file)
    expected = load().compare(["a cat"], ["a"])
    save_file({k: v for k, v in whole.items() if "pooler" not in k}, file, metadata={"format": "pt"})
    assert load().compare(["a cat"], ["a"]) == expected
    save_file({k: v for k, v in whole.items() if k != "pooler.dense.bias"}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has no weights for pooler\.dense\.bias"):
        load()


@pytest.fixture
def squeezenet(tmp_path, monkeypatch):
    """The smallest backbone that LPIPS has, with random weights where torchvision keeps what it downloads."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), file)
    return file


def test_an_lpips_of_the_package_is_refused_where_its_calibration_or_backbone_is_not_whole(
    squeezenet, tmp_path, monkeypatch
):
    spec = CATALOG["lpips-squeeze"]
    load_metric(spec)
    backbone = torch.load(squeezenet, weights_only=True)
    torch.save({k: v for k, v in backbone.items() if k != "features.3.squeeze.weight"}, squeezenet)
    with pytest.raises(ModelError, match=r"lpips-squeeze: cannot load .*features\.3\.squeeze\.weight"):
        load_metric(spec)
    torch.save(backbone, squeezenet)
    layers = torch.load(lpips_module.CALIBRATED / "squeeze.pth", "cpu", weights_only=True)
    monkeypatch.setattr(lpips_module, "CALIBRATED", tmp_path)
    torch.save({k: v for k, v in layers.items() if "lin3" not in k}, tmp_path / "squeeze.pth")
    with pytest.raises(ModelError, match=r"calibration squeeze\.pth has no weights for lin3\.model\.1\.weight"):
        load_metric(spec)
    squeezenet.write_bytes(squeezenet.read_bytes()[:5000])
    with pytest.raises(ModelError, match="lpips-squeeze: cannot load the weights of the package lpips"):
        load_metric(spec)
