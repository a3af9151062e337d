"""Towers in two halves, what the first half made kept on disk: the same rewards, losses and gradients."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from plain_colours import COLOURS, caption, picture
from tiny_duals import make_dual

from cyclepref.builder.common.images import UnreadableImage
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.preprocess import pixels, tokens
from cyclepref.builder.reward.training.batches import Collate, Frozen
from cyclepref.builder.reward.training.data import load_preferences
from cyclepref.builder.reward.training.frozen_cache import PrefixCache, fill_images, fill_texts, keys_of, text_key
from cyclepref.builder.reward.training.frozen_layers import (
    begin_images,
    begin_texts,
    finish_images,
    finish_texts,
    frozen_half,
    half_fingerprint,
)
from cyclepref.builder.reward.training.settings import TrainSettings
from cyclepref.builder.reward.training.step import TrainingView, counts, loss_of

IMAGES = [picture(colour, seed) for seed, colour in enumerate(COLOURS)]
TEXTS = [caption(colour) for colour in COLOURS] + ["red", "a plain picture of a shade of green"]
BACKBONES = ("blip", "clip", "siglip")
RATES = (0.5, 0.7, 1.0)


@contextmanager
def quiet(label, total):
    yield lambda done: None


def make(backbone, captioner, fix_rate) -> RewardModel:
    torch.manual_seed(1)
    if backbone == "blip":
        model = RewardModel.from_captioner(captioner, head_sizes=[8])
    else:
        model = make_dual(backbone, captioner)
    model.freeze(fix_rate)
    return model.eval()


@pytest.mark.parametrize("fix_rate", RATES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_both_halves_of_the_image_tower_are_the_tower(captioner, backbone, fix_rate):
    model = make(backbone, captioner, fix_rate)
    half = frozen_half(model, "image")
    assert half.whole == (fix_rate == 1 and backbone != "blip")
    pixel_values = pixels(model.processor, IMAGES)
    found = finish_images(model, half, begin_images(model, half, pixel_values))
    torch.testing.assert_close(found, model.encode_images(pixel_values), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fix_rate", RATES)
@pytest.mark.parametrize("backbone", ["clip", "siglip"])
def test_both_halves_of_the_text_tower_are_the_tower(captioner, backbone, fix_rate):
    model = make(backbone, captioner, fix_rate)
    half = frozen_half(model, "text")
    inputs = tokens(model.processor, TEXTS, 16)
    found = finish_texts(model, half, begin_texts(model, half, **inputs), inputs["input_ids"])
    torch.testing.assert_close(found, model.backbone.encode_texts(model, **inputs), atol=1e-6, rtol=0)


def test_a_tower_that_learns_from_its_embeddings_on_has_no_frozen_half(captioner):
    model = make("clip", captioner, 0.0)
    assert frozen_half(model, "image") is None
    assert frozen_half(make("blip", captioner, 1.0), "text") is None


def test_the_fingerprint_is_of_weights_and_reading_and_of_nothing_else(captioner):
    model = make("blip", captioner, 0.5)
    half = frozen_half(model, "image")
    before = half_fingerprint(model, half)
    torch.nn.init.ones_(model.head[0].weight)
    torch.nn.init.ones_(model.vision_model.encoder.layers[1].mlp.fc1.weight)
    assert half_fingerprint(model, half) == before
    with torch.no_grad():
        model.vision_model.encoder.layers[0].mlp.fc1.bias[0] += 1e-6
    changed = half_fingerprint(model, half)
    assert changed != before
    model.processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    assert half_fingerprint(model, half) != changed


def cached(model, splits, folder, dtype) -> Collate:
    halves = {tower: frozen_half(model, tower) for tower in ("image", "text")}
    caches = {tower: half and PrefixCache(folder, model, half, dtype) for tower, half in halves.items()}
    inputs = [split[row] for split in splits for row in range(len(split))]
    keys = keys_of([picture for each in inputs for picture in each.images], quiet)
    fill_images(model, caches["image"], keys, quiet)
    if caches["text"] is not None:
        fill_texts(model, caches["text"], [text for each in inputs for text in each.texts], quiet)
    return Collate(model.processor, 16, cache_mb=0, frozen=Frozen(caches["image"], caches["text"], keys))


def reference(model, splits) -> torch.Tensor:
    """The loss as CycleReward computes it: for every pair both images and both texts, each on its own."""
    collate, reader, sums = Collate(model.processor, 16, cache_mb=0), TrainingView(model), {}
    for split in splits:
        for row in split.with_pairs:
            each = split[row]
            batch = collate([each])

            def reward(at, batch=batch):
                image, text = batch["image_index"][at], batch["text_index"][at]
                alone = {"pixel_values": batch["pixel_values"][image : image + 1]}
                alone |= {name: batch[name][text : text + 1] for name in ("input_ids", "attention_mask")}
                return reader(**alone, image_index=torch.tensor([0]), text_index=torch.tensor([0]))

            for chosen, rejected in each.pairs:
                sums.setdefault(split.cycle, []).append(
                    -torch.nn.functional.logsigmoid(reward(chosen) - reward(rejected))
                )
    return sum(torch.cat(some).mean() for some in sums.values())


@pytest.mark.parametrize("fix_rate", [0.5, 1.0])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_grouped_and_cached_pairs_give_the_loss_and_gradients_of_pairs_taken_one_by_one(
    build, captioner, tmp_path, backbone, fix_rate
):
    splits = [load_preferences(build(cycle, train=2))["train"] for cycle in ("i2t2i", "t2i2t")]
    model = make(backbone, captioner, fix_rate)
    collate = cached(model, splits, tmp_path, "float32")
    batch = collate([split[row] for split in splits for row in range(2)])
    assert "image_prefix" in batch
    assert ("text_prefix" in batch) == (backbone != "blip")
    reader = TrainingView(model, frozen_half(model, "image"), frozen_half(model, "text"))
    found = loss_of(reader(**batch), batch, TrainSettings(), counts(batch))
    expected = reference(model, splits)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    wanted = torch.autograd.grad(expected, weights, allow_unused=True)
    for one, other in zip(torch.autograd.grad(found, weights, allow_unused=True), wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "close"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision_on_disk_is_as_close_as_its_numbers(build, captioner, tmp_path, dtype, close):
    split = load_preferences(build("t2i2t", train=2))["train"]
    model = make("blip", captioner, 0.5)
    batch = cached(model, [split], tmp_path, dtype)([split[0], split[1]])
    reader = TrainingView(model, frozen_half(model, "image"))
    expected = reader(**Collate(model.processor, 16, cache_mb=0)([split[0], split[1]]))
    torch.testing.assert_close(reader(**batch), expected, atol=close, rtol=0)


def test_what_is_there_is_not_computed_again_and_what_is_new_is(build, captioner, tmp_path, capsys):
    model = make("blip", captioner, 0.5)
    first, more = (load_preferences(build("i2t2i", train=count))["train"] for count in (2, 3))
    encoded = []
    model.vision_model.embeddings.register_forward_hook(lambda module, given, made: encoded.append(len(made)))
    for split, images in ((first, 2), (first, 0), (more, 1)):
        encoded.clear()
        cached(model, [split], tmp_path, "float16")
        assert sum(encoded) - min(images, 1) == images  # one more is read to know the size
    said = capsys.readouterr().err
    assert "1 frozen layers once for each of 2 images: 0.0 MB in" in said


def test_a_part_that_was_not_finished_is_none(build, captioner, tmp_path):
    model = make("clip", captioner, 0.5)
    cache = PrefixCache(tmp_path, model, frozen_half(model, "text"), "float32")
    fill_texts(model, cache, TEXTS, quiet)
    [part] = cache.folder.glob("*")
    assert part.suffix == ".safetensors"
    part.rename(part.with_suffix(".123.tmp"))
    again = PrefixCache(tmp_path, model, frozen_half(model, "text"), "float32")
    assert text_key(TEXTS[0]) not in again


def test_workers_share_what_is_to_be_computed(build, captioner, tmp_path):
    model = make("siglip", captioner, 0.5)
    half = frozen_half(model, "text")
    caches = [PrefixCache(tmp_path, model, half, "float32") for _ in range(2)]
    for rank, cache in enumerate(caches):
        fill_texts(model, cache, TEXTS, quiet, (rank, 2))
        cache.reread()
    sizes = [len(list(caches[0].folder.glob("*.safetensors"))), sum(text_key(text) in caches[1] for text in TEXTS)]
    assert sizes == [2, len(TEXTS)]


def test_a_number_too_large_for_the_cache_is_refused(captioner, tmp_path):
    model = make("blip", captioner, 0.5)
    cache = PrefixCache(tmp_path, model, frozen_half(model, "image"), "float16")
    with pytest.raises(RewardError, match=r"not finite in torch.float16: set prefix_cache to float32"):
        cache.write({"key": torch.full((1, 4), 1e6)})


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(build, captioner, tmp_path, monkeypatch):
    import cyclepref.builder.reward.training.frozen_cache as module

    split = load_preferences(build("i2t2i", train=2))["train"]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(RewardError, match=r"has 0.0 MB free, and the frozen layers' output takes"):
        cached(make("blip", captioner, 0.5), [split], tmp_path, "float16")


def test_an_image_that_does_not_decode_is_named(build, captioner, tmp_path):
    def spoil(rows):
        rows["rankings"]["train"][1]["image"] = {"bytes": b"no image at all", "path": None}

    split = load_preferences(build("i2t2i", edit=spoil, train=2))["train"]
    model = make("blip", captioner, 0.5)
    with pytest.raises(UnreadableImage, match=r"input i2t2i-1 of split 'train' of .* cannot be read"):
        cached(model, [split], tmp_path, "float16")
    with pytest.raises(UnreadableImage, match=r"input i2t2i-1 of split 'train' of .* cannot be read"):
        Collate(model.processor, 16, cache_mb=0)([split[1]])
