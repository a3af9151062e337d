import pytest

from cyclepref.builder.reward.training.perturb import perturbed


def all_of(text: str) -> set[str]:
    return set(perturbed(text, 10_000))


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("two red dogs on the table", "two green dogs on the table"),
        ("two red dogs on the table", "four red dogs on the table"),
        ("two red dogs on the table", "one red dog on the table"),
        ("two red dogs on the table", "two red cats on the table"),
        ("two red dogs on the table", "two red dogs under the table"),
        ("a cup left of a plate", "a plate left of a cup"),
        ("a cup left of a plate", "a cup right of a plate"),
        ("three red circles above one blue star", "three red stars above one blue circle"),
        ("three orange circles", "three pink circles"),
        ("A red apple.", "A blue apple."),
        ("A dog.", "An orange."),
        ("an apple", "a wolf"),
        ("One wolf sleeps", "Two wolves sleeps"),
    ],
)
def test_one_thing_is_changed(text, other):
    assert other in all_of(text)


def test_an_orange_before_a_noun_is_a_colour_and_else_a_fruit():
    assert "two orange cats" in all_of("two orange dogs")
    assert not {other for other in all_of("two orange dogs") if "oranges dogs" in other}
    assert "a dog on the table" in all_of("an orange on the table")


def test_a_text_that_says_nothing_of_the_kind_has_none():
    assert perturbed("a lovely photograph", 8) == []


def test_which_ones_come_is_a_function_of_the_text_and_the_seed():
    text = "one red circle left of three blue stars on a white background"
    assert perturbed(text, 6) == perturbed(text, 6)
    assert perturbed(text, 6) != perturbed(text, 6, seed=1)
    found = perturbed(text, 6)
    assert len(set(found)) == 6
    assert text not in found


def test_kinds_of_changes_take_turns():
    text = "two red dogs on the table"
    words = [set(other.split()) ^ set(text.split()) for other in perturbed(text, 4)]
    kinds = ("red", "two", "dogs", "on")
    assert {kind for kind in kinds for changed in words if kind in changed} == set(kinds)


def test_only_the_words_that_are_read_are_changed():
    text = "a nice " * 40 + "red dog"
    assert perturbed(text, 4) == []
    assert perturbed(text, 4, words=200)


def test_a_text_of_a_hundred_thousand_characters_is_read_in_no_time():
    assert len(perturbed("red wolf " * 12_000, 8)) == 8
