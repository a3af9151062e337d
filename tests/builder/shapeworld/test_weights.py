"""The shipped models: they load as any model of their kind does, and the strong ones are better than the weak."""

import functools

import pytest

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.models import load_model
from cyclepref.builder.shapeworld import models, oracle
from cyclepref.builder.shapeworld.grammar import describe
from cyclepref.builder.shapeworld.recogniser import as_tensor
from cyclepref.builder.shapeworld.render import render
from cyclepref.builder.shapeworld.scenes import sample_scenes
from cyclepref.builder.study import quality

SCENES = sample_scenes(48, seed=31, held_out=True)


@functools.cache
def renders():
    return [render(scene, 9000 + i) for i, scene in enumerate(SCENES)]


@functools.cache
def read_by(name):
    """The mean share of attributes right in a captioner's captions of fresh held-out renders."""
    captions = models.captioner(name)(renders())
    return sum(map(oracle.attributes_right, SCENES, captions)) / len(SCENES)


@functools.cache
def painted_by(name):
    """The mean share of attributes right in a pipeline's pictures of held-out prompts, by the image oracle."""
    # As builds load it: in single precision, which every CPU is quick at.
    painter = load_model(CATALOG[f"shapeworld-{name}"])
    images = [made.image for made in painter.paint([describe(scene) for scene in SCENES[:32]], list(range(32)))]
    assert {image.size for image in images} == {(64, 64)}
    seen = [describe(scene) for scene in oracle.recover(images)]
    return sum(map(oracle.attributes_right, SCENES, seen)) / len(seen)


@pytest.mark.parametrize("family", ["blip", "llava"])
def test_a_captioner_beats_its_early_sibling(family):
    assert read_by(family) > 0.9
    assert 0.4 < read_by(f"{family}-early") < read_by(family) - 0.05


def test_the_pipelines_paint_what_they_are_told_in_three_strengths():
    assert min(painted_by("sd3"), painted_by("sd")) > 0.95
    assert 0.95 > painted_by("sd3-early") > painted_by("sd-early") > 0.25  # chance is lower


def test_a_picture_depends_on_its_own_prompt_and_seed_only():
    prompts = [describe(scene) for scene in SCENES[:3]]
    paint = models.painter("sd3", num_inference_steps=2)
    together, alone = paint(prompts, [1, 2, 3]), paint(prompts[1:2], [2])
    difference = as_tensor(together[1:2]) - as_tensor(alone)
    assert difference.abs().max() < 0.1


def test_lpips_orders_scenes_by_their_wrong_attributes():
    ordering = quality.lpips_ordering(SCENES, models.WEIGHTS)
    assert ordering["ordered"] > 0.93
    assert ordering["0 wrong"] < ordering["1 wrong"] < ordering["2 wrong"] < ordering["3 wrong"]


def test_sbert_orders_scenes_by_their_wrong_attributes():
    ordering = quality.sbert_ordering(SCENES)
    assert ordering["ordered"] > 0.87
    assert ordering["0 wrong"] == pytest.approx(1)
    assert ordering["0 wrong"] > ordering["1 wrong"] > ordering["2 wrong"] > ordering["3 wrong"]


def test_the_weights_are_small_enough_to_ship():
    sizes = quality.sizes(models.WEIGHTS)
    assert sizes["total"] <= 30e6
    assert sizes["largest file"] <= 15e6
