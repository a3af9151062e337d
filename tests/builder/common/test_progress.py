"""Progress bars keep what people look at, counts and time left, within any terminal."""

import io

import pytest
from rich.console import Console

from cyclepref.builder.common import progress


@pytest.mark.parametrize("width", [80, 100, 160])
def test_counts_and_both_times_with_their_words_fit_the_terminal(monkeypatch, width):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    with progress._bar("a stage whose name is far too long for a bar", 480_000) as tick:
        tick(120_000)
    lines = [line for line in screen.getvalue().replace("\r", "\n").split("\n") if "/480000" in line]
    assert any("so far," in line and "left" in line for line in lines), lines
    assert all(len(line.split("\x1b")[0]) <= width for line in lines)


def test_a_stage_that_is_done_says_how_long_it_took(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=80, color_system=None))
    with progress._bar("candidates", 2) as tick:
        tick(2)
    assert "took 0:00" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (11_100, "3:05:00")])
def test_times_read_as_people_write_them(seconds, text):
    assert progress._clock(seconds) == text
