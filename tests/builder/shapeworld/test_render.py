import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scenes import scenes

from cyclepref.builder.shapeworld.render import BACKGROUND_RGB, COLOUR_RGB, SIZE, layout, render
from cyclepref.builder.shapeworld.scenes import BACKGROUNDS, COLOURS, altered


def test_every_two_colours_can_be_told_apart():
    colours = [*COLOUR_RGB.values(), *BACKGROUND_RGB.values()]
    assert set(COLOUR_RGB) == set(COLOURS)
    assert set(BACKGROUND_RGB) == set(BACKGROUNDS)
    for first, second in itertools.combinations(colours, 2):
        assert np.linalg.norm(np.subtract(first, second)) > 60, (first, second)


@settings(max_examples=50)
@given(scenes, st.integers(0, 1000))
def test_a_render_is_repeatable_and_64_by_64(scene, seed):
    image = render(scene, seed)
    assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
    assert image.tobytes() == render(scene, seed).tobytes()


@given(scenes, st.integers(0, 1000))
def test_shapes_stand_apart_and_inside_the_canvas(scene, seed):
    shapes = layout(scene, seed)
    assert len(shapes) == sum(group.count for group in scene.groups)
    for left, top, right, bottom in (shape.box for shape in shapes):
        assert 0 < left < right < SIZE
        assert 0 < top < bottom < SIZE
    for one, other in itertools.combinations(shapes, 2):
        assert max(abs(one.x - other.x), abs(one.y - other.y)) > (one.width + other.width) / 2


@given(scenes, st.integers(0, 1000))
def test_groups_stand_as_the_relation_says(scene, seed):
    if scene.relation is None:
        return
    axis = "y" if scene.relation in ("above", "below") else "x"
    first, second = ([getattr(s, axis) for s in layout(scene, seed) if s.group == i] for i in (0, 1))
    if scene.relation in ("above", "left of"):
        assert max(first) < min(second)
    else:
        assert min(first) > max(second)


@settings(max_examples=50)
@given(scenes, st.integers(0, 100))
def test_one_other_attribute_shows_more_than_another_jitter(scene, seed):
    image = np.asarray(render(scene, seed), float)
    jittered = np.abs(image - np.asarray(render(scene, seed + 1), float)).mean()
    assert 0 < jittered < 30
    changed = np.asarray(render(altered(scene, 1, seed), seed), float)
    assert np.abs(image - changed).mean() > 1
