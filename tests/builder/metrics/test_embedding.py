"""Image embeddings by the real DINOv2, CLIP and SigLIP classes, tiny and random, saved in the Hub's layout."""

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from cyclepref.builder.catalog.resolve import metric_spec, resolve
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.models.loading import ModelError
from cyclepref.schemas.recipe import MetricChoice

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SEEN = {"image_size": 32, "patch_size": 8}
WORDS = {"vocab_size": 20, "max_position_embeddings": 8}
SMALL = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}


def dinov2():
    return Dinov2Model(Dinov2Config(**TINY, **SEEN)), ViTImageProcessor(**SMALL)


def clip():
    config = CLIPConfig(text_config={**TINY, **WORDS}, vision_config={**TINY, **SEEN}, projection_dim=12)
    return CLIPModel(config), CLIPImageProcessor(**CROPPED)


def siglip():
    config = SiglipConfig(text_config={**TINY, **WORDS}, vision_config={**TINY, **SEEN})
    return SiglipModel(config), SiglipImageProcessor(**SMALL)


def vit():
    """A classifier's checkpoint: it has no weights for the pooling layer of the bare model."""
    return ViTForImageClassification(ViTConfig(**TINY, **SEEN)), ViTImageProcessor(**SMALL)


FAMILIES = [dinov2, clip, siglip, vit]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    """family -> a folder with the model and its image processor."""
    found = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        model, processor = family()
        found[family] = tmp_path_factory.mktemp(family.__name__)
        model.save_pretrained(found[family])
        processor.save_pretrained(found[family])
    return found


def spec_of(folder, **settings):
    choice = MetricChoice(metric=str(folder), name="mine", settings={"batch_size": 3, **settings})
    return resolve(metric_spec(choice, "image"), {}).spec


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_backbone_compares_pictures_of_any_size_within_its_range(family, folders, pictures):
    spec = spec_of(folders[family])
    metric = load_metric(spec)
    same = metric.compare(pictures, pictures)
    other = metric.compare(pictures, pictures[1:] + pictures[:1])
    assert same == pytest.approx([1] * 4)
    assert all(spec.low <= value < 1 for value in other)
    assert len({round(value, 6) for value in other}) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_five_pairs_at_once_are_five_pairs_alone(family, folders, pictures):
    x, y = [*pictures, pictures[0]], [*pictures[::-1], pictures[1]]
    together = load_metric(spec_of(folders[family])).compare(x, y)
    alone = load_metric(spec_of(folders[family]))
    assert together == pytest.approx([alone.compare([a], [b])[0] for a, b in zip(x, y, strict=True)], abs=1e-6)


def test_pooling_is_what_the_model_calls_image_features_or_its_class_token(folders, pictures):
    for family, pooled in ((clip, (1, 12)), (dinov2, (1, 16)), (vit, (1, 16))):
        metric = load_metric(spec_of(folders[family]))
        pixels = metric.processor(images=pictures[:1], return_tensors="pt")
        found = metric._features(pixels)
        assert found.shape == pooled
        if family is not clip:
            assert torch.equal(found, metric.model(**pixels).last_hidden_state[:, 0])


def test_a_model_that_lacks_weights_is_refused_and_not_made_up(folders, tmp_path):
    config = Dinov2Config(**{**TINY, "num_hidden_layers": 3}, **SEEN)
    for name in ("model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folders[dinov2] / name).read_bytes())
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"mine: .* Dinov2Model has no weights for encoder\.layer\.2.*random numbers"):
        load_metric(spec_of(tmp_path))
