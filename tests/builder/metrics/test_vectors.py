import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.metrics.vectors import Vectors

ANGLES = {"east": 0, "north": 90, "west": 180, "north-east": 45}


class Compass:
    """Embeds names as directions, and remembers what it was asked for."""

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, names: list[str]) -> np.ndarray:
        self.asked += names
        angles = np.radians([ANGLES[name] for name in names])
        return 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_cosines_are_of_unit_vectors_whatever_their_length():
    found = Vectors(Compass(), str).cosines(["east", "east", "east"], ["east", "north", "west"])
    assert found == pytest.approx([1, 0, -1])


def test_each_distinct_item_is_embedded_once_over_several_calls():
    compass = Compass()
    vectors = Vectors(compass, str)
    vectors.cosines(["east", "east", "north"], ["north", "west", "north"])
    vectors.cosines(["west"], ["north-east"])
    assert sorted(compass.asked) == sorted(ANGLES)


@given(st.lists(st.tuples(*[st.sampled_from(sorted(ANGLES))] * 2), max_size=12), st.integers(1, 4))
def test_what_was_forgotten_or_kept_changes_no_value(pairs, kept):
    few, many = Vectors(Compass(), str, kept), Vectors(Compass(), str)
    for x, y in pairs:
        assert few.cosines([x], [y]) == many.cosines([x], [y])


def test_a_vector_of_zeros_has_no_cosine():
    assert np.isnan(Vectors(lambda names: np.zeros((len(names), 2)), str).cosines(["a"], ["b"]))
