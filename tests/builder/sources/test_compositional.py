import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclepref.builder.sources.compositional import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    HELD_OUT,
    KINDS,
    OBJECTS,
    PLURALS,
    phrase,
    prompts,
)

kinds_of = st.lists(st.sampled_from(KINDS), min_size=1)
groups = st.sampled_from(["exclude", "only", "include"])


def test_the_lists_have_the_papers_sizes():
    assert [len(set(words)) for words in (COLOURS, COUNTS, BACKGROUNDS, OBJECTS, HELD_OUT)] == [9, 6, 8, 25, 5]
    assert len(prompts(KINDS, "include")) == 25 * (9 + 6 + 8 + 9 * 6 + 9 * 8 + 6 * 8 + 9 * 6 * 8) == 15_725


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"name": "apple", "colour": "red"}, "a red apple"),
        ({"name": "dog", "count": "one"}, "one dog"),
        ({"name": "wolf", "count": "two"}, "two wolves"),
        ({"name": "box", "count": "six"}, "six boxes"),
        ({"name": "orange", "background": "on the table"}, "an orange on the table"),
        ({"name": "dog", "colour": "green", "count": "two"}, "two green dogs"),
        (
            {"name": "airplane", "colour": "white", "background": "in San Francisco"},
            "a white airplane in San Francisco",
        ),
        ({"name": "rose", "count": "one", "background": "in the sea"}, "one rose in the sea"),
        (
            {"name": "cat", "colour": "pink", "count": "three", "background": "on the moon"},
            "three pink cats on the moon",
        ),
    ],
)
def test_articles_and_plurals_are_right(settings, text):
    assert phrase(**settings) == text


@settings(max_examples=20)
@given(kinds_of, groups, st.integers())
def test_every_prompt_is_distinct_and_the_same_settings_give_the_same_list(kinds, held_out, seed):
    made = prompts(kinds, held_out, seed)
    assert len(made) == len(set(made))
    assert made == prompts([*reversed(kinds), *kinds], held_out, seed)


@settings(max_examples=10)
@given(kinds_of, st.integers())
def test_held_out_objects_are_apart_from_the_others(kinds, seed):
    kept, held = set(prompts(kinds, "exclude", seed)), set(prompts(kinds, "only", seed))
    assert not kept & held
    assert kept | held == set(prompts(kinds, "include", seed))
    nouns = {form for name in HELD_OUT for form in (name, PLURALS.get(name, f"{name}s"))}
    assert all(nouns & set(prompt.split()) for prompt in held)
    assert not any(nouns & set(prompt.split()) for prompt in kept)


@settings(max_examples=10)
@given(kinds_of, st.integers())
def test_another_seed_is_another_order_of_the_same_prompts(kinds, seed):
    one, other = prompts(kinds, seed=seed), prompts(kinds, seed=seed + 1)
    assert one != other
    assert sorted(one) == sorted(other)


def test_the_kinds_take_turns_so_that_few_prompts_have_all_of_them():
    first = prompts(KINDS)[: len(KINDS) * 10]
    only = [set(prompts([kind])) for kind in KINDS]
    assert [sum(prompt in kind for prompt in first) for kind in only] == [10] * len(KINDS)
