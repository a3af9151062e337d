import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.shapeworld.scenes import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    Group,
    Scene,
    altered,
    is_held_out,
    sample_scenes,
)

groups = st.builds(Group, st.sampled_from(COUNTS), st.sampled_from(COLOURS), st.sampled_from(SHAPES))
backgrounds = st.sampled_from(BACKGROUNDS)
lone_scenes = st.builds(lambda group, ground: Scene((group,), None, ground), groups, backgrounds)
pairs = st.tuples(groups, groups).filter(lambda pair: pair[0].rank != pair[1].rank)
paired_scenes = st.builds(Scene, pairs, st.sampled_from(RELATIONS), backgrounds)
scenes = st.one_of(lone_scenes, paired_scenes)


def test_the_world_is_as_large_as_promised():
    assert len(COLOURS) >= 8
    assert len(SHAPES) >= 6
    assert len(BACKGROUNDS) >= 6


@given(pairs, st.sampled_from(RELATIONS), backgrounds)
def test_a_picture_has_one_scene_whichever_group_is_named_first(pair, relation, background):
    assert Scene(pair, relation, background) == Scene(pair[::-1], OPPOSITE[relation], background)


@given(scenes)
def test_a_scene_made_again_from_its_parts_is_equal_and_on_the_same_side(scene):
    again = Scene(scene.groups, scene.relation, scene.background)
    assert again == scene
    assert hash(again) == hash(scene)
    assert is_held_out(again) == is_held_out(scene)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((), None, "white"), "one group or two, got 0"),
        (((Group(1, "red", "ring"),), "above", "white"), "needs two groups"),
        (((Group(1, "red", "ring"), Group(2, "red", "ring")), "above", "white"), "differ in colour or shape"),
        (((Group(1, "red", "ring"), Group(2, "blue", "ring")), None, "white"), "relation None is not in this world"),
        (((Group(1, "red", "ring"),), None, "plaid"), "'plaid' is not in this world. Choose from: white"),
    ],
)
def test_parts_that_make_no_scene_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Scene(*parts)


def test_a_group_out_of_the_world_is_refused():
    with pytest.raises(ValueError, match="count 5 is not in this world"):
        Group(5, "red", "ring")


def test_samples_are_distinct_repeatable_and_from_the_side_asked_for():
    for held_out in (False, True):
        sample = sample_scenes(500, seed=3, held_out=held_out)
        assert len(set(sample)) == 500
        assert all(is_held_out(scene) == held_out for scene in sample)
        assert sample_scenes(500, seed=3, held_out=held_out) == sample
        assert sample_scenes(100, seed=3, held_out=held_out) == sample[:100]
    assert sample_scenes(50, seed=4, held_out=True) != sample_scenes(50, seed=3, held_out=True)


def test_about_an_eighth_of_the_world_is_held_out():
    sample = sample_scenes(3000, seed=0, held_out=False)
    changed = [altered(scene, 2, 0) for scene in sample]
    assert 0.10 < sum(map(is_held_out, changed)) / len(changed) < 0.15


def test_the_split_is_the_same_in_every_process():
    code = "from cyclepref.builder.shapeworld.scenes import *; print([s.key for s in sample_scenes(20, 1, True)])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([scene.key for scene in sample_scenes(20, 1, True)])


def test_an_impossible_number_of_scenes_is_refused():
    with pytest.raises(ValueError, match="-1 held-out scenes"):
        sample_scenes(-1, seed=0, held_out=True)


@given(scenes, st.integers(0, 4), st.integers(0, 9))
def test_altering_changes_a_scene_unless_nothing_is_to_be_wrong(scene, wrong, seed):
    assert (altered(scene, wrong, seed) == scene) == (wrong == 0)
    assert altered(scene, wrong, seed) == altered(scene, wrong, seed)


def test_more_wrong_attributes_than_there_are_is_refused():
    with pytest.raises(ValueError, match="5 attributes cannot be wrong in a scene of 4"):
        altered(Scene((Group(1, "red", "ring"),), None, "white"), 5, 0)
