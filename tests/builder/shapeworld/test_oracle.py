import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from test_scenes import paired_scenes, scenes

from cyclepref.builder.shapeworld.grammar import describe, paraphrase
from cyclepref.builder.shapeworld.oracle import attributes_right, recover, truth, truth_of_images
from cyclepref.builder.shapeworld.recogniser import best_scene
from cyclepref.builder.shapeworld.render import render
from cyclepref.builder.shapeworld.scenes import Group, Scene, altered, sample_scenes

STAR_UNDER_RINGS = Scene((Group(3, "red", "ring"), Group(1, "blue", "star")), "above", "white")


@given(scenes)
def test_the_right_caption_is_wholly_true(scene):
    assert truth(scene, describe(scene)) == 1
    assert attributes_right(scene, describe(scene)) == 1


@given(scenes, st.integers(0, 50))
def test_a_true_paraphrase_is_wholly_true(scene, seed):
    assert truth(scene, paraphrase(scene, seed)) == 1


@given(scenes, st.integers(1, 4), st.integers(0, 50))
def test_any_wrong_attribute_makes_a_caption_less_than_true(scene, wrong, seed):
    assert 0 <= truth(scene, describe(altered(scene, wrong, seed))) < 1


@given(scenes, scenes)
def test_two_scenes_are_as_true_of_each_other(first, second):
    assert truth(first, describe(second)) == truth(second, describe(first))


@settings(max_examples=200)
@given(paired_scenes, st.integers(0, 20))
def test_one_wrong_attribute_of_eight_leaves_seven_ninths(scene, seed):
    assert truth(scene, describe(altered(scene, 1, seed))) == pytest.approx(7 / 9)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("three red rings above one blue star on a white background", 8 / 8),
        ("one blue star below three red rings on a white background", 8 / 8),
        ("three red rings above one blue star", 7 / 8),
        ("three red rings on a white background", 4 / 8),
        ("three red rings below one blue star on a white background", 7 / 9),
        ("two red rings above one blue star on a white background", 7 / 9),
        ("three red rings above one blue star above one pink cross on a white background", 8 / 12),
        ("", 0),
        ("a lovely picture", 0),
    ],
)
def test_leaving_out_and_inventing_both_cost(caption, expected):
    assert truth(STAR_UNDER_RINGS, caption) == pytest.approx(expected)


def test_the_most_likely_scene_is_a_scene_even_if_both_parts_look_alike():
    def sure(*choices):
        return {choice: -float(i) for i, choice in enumerate(choices)}

    half = {"count": sure(2, 1), "colour": sure("red", "blue"), "shape": sure("ring", "star")}
    found = best_scene(sure("above", "left of", "alone"), [half, half], sure("white", "black"))
    assert found.relation in ("above", "below")
    assert found.groups[0].rank != found.groups[1].rank


def test_the_image_oracle_reads_fresh_renders():
    fresh = sample_scenes(200, seed=11, held_out=True)
    images = [render(scene, 5000 + i) for i, scene in enumerate(fresh)]
    seen = recover(images)
    assert np.mean([a == b for a, b in zip(fresh, seen, strict=True)]) > 0.9
    assert np.mean(truth_of_images(fresh, images)) > 0.97


def test_the_image_oracle_answers_on_any_picture():
    blurred = render(STAR_UNDER_RINGS, 0).filter(ImageFilter.GaussianBlur(6))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    seen = recover([blurred, noise, Image.new("L", (200, 100))])
    assert all(isinstance(scene, Scene) for scene in seen)
    assert recover([]) == []


def test_images_without_scenes_are_refused():
    with pytest.raises(ValueError, match="every image needs its scene, got 1 scenes and 0 images"):
        truth_of_images([STAR_UNDER_RINGS], [])
