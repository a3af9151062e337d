import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scenes import scenes

from cyclepref.builder.shapeworld.grammar import WORDS, claims, describe, paraphrase, parse
from cyclepref.builder.shapeworld.scenes import Group, Scene


def test_the_canonical_phrasing_reads_like_this():
    scene = Scene((Group(1, "blue", "star"), Group(3, "red", "cross")), "below", "white")
    assert describe(scene) == "three red crosses above one blue star on a white background"
    assert describe(Scene((Group(2, "cyan", "ring"),), None, "mint")) == "two cyan rings on a mint background"


@given(scenes)
def test_a_description_reads_back_as_its_scene(scene):
    assert parse(describe(scene)) == scene


@given(scenes, scenes)
def test_different_scenes_have_different_descriptions(first, second):
    assert (describe(first) == describe(second)) == (first == second)


@given(scenes)
def test_descriptions_use_only_the_words_of_the_world(scene):
    assert set(describe(scene).split()) <= set(WORDS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "background None is not in this world"),
        ("a dog on a lawn", "is not a canonical description"),
        ("two red circle on a white background", "the canonical phrasing is 'two red circles on a white background'"),
        ("Two red circles on a white background", "the canonical phrasing is"),
        ("one blue star below three red circles on a white background", "the canonical phrasing is 'three red"),
        ("two red circles above one red circle on a white background", "differ in colour or shape"),
    ],
)
def test_other_phrasings_are_refused_with_the_way_out(text, why):
    with pytest.raises(ValueError, match=why) as error:
        parse(text)
    assert "claims()" in str(error.value)


@given(st.text())
def test_any_text_can_be_read_leniently(text):
    assert len(claims(text)) >= 0


def test_a_lenient_reading_finds_what_a_poor_caption_asserts():
    said = claims("two red red circles above one blue on a green background")
    assert [(g.count, g.colour, g.shape) for g in said.groups] == [
        (2, "red", None),
        (None, "red", "circle"),
        (1, "blue", None),
    ]
    assert said.relations == [(1, "above", 2)]
    assert said.background == "green"
    assert len(claims("a picture of a single thing")) == 0


@given(scenes, st.integers(0, 20))
def test_paraphrases_are_repeatable_and_not_canonical(scene, seed):
    assert paraphrase(scene, seed) == paraphrase(scene, seed)
    assert paraphrase(scene, seed) != describe(scene)
