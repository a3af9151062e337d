"""The pixels' error, and the table of what LPIPS's supervision is worth."""

import pytest
from PIL import Image

from cyclepref.builder.study.supervision import pixel_error, table


def test_the_error_of_pixels_is_the_mean_of_their_squared_differences():
    black, white = (Image.new("RGB", (4, 4), colour) for colour in ("black", "white"))
    half = Image.new("RGB", (4, 4), "black")
    half.paste("white", (0, 0, 2, 4))
    assert pixel_error([black, black, half], [black, white, white]) == pytest.approx([0, 1, 0.5])


def test_a_row_says_on_how_many_pairs_it_stands_and_a_kind_without_pairs_says_none():
    found = {"share": 0.5, "low": 0.4, "high": 0.6, "pairs": 1200}
    none = {"share": None, "low": None, "high": None, "pairs": 0}
    lines = table({"pixels": {"pairs": found, "every two": none}})
    assert lines[-1] == "| pixels | 50.0% of 1,200 (40.0% to 60.0%) | none |"
