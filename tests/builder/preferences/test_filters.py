"""Filters: what each keeps, that hashes and not places decide, and that models' names cannot be learned."""

from collections import Counter

import pytest

from cyclepref.builder.preferences.filters import FilterError, Filters
from cyclepref.builder.preferences.load import load_pairs

CYCLES = pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])


def rows(runs, cycle, **filters) -> list[dict]:
    return load_pairs(runs[cycle], **filters).with_format(None).to_list()


def identity_accuracy(found: list[dict]) -> float:
    """How often the model that wins more of its pairs with the other is the one that wins; a tie counts half."""
    wins = Counter((row["chosen_model"], row["rejected_model"]) for row in found)
    right = 0.0
    for (better, worse), count in wins.items():
        other = wins[worse, better]
        right += count * (1.0 if count > other else 0.5 if count == other else 0.0)
    return right / len(found)


@CYCLES
def test_margins_are_kept_between_the_two_ends(runs, cycle):
    found = rows(runs, cycle, min_margin=0.1, max_margin=0.3)
    expected = [row for row in rows(runs, cycle) if 0.1 <= round(row["margin"], 6) <= 0.3]
    assert found == expected
    assert found


@CYCLES
def test_top_vs_bottom_keeps_the_best_against_the_worst_of_each_input(runs, cycle):
    found = rows(runs, cycle, top_vs_bottom=True)
    every = rows(runs, cycle)
    widest = {row["input_id"]: max(r["margin"] for r in every if r["input_id"] == row["input_id"]) for row in every}
    assert {row["input_id"]: row["margin"] for row in found} == widest
    assert len(found) == len(widest)


@CYCLES
def test_top_vs_bottom_is_of_all_candidates_whatever_the_other_filters_leave(runs, cycle):
    wide = max(row["margin"] for row in rows(runs, cycle, top_vs_bottom=True))
    narrow = rows(runs, cycle, top_vs_bottom=True, max_margin=wide - 1e-3)
    assert {row["pair_id"] for row in narrow} < {row["pair_id"] for row in rows(runs, cycle, top_vs_bottom=True)}


@CYCLES
def test_at_most_so_many_pairs_of_an_input_are_kept_and_fewer_are_a_part_of_more(runs, cycle):
    two, three = (rows(runs, cycle, max_pairs_per_input=count) for count in (2, 3))
    assert max(Counter(row["input_id"] for row in two).values()) == 2
    assert {row["pair_id"] for row in two} < {row["pair_id"] for row in three}


@CYCLES
def test_balanced_by_model_a_reward_that_knows_only_names_is_at_chance(runs, cycle):
    before, after = rows(runs, cycle), rows(runs, cycle, balance_by_model=True)
    assert identity_accuracy(before) > 0.8
    across = [row for row in after if row["chosen_model"] != row["rejected_model"]]
    assert identity_accuracy(across) == 0.5
    wins = Counter((row["chosen_model"], row["rejected_model"]) for row in across)
    assert wins
    assert all(wins[a, b] == wins[b, a] for a, b in wins)
    own = [row["pair_id"] for row in before if row["chosen_model"] == row["rejected_model"]]
    assert own == [row["pair_id"] for row in after if row["chosen_model"] == row["rejected_model"]]


@CYCLES
def test_balance_holds_beside_the_other_filters(runs, cycle):
    found = rows(runs, cycle, balance_by_model=True, max_pairs_per_input=4, max_margin=0.4)
    wins = Counter((row["chosen_model"], row["rejected_model"]) for row in found)
    assert all(wins[a, b] == wins[b, a] for a, b in wins)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_margin": -0.1}, "min_margin is -0.1: a margin is a number of 0 or more"),
        ({"max_margin": float("nan")}, "max_margin is nan"),
        ({"min_margin": 0.5, "max_margin": 0.2}, "max_margin 0.2 is below min_margin 0.5"),
        ({"max_pairs_per_input": 0}, "max_pairs_per_input is 0: give 1 or more"),
    ],
)
def test_a_filter_outside_of_its_range_is_refused(given, message):
    with pytest.raises(FilterError, match=message):
        Filters(**given)


def test_only_filters_that_were_given_are_named():
    assert Filters().given == {}
    assert Filters(min_margin=0.0, balance_by_model=True).given == {"min_margin": 0.0, "balance_by_model": True}
